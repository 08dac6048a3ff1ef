# SPDX-License-Identifier: AGPL-3.0-or-later
"""The bags of `embedding_bag` as they can be traced: the fast form of PyTorch itself, on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from ultralytics_akconv.functional.bags import pixel_rows
from ultralytics_akconv.functional.columns import column_conv, stacked
from ultralytics_akconv.functional.taps import base_positions, corner_taps, position_dtype, sampling_taps
from ultralytics_akconv.shapes import Points


def bag_akconv2d(
    x: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None, points: Points, stride: int, border: str
) -> Tensor:
    """Return what `akconv2d` returns, (B, C2, h, w); see there for the arguments.

    It has no autograd function, which a trace cannot hold, and no loop, which a trace would unroll for one size.
    """
    base = base_positions(points, stride, *offset.shape[2:], position_dtype(offset.dtype), x.device)
    row, col = sampling_taps(offset, base, x.shape[2:], border, traced=True)
    corners = corner_taps(row, col, x.shape[2:])
    pixels, weights = (torch.stack(four).flatten(1).t().contiguous() for four in corners)  # (samples, 4)
    samples = embedding_bag(pixels, pixel_rows(x), mode="sum", per_sample_weights=weights.to(x.dtype))
    return column_conv(stacked(samples, offset), weight, bias)
