# SPDX-License-Identifier: AGPL-3.0-or-later
"""Position arithmetic: from offsets to the pixels each sample lies between, their weights, and the border rule."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ultralytics_akconv.functional.remembering import remembered
from ultralytics_akconv.shapes import Points

BORDERS = ("paper", "clamp", "zeros")
REACH = 2.0**22  # px; an offset beyond is off every map, and 2**22 plus any fraction is still exact in float32


class Taps(NamedTuple):
    """The two pixels an axis of every sample lies between, and their weights, each (B, h, N, w).

    `low` and `high` are indices on the map, int32 unless another dtype was asked for. `low_slope` and `high_slope` are
    how fast the weights change with the position: 1 between two pixels, 0 where the border holds them (the low weight
    falls, so its derivative is minus it).
    """

    low: Tensor
    high: Tensor
    low_weight: Tensor
    high_weight: Tensor
    low_slope: Tensor
    high_slope: Tensor


class Base(NamedTuple):
    """Where the samples lie at zero offset, split into whole pixels and what points between pixels leave over."""

    row: Tensor  # (h, N, 1) int32
    col: Tensor  # (N, w) int32
    fraction: Tensor | None  # (2, N), None if every point is on a pixel


def position_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of positions: never below float32, where the step above 256 px would be 0.25 px or more."""
    return torch.promote_types(dtype, torch.float32)


def constants_device(device: torch.device) -> torch.device:
    """Return where to make the tensors of numbers alone that are needed on a device: in an export to ONNX, on the CPU.

    Its exporter works out what is constant, what is made of numbers on the device that the trace has for it and what is
    made of sizes on the CPU. On a GPU it failed over the two.
    """
    onnx = torch.jit.is_tracing() and torch.onnx.is_in_onnx_export()  # a compiler needs to know of the first alone
    return torch.device("cpu") if onnx else device


def base_positions(points: Points, stride: int, h: int, w: int, dtype: torch.dtype, device: torch.device) -> Base:
    """Return where the samples of an (h, w) output lie at zero offset."""
    maker = constants_device(device)
    exact = torch.tensor(points, dtype=dtype, device=maker).T  # (2, N)
    whole = exact.floor()
    on_pixels = all(float(v).is_integer() for point in points for v in point)
    pixel = whole.to(torch.int32)  # taken by index: X2Paddle has no unbind
    rows = torch.arange(h, dtype=torch.int32, device=maker) * stride
    cols = torch.arange(w, dtype=torch.int32, device=maker) * stride
    row, col = rows[:, None, None] + pixel[0][:, None], cols + pixel[1][:, None]  # (h, N, 1) and (N, w)
    fraction = None if on_pixels else exact - whole
    if maker != device:
        row, col, fraction = (part if part is None else part.to(device) for part in (row, col, fraction))
    return Base(row, col, fraction)


@remembered(128)  # a model has some ten layers; bounded, since sizes change from batch to batch
def cached_base_positions(
    points: Points, stride: int, h: int, w: int, dtype: torch.dtype, device: torch.device
) -> Base:
    """Return `base_positions`, remembered; a few kilobytes an entry."""
    return base_positions(points, stride, h, w, dtype, device)


@remembered(128)
def _last(size: tuple[int, int], device: torch.device) -> Tensor:
    """Return the last index of each axis, to clamp both in one step: (2, 1, 1, 1, 1) int32."""
    return torch.tensor([size[0] - 1, size[1] - 1], dtype=torch.int32, device=device)[:, None, None, None, None]


