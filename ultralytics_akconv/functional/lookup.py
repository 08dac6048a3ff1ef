# SPDX-License-Identifier: AGPL-3.0-or-later
"""The gathers as LiteRT and ExecuTorch are fast in them: pixels counted in float32, samples as rows of a flat table.

What both leave to a delegate, XNNPACK, is float32 alone; each step over integers runs on one thread in a loop of its
own, and each look-up that keeps the axes of the samples is followed by a copy. Not for a model of fewer bits: a
quantizer would round the pixels as it does all that is float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ultralytics_akconv.functional.gather import column_conv, weighted_sum
from ultralytics_akconv.functional.taps import base_positions, corner_taps, position_dtype, sampling_taps
from ultralytics_akconv.shapes import Points

_EXACT = 2**24  # float32 holds every integer up to here


def lookup_akconv2d(
    x: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None, points: Points, stride: int, border: str
) -> Tensor:
    """Return what `akconv2d` returns, (B, C2, h, w); see there for the arguments."""
    b, c, height, width = x.shape
    base = base_positions(points, stride, *offset.shape[2:], position_dtype(offset.dtype), x.device)
    counted_in = torch.float32 if b * height * width <= _EXACT else torch.int32
    row, col = sampling_taps(offset, base, (height, width), border, traced=True, counted_in=counted_in)
    corners = corner_taps(row, col, (height, width))
    pixels, weights = ([corner.flatten() for corner in four] for four in corners)
    samples = weighted_sum(x, pixels, weights, _looked_up)  # (B*h*N*w, C)
    return column_conv(samples.reshape(*row.low.shape, c), weight, bias)


def _looked_up(table: Tensor, pixel: Tensor, weight: Tensor) -> Tensor:
    """Return the rows of a table (pixels, C) at `pixel` (samples), each times its weight (samples): (samples, C)."""
    return torch.nn.functional.embedding(pixel.to(torch.int32), table) * weight[:, None]
