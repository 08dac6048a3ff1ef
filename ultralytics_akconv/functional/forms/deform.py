# SPDX-License-Identifier: AGPL-3.0-or-later
"""AKConv as one deformable convolution, for runtimes that have it as a native operator: OpenVINO, ONNX from opset 19.

The column convolution is the kernel, (N, 1); the border is put into its offsets (clamped so that no sample leaves the
map) and its mask (the factor of "paper"). Every number that depends on the offset stays as small as the offset, so a
runtime that computes in bfloat16 loses no more than the offset itself has lost.
"""

from __future__ import annotations

from importlib import import_module
from math import floor
from typing import Any

import torch
from torch import Tensor

from ultralytics_akconv.functional.taps import base_positions, border_factor, position_dtype
from ultralytics_akconv.shapes import Points


def load_operator() -> None:
    """Import torchvision, without which torch does not know its operator; when it is needed, since the import is slow.

    It has to be there before a trace begins: within one its import fails.
    """
    import_module("torchvision")


def deform_akconv2d(
    x: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None, points: Points, stride: int, border: str
) -> Tensor:
    """Return what `akconv2d` returns, (B, C2, h, w); see there for the arguments."""
    load_operator()
    n, (h, w) = len(points), offset.shape[2:]
    dtype = position_dtype(offset.dtype)
    offset = offset.to(dtype)
    base = base_positions(points, stride, h, w, dtype, x.device)
    if base.fraction is not None:
        offset = offset + base.fraction.reshape(1, 2 * n, 1, 1)
    mask = None
    if border != "zeros":
        row, row_factor = _on_the_map(offset[:, :n], base.row.transpose(0, 1).to(dtype), x.shape[2])
        col, col_factor = _on_the_map(offset[:, n:], base.col[:, None].to(dtype), x.shape[3])
        offset = torch.cat((row, col), dim=1)
        mask = row_factor * col_factor if border == "paper" else None
    # Kernel row k reads row (i * stride - (N - 1) + 2 * k): dilation 2 and padding N - 1 leave the output (h, w).
    shift = [(floor(r) + n - 1 - 2 * k, floor(c)) for k, (r, c) in enumerate(points)]
    order = torch.arange(2 * n, device=x.device).reshape(2, n).T.flatten()  # the row and the column of one point, ...
    shift = torch.tensor(shift, dtype=dtype, device=x.device).reshape(1, 2 * n, 1, 1)
    displacement = offset.index_select(1, order) + shift
    mask = torch.ones_like(offset[:, :n]) if mask is None else mask
    bias = weight.new_zeros(weight.shape[0]) if bias is None else bias
    return _DeformConv.apply(x, weight, displacement.to(x.dtype), mask.to(x.dtype), bias, stride)


def _on_the_map(offset: Tensor, base: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return offsets (B, N, h, w) that keep `base` (N, h or 1, w or 1) on an axis of `size`, and the factor of "paper".

    The bounds are relative to the base. They are large only where the base is far from the border, where no offset
    comes near them. There are no integers and no comparisons, which would keep runtimes from joining the steps.
    """
    first, last = -base, size - 1 - base
    return torch.minimum(torch.maximum(offset, first), last), border_factor(offset, first, last)


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
