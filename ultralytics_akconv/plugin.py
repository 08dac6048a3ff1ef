# SPDX-License-Identifier: AGPL-3.0-or-later
"""The only room that touches the host: its parser, its YAML look-up, its checkpoint allow-list.

The host has no plug-in mechanism; `parse_model` tests each row's class against sets of its own classes. So the name in
a row stands for a stand-in class (`_StandIn`) that equals a host layer in those tests and builds an AKConv when called.
"""

from __future__ import annotations

import functools
import inspect
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn
from ultralytics.nn.modules.conv import Conv

from ultralytics_akconv import configs, modules
from ultralytics_akconv.modules import BLOCKS, AKConv, AKConvBlock, OffsetConv2d
from ultralytics_akconv_startup import DATA

_MISSING = object()
_patched: list[tuple[Any, str, Any]] = []  # (owner, name, what stood there before), in the order of patching


class RowError(ValueError):
    """A YAML row asks for something AKConv does not have."""


def _build(real: type[nn.Module], args: tuple) -> nn.Module:
    """Build a layer from what the parser passes: the row's arguments, a trailing mapping being keyword options.

    Raises:
        RowError: If an argument is wrong; the message says what is allowed.
    """
    options = dict(args[-1]) if args and isinstance(args[-1], dict) else {}
    positional = args[:-1] if options or (args and args[-1] == {}) else args
    parameters = inspect.signature(real.__init__).parameters
    if issubclass(real, AKConvBlock):  # its options are those of the AKConv inside, which the block gives a stride
        allowed = [*_keyword_names(AKConv, skip=("in_channels", "out_channels", "stride", "act"))]
    else:
        allowed = [*_keyword_names(AKConv, skip=("in_channels", "out_channels"))]
        most = sum(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters.values()) - 1  # without self
        if len(positional) > most:
            raise RowError(
                f"too many arguments {list(positional[2:])} after the output channels: "
                f"a row is [out_channels, num_param, stride, {{option: value}}], options {', '.join(allowed)}"
            )
    unknown = [name for name in options if name not in allowed]
    if unknown:
        raise RowError(f"unknown option {', '.join(map(repr, unknown))}: allowed are {', '.join(allowed)}")
    try:
        return real(*positional, **options)
    except (TypeError, ValueError) as error:
        raise RowError(str(error)) from error


def _keyword_names(real: type, skip: tuple[str, ...]) -> list[str]:
    """Return the names a trailing mapping may hold: all parameters of the class but self and `skip`."""
    return [name for name in inspect.signature(real).parameters if name not in skip]


class _StandIn(type):
    """Metaclass of a class that the parser takes for a host layer and that builds a class of ours.

    `m in {Conv, ...}` holds through `==` and the hash, `issubclass` through the base class, name tests through the
    name; the printed table shows the real class; pickles and deep copies never see the stand-in.
    """

    def __new__(cls, host_class: type[nn.Module], real: type[nn.Module]) -> _StandIn:
        stand_in = super().__new__(cls, real.__name__, (host_class,), {"__module__": real.__module__})
        stand_in.host_class, stand_in.real = host_class, real
        return stand_in

    def __init__(cls, host_class: type[nn.Module], real: type[nn.Module]) -> None:
        super().__init__(real.__name__, (host_class,), {})

    def __eq__(cls, other: object) -> bool:
        return other is cls or other is cls.host_class

    def __hash__(cls) -> int:
        return hash(cls.host_class)

    def __repr__(cls) -> str:
        return repr(cls.real)

    def __call__(cls, *args: Any) -> nn.Module:
        return _build(cls.real, args)


def _located(host_parse_model: Callable) -> Callable:
    """Return the host's `parse_model` with the row named in every error that a row of ours causes."""

    @functools.wraps(host_parse_model)
    def parse_model(d: dict, ch: int, *args: Any, **kwargs: Any) -> tuple:
        try:
            return host_parse_model(d, ch, *args, **kwargs)
        except (TypeError, ValueError, IndexError) as error:
            row = _failed_row(error, host_parse_model, d)
            if row is None:
                raise
            raise RowError(f"{row}: {error}") from error

    return parse_model


def _failed_row(error: Exception, host_parse_model: Callable, d: dict) -> str | None:
    """Return the row of ours at which the parser failed, as text; None if it was not one of ours."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code is host_parse_model.__code__ and isinstance(frame.f_locals.get("i"), int):
            i = frame.f_locals["i"]  # the parser's loop counter: the layer index
            row = (d["backbone"] + d["head"])[i]
            if isinstance(row, (list, tuple)) and len(row) == 4 and row[2] in _stand_ins():
                hint = "" if row[3] and isinstance(row[3][0], int) else " (out_channels must be an int)"
                return f"layer {i} {list(row)} of {d.get('yaml_file', 'the model YAML')}{hint}"
    return None


@functools.lru_cache(maxsize=1)
def _stand_ins() -> dict[str, _StandIn]:
    """Return the names that YAML rows may use, each with its stand-in."""
    named = {"AKConv": _StandIn(Conv, AKConv), "LDConv": _StandIn(Conv, AKConv)}
    for host_name, real in BLOCKS.items():
        named[real.__name__] = _StandIn(getattr(modules.block, host_name), real)
    return named


def _with_fallback(host_check: Callable, folder: Path) -> Callable:
    """Return the host's `check_yaml` or `check_file`, which looks among the shipped files after the host's own search.

    So a file in the working directory, or the host's own of that name, wins over ours.
    """

    @functools.wraps(host_check)
    def check(file: str | Path, *args: Any, **kwargs: Any) -> Any:
        name = Path(str(file)).name.lower()
        if "akconv" not in name and "ldconv" not in name:
            return host_check(file, *args, **kwargs)
        hard = kwargs.pop("hard", True)
        found = host_check(file, *args, hard=False, **kwargs) or configs.find_config(folder, file)
        if found or not hard:
            return str(found) if found else []
        raise FileNotFoundError(
            f"'{file}' does not exist. Shipped files most like it: {', '.join(configs.near_names(folder, file))}"
        )

    return check


def _patch(owner: Any, name: str, value: Any) -> None:
    """Set an attribute and remember what stood there."""
    _patched.append((owner, name, getattr(owner, name, _MISSING)))
    setattr(owner, name, value)


def _is_patched(owner: Any) -> bool:
    return any(done is owner for done, _, _ in _patched)


def _patch_tasks(tasks: ModuleType) -> None:
    """Make the parser know our layers and our model YAMLs."""
    for name, stand_in in _stand_ins().items():
        _patch(tasks, name, stand_in)
    _patch(tasks, "parse_model", _located(tasks.parse_model))
    _patch(tasks, "check_yaml", _with_fallback(tasks.check_yaml, configs.MODELS))


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
        except Exception:
            unregister()  # all or nothing: half a registration would build wrong layers
            raise
        _allow_in_safe_load()
    data = sys.modules.get(DATA)  # not imported for our sake: if it comes later, the start-up module calls again
    if data is not None and hasattr(data, "check_det_dataset") and not _is_patched(data):
        _patch(data, "check_file", _with_fallback(data.check_file, configs.DATASETS))


def unregister() -> None:
    """Put back into the host all that `register` replaced. Layers that exist go on working."""
    while _patched:
        owner, name, before = _patched.pop()
        if before is _MISSING:
            delattr(owner, name)
        else:
            setattr(owner, name, before)
