# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which rows of a stranger's model YAML the host may build: layers of its own and of torch, from plain arguments.

The host's parser takes any name it has imported for a layer, calls it, and evaluates the `activation` key.
"""

from __future__ import annotations

import ast
import copy
import functools
import re
import reprlib
import sys
from types import ModuleType
from typing import Any

import torch
import ultralytics.nn.modules
from torch import nn
from ultralytics.nn import tasks
from ultralytics.nn.modules.conv import Conv

from ultralytics_akconv.forks.records import CheckpointError, Record

_ROWS = 1000
_REPEATS = 100
_LARGEST = 2**16  # channels and the like
_TEXT = re.compile(r"[\w.,\-\[\]() ]{0,100}")
_FILES = ("activation", "block", "conv", "head", "transformer", "utils")  # of ultralytics.nn.modules
_REFUSED = ("TorchVision",)  # fetches weights


def host_class(name: str) -> type[nn.Module] | None:
    """Return the layer that a row of a model YAML names, None if the host has no such layer."""
    if not isinstance(name, str):
        return None
    where, prefix = (torch.nn, "torch.nn.") if name.startswith("nn.") else (tasks, "ultralytics.nn.modules.")
    found = getattr(where, name.removeprefix("nn."), None)
    is_layer = isinstance(found, type) and issubclass(found, nn.Module) and found.__module__.startswith(prefix)
    return found if is_layer and name not in _REFUSED else None


def is_known(module: Record) -> bool:
    """Return whether the installed host or torch has a class of the name of a record's."""
    if module.path.module.split(".")[0] == "torch":
        return isinstance(getattr(sys.modules.get(module.path.module), module.kind, None), type)
    return any(isinstance(getattr(file, module.kind, None), type) for file in _host_files())


@functools.lru_cache(maxsize=1)
def _host_files() -> list[ModuleType]:
    """Return the modules of the installed release that define layers."""
    return [getattr(ultralytics.nn.modules, name) for name in _FILES if hasattr(ultralytics.nn.modules, name)]


def parsed(model: dict[str, Any], channels: int | None) -> nn.Module:
    """Return the layers that the host's parser makes of a model dictionary, without memory: on the device "meta"."""
    activation = Conv.default_act
    try:
        with torch.device("meta"):
            return tasks.parse_model(copy.deepcopy(model), ch=channels, verbose=False)[0]
    finally:
        Conv.default_act = activation  # releases before 8.4 leave a model's `activation` there for the next one


def check_model(model: Any) -> None:
    """Raise an error unless a model dictionary holds rows of plain arguments and of bearable sizes."""
    if not isinstance(model, dict) or not all(isinstance(model.get(part), list) for part in ("backbone", "head")):
        raise CheckpointError("its model YAML has no rows under backbone and head")
    rows = model["backbone"] + model["head"]
    if not 0 < len(rows) <= _ROWS:
        raise CheckpointError(f"its model YAML has {len(rows)} rows, allowed are 1 to {_ROWS}")
    for index, row in enumerate(rows):
        if not (isinstance(row, list) and len(row) == 4 and _is_row(*row)):
            raise CheckpointError(f"layer {index} of its model YAML is no [from, repeats, module, [arguments]] row")
    factors = [model.get(name, 1) for name in ("depth_multiple", "width_multiple")]
    scales = model.get("scales") or {}
    if not isinstance(scales, dict) or not all(isinstance(row, list) and len(row) == 3 for row in scales.values()):
        raise CheckpointError(f"the scales of its model YAML are no [depth, width, max_channels]: {_shown(scales)}")
    factors += [factor for row in scales.values() for factor in row[:2]]
    wrong = [factor for factor in factors if not (_is_number(factor) and 0 <= factor <= 16)]
    if wrong:
        raise CheckpointError(f"a scale of its model YAML is no number from 0 to 16: {_shown(wrong[0])}")
    if not isinstance(model.get("scale", ""), (str, type(None))):
        raise CheckpointError(f"scale of its model YAML is no letter: {_shown(model['scale'])}")
    if scales and model.get("scale") and model["scale"] not in scales:
        raise CheckpointError(
            f"its model YAML has no scale {model.get('scale')!r:.20}: it has {', '.join(map(str, scales))}"
        )
    for name in ("nc", "ch", "channels", "reg_max"):
        if name in model and not (type(model[name]) is int and 0 < model[name] <= _LARGEST):
            raise CheckpointError(f"{name} of its model YAML is no number from 1 to {_LARGEST}: {_shown(model[name])}")
    _check_activation(model.get("activation"))


def _shown(value: Any) -> str:
    """Return a value from a file in a few characters, whatever it is."""
    try:
        return reprlib.repr(value)
    except ValueError:  # Python writes no number of more than some thousand digits
        return f"a {type(value).__name__} too long to be written"


def _is_row(source: Any, repeats: Any, module: Any, arguments: Any) -> bool:
    """Return whether the parts of a row are of their kinds."""
    sources = source if isinstance(source, list) else [source]
    if not all(type(index) is int and abs(index) <= _ROWS for index in sources):
        return False
    plain = isinstance(module, str) and isinstance(arguments, list) and all(map(_is_argument, arguments))
    return type(repeats) is int and 0 < repeats <= _REPEATS and plain


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_argument(value: Any) -> bool:
    """Return whether a value may be an argument of a layer: a number, a short text, or a list or mapping of them."""
    if isinstance(value, (list, dict)):
        return all(map(_is_argument, value.values() if isinstance(value, dict) else value))
    if isinstance(value, str):
        return _TEXT.fullmatch(value) is not None
    return value is None or isinstance(value, bool) or (_is_number(value) and abs(value) <= _LARGEST)


def _check_activation(text: Any) -> None:
    """Raise an error unless the `activation` key, which the host evaluates, is `nn.Name(numbers)`."""
    if not text:
        return
    try:
        call = ast.parse(text, mode="eval").body if isinstance(text, str) and len(text) < 100 else None
    except (SyntaxError, ValueError):
        call = None
    if isinstance(call, ast.Call):
        values = [*call.args, *(keyword.value for keyword in call.keywords)]
        name = ast.unparse(call.func).removeprefix("torch.")
        if all(isinstance(value, ast.Constant) for value in values) and name.startswith("nn.") and host_class(name):
            return
    raise CheckpointError(
        f"activation of its model YAML is {text!r:.60}, allowed is a layer of torch such as nn.SiLU()"
    )
