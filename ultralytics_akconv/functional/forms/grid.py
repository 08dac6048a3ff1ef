# SPDX-License-Identifier: AGPL-3.0-or-later
"""AKConv over `grid_sample`, for runtimes that know few operators: no integers, no comparisons, at most four axes."""

from __future__ import annotations

import torch
from torch import Tensor

from ultralytics_akconv.functional.columns import column_conv
from ultralytics_akconv.functional.taps import border_factor, constants_device, position_dtype
from ultralytics_akconv.shapes import Points


def grid_akconv2d(
    x: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None, points: Points, stride: int, border: str
) -> Tensor:
    """Return what `akconv2d` returns, (B, C2, h, w); see there for the arguments."""
    b, _, height, width = x.shape
    n, (h, w) = len(points), offset.shape[2:]
    dtype = position_dtype(offset.dtype)
    # Not from `base_positions`, which counts pixels in integers.
    maker = constants_device(x.device)
    start = torch.tensor(points, dtype=dtype, device=maker)  # (N, 2)
    row = torch.arange(h, dtype=dtype, device=maker)[:, None] * stride + start[:, 0]  # (h, N)
    col = torch.arange(w, dtype=dtype, device=maker) * stride + start[:, 1:]  # (N, w)
    if maker != x.device:
        row, col = row.to(x.device), col.to(x.device)
    # The samples of an output pixel come one below the other, so that the column convolution takes them as they are:
    # of (B, C, h*N, w), the largest tensor, some runtimes copy every reshape.
    row_offset, col_offset = (part.to(dtype).permute(0, 2, 1, 3) for part in (offset[:, :n], offset[:, n:]))
    row = row_offset.reshape(b, h * n, w) + row.reshape(1, h * n, 1)  # (B, h*N, w)
    col = col_offset.reshape(b, h * n, w) + col.expand(h, n, w).reshape(1, h * n, w)
    # align_corners=False: nothing is divided by H - 1, so that a map of size 1 is like any other.
    grid = torch.stack(((col * 2 + 1) / width - 1, (row * 2 + 1) / height - 1), dim=-1)  # (B, h*N, w, 2)
    padding = "zeros" if border == "zeros" else "border"
    samples = torch.nn.functional.grid_sample(x, grid.to(x.dtype), padding_mode=padding, align_corners=False)
    if border == "paper":
        factor = border_factor(row, 0, height - 1) * border_factor(col, 0, width - 1)  # (B, h*N, w)
        samples = samples * factor.to(x.dtype).unsqueeze(1)
    return column_conv(samples, weight, bias)
