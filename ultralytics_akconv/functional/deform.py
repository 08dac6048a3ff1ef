# SPDX-License-Identifier: AGPL-3.0-or-later
"""AKConv as one deformable convolution, for runtimes that have it as a native operator: OpenVINO, ONNX from opset 19.

The column convolution is the kernel, (N, 1); the border is put into its offsets (clamped so that no sample leaves the
map) and its mask (the factor of "paper"). Every number that depends on the offset stays as small as the offset, so a
runtime that computes in bfloat16 loses no more than the offset itself has lost.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ultralytics_akconv.functional.taps import base_positions, position_dtype
from ultralytics_akconv.shapes import Points


def deform_akconv2d(
    x: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None, points: Points, stride: int, border: str
) -> Tensor:
    """Return what `akconv2d` returns, (B, C2, h, w); see there for the arguments. Needs torchvision to be imported."""
    n, (h, w) = len(points), offset.shape[2:]
    offset = offset.to(position_dtype(offset.dtype))
    row, col = offset[:, :n], offset[:, n:]  # (B, N, h, w) each
    mask = None
    if border != "zeros":
        base = base_positions(points, stride, h, w, offset.dtype, x.device)
        row_fraction, col_fraction = (0, 0) if base.fraction is None else base.fraction[:, :, None, None].unbind(0)
        row, row_factor = _on_the_map(row + row_fraction, base.row.transpose(0, 1), x.shape[2])
        col, col_factor = _on_the_map(col + col_fraction, base.col[:, None], x.shape[3])
        row, col = row - row_fraction, col - col_fraction
        mask = row_factor * col_factor if border == "paper" else None
    # Kernel row k reads row (i * stride - (N - 1) + 2 * k): dilation 2 and padding N - 1 leave the output (h, w).
    shift = torch.tensor([[r + n - 1 - 2 * k, c] for k, (r, c) in enumerate(points)], dtype=offset.dtype).to(x.device)
    displacement = torch.stack((row, col), dim=2).flatten(1, 2) + shift.reshape(1, 2 * n, 1, 1)  # row, col a point
    mask = torch.ones_like(row) if mask is None else mask.to(x.dtype)
    bias = weight.new_zeros(weight.shape[0]) if bias is None else bias
    return _DeformConv.apply(x, weight, displacement.to(x.dtype), mask, bias, stride)


def _on_the_map(offset: Tensor, base: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return offsets (B, N, h, w) that keep `base` (N, h or 1, w or 1) on an axis of `size`, and the factor of "paper".

    The bounds are relative to the base. They are large only where the base is far from the border, where no offset
    comes near them.
    """
    low = offset.floor().to(torch.int32) + base
    between = (low + 1).clamp(0, size - 1) - low.clamp(0, size - 1)
    first, last = (-base).to(offset.dtype), (size - 1 - base).to(offset.dtype)
    return torch.minimum(torch.maximum(offset, first), last), (2 - between).to(offset.dtype)


class _DeformConv(torch.autograd.Function):
    """torchvision's `deform_conv2d` with an (N, 1) kernel, and what it is called in ONNX."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, offset: Tensor, mask: Tensor, bias: Tensor, stride: int) -> Tensor:
        """Convolve; dilation 2 and padding N - 1 along the rows."""
        n = weight.shape[2]
        return torch.ops.torchvision.deform_conv2d(
            x, weight, offset, mask, bias, stride, stride, n - 1, 0, 2, 1, 1, 1, True
        )

    @staticmethod
    def symbolic(g: Any, x: Any, weight: Any, offset: Any, mask: Any, bias: Any, stride: int) -> Any:
        """Write the ONNX operator DeformConv, which takes the mask last."""
        n = weight.type().sizes()[2]
        return g.op(
            "DeformConv",
            x,
            weight,
            offset,
            bias,
            mask,
            kernel_shape_i=[n, 1],
            strides_i=[stride, stride],
            dilations_i=[2, 1],
            pads_i=[n - 1, 0, n - 1, 0],
        ).setType(x.type().with_sizes([None, weight.type().sizes()[0], None, None]))
