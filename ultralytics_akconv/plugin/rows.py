# SPDX-License-Identifier: AGPL-3.0-or-later
"""Rows of a model YAML that name AKConv: the host's parser takes their classes for its own, and ours are built.

The host has no plug-in mechanism; `parse_model` tests each row's class against sets of its own classes. So the name in
a row stands for a stand-in class (`_StandIn`) that equals a host layer in those tests and builds an AKConv when called.
Blocks it also tests by identity (`m is C3k2`); for them see `_parse_blocks`.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FunctionType
from typing import Any

from torch import nn
from ultralytics.nn.modules.conv import Conv

from ultralytics_akconv.modules import BLOCKS, AKConv, AKConvBlock
from ultralytics_akconv.plugin.faults import RowError, row_error
from ultralytics_akconv_startup import TASKS, later_name

_swapping = threading.RLock()

_WHERE = "num_param goes into a mapping behind the block's own arguments, as in [128, True, {num_param: 5}]"


def _build(real: type[nn.Module], args: tuple) -> nn.Module:
    """Build a layer from what the parser passes: the row's arguments, a trailing mapping being keyword options.

    Raises:
        RowError: If an argument is wrong; the message says what is allowed.
    """
    options = dict(args[-1]) if args and isinstance(args[-1], dict) else {}
    positional = args[:-1] if options or (args and args[-1] == {}) else args
    parameters = inspect.signature(real.__init__).parameters.items()
    places = [name for name, p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD][1:]  # without self
    if issubclass(real, AKConvBlock):  # its options are those of the AKConv inside, which the block gives a stride
        allowed = [*_keyword_names(AKConv, skip=("in_channels", "out_channels", "stride", "act")), "convs"]
        _check_block(real.__bases__[-1], positional, options)
    else:
        allowed = [*_keyword_names(AKConv, skip=("in_channels", "out_channels"))]
        if len(positional) > len(places):
            raise RowError(
                f"too many arguments {list(positional[2:])} after the output channels: "
                f"a row is [out_channels, num_param, stride, {{option: value}}], options {', '.join(allowed)}"
            )
        if len(positional) < 3 and "num_param" not in options:
            raise RowError("num_param is missing: a row is [out_channels, num_param, stride, {option: value}]")
    unknown = [name for name in options if name not in allowed]
    if unknown:
        raise RowError(f"unknown option {', '.join(map(repr, unknown))}: allowed are {', '.join(allowed)}")
    for name, value in zip(places, positional):
        if name in options:
            raise RowError(f"{name} is given twice: {value!r} by its place, {options[name]!r} by its name")
    try:
        return real(*positional, **options)
    except (AssertionError, TypeError, ValueError, ZeroDivisionError) as error:
        hint = f"; {_WHERE}" if issubclass(real, AKConvBlock) and not options else ""
        raise RowError(f"{error}{hint}") from error


def _check_block(host_block: type[nn.Module], positional: Sequence[Any], options: dict[str, Any]) -> None:
    """Refuse what a host block does not take, and a number that says num_param where the block has something else.

    Rows of other projects give num_param by its place behind the block's own arguments. There the block would take it
    for its groups, or for true: another model than was meant, or an error about groups.

    Raises:
        RowError: If there is such an argument; the message says where num_param goes.
    """
    signature = inspect.signature(host_block)
    try:
        given = signature.bind(*positional).arguments
    except TypeError as error:
        own = ", ".join([*signature.parameters][2:])
        raise RowError(
            f"{host_block.__name__} takes {own} after the channels, got {list(positional[2:])}; {_WHERE}"
        ) from error
    if "num_param" in options:  # said once, so a number in another place is meant for that
        return
    for name, value in given.items():
        default = signature.parameters[name].default
        if type(value) is int and (name == "g" or isinstance(default, (bool, float))):
            raise RowError(f"{value} stands where {host_block.__name__} has {name}; {_WHERE}")


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


class _BlockStandIn(_StandIn):
    """Metaclass of a class that the parser takes for a host block X, and that also builds X_AKConv.

    It builds X_AKConv from arguments that hold a mapping, the block itself from others. Made for one parse: it shows
    as the class it built last, which is what the parser then prints and notes.
    """

    def __call__(cls, *args: Any) -> nn.Module:
        options = next((arg for arg in args if isinstance(arg, dict)), None)
        cls.built = cls.host_class if options is None else cls.real
        if options is None:
            return cls.host_class(*args)
        # The parser may have appended arguments of its own, so the mapping is not always the last.
        return _build(cls.real, (*(arg for arg in args if arg is not options), options))

    def __repr__(cls) -> str:
        return repr(getattr(cls, "built", cls.host_class))

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, cls.host_class)


def is_ours(layer: type) -> bool:
    """Return whether a class under a name of YAML rows is of this package, or stands for one that is."""
    return isinstance(layer, _StandIn) or layer.__module__.partition(".")[0] == "ultralytics_akconv"


def _host_block(row: Any) -> str | None:
    """Return the host block X whose X_AKConv a row names, None for every other row."""
    if isinstance(row, (list, tuple)) and len(row) == 4 and isinstance(row[3], list):
        return _block_rows().get(row[2])
    return None


@functools.lru_cache(maxsize=1)
def _block_rows() -> dict[str, str]:
    """Return the host block X of every name X_AKConv and X_LDConv."""
    names = {real.__name__: host_name for host_name, real in BLOCKS.items()}
    return {**names, **{later_name(name): host_name for name, host_name in names.items()}}


def _as_host_row(row: list) -> list:
    """Return a row of X_AKConv as a row of X whose arguments hold a mapping; every other row as it is."""
    host_name = _host_block(row)
    if host_name is None:
        return row
    *args, options = row[3] if row[3] and isinstance(row[3][-1], dict) else [*row[3], {}]
    if host_name == "C3k2" and len(args) == 1:
        args.append(False)  # c3k, which the parser overwrites by its place for m, l and x, whatever stands there
    return [*row[:2], host_name, [*args, options]]


def _parse_blocks(host_parse_model: Callable, d: dict, *args: Any, **kwargs: Any) -> tuple:
    """Parse a model with X_AKConv rows as if they were X.

    The parser asks `m is C3k2` and then sets the head's `legacy` or the block's `c3k`: only what bears the name C3k2 in
    its own globals gets that. So a copy of the function, whose globals differ in the blocks' names alone, parses a copy
    of the model: nothing that others see changes, in this thread or another. A function that somebody put around the
    parser cannot be copied so: for the time of its call the names stand in the host's own globals, where the host's
    blocks are still built from rows without a mapping. Should a release look blocks up elsewhere than in its globals,
    its own would stand in place of X_AKConv, or refuse the mapping: `test_rows.py` fails then.
    """
    rows = {section: [_as_host_row(row) for row in d[section]] for section in ("backbone", "head")}
    used = {_host_block(row) for section in rows for row in d[section]} - {None}
    model = {**d, **rows}
    names = getattr(host_parse_model, "__globals__", {})
    if names.get("__name__") != TASKS:
        with _names_in_host(used):
            return host_parse_model(model, *args, **kwargs)
    stand_ins = {name: _BlockStandIn(names[name], BLOCKS[name]) for name in used}
    parse_model = FunctionType(
        host_parse_model.__code__,
        {**names, **stand_ins},
        host_parse_model.__name__,
        host_parse_model.__defaults__,
        host_parse_model.__closure__,
    )
    parse_model.__kwdefaults__ = host_parse_model.__kwdefaults__
    return parse_model(model, *args, **kwargs)


@contextlib.contextmanager
def _names_in_host(used: set[str]) -> Iterator[None]:
    """Let the names of host blocks stand for blocks that also build ours, in one thread at a time."""
    names = vars(sys.modules[TASKS])
    with _swapping:
        before = {name: names[name] for name in used}
        names.update({name: _BlockStandIn(block, BLOCKS[name]) for name, block in before.items()})
        try:
            yield
        finally:
            names.update(before)


def located(host_parse_model: Callable) -> Callable:
    """Return the host's `parse_model` with the row named in every error that a row of ours causes."""

    @functools.wraps(host_parse_model)
    def parse_model(d: dict, ch: int, *args: Any, **kwargs: Any) -> tuple:
        has_blocks = any(_host_block(row) for section in ("backbone", "head") for row in d[section])
        parse = functools.partial(_parse_blocks, host_parse_model) if has_blocks else host_parse_model
        try:
            return parse(d, ch, *args, **kwargs)
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            named = row_error(error, d, {*stand_ins(), *_block_rows()})
            if named is None:
                raise
            raise named from error

    return parse_model


@functools.lru_cache(maxsize=1)
def stand_ins() -> dict[str, _StandIn]:
    """Return the names of AKConv in YAML rows, each with its stand-in."""
    return {"AKConv": _StandIn(Conv, AKConv), "LDConv": _StandIn(Conv, AKConv)}
