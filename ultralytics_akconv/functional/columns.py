# SPDX-License-Identifier: AGPL-3.0-or-later
"""The column convolution, and what it takes: the N samples of an output pixel stacked along the rows."""

from __future__ import annotations

import torch
from torch import Tensor


def stacked(rows: Tensor, offset: Tensor) -> Tensor:
    """Return samples as rows of channels, in the order (B, h, N, w), as the input of the column convolution.

    In two steps, by way of four axes: exporters join such a transposition with the layout that convolutions want.

    Args:
        rows: (B, h, N, w, C), with any of the axes before the last joined.
        offset: The offsets (B, 2N, h, w) that they were sampled with, for the sizes.

    Returns:
        Samples (B, C, h*N, w), channels_last in memory.
    """
    b, both, h, w = offset.shape
    return rows.reshape(b, h * (both // 2), w, rows.shape[-1]).permute(0, 3, 1, 2)


def column_conv(samples: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return the convolution of the stacked samples (B, C, h*N, w) with the weight (C2, C, N, 1): (B, C2, h, w)."""
    return torch.nn.functional.conv2d(samples, weight, bias, stride=(weight.shape[2], 1))
