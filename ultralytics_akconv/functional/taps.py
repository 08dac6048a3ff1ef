# SPDX-License-Identifier: AGPL-3.0-or-later
"""Position arithmetic: from offsets to the pixels each sample lies between, their weights, and the border rule."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from ultralytics_akconv.shapes import Points

BORDERS = ("paper", "clamp", "zeros")
_REACH = 2.0**22  # px; an offset beyond is off every map, and 2**22 plus any fraction is still exact in float32


class Taps(NamedTuple):
    """The two pixels an axis of every sample lies between, each (B, h, N, w).

    `low` and `high` are int32 indices on the map, the weights belong to them, and the slopes are the derivatives of the
    weights by the position (+-1 between two pixels, 0 where both indices are clamped to one).
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


def base_positions(points: Points, stride: int, h: int, w: int, dtype: torch.dtype, device: torch.device) -> Base:
    """Return where the samples of an (h, w) output lie at zero offset."""
    exact = torch.tensor(points, dtype=dtype, device=device).T  # (2, N)
    whole = exact.floor()
    on_pixels = all(float(v).is_integer() for point in points for v in point)
    whole_row, whole_col = whole.to(torch.int32)
    rows = torch.arange(h, dtype=torch.int32, device=device) * stride
    cols = torch.arange(w, dtype=torch.int32, device=device) * stride
    return Base(
        rows[:, None, None] + whole_row[:, None],  # (h, N, 1)
        cols + whole_col[:, None],  # (N, w)
        None if on_pixels else exact - whole,
    )


@lru_cache(maxsize=128)  # a model has some ten layers; bounded, since sizes change from batch to batch
@torch.inference_mode(False)  # an inference tensor could not be used in a training step later
def cached_base_positions(
    points: Points, stride: int, h: int, w: int, dtype: torch.dtype, device: torch.device
) -> Base:
    """Return `base_positions`, remembered; a few kilobytes an entry."""
    return base_positions(points, stride, h, w, dtype, device)


def sampling_taps(offset: Tensor, base: Base, size: tuple[int, int], border: str) -> tuple[Taps, Taps]:
    """Return the row taps and the column taps of every sample.

    Args:
        offset: Displacements (B, 2N, h, w) in input pixels.
        base: Positions at zero offset.
        size: Height and width of the map that is sampled.
        border: One of `BORDERS`.
    """
    offset = offset.to(position_dtype(offset.dtype))
    offset = offset.unflatten(1, (2, -1)).permute(1, 0, 3, 2, 4)  # (2, B, h, N, w)
    # inf becomes a pixel off the map; NaN stays and makes NaN weights. `contiguous` lets all that follows run in memory
    # order, where channels_last offsets would make every step a strided one.
    offset = offset.clamp(-_REACH, _REACH).contiguous()
    if base.fraction is not None:
        offset = offset + base.fraction[:, None, None, :, None]
    return _axis_taps(offset[0], base.row, size[0], border), _axis_taps(offset[1], base.col, size[1], border)


def _axis_taps(offset: Tensor, base: Tensor, size: int, border: str) -> Taps:
    """Split one axis of the positions `base + offset` into two pixels and their weights.

    The integer base is kept apart from the offset, so the fraction is taken of the offset alone: exact, and as precise
    for pixel 2000 as for pixel 2. Clamping both pixel indices to the map is the border rule "clamp"; the published code
    gives both the full weight where they clamp to the same pixel, hence the factor of "paper".

    Args:
        offset: Displacements (B, h, N, w), finite or NaN, float32 or float64.
        base: Integer positions (h, N, 1) or (N, w), int32.
        size: Height or width of the map.
        border: One of `BORDERS`.
    """
    floor = offset.detach().floor()
    high_weight = offset - floor
    unclamped = floor.to(torch.int32) + base  # a NaN becomes some integer, which the clamp brings onto the map
    low = unclamped.clamp(0, size - 1)
    above = unclamped + 1
    high = above.clamp(0, size - 1)
    if border == "zeros":
        low_slope = -(low == unclamped).to(offset.dtype)
        high_slope = (high == above).to(offset.dtype)
        return Taps(low, high, (high_weight - 1) * low_slope, high_weight * high_slope, low_slope, high_slope)
    high_slope = (high - low).to(offset.dtype)  # 1 between two pixels, 0 where both are clamped to one
    if border == "paper":
        factor = 2 - high_slope
        high_weight = high_weight * factor
        low_weight = factor - high_weight
    else:
        low_weight = 1 - high_weight
    return Taps(low, high, low_weight, high_weight, -high_slope, high_slope)
