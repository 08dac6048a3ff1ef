# SPDX-License-Identifier: AGPL-3.0-or-later
"""The bilinear sum as one plain expression: four gathers of pixel rows. What compilers and exporters are given."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import torch
from torch import Tensor

from ultralytics_akconv.functional.taps import Base, Taps, corner_taps, sampling_taps


def gather_samples(x: Tensor, offset: Tensor, base: Base, border: str, traced: bool = False) -> Tensor:
    """Return the samples as rows, (B, h, N, w, C) in x's dtype; `x` is (B, C, H, W)."""
    row, col = sampling_taps(offset, base, x.shape[2:], border, traced)
    return weighted_sum(x, *corner_taps(row, col, x.shape[2:]))


def compiled_samples(x: Tensor, offset: Tensor, base: Base, border: str) -> Tensor:
    """Return what `gather_samples` returns, in the expression of which `torch.compile` makes the fastest CPU loops.

    Without the stacks, the loop over the samples computes the indices of every tap anew, one by one.
    """
    row, col = sampling_taps(offset, base, x.shape[2:], border, traced=True)
    pixels = _stored(row.low, row.high, col.low, col.high)
    weights = _stored(row.low_weight, row.high_weight, col.low_weight, col.high_weight)
    # Not by `_replace`: on Python 3.13, torch 2.6 cannot trace it.
    row = Taps(*pixels[:2], *weights[:2], row.low_slope, row.high_slope)
    col = Taps(*pixels[2:], *weights[2:], col.low_slope, col.high_slope)
    return weighted_sum(x, *corner_taps(row, col, x.shape[2:]))


def _stored(*taps: Tensor) -> tuple[Tensor, ...]:
    """Return the taps (B, h, N, w) as they are, out of a stack, which a compiler stores.

    It stores them as (B, h, w, N), the memory order of channels_last offsets, in which it computes them as vectors.
    """
    return torch.stack([tap.transpose(2, 3) for tap in taps]).transpose(3, 4).unbind()


def _weighted_rows(table: Tensor, pixel: Tensor, weight: Tensor) -> Tensor:
    """Return the rows of a table (pixels, C) at `pixel` (...), each times its weight (...): (..., C)."""
    c = table.shape[1]
    return table.index_select(0, pixel.flatten()).reshape(*weight.shape, c) * weight[..., None]


def weighted_sum(
    x: Tensor,
    pixels: list[Tensor],
    weights: list[Tensor],
    weighted_rows: Callable[[Tensor, Tensor, Tensor], Tensor] = _weighted_rows,
) -> Tensor:
    """Return the weighted sum of the pixel rows at four corners, (..., C) in x's dtype; each corner is (...).

    A runtime may be faster with another expression of a corner's rows times their weights, `weighted_rows`.
    """
    b, c, height, width = x.shape
    # One row a pixel, in the dtype of the weights: many samples read a pixel, and their gradients are summed in it.
    table = x.permute(0, 2, 3, 1).reshape(b * height * width, c)
    table = table.to(torch.promote_types(x.dtype, weights[0].dtype))
    corners = [weighted_rows(table, pixel, weight) for pixel, weight in zip(pixels, weights)]
    return reduce(torch.add, corners).to(x.dtype)


def column_conv(samples: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return the column convolution (C2, C, N, 1) of the samples as rows (B, h, N, w, C): (B, C2, h, w).

    With four axes, exporters join the transposition of the samples with the layout that convolutions want.
    """
    b, h, n, w, c = samples.shape
    return torch.nn.functional.conv2d(samples.reshape(b, h * n, w, c).permute(0, 3, 1, 2), weight, bias, stride=(n, 1))
