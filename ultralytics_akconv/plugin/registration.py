# SPDX-License-Identifier: AGPL-3.0-or-later
"""All that is replaced in the host while the plug-in is registered, and its way back."""

from __future__ import annotations

import inspect
import sys
from types import ModuleType

import torch
from ultralytics.utils import LOGGER

import ultralytics_akconv_startup
from ultralytics_akconv.callbacks import with_callbacks
from ultralytics_akconv.conversion import converting_load
from ultralytics_akconv.exports import choosing_call
from ultralytics_akconv.modules import BLOCKS, AKConv, OffsetConv2d
from ultralytics_akconv.plugin.names import checking_scales, finding_datasets, finding_models
from ultralytics_akconv.plugin.patches import Patches
from ultralytics_akconv.plugin.rows import is_ours, located, stand_ins
from ultralytics_akconv_startup import CALLBACKS, DATA, EXPORTER, TASKS, YAML_NAMES

_patches = Patches()
_executed: list[ModuleType] = []  # several, if it was imported anew: what was imported of the first one goes on with it
_named: set[str] = set()  # classes of somebody else's that were said to be set aside


def _patch_tasks(tasks: ModuleType) -> None:
    """Make the parser know our layers and our model YAMLs, and pretrained weights reach our layers."""
    for name, stand_in in stand_ins().items():
        _patches.put(tasks, name, lambda before, stand_in=stand_in: stand_in)
    _patches.wrap(tasks, "parse_model", located)
    _patches.wrap(tasks, "check_yaml", finding_models)
    model = sys.modules.get("ultralytics.engine.model")
    load = getattr(model, "yaml_model_load", None)
    if getattr(load, "__globals__", {}).get("__name__") == TASKS:  # it took the host's own, of this `tasks` or another
        _patches.wrap(model, "yaml_model_load", checking_scales)
    _patches.wrap(tasks, "yaml_model_load", checking_scales)
    _patches.wrap(tasks.BaseModel, "load", converting_load)


def _tell_of_others(tasks: ModuleType) -> None:
    """Say once whose layers YAML rows build, where the host has been given some of the same names."""
    others = {name: vars(tasks)[name] for name in YAML_NAMES if inspect.isclass(vars(tasks).get(name))}
    others = {name: f"{other.__module__}.{name}" for name, other in others.items() if not is_ours(other)}
    if not _named.issuperset(others.values()):
        _named.update(others.values())
        LOGGER.warning(
            f"AKConv: YAML rows that name {', '.join(others)} build the layers of ultralytics-akconv, not "
            f"{', '.join(others.values())}, which this Ultralytics has of its own; ULTRALYTICS_AKCONV=0 keeps those"
        )


def _allow_in_safe_load() -> None:
    """Allow our classes in checkpoints read with `weights_only=True` (the host's ULTRALYTICS_SAFE_LOAD)."""
    if hasattr(torch.serialization, "add_safe_globals"):  # torch 2.4 on
        torch.serialization.add_safe_globals([AKConv, OffsetConv2d, *BLOCKS.values()])


def register() -> None:
    """Put AKConv into Ultralytics. Safe to call again; the import of the package has already called it.

    Where somebody has set back since what it had replaced, it is replaced again and a warning says what.

    After it, YAML rows may name AKConv, LDConv and the blocks of `modules.BLOCKS`; `model=` and `data=` find the
    shipped YAML files by name; restricted checkpoint loading knows our classes.
    """
    # Before the lock: another thread may wait for it in the middle of these imports. By statements, which take a module
    # that is executed and waits for this import in its thread; `import_module` would raise an error of a deadlock.
    import ultralytics.nn.tasks
    import ultralytics.utils.callbacks  # noqa: F401

    tasks, callbacks = sys.modules[TASKS], sys.modules[CALLBACKS]
    with _patches.lock:
        if not any(tasks is module for module in _executed):
            _executed.append(tasks)
        _tell_of_others(tasks)
        try:
            for module in _executed:
                _patch_tasks(module)
            _patches.wrap(callbacks, "get_default_callbacks", with_callbacks)
        except Exception:
            _patches.undo()  # all or nothing: half a registration would build wrong layers
            raise
        finally:
            ultralytics_akconv_startup.settle()  # last: what waits for this must not find the host's own for a moment
        _allow_in_safe_load()
        data = sys.modules.get(DATA)  # not imported for our sake: if it comes later, the start-up module calls again
        if hasattr(data, "check_det_dataset"):
            _patches.wrap(data, "check_file", finding_datasets)
        exporter = getattr(sys.modules.get(EXPORTER), "Exporter", None)
        if exporter is not None:
            _patches.wrap(exporter, "__call__", choosing_call)
        taken = _patches.taken()
        if taken:
            LOGGER.warning(
                f"AKConv: {', '.join(taken)} had been set back to what stood there before ultralytics-akconv, by "
                "another plug-in perhaps; without ours, AKConv cannot be used. It is there again"
            )


def unregister() -> None:
    """Put back into Ultralytics all that `register` replaced. Layers that exist go on working.

    Where somebody else has replaced the same since, theirs stays, and ours, which it calls, does nothing any more.
    """
    with _patches.lock:
        ultralytics_akconv_startup.settle(registered=False)
        _patches.undo()
