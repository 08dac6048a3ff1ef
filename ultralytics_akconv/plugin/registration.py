# SPDX-License-Identifier: AGPL-3.0-or-later
"""All that is replaced in the host while the plug-in is registered, and its way back."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import torch
from ultralytics.utils import callbacks

from ultralytics_akconv.callbacks import with_callbacks
from ultralytics_akconv.conversion import converting_load
from ultralytics_akconv.exports import choosing_call
from ultralytics_akconv.modules import BLOCKS, AKConv, OffsetConv2d
from ultralytics_akconv.plugin.names import checking_scales, finding_datasets, finding_models
from ultralytics_akconv.plugin.rows import located, stand_ins
from ultralytics_akconv_startup import DATA, EXPORTER

_MISSING = object()
_patched: list[tuple[Any, str, Any]] = []  # (owner, name, what stood there before), in the order of patching


def _patch(owner: Any, name: str, value: Any) -> None:
    """Set an attribute and remember what stood there."""
    _patched.append((owner, name, getattr(owner, name, _MISSING)))
    setattr(owner, name, value)


def _is_patched(owner: Any) -> bool:
    return any(done is owner for done, _, _ in _patched)


def _patch_tasks(tasks: ModuleType) -> None:
    """Make the parser know our layers and our model YAMLs, and pretrained weights reach our layers."""
    for name, stand_in in stand_ins().items():
        _patch(tasks, name, stand_in)
    _patch(tasks, "parse_model", located(tasks.parse_model))
    _patch(tasks, "check_yaml", finding_models(tasks.check_yaml))
    for module in (tasks, sys.modules.get("ultralytics.engine.model")):  # where it has a name of its own by now
        if hasattr(module, "yaml_model_load"):
            _patch(module, "yaml_model_load", checking_scales(module.yaml_model_load))
    _patch(tasks.BaseModel, "load", converting_load(tasks.BaseModel.load))


def _allow_in_safe_load() -> None:
    """Allow our classes in checkpoints read with `weights_only=True` (the host's ULTRALYTICS_SAFE_LOAD)."""
    if hasattr(torch.serialization, "add_safe_globals"):  # torch 2.4 on
        torch.serialization.add_safe_globals([AKConv, OffsetConv2d, *BLOCKS.values()])


def register() -> None:
    """Put AKConv into the host. Safe to call again; the import of the package has already called it.

    After it, YAML rows may name AKConv, LDConv and the blocks of `modules.BLOCKS`; `model=` and `data=` find the
    shipped YAML files by name; restricted checkpoint loading knows our classes.
    """
    import ultralytics.nn.tasks as tasks

    if not _is_patched(tasks):
        try:
            _patch_tasks(tasks)
            _patch(callbacks, "get_default_callbacks", with_callbacks(callbacks.get_default_callbacks))
        except Exception:
            unregister()  # all or nothing: half a registration would build wrong layers
            raise
        _allow_in_safe_load()
    data = sys.modules.get(DATA)  # not imported for our sake: if it comes later, the start-up module calls again
    if data is not None and hasattr(data, "check_det_dataset") and not _is_patched(data):
        _patch(data, "check_file", finding_datasets(data.check_file))
    exporter = getattr(sys.modules.get(EXPORTER), "Exporter", None)
    if exporter is not None and not _is_patched(exporter):
        _patch(exporter, "__call__", choosing_call(exporter.__call__))


def unregister() -> None:
    """Put back into the host all that `register` replaced. Layers that exist go on working."""
    while _patched:
        owner, name, before = _patched.pop()
        if before is _MISSING:
            delattr(owner, name)
        else:
            setattr(owner, name, before)
