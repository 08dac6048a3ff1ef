# SPDX-License-Identifier: AGPL-3.0-or-later
"""The bilinear sum as `grid_sample`: the form of fewest bytes that PyTorch itself has on a GPU.

`grid_sample` takes positions relative to the size of the map and in the dtype of the map, so both are float32 here at
least. It knows the borders "clamp" and "zeros"; the factor of "paper" is put on its samples.

A position on a whole pixel must not fall short of it by rounding: the gradient by an offset is that of the cell in
which it lies, and the factor of "paper" changes at the last pixel. So the fraction is kept off 0 and 1 by a little more
than the rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ultralytics_akconv.functional.taps import REACH, Base, position_dtype

_NOWHERE = -3.0  # for a NaN: off any map, where the position changes nothing anyhow
_ROUNDING = 3  # times the dtype's eps and the side of the map: no position on a side up to 4096 px is off by more


class GridPlaces(torch.autograd.Function):
    """Where `grid_sample` reads, (B, h*N, w, 2) from -1 to 1, and the factor of each sample, (B, 1, h*N, w).

    A layer computes and keeps them once, in place of the offsets: all three passes need them.
    """

    @staticmethod
    def forward(
        ctx: Any, offset: Tensor, base: Base, size: tuple[int, int], border: str, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """Compute both; a NaN offset makes the factor NaN: with a NaN itself, `grid_sample` reads anywhere on a CPU."""
        reach = min(REACH, torch.finfo(offset.dtype).max)
        place = _by_axis(offset.clamp(-reach, reach))  # (B, h, N, w, 2)
        place = place.to(dtype, memory_format=torch.contiguous_format, copy=True)
        if base.fraction is not None:
            place += base.fraction.T[:, None]  # (N, 1, 2)
        fraction = torch.remainder(place, 1)
        for axis, (side, pixel) in enumerate(zip(size, (base.row, base.col))):
            little = _ROUNDING * torch.finfo(dtype).eps * side
            # align_corners=False: nothing is divided by H - 1, so that a map of size 1 is like any other.
            start = pixel.to(dtype).mul_(2 / side).add_((1 + 2 * little) / side - 1)
            moved = place[..., axis].add_(fraction[..., axis], alpha=-2 * little)
            torch.add(start, moved, alpha=2 / side, out=moved)
        factor = place.sum(-1)
        if border == "paper":  # as `border_factor`, of shares of the map: the pixels are not at hand any more
            outside = (place[..., axis].abs() > 1 - 1 / side for axis, side in enumerate(size))
            row, col = (1 + axis.view(torch.uint8) for axis in outside)  # 2 where both pixels are one
            factor = torch.add(row * col, factor, alpha=0)
        else:
            factor = factor.mul_(0).add_(1)
        place.nan_to_num_(_NOWHERE)
        ctx.save_for_backward(place)
        ctx.size, ctx.dtype = size, offset.dtype
        factor = factor.flatten(1, 2).unsqueeze(1)
        ctx.mark_non_differentiable(factor)
        return place.flatten(1, 2), factor

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient by the offsets: none by a NaN."""
        (place,) = ctx.saved_tensors
        grad = grad.reshape(place.shape).masked_fill(place == _NOWHERE, 0)
        b, h, n, w, _ = place.shape
        result = torch.empty((b, 2 * n, h, w), dtype=ctx.dtype, device=grad.device)
        for axis, side in enumerate(ctx.size):
            torch.mul(grad[..., axis], 2 / side, out=_by_axis(result)[..., axis])
        return result, None, None, None, None


class GridSamples(torch.autograd.Function):
    """Samples (B, C, h*N, w), in x's dtype and channels_last, of `x` (B, C, H, W) at the places of `GridPlaces`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, grid: Tensor, factor: Tensor, border: str) -> Tensor:
        """Sample in the dtype of the places."""
        ctx.save_for_backward(x, grid, factor)
        ctx.border, ctx.options = border, _options(border)
        samples = torch.ops.aten.grid_sampler_2d(_map(x, grid), grid, *ctx.options)  # (B, C, h*N, w)
        result = torch.empty_like(samples, dtype=x.dtype, memory_format=torch.channels_last)
        return torch.mul(samples, factor, out=result)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients by `x` and the places, each only if it is asked for."""
        x, grid, factor = ctx.saved_tensors
        by_x, by_grid = ctx.needs_input_grad[:2]
        grad_x, grad_grid = torch.ops.aten.grid_sampler_2d_backward(
            grad * factor, _map(x, grid), grid, *ctx.options, (by_x, True)
        )
        if ctx.border == "zeros" and by_grid:  # nothing is read off the map, so a NaN there has reached neither axis
            grad_grid = torch.add(grad_grid, factor.squeeze(1)[..., None], alpha=0)
        if by_x:
            grad_x = grad_x.transpose(2, 3).to(x.dtype, memory_format=torch.channels_last)
        return grad_x if by_x else None, grad_grid if by_grid else None, None, None


def grid_sampler(x: Tensor, offset: Tensor, base: Base, border: str) -> Callable[[], Tensor]:
    """Return what computes the samples (B, C, h*N, w) of `x` (B, C, H, W) and `offset` (B, 2N, h, w)."""
    dtype = torch.promote_types(position_dtype(offset.dtype), x.dtype)
    grid, factor = GridPlaces.apply(offset, base, tuple(x.shape[2:]), border, dtype)
    return lambda: GridSamples.apply(x, grid, factor, border)


def _by_axis(offset: Tensor) -> Tensor:
    """Return offsets (B, 2N, h, w) as a view (B, h, N, w, 2), row and column."""
    b, both, h, w = offset.shape
    return offset.view(b, 2, both // 2, h, w).permute(0, 3, 2, 4, 1)


def _map(x: Tensor, grid: Tensor) -> Tensor:
    """Return the map in the dtype of the places, (B, C, W, H): `grid_sample` takes the last axis first."""
    x = x if x.dtype == grid.dtype else x.to(grid.dtype, memory_format=torch.contiguous_format)
    return x.transpose(2, 3)


def _options(border: str) -> tuple[int, int, bool]:
    """Return how to interpolate (bilinear), what is beyond the map and whether corners are aligned."""
    return 0, 0 if border == "zeros" else 1, False
