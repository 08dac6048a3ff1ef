# SPDX-License-Identifier: AGPL-3.0-or-later
"""Tells an AKConv by what it is made of, whatever its class is called, and reads its options off its tensors."""

from __future__ import annotations

from dataclasses import dataclass
from reprlib import repr  # of values from a file: short, whatever they are
from typing import Any

import torch
from torch import Tensor

from ultralytics_akconv.forks.records import Record, TensorRecord, children, named_modules
from ultralytics_akconv.shapes import Points, sampling_points


class _Unfit(ValueError):
    """An AKConv that ours cannot stand for."""


@dataclass(frozen=True)
class Found:
    """What the record of an AKConv says.

    Attributes:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        num_param: Number of sampling points N.
        stride: Stride of the offset convolution.
        points: Initial shape, None for the default one.
        bias: Whether the column convolution has a bias.
        act: Class name of the activation, "Identity" if there is none.
        reason: Why ours cannot stand for it, None if it can.
    """

    in_channels: int
    out_channels: int
    num_param: int
    stride: int = 1
    points: Points | None = None
    bias: bool = False
    act: str = "SiLU"
    reason: str | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The options of ours, beside the number of points and the stride, that differ from their defaults."""
        shape = {} if self.points is None else {"shape": [list(map(_whole, point)) for point in self.points]}
        return {**shape, **({"bias": True} if self.bias else {})}


def weight_of(module: Record | None) -> TensorRecord | None:
    """Return a module's own weight."""
    weight = module.get("weight") if module is not None else None
    return weight if isinstance(weight, TensorRecord) else None


def parts(module: Record) -> tuple[Record, Record, Record] | None:
    """Return the offset convolution, the column convolution and the BatchNorm of an AKConv; None of anything else."""
    inside = children(module)
    sequence = children(inside["conv"]) if "conv" in inside else {}
    offset, column, norm = inside.get("p_conv"), sequence.get("0"), sequence.get("1")
    offset_weight, column_weight = weight_of(offset), weight_of(column)
    if offset_weight is None or column_weight is None or norm is None:
        return None
    if len(offset_weight.shape) != 4 or len(column_weight.shape) != 4 or column_weight.shape[3] != 1:
        return None
    fits = offset_weight.shape[0] == 2 * column_weight.shape[2] and offset_weight.shape[1] == column_weight.shape[1]
    return (offset, column, norm) if fits and isinstance(norm.get("running_mean"), TensorRecord) else None


def found(module: Record) -> Found | None:
    """Return what the record of an AKConv says, or None of any other module."""
    made_of = parts(module)
    if made_of is None:
        return None
    offset, column, _ = made_of
    out_channels, in_channels, num_param, _ = weight_of(column).shape
    try:
        stride = _stride(offset, column, num_param)
        points = initial_points(module.get("p_n"), num_param)
    except _Unfit as unfit:
        return Found(in_channels, out_channels, num_param, reason=str(unfit))
    act = children(children(module)["conv"]).get("2")
    bias = isinstance(column.get("bias"), TensorRecord)
    return Found(in_channels, out_channels, num_param, stride, points, bias, act.kind if act else "Identity")


def akconv_records(module: Record) -> dict[str, Found]:
    """Return the AKConv of a module and of those inside it, by name."""
    everything = ((name, found(record)) for name, record in named_modules(module))
    return {name: akconv for name, akconv in everything if akconv is not None}


def _stride(offset: Record, column: Record, num_param: int) -> int:
    """Return the stride, after comparing the convolutions with those of the definition."""
    wanted = {"padding": (1, 1), "dilation": (1, 1), "groups": 1, "padding_mode": "zeros"}
    fixed = {"stride": (num_param, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1}
    for name, conv, values in (("p_conv", offset, wanted), ("conv.0", column, fixed)):
        for key, value in values.items():
            if conv.get(key, value) != value:
                raise _Unfit(f"its {name} has {key} {repr(conv.get(key))}, the operator has {value}")
    if weight_of(offset).shape[2:] != (3, 3):
        raise _Unfit(f"its p_conv has a kernel of {weight_of(offset).shape[2:]}, the operator has (3, 3)")
    stride = offset.get("stride")
    sides = stride if isinstance(stride, tuple) and len(stride) == 2 else (0, 0)
    if any(type(side) is not int or side < 1 for side in sides) or sides[0] != sides[1]:
        raise _Unfit(f"its stride is {repr(stride)}, the operator has one for both axes")
    return sides[0]


def initial_points(tensor: Any, num_param: int) -> Points | None:
    """Return the initial shape that `p_n` holds, None if it is the default one or there is none.

    It lies flat (1, 2N, 1, 1), N rows and then N columns, or as (2, N), or as (N, 2) points.
    """
    if not isinstance(tensor, TensorRecord):
        return None
    values = tensor.read().double().squeeze()
    if num_param == 2 and values.shape == (2, 2):
        raise _Unfit("its p_n of shape (2, 2) does not tell rows from points")
    rows_columns = _as_rows_columns(values, num_param)
    points = tuple((row, column) for row, column in rows_columns.T.tolist())
    try:
        default = sampling_points(num_param, "default")
        checked = sampling_points(num_param, [list(map(_whole, point)) for point in points])
    except (OverflowError, ValueError) as error:
        raise _Unfit(f"its p_n is no initial shape: {error}") from error
    return None if checked == default else checked


def _as_rows_columns(values: Tensor, num_param: int) -> Tensor:
    """Return the initial shape as (2, N)."""
    if values.numel() != 2 * num_param:
        raise _Unfit(f"its p_n has {values.numel()} numbers, {num_param} points have {2 * num_param}")
    if values.shape == (num_param, 2) and num_param != 2:
        return values.T
    return torch.reshape(values, (2, num_param))


def _whole(number: float) -> float:
    """Return a number as YAML writes it shortest."""
    return int(number) if number == round(number) else number
