# SPDX-License-Identifier: AGPL-3.0-or-later
"""What differs between a record of a module and a module of ours: parts, tensors and settings, each by name."""

from __future__ import annotations

from collections.abc import Iterator
from reprlib import repr  # of values from a file: short, whatever they are
from typing import Any

from torch import nn

from ultralytics_akconv.forks.recognition import Found, akconv_records, found, parts, weight_of
from ultralytics_akconv.forks.records import Record, TensorRecord, children, is_module, named_modules, state_dict
from ultralytics_akconv.modules import PUBLISHED_PREFIXES, AKConv

# Settings of a run and notes of the host, which change from release to release and leave the numbers as they are.
_UNLIKE = {
    "training", "np", "type", "inplace", "export", "dynamic", "format", "shape", "max_det", "xyxy", "agnostic_nms",
    "separate_outputs", "recompute_scale_factor", "legacy",
}  # fmt: skip
_SETTING = (bool, int, float, str, type(None))


def published_names(module: nn.Module) -> dict[str, str]:
    """Return the names of a module's tensors as the published code has them, each with ours."""
    names = {name: name for name in module.state_dict()}
    for prefix, inside in module.named_modules():
        if isinstance(inside, AKConv):
            dotted = f"{prefix}." if prefix else ""
            for published, ours in PUBLISHED_PREFIXES.items():
                start = dotted + ours
                names = {
                    k: dotted + published + k[len(start) :] if k.startswith(start) else v for k, v in names.items()
                }
    return {published: ours for ours, published in names.items()}


def tensors_of(record: Record) -> dict[str, TensorRecord]:
    """Return the tensors that a rebuilt model must hold: the state of a module without the fixed `p_n` of AKConv."""
    fixed = {f"{name}.p_n" if name else "p_n" for name in akconv_records(record)}
    return {name: tensor for name, tensor in state_dict(record).items() if name not in fixed}


def record_differences(record: Record, module: nn.Module, settings: bool = True) -> list[str]:
    """Return every difference, front to back; none if the module can hold the record's tensors and mean the same.

    A class that holds AKConv may be named otherwise in the record; all other classes must be namesakes.

    Args:
        record: The record of a module of the fork.
        module: The module that is to stand for it; on the device "meta" it needs no memory.
        settings: Whether to compare attributes such as strides, too.
    """
    theirs, ours = dict(_outside(record)), dict(_outside(module))
    found_differences = []
    for name in _topmost(theirs, ours):
        found_differences.append(f"{name} ({theirs[name].path}) finds no place in {_name(module)}")
    for name in _topmost(ours, theirs):
        found_differences.append(f"{name} ({_name(ours[name])}) of {_name(module)} is not in the file")
    for name in [name for name in theirs if name in ours]:
        found_differences += [f"{name or 'it'}: {text}" for text in _unlike(theirs[name], ours[name], settings)]
    if not found_differences:
        found_differences = _tensor_differences(record, module)
    return found_differences


def _outside(module: Record | nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the modules of a record or module, but not those inside an AKConv."""
    is_record = isinstance(module, Record)
    everything = named_modules(module) if is_record else module.named_modules(remove_duplicate=False)
    inside: set[str] = set()
    for name, part in everything:
        if any(name.startswith(prefix) for prefix in inside):
            continue
        if (found(part) is not None) if is_record else isinstance(part, AKConv):
            inside.add(f"{name}." if name else "")
        yield name, part
        if "" in inside:
            return


def _topmost(these: dict[str, Any], those: dict[str, Any]) -> list[str]:
    """Return the names that only these have, without what lies inside one of them."""
    alone = [name for name in these if name not in those]
    return [name for name in alone if name.rpartition(".")[0] not in alone]


def _name(module: nn.Module) -> str:
    return type(module).__name__


def _unlike(record: Record, module: nn.Module, settings: bool) -> Iterator[str]:
    """Yield how one module differs from its record, apart from what is inside it."""
    akconv = found(record)
    if (akconv is not None) != isinstance(module, AKConv):
        yield f"{record.path} in the file, {_name(module)} here"
    elif akconv is not None:
        yield from _unlike_akconv(record, akconv, module, settings)
    else:
        if record.kind != _name(module) and not akconv_records(record):
            yield f"{record.path} in the file, {_name(module)} here"
        yield from _unlike_settings(record, module) if settings else ()


def _unlike_settings(record: Record, module: nn.Module) -> Iterator[str]:
    """Yield the settings that differ."""
    for key, value in vars(module).items():
        if key.startswith("_") or key in _UNLIKE or key not in record.state:
            continue
        theirs, ours = (list(v) if isinstance(v, (tuple, list)) else [v] for v in (record.state[key], value))
        numbers = all(isinstance(v, _SETTING) for v in ours) and not isinstance(record.state[key], TensorRecord)
        if numbers and theirs != ours:
            yield f"{key} is {repr(record.state[key])} in the file, {value!r} here"


def _unlike_akconv(record: Record, akconv: Found, module: AKConv, settings: bool) -> Iterator[str]:
    """Yield how an AKConv differs from what the file says of it."""
    if akconv.reason:
        yield akconv.reason
        return
    theirs = (akconv.in_channels, akconv.out_channels, akconv.num_param, akconv.stride)
    ours = (module.in_channels, module.out_channels, module.num_param, module.stride)
    for name, their, our in zip(("channels in", "channels out", "num_param", "stride"), theirs, ours):
        if their != our:
            yield f"{name} is {their} in the file, {our} here"
    if akconv.act != _name(module.conv.act):
        yield f"its activation is {akconv.act} in the file, {_name(module.conv.act)} here"
    if settings:
        yield from _unlike_settings(parts(record)[2], module.conv.bn)


def _tensor_differences(record: Record, module: nn.Module) -> list[str]:
    """Return the tensors that find no place, the places that find no tensor, and the shapes that differ."""
    tensors, places, state = tensors_of(record), published_names(module), module.state_dict()
    unlike = [f"{name}: the tensor finds no place in {_name(module)}" for name in tensors if name not in places]
    unlike += [f"{name} of {_name(module)} finds no tensor in the file" for name in places if name not in tensors]
    for name in [name for name in tensors if name in places]:
        theirs, ours = tensors[name].shape, tuple(state[places[name]].shape)
        if theirs != ours:
            unlike.append(f"{name} has the shape {theirs} in the file, {ours} here")
    return unlike


def channels_read(record: Record) -> int | None:
    """Return the channels that a module reads: those of its first convolution."""
    for _, inside in named_modules(record):
        akconv, weight = found(inside), weight_of(inside)
        if akconv is not None:
            return akconv.in_channels
        if weight is not None and len(weight.shape) == 4 and is_module(inside):
            groups = inside.get("groups", 1)
            return weight.shape[1] * (groups if type(groups) is int else 1)
    return None


def foreign_classes(record: Record, known: Any) -> dict[str, Record]:
    """Return the modules inside a record whose class is nowhere in the installed host, by name, without AKConv.

    Args:
        record: The record of a module.
        known: Called with the record of a module, says whether its class is known.
    """
    return {
        name: part
        for name, part in _outside(record)
        if found(part) is None and not known(part) and not (akconv_records(part) and children(part))
    }
