# SPDX-License-Identifier: AGPL-3.0-or-later
"""The gathers as ONNX Runtime is fast in them: weights widened to all channels before they meet the pixels.

It multiplies rows and one weight a row one row at a time, 16 channels in an early layer. An outer product with ones is
a matrix product, exact since each sum has one term, and leaves a product of equals. Its Gather takes indices of any
shape, and with four axes the transposition of the samples is joined with the layout that its convolutions want.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ultralytics_akconv.functional.gather import weighted_sum
from ultralytics_akconv.functional.taps import Base, base_positions, corner_taps, position_dtype, sampling_taps
from ultralytics_akconv.shapes import Points


def outer_akconv2d(
    x: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None, points: Points, stride: int, border: str
) -> Tensor:
    """Return what `akconv2d` returns, (B, C2, h, w); see there for the arguments."""
    base = base_positions(points, stride, *offset.shape[2:], position_dtype(offset.dtype), x.device)
    samples = outer_samples(x, offset, base, border)
    b, h, n, w, c = samples.shape
    samples = samples.reshape(b, h * n, w, c).permute(0, 3, 1, 2)
    return torch.nn.functional.conv2d(samples, weight, bias, stride=(n, 1))


def outer_samples(x: Tensor, offset: Tensor, base: Base, border: str) -> Tensor:
    """Return the samples as rows, (B, h, N, w, C) in x's dtype; `x` is (B, C, H, W)."""
    row, col = sampling_taps(offset, base, x.shape[2:], border, traced=True)
    return weighted_sum(x, *corner_taps(row, col, x.shape[2:]), _widened_rows)


def _widened_rows(table: Tensor, pixel: Tensor, weight: Tensor) -> Tensor:
    """Return the rows of a table (pixels, C) at `pixel` (...), each times its weight (...): (..., C)."""
    ones = torch.ones(1, table.shape[1], dtype=weight.dtype, device=weight.device)
    return torch.nn.functional.embedding(pixel, table) * (weight[..., None] @ ones)