def sampling_taps(
    offset: Tensor,
    base: Base,
    size: tuple[int, int],
    border: str,
    traced: bool = False,
    counted_in: torch.dtype = torch.int32,
) -> tuple[Taps, Taps]:
    """Return the row taps and the column taps of every sample.

    The integer base is kept apart from the offset, so the fraction is taken of the offset alone: exact, and as precise
    for pixel 2000 as for pixel 2.

    Args:
        offset: Displacements (B, 2N, h, w) in input pixels.
        base: Positions at zero offset.
        size: Height and width of the map that is sampled.
        border: One of `BORDERS`.
        traced: Leave out what a compiler or an exporter does not want: caches and writing in place. Both axes are
            taken in one step otherwise, since on small maps the number of steps is what costs.
        counted_in: Dtype of the pixel indices of a trace, for runtimes that are fast in float32 alone.
    """
    b, both, h, w = offset.shape
    offset = offset.to(position_dtype(offset.dtype)).reshape(b, 2, both // 2, h, w)  # ONNX has no unflatten before 13
    # (2, B, h, N, w). Axes are taken apart by hand in this room: einops would take ten microseconds more each time.
    offset = offset.permute(1, 0, 3, 2, 4)
    # inf becomes a pixel off the map; NaN stays and makes NaN weights. `contiguous` lets all that follows run in memory
    # order, where channels_last offsets would make every step a strided one.
    offset = offset.clamp(-REACH, REACH).contiguous()
    if base.fraction is not None:
        offset = offset + base.fraction[:, None, None, :, None]
    floor = offset.detach().floor()
    fraction = offset - floor
    whole = floor.to(torch.int32)  # a NaN becomes some integer, which the clamp brings onto the map
    if traced:
        whole = whole.to(counted_in)  # by way of an integer, which is no NaN
        row = _taps(fraction[0], whole[0] + base.row, size[0] - 1, border)
        return row, _taps(fraction[1], whole[1] + base.col, size[1] - 1, border)
    whole[0].add_(base.row)
    whole[1].add_(base.col)
    row, col = zip(*_taps(fraction, whole, _last(tuple(size), offset.device), border))
    return Taps(*row), Taps(*col)


def _on_map(index: Tensor, last: Tensor | int) -> Tensor:
    """Return the indices clamped to 0 ... last."""
    if isinstance(last, Tensor) and last.ndim:  # a traced size is a tensor too, of no dimension
        return index.clamp_min(0).minimum(last)  # `clamp` has no vectorised loop for bounds that are broadcast
    return index.clamp(0, last)


def _taps(fraction: Tensor, whole: Tensor, last: Tensor | int, border: str) -> Taps:
    """Return the taps of positions `whole + fraction`; the first axis of the tensors may hold rows and columns.

    Clamping both pixel indices to the map is the border rule "clamp". The published code gives both the full weight
    where they clamp to the same pixel, hence the factor of "paper"; "zeros" takes the weight from what is outside.

    Args:
        fraction: (..., B, h, N, w), from 0 to 1, or NaN.
        whole: Whole pixels of the same shape.
        last: Last index of the map, or of each axis.
        border: One of `BORDERS`.
    """
    above = whole + 1
    low, high = _on_map(whole, last), _on_map(above, last)
    if border == "zeros":
        low_inside, high_inside = (low == whole).to(fraction.dtype), (high == above).to(fraction.dtype)
        return Taps(low, high, (1 - fraction) * low_inside, fraction * high_inside, low_inside, high_inside)
    between = (high - low).to(fraction.dtype)  # 1 between two pixels, 0 where both are clamped to one
    if border == "clamp":
        return Taps(low, high, 1 - fraction, fraction, between, between)
    factor = 2 - between
    high_weight = fraction * factor
    return Taps(low, high, factor - high_weight, high_weight, between, between)


def border_factor(position: Tensor, first: Tensor | int, last: Tensor | int) -> Tensor:
    """Return how often the "paper" border counts a position on an axis that runs from `first` to `last`: 1 or 2.

    What `_taps` reads off the pixel indices, for forms that have none: without integers, comparisons and gradient.
    """
    low = position.detach().floor()
    return torch.maximum(first + 1 - low, low - (last - 2)).clamp(1, 2)  # 2 below `first` and from `last` on


def corner_taps(row: Taps, col: Taps, size: tuple[int, int]) -> tuple[list[Tensor], list[Tensor]]:
    """Return the four pixels around every sample and their weights, each of the shape of the taps.

    Args:
        row: Row taps of every sample, (B, ...).
        col: Column taps, of the same shape.
        size: Height and width of the map.

    Returns:
        Indices of pixels counted through all images of the batch, in the dtype of the taps, and weights: four of each.
    """
    height, width = size
    batch = torch.arange(row.low.shape[0], dtype=torch.int32, device=row.low.device)[:, None, None, None]
    rows = [batch * (height * width) + index * width for index in (row.low, row.high)]
    pixels = [start + index for start in rows for index in (col.low, col.high)]
    weights = [r * c for r in (row.low_weight, row.high_weight) for c in (col.low_weight, col.high_weight)]
    return pixels, weights
