# SPDX-License-Identifier: AGPL-3.0-or-later
"""The fork's model YAML in our words: its rows, told by what their modules hold, as AKConv, X_AKConv or the host's."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from torch import nn

from ultralytics_akconv.blocks import block_convs, chosen_convs
from ultralytics_akconv.forks.comparison import channels_read, foreign_classes, record_differences
from ultralytics_akconv.forks.host_classes import host_class, is_known, parsed
from ultralytics_akconv.forks.recognition import Found, akconv_records, found
from ultralytics_akconv.forks.records import CheckpointError, Record, children
from ultralytics_akconv.modules import BLOCKS

_SHOWN = 4  # differences of one layer


@dataclass(frozen=True)
class LayerReport:
    """One row that holds AKConv.

    Attributes:
        index: Layer index.
        path: Class in the fork.
        module: Module of our row.
        args: Arguments of our row.
        akconvs: The AKConv of the layer by their names in it.
    """

    index: int
    path: str
    module: str
    args: list
    akconvs: dict[str, Found]


def translated(model: dict[str, Any], layers: Record) -> tuple[dict[str, Any], list[LayerReport]]:
    """Return a model dictionary that the installed host builds, and a report of the rows that hold AKConv.

    Args:
        model: The fork's model dictionary.
        layers: The record of its layers, a Sequential.

    Raises:
        CheckpointError: If a layer cannot be expressed; it names all of them.
    """
    records = list(children(layers).values())
    count = len(model["backbone"] + model["head"])
    if len(records) != count:
        raise CheckpointError(f"its model YAML has {count} rows, the model {len(records)} layers")
    attempts = [model, *([_told(model, records)] if model.get("scale") in ("m", "l", "x") else [])]
    errors = []
    for attempt in attempts:
        try:
            return _translated(attempt, records)
        except CheckpointError as error:
            errors.append(error)
    raise errors[0]  # it tells of the model as it is


def _translated(model: dict[str, Any], records: list[Record]) -> tuple[dict[str, Any], list[LayerReport]]:
    """Return what `translated` does, of rows taken as they are."""
    rows = copy.deepcopy(model["backbone"] + model["head"])
    problems, reports = [], []
    for index, (row, record) in enumerate(zip(rows, records)):
        member = _member(row, record)
        try:
            row[2:] = _row(model, row, member)
        except CheckpointError as error:
            name = member.path.name
            problems += [f"layer {index} {name} ({member.path}): {line}" for line in str(error).splitlines()]
        if akconv_records(record):
            reports.append(LayerReport(index, str(member.path), row[2], row[3], akconv_records(member)))
    if problems:
        raise CheckpointError(f"what this model holds cannot be expressed: {'; '.join(problems)}")
    split = len(model["backbone"])
    return {**model, "backbone": rows[:split], "head": rows[split:]}, reports


def _member(row: list, record: Record) -> Record:
    """Return the record of one layer of a row: that of the first where the row repeats it."""
    repeated = record.kind == "Sequential" and row[2] != "nn.Sequential" and children(record)
    return next(iter(children(record).values())) if repeated else record


def _told(model: dict[str, Any], records: list[Record]) -> dict[str, Any]:
    """Return a model of scale m, l or x as one of scale n with the same factors, its rows told what hangs on the scale.

    At these scales the host builds a C3k2 of C3k, and an A2C2f of l and x with two more arguments, whatever the row
    says. A fork's parser did that for the host's own blocks and may not have done it for the fork's.
    """
    rows = copy.deepcopy(model["backbone"] + model["head"])
    for row, record in zip(rows, records):
        member = _member(row, record)
        if member.kind.startswith("C3k2"):
            first = children(children(member).get("m", member)).get("0")
            row[3][1:2] = [first is not None and "m" in children(first)]  # a C3k has bottlenecks inside, they have none
        if row[2] == "A2C2f" and model["scale"] in ("l", "x"):
            row[3] += [True, 1.2]
    scales = model.get("scales") or {}
    split = len(model["backbone"])
    told = {"scales": {"n": scales[model["scale"]]}} if model["scale"] in scales else {}
    return {**model, **told, "scale": "n", "backbone": rows[:split], "head": rows[split:]}


def _row(model: dict[str, Any], row: list, record: Record) -> list:
    """Return the module and the arguments of our row.

    Raises:
        CheckpointError: If there is none; a reason a line.
    """
    akconv = found(record)
    foreign = foreign_classes(record, is_known)
    if foreign:
        inside = [f"inside it, {name} is no layer of Ultralytics: {part.path}" for name, part in foreign.items()]
        raise CheckpointError("it is no layer of Ultralytics" if "" in foreign else "\n".join(inside[:_SHOWN]))
    if akconv is not None:
        if akconv.reason:
            raise CheckpointError(akconv.reason)
        if not row[3] or type(row[3][0]) is not int:
            raise CheckpointError("its row in the YAML does not begin with the output channels")
        options = {**akconv.options, **({"act": False} if akconv.act == "Identity" else {})}
        return ["AKConv", [row[3][0], akconv.num_param, akconv.stride, *([options] if options else [])]]
    if akconv_records(record):
        return _block_row(model, row, record)
    for name in (row[2], record.kind):
        layer = host_class(name)
        if layer is not None and layer.__name__ == record.kind:
            return [name, row[3]]
    raise CheckpointError("it is no layer of Ultralytics")


def _block_row(model: dict[str, Any], row: list, record: Record) -> list:
    """Return the row of the block of ours that holds what a block of the fork holds.

    The blocks whose names are in the name of the fork's class come first, then all others.
    """
    inside = akconv_records(record)
    reasons = [f"{name}: {akconv.reason}" for name, akconv in inside.items() if akconv.reason]
    if reasons:
        raise CheckpointError("\n".join(reasons))
    words = record.path.name.split("_")
    named = [name for name in BLOCKS if name in words or name == record.kind]
    named = named or sorted((name for name in BLOCKS if name in record.kind), key=len, reverse=True)[:1]
    nearest: list[str] = []
    for name in [*named, *(name for name in BLOCKS if name not in named)]:
        for arguments in (row[3], row[3][:-1]):  # some forks add a number of points of their own
            unlike, ours = _trial(model, [row[1], name, arguments], record, inside)
            if not unlike:
                return ours
            if not nearest or (not named and len(unlike) < len(nearest)):
                nearest = unlike
    if not named:
        nearest.insert(0, f"it is none of the blocks {', '.join(BLOCKS)} with AKConv inside; the nearest differs")
    more = [f"and {len(nearest) - _SHOWN} more"] if len(nearest) > _SHOWN else []
    raise CheckpointError("\n".join([*nearest[:_SHOWN], *more]))


def _trial(model: dict[str, Any], row: list, record: Record, inside: dict[str, Found]) -> tuple[list[str], list]:
    """Build one block without memory; return how it differs from the record, and its row."""
    repeats, name, arguments = row
    channels = channels_read(record)
    try:
        plain = block_convs(_built(model, [repeats, name, arguments], channels))
        elsewhere = [part for part in inside if part not in plain]
        if elsewhere:
            return [f"{part} is an AKConv, {name} has no ordinary Conv there" for part in elsewhere], []
        one, *others = inside.values()
        if any((other.num_param, other.options) != (one.num_param, one.options) for other in others):
            numbers = ", ".join(f"{part} N={akconv.num_param}" for part, akconv in inside.items())
            return [f"the AKConv of one block have one N and one shape, its have {numbers}"], []
        convs = _shortest(plain, list(inside))
        mapping = {"num_param": one.num_param, **one.options, **({} if convs is None else {"convs": convs})}
        ours = [f"{name}_AKConv", [*arguments, mapping]]
        return record_differences(record, _built(model, [repeats, *ours], channels), settings=False), ours
    except Exception as error:  # the arguments of one block are tried on another: what that raises is anything at all
        return [f"{name}{arguments} cannot be built: {error}"], []


def _built(model: dict[str, Any], row: list, channels: int | None) -> nn.Module:
    """Return one row as the host builds it, without memory."""
    return parsed({**model, "backbone": [[-1, *row]], "head": []}, channels)[0]


def _shortest(plain: dict[str, bool], chosen: list[str]) -> list[str] | None:
    """Return the shortest names that mean the chosen convolutions and no other, None for all that are 3x3."""
    last = list(dict.fromkeys(name.rpartition(".")[2] for name in chosen))
    short = [names for names in (None, last) if sorted(chosen_convs(plain, names)) == sorted(chosen)]
    return short[0] if short else chosen
