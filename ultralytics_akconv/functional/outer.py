# SPDX-License-Identifier: AGPL-3.0-or-later
"""The gathers as ONNX Runtime and Paddle are fast in them: weights widened to all channels before they meet the pixels.

ONNX Runtime multiplies rows and one weight a row one row at a time, 16 channels in an early layer; so written, six
layers took Paddle nine times as long. An outer product with ones is a matrix product, exact since each sum has one
term, and leaves a product of equals. ONNX's Gather takes indices of any shape.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ultralytics_akconv.functional.gather import column_conv, weighted_sum
from ultralytics_akconv.functional.taps import Base, base_positions, corner_taps, position_dtype, sampling_taps
from ultralytics_akconv.shapes import Points


def outer_akconv2d(
    x: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    points: Points,
    stride: int,
    border: str,
    size: tuple[int, int] | None = None,
) -> Tensor:
    """Return what `akconv2d` returns, (B, C2, h, w); see there for the arguments, and `outer_samples` for the size."""
    base = base_positions(points, stride, *offset.shape[2:], position_dtype(offset.dtype), x.device)
    return column_conv(outer_samples(x, offset, base, border, size), weight, bias)


def fixed_outer_akconv2d(
    x: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None, points: Points, stride: int, border: str
) -> Tensor:
    """Return what `outer_akconv2d` returns, for images of the traced size alone."""
    return outer_akconv2d(x, offset, weight, bias, points, stride, border, tuple(int(axis) for axis in x.shape[2:]))


def outer_samples(x: Tensor, offset: Tensor, base: Base, border: str, size: tuple[int, int] | None = None) -> Tensor:
    """Return the samples as rows, (B, h, N, w, C) in x's dtype; `x` is (B, C, H, W).

    A trace follows the size of `x` by itself, as int64, to which Paddle takes the indices that are multiplied by it.
    Two plain integers in `size` fix it.
    """
    size = x.shape[2:] if size is None else size
    row, col = sampling_taps(offset, base, size, border, traced=True)
    return weighted_sum(x, *corner_taps(row, col, size), _widened_rows)


def _widened_rows(table: Tensor, pixel: Tensor, weight: Tensor) -> Tensor:
    """Return the rows of a table (pixels, C) at `pixel` (...), each times its weight (...): (..., C)."""
    ones = torch.ones(1, table.shape[1], dtype=weight.dtype, device=weight.device)
    return torch.nn.functional.embedding(pixel, table) * (weight[..., None] @ ones)
