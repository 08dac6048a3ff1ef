# SPDX-License-Identifier: AGPL-3.0-or-later
"""The gathers as single runtimes are fast in them, or right."""

from __future__ import annotations

import torch
from torch import Tensor

from ultralytics_akconv.functional.columns import column_conv
from ultralytics_akconv.functional.gather import Gathering, gather_samples
from ultralytics_akconv.functional.taps import base_positions, position_dtype
from ultralytics_akconv.shapes import Points


def gather_akconv2d(
    x: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    points: Points,
    stride: int,
    border: str,
    how: Gathering,
) -> Tensor:
    """Return what `akconv2d` returns, (B, C2, h, w); see there for the arguments, and `Gathering` for `how`."""
    base = base_positions(points, stride, *offset.shape[2:], position_dtype(offset.dtype), x.device)
    return column_conv(gather_samples(x, offset, base, border, traced=True, how=how), weight, bias)


def _looked_up_rows(table: Tensor, pixel: Tensor, weight: Tensor) -> Tensor:
    """Return the rows of a table (pixels, C) at `pixel` (...), each times its weight (...): (samples, C)."""
    return torch.nn.functional.embedding(pixel.flatten().to(torch.int32), table) * weight.flatten()[:, None]


def _widened_rows(table: Tensor, pixel: Tensor, weight: Tensor) -> Tensor:
    """Return the rows of a table (pixels, C) at `pixel` (...), each times its weight (...): (..., C)."""
    ones = torch.ones(1, table.shape[1], dtype=weight.dtype, device=weight.device)
    return torch.nn.functional.embedding(pixel, table) * (weight[..., None] @ ones)


# onnx2tf guesses the order of axes of equal size: it runs the model on calibration images, and where an output has two
# axes of one size it keeps the order of the inputs' axes that comes nearest to what ONNX computed. The host hands it
# images of 0 to 255 for an 8-bit export: their offsets lie thousands of pixels off, where a floor differs by a whole
# pixel, and a wrong order of a square map's axes may win. With the images of a batch on an axis of their own, two of
# them and the two coordinates would be of one size as well.
FLAT = Gathering(one_axis=True)
# What LiteRT and ExecuTorch leave to a delegate, XNNPACK, is float32 alone; each step over integers runs on one thread
# in a loop of its own, and each look-up that keeps the axes of the samples is followed by a copy. Not for a model of
# fewer bits: a quantizer would round the pixels as it does all that is float32.
LOOKUP = Gathering(_looked_up_rows, counted_in_float=True)
# ONNX Runtime multiplies rows and one weight a row one row at a time, 16 channels in an early layer; so written, six
# layers took Paddle nine times as long. An outer product with ones is a matrix product, exact since each sum has one
# term, and leaves a product of equals. ONNX's Gather takes indices of any shape.
OUTER = Gathering(_widened_rows)
# A trace follows the size of the map by itself, as int64, to which Paddle takes the indices that are multiplied by it.
OUTER_FIXED = OUTER._replace(fixed_size=True)
