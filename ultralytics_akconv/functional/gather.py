# SPDX-License-Identifier: AGPL-3.0-or-later
"""The bilinear sum as one plain expression: four gathers of pixel rows. What compilers and exporters are given."""

from __future__ import annotations

import torch
from torch import Tensor

from ultralytics_akconv.functional.taps import Base, sampling_taps


def gather_samples(x: Tensor, offset: Tensor, base: Base, border: str, traced: bool = False) -> Tensor:
    """Return the samples as rows, (B, h, N, w, C) in x's dtype; `x` is (B, C, H, W)."""
    b, c, height, width = x.shape
    row, col = sampling_taps(offset, base, (height, width), border, traced)
    # One row a pixel, in the dtype of the weights: many samples read a pixel, and their gradients are summed in it.
    table = x.permute(0, 2, 3, 1).reshape(b * height * width, c)
    table = table.to(torch.promote_types(x.dtype, row.low_weight.dtype))
    image = torch.arange(b, dtype=torch.int32, device=x.device)[:, None, None, None] * (height * width)

    def tap(r: Tensor, k: Tensor, weight: Tensor) -> Tensor:
        pixels = table.index_select(0, (image + r * width + k).flatten())
        return pixels.reshape(*weight.shape, c) * weight[..., None]

    samples = (
        tap(row.low, col.low, row.low_weight * col.low_weight)
        + tap(row.low, col.high, row.low_weight * col.high_weight)
        + tap(row.high, col.low, row.high_weight * col.low_weight)
        + tap(row.high, col.high, row.high_weight * col.high_weight)
    )
    return samples.to(x.dtype)
