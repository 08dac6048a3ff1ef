# SPDX-License-Identifier: AGPL-3.0-or-later
"""The gathers with all samples on one axis, for onnx2tf, which guesses the order of axes of equal size.

It runs the model on calibration images, and where an output has two axes of one size it keeps the order of the inputs'
axes that comes nearest to what ONNX computed. The host hands it images of 0 to 255 for an 8-bit export: their offsets
lie thousands of pixels off, where a floor differs by a whole pixel, and a wrong order of a square map's axes may win.
With the images of a batch on an axis of their own, two of them and the two coordinates would be of one size as well.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ultralytics_akconv.functional.gather import weighted_sum
from ultralytics_akconv.functional.taps import Base, Taps, base_positions, corner_taps, position_dtype, sampling_taps
from ultralytics_akconv.shapes import Points


def flat_akconv2d(
    x: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None, points: Points, stride: int, border: str
) -> Tensor:
    """Return what `akconv2d` returns, (B, C2, h, w); see there for the arguments."""
    b, c, *size = x.shape
    n, (h, w) = len(points), offset.shape[2:]
    base = base_positions(points, stride, h, w, position_dtype(offset.dtype), x.device)
    row, col = (axis.expand(b, h, n, w).reshape(-1, 1) for axis in (base.row, base.col))  # (B*h*N*w, 1)
    fraction = base.fraction
    if fraction is not None:
        fraction = fraction[:, None, None, :, None].expand(2, b, h, n, w).reshape(2, -1)
    offset = offset.reshape(b, 2, n, h, w).permute(1, 0, 3, 2, 4).reshape(1, -1, 1, 1)  # (1, 2*B*h*N*w, 1, 1)
    axes = sampling_taps(offset, Base(row[None], col, fraction), size, border, traced=True)  # (1, 1, B*h*N*w, 1) each
    row, col = (Taps(*(tap.reshape(b, 1, -1, 1) for tap in axis)) for axis in axes)
    samples = weighted_sum(x, *corner_taps(row, col, size))  # (B, 1, h*N*w, 1, C)
    samples = samples.reshape(b, h * n, w, c).permute(0, 3, 1, 2)
    return torch.nn.functional.conv2d(samples, weight, bias, stride=(n, 1))
