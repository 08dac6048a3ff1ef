# SPDX-License-Identifier: AGPL-3.0-or-later
"""The bilinear sum as `embedding_bag`: the fast form on a CPU, forward and backward.

A pixel is a row of channels in a channels_last map, and a sample is a weighted sum of four such rows: a bag of four
with per-sample weights, which PyTorch sums in one vectorised pass. Both gradients are bags again:

- by the position, with the slopes of the weights in place of the weights;
- by the input, with pixels and samples swapped: sorted by pixel, the corners on one pixel are a bag of samples.

Nothing but the input and the offsets is kept for the backward pass, the rest is computed again: the indices and weights
of an early YOLO layer would take more memory than its activations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding_bag

from ultralytics_akconv.functional.columns import stacked
from ultralytics_akconv.functional.remembering import under_a_mode
from ultralytics_akconv.functional.taps import Base, Taps, sampling_taps

_CACHED = 2**14  # samples a step where one step reads what another has just written: a megabyte at 16 channels


def pixel_rows(x: Tensor) -> Tensor:
    """Return the pixels of (B, C, H, W) as rows (B*H*W, C): a view of a channels_last map, a copy of another.

    A single image in the ordinary layout has such a view too, whose rows have gaps: its bags would be the slow ones.
    """
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]).contiguous()


def _four(row: tuple[Tensor, Tensor], col: tuple[Tensor, Tensor], combine: Callable[..., Tensor]) -> Tensor:
    """Combine low and high of the rows with low and high of the columns: (samples, 4), in the order of the bags."""
    row, col = ([tap.flatten() for tap in axis] for axis in (row, col))
    bags = torch.empty((len(row[0]), 4), dtype=row[0].dtype, device=row[0].device)
    for start in range(0, len(bags), _CACHED):
        part = slice(start, start + _CACHED)
        rows, cols = (torch.stack([tap[part] for tap in axis]) for axis in (row, col))
        # A transposition that PyTorch does in tiles: three times as fast as a stack along the last axis.
        bags[part].t().copy_(combine(rows[:, None], cols).view(4, -1))
    return bags


def _pixel_indices(row: Taps, col: Taps, size: tuple[int, int]) -> Tensor:
    """Return the four pixel rows of every sample, (samples, 4) int32."""
    height, width = size
    low, high = row.low * width, row.high * width
    if len(low) > 1:
        image = torch.arange(len(low), dtype=torch.int32, device=low.device)[:, None, None, None] * (height * width)
        low, high = low + image, high + image
    return _four((low, high), (col.low, col.high), torch.add)


def _weights(row: tuple[Tensor, Tensor], col: tuple[Tensor, Tensor], like: Tensor) -> Tensor:
    """Return the products of row and column weights (or slopes), (samples, 4) in the dtype of `like`."""
    return _four(row, col, torch.mul).to(like.dtype)


class BagSamples(torch.autograd.Function):
    """Samples (B, C, h*N, w) of `x` (B, C, H, W) and `offset` (B, 2N, h, w)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, offset: Tensor, base: Base, border: str) -> Tensor:
        """Sum the four rows of every sample."""
        ctx.save_for_backward(x, offset)
        ctx.base, ctx.border = base, border
        row, col = sampling_taps(offset, base, x.shape[2:], border)
        weights = _weights((row.low_weight, row.high_weight), (col.low_weight, col.high_weight), x)
        indices = _pixel_indices(row, col, x.shape[2:])
        samples = embedding_bag(indices, pixel_rows(x), mode="sum", per_sample_weights=weights)
        return stacked(samples, offset)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        """Return the gradients by `x` and `offset`, each only if it is asked for."""
        x, offset = ctx.saved_tensors
        row, col = sampling_taps(offset, ctx.base, x.shape[2:], ctx.border)
        indices = _pixel_indices(row, col, x.shape[2:])
        grad = pixel_rows(grad)  # (samples, C)
        row_weights, col_weights = (row.low_weight, row.high_weight), (col.low_weight, col.high_weight)
        grad_x = grad_offset = None
        if ctx.needs_input_grad[0]:
            grad_x = _input_gradient(x, grad, indices, _weights(row_weights, col_weights, x))
        if ctx.needs_input_grad[1]:
            by_row = _weights((-row.low_slope, row.high_slope), col_weights, x)
            by_col = _weights(row_weights, (-col.low_slope, col.high_slope), x)
            grad_offset = _offset_gradient(x, grad, indices, (by_row, by_col), row.low.shape).to(offset.dtype)
            grad_offset = grad_offset.masked_fill_(offset.isnan(), 0)  # as autograd does, by way of `clamp`
        return grad_x, grad_offset, None, None


def _offset_gradient(
    x: Tensor, grad: Tensor, indices: Tensor, slopes: tuple[Tensor, Tensor], shape: torch.Size
) -> Tensor:
    """Return the gradient by the offsets, (B, 2N, h, w): how each sample changes along an axis, times its gradient."""
    pixels, by_axis = pixel_rows(x), grad.new_empty(2, len(grad))
    for start in range(0, len(grad), _CACHED):
        part = slice(start, start + _CACHED)
        for slope, result in zip(slopes, by_axis):
            change = embedding_bag(indices[part], pixels, mode="sum", per_sample_weights=slope[part])
            torch.sum(change.mul_(grad[part]), 1, out=result[part])
    b, h, n, w = shape
    return by_axis.view(2, b, h, n, w).permute(1, 0, 3, 2, 4).reshape(b, 2 * n, h, w)


def _input_gradient(x: Tensor, grad: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
    """Return the gradient by the input, (B, C, H, W) channels_last: per pixel, the bag of the samples that read it."""
    b, c, height, width = x.shape
    pixels, order = indices.flatten().sort()
    counts = _counts(pixels, b * height * width)
    starts = counts.cumsum(0) - counts
    rows = embedding_bag(
        order.to(torch.int32) >> 2,  # corner 4 * m + k belongs to sample m
        grad,
        starts.to(torch.int32),
        mode="sum",
        per_sample_weights=weights.flatten().index_select(0, order),  # three times as fast as `take`
    )
    return rows.view(b, height, width, c).permute(0, 3, 1, 2)


def _counts(pixels: Tensor, length: int) -> Tensor:
    """Return how often each number from 0 to `length` - 1 is among the pixels."""
    if under_a_mode():  # a fake tensor cannot tell how long `bincount` would be
        return pixels.new_zeros(length, dtype=torch.int64).index_add_(0, pixels, torch.ones_like(pixels).long())
    return torch.bincount(pixels, minlength=length)
