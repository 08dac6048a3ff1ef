# SPDX-License-Identifier: AGPL-3.0-or-later
"""The bilinear sum as one plain formula, four look-ups of pixel rows, and what runtimes want different in it."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from ultralytics_akconv.functional.columns import stacked
from ultralytics_akconv.functional.taps import Base, Taps, corner_taps, sampling_taps

_EXACT = 2**24  # float32 holds every integer up to here


def indexed_rows(table: Tensor, pixel: Tensor, weight: Tensor) -> Tensor:
    """Return the rows of a table (pixels, C) at `pixel` (...), each times its weight (...): (..., C)."""
    c = table.shape[1]
    return table.index_select(0, pixel.flatten()).reshape(*weight.shape, c) * weight[..., None]


class Gathering(NamedTuple):
    """What differs from runtime to runtime in the one formula; the default is what most are given."""

    rows: Callable[[Tensor, Tensor, Tensor], Tensor] = indexed_rows  # how rows are looked up and weighted
    stored: bool = False  # taps out of a stack, see `_stored`
    counted_in_float: bool = False  # pixels are counted in float32, as long as it is exact
    one_axis: bool = False  # all samples lie on one axis
    fixed_size: bool = False  # for maps of the traced size alone


PLAIN = Gathering()
# The one of which `torch.compile` makes the fastest CPU loops: without the stacks, the loop over the samples
# computes the indices of every tap anew, one by one.
COMPILED = Gathering(stored=True)


def gather_samples(
    x: Tensor, offset: Tensor, base: Base, border: str, traced: bool = False, how: Gathering = PLAIN
) -> Tensor:
    """Return the samples (B, C, h*N, w) of `x` (B, C, H, W), in x's dtype; see `sampling_taps` for the arguments."""
    b, c, height, width = x.shape
    size = (int(height), int(width)) if how.fixed_size else (height, width)
    counted_in = torch.float32 if how.counted_in_float and b * height * width <= _EXACT else torch.int32
    if how.one_axis:
        axes = sampling_taps(*_on_one_axis(offset, base), size, border, traced, counted_in)
        row, col = (Taps(*(tap.reshape(b, 1, -1, 1) for tap in axis)) for axis in axes)
    else:
        row, col = sampling_taps(offset, base, size, border, traced, counted_in)
    if how.stored:
        row, col = _stored(row, col)
    # One row a pixel, in the dtype of the weights: many samples read a pixel, and their gradients are summed in it.
    table = x.permute(0, 2, 3, 1).reshape(b * height * width, c)
    table = table.to(torch.promote_types(x.dtype, row.low_weight.dtype))
    corners = [how.rows(table, pixel, weight) for pixel, weight in zip(*corner_taps(row, col, size))]
    return stacked(reduce(torch.add, corners).to(x.dtype), offset)


def _stored(row: Taps, col: Taps) -> tuple[Taps, Taps]:
    """Return the taps as they are, pixels and weights out of a stack each, which a compiler stores.

    It stores them as (B, h, w, N), the memory order of channels_last offsets, in which it computes them as vectors.
    """

    def stack(*taps: Tensor) -> tuple[Tensor, ...]:
        return torch.stack([tap.transpose(2, 3) for tap in taps]).transpose(3, 4).unbind()

    pixels = stack(row.low, row.high, col.low, col.high)
    weights = stack(row.low_weight, row.high_weight, col.low_weight, col.high_weight)
    # Not by `_replace`: on Python 3.13, torch 2.6 cannot trace it.
    row = Taps(*pixels[:2], *weights[:2], row.low_slope, row.high_slope)
    return row, Taps(*pixels[2:], *weights[2:], col.low_slope, col.high_slope)


def _on_one_axis(offset: Tensor, base: Base) -> tuple[Tensor, Base]:
    """Return the offsets of all samples as (1, 2*B*h*N*w, 1, 1), in the order (B, h, N, w), and their base."""
    b, both, h, w = offset.shape
    n = both // 2
    row, col = (axis.expand(b, h, n, w).reshape(-1, 1) for axis in (base.row, base.col))  # (B*h*N*w, 1)
    fraction = base.fraction
    if fraction is not None:
        fraction = fraction[:, None, None, :, None].expand(2, b, h, n, w).reshape(2, -1)
    offset = offset.reshape(b, 2, n, h, w).permute(1, 0, 3, 2, 4)  # (2, B, h, N, w)
    return offset.reshape(1, -1, 1, 1), Base(row[None], col, fraction)
