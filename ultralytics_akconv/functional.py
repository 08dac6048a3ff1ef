# SPDX-License-Identifier: AGPL-3.0-or-later
"""The AKConv operator as functions over tensors; no weights are kept here and nothing of the host is known.

Coordinates are `(row, col)` in input pixels and an integer is a pixel centre. A sample of output pixel `(i, j)` reads the
input at `(i * stride, j * stride) + point + offset`, by bilinear interpolation between the four pixels around it.
Example: stride 2, point (0, 1), offset (0.25, -0.5): output pixel (3, 4) reads (6.25, 8.5), that is
`0.75 * (0.5 * x[6, 8] + 0.5 * x[6, 9]) + 0.25 * (0.5 * x[7, 8] + 0.5 * x[7, 9])`;
`tests/test_functional.py::test_the_worked_example_of_the_module_docstring` computes it.

Source: AKConv, arXiv 2311.11587 (LDConv, Image and Vision Computing 2024, 105190).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from ultralytics_akconv.shapes import Points

BORDERS = ("paper", "clamp", "zeros")
_REACH = 2.0**22  # px; an offset beyond is off every map, and 2**22 plus any fraction is still exact in float32


class Taps(NamedTuple):
    """The two pixels an axis of every sample lies between, and their bilinear weights; each (B, h, N, w)."""

    low: Tensor
    high: Tensor
    low_weight: Tensor
    high_weight: Tensor


def _position_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of positions: never below float32, where the step above 256 px would be 0.25 px or more."""
    return torch.promote_types(dtype, torch.float32)


def _points_tensor(points: Points, offset: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the sampling points as (2, N), after checking that the offsets have two channels a point."""
    if offset.ndim != 4 or offset.shape[1] != 2 * len(points):
        raise ValueError(
            f"offset must be (B, {2 * len(points)}, h, w) for {len(points)} points, got {tuple(offset.shape)}"
        )
    return torch.tensor(points, dtype=dtype, device=offset.device).T


def sampling_positions(offset: Tensor, points: Points, stride: int = 1) -> Tensor:
    """Return where every sample lies, before anything is clamped to the map.

    Args:
        offset: Learned displacements (B, 2N, h, w) in input pixels: N row offsets, then N column offsets.
        points: N initial `(row, col)` points, see `shapes.sampling_points`.
        stride: Input pixels from one output pixel to the next.

    Returns:
        Positions (B, 2N, h, w) in input pixels, N rows then N columns, at least float32.

    Raises:
        ValueError: If the offset's shape does not fit the points.
    """
    dtype = _position_dtype(offset.dtype)
    row, col = _points_tensor(points, offset, dtype)[:, :, None, None]  # (N, 1, 1) each
    h, w = offset.shape[2:]
    row = row + torch.arange(h, dtype=dtype, device=offset.device)[:, None] * stride  # (N, h, 1)
    col = col + torch.arange(w, dtype=dtype, device=offset.device) * stride  # (N, 1, w)
    base = torch.cat((row.expand(-1, h, w), col.expand(-1, h, w)))  # (2N, h, w)
    return base + offset.to(dtype)


def _axis_taps(offset: Tensor, base: Tensor, size: int, border: str) -> Taps:
    """Split one axis of the positions `base + offset` into two pixels and their weights.

    The integer base is kept apart from the offset, so the fraction is taken of the offset alone: exact, and as precise
    for pixel 2000 as for pixel 2. Clamping both pixel indices to the map is the border rule "clamp"; the published code
    gives both the full weight where they clamp to the same pixel, hence the factor of "paper".

    Args:
        offset: Displacements (B, h, N, w), float32 or float64.
        base: Integer positions (h, N, 1) or (N, w), int32.
        size: Height or width of the map.
        border: One of `BORDERS`.
    """
    offset = offset.clamp(-_REACH, _REACH)  # inf becomes a pixel off the map; NaN stays and makes NaN weights
    floor = offset.detach().floor()
    high_weight = offset - floor
    low_weight = 1 - high_weight
    unclamped = base + floor.to(torch.int32)  # a NaN becomes some integer, which the clamp brings onto the map
    low = unclamped.clamp(0, size - 1)
    high = (unclamped + 1).clamp(0, size - 1)
    if border == "paper":
        factor = 2 - (high - low)
        low_weight, high_weight = low_weight * factor, high_weight * factor
    elif border == "zeros":
        low_weight = low_weight * (low == unclamped)
        high_weight = high_weight * (high == unclamped + 1)
    return Taps(low, high, low_weight, high_weight)


def sampling_taps(offset: Tensor, points: Points, stride: int, size: tuple[int, int], border: str) -> tuple[Taps, Taps]:
    """Return the row taps and the column taps of every sample, each (B, h, N, w).

    Args:
        offset: Displacements (B, 2N, h, w) in input pixels.
        points: N initial `(row, col)` points.
        stride: Input pixels from one output pixel to the next.
        size: Height and width of the map that is sampled.
        border: One of `BORDERS`.
    """
    dtype = _position_dtype(offset.dtype)
    points_ = _points_tensor(points, offset, dtype)
    h, w = offset.shape[2:]
    offset = offset.to(dtype).unflatten(1, (2, len(points))).permute(1, 0, 3, 2, 4)  # (2, B, h, N, w)
    whole = points_.floor()
    fraction = points_ - whole  # of points between pixels, (2, N)
    offset = offset + fraction[:, None, None, :, None]
    whole = whole.to(torch.int32)
    rows = torch.arange(h, dtype=torch.int32, device=offset.device) * stride
    cols = torch.arange(w, dtype=torch.int32, device=offset.device) * stride
    row_base = rows[:, None, None] + whole[0][:, None]  # (h, N, 1)
    col_base = cols + whole[1][:, None]  # (N, w)
    return (
        _axis_taps(offset[0], row_base, size[0], border),
        _axis_taps(offset[1], col_base, size[1], border),
    )


def resample(x: Tensor, offset: Tensor, points: Points, stride: int = 1, border: str = "paper") -> Tensor:
    """Sample the input at every position and stack the N samples of an output pixel along the rows.

    Args:
        x: Input (B, C, H, W), floating point.
        offset: Displacements (B, 2N, h, w) in input pixels: N row offsets, then N column offsets.
        points: N initial `(row, col)` points, see `shapes.sampling_points`.
        stride: Input pixels from one output pixel to the next.
        border: "paper", "clamp" or "zeros", see the README.

    Returns:
        Samples (B, C, h*N, w) in the order `(h n)`, in x's dtype and channels_last. Infinite offsets sample the border;
        a NaN offset gives NaN samples for that point and nothing else.

    Raises:
        ValueError: If a shape or the border is not allowed; the message says what is.
    """
    if border not in BORDERS:
        raise ValueError(f"border must be one of {', '.join(BORDERS)}, got {border!r}")
    if x.ndim != 4 or x.shape[0] != offset.shape[0]:
        raise ValueError(f"x must be (B, C, H, W) with the offset's B, got {tuple(x.shape)} and {tuple(offset.shape)}")
    b, c, height, width = x.shape
    row, col = sampling_taps(offset, points, stride, (height, width), border)
    h, n, w = row.low.shape[1:]
    table = x.permute(0, 2, 3, 1).reshape(b * height * width, c)  # one row a pixel
    image = torch.arange(b, dtype=torch.int32, device=x.device)[:, None, None, None] * (height * width)

    def tap(r: Tensor, c_: Tensor, weight: Tensor) -> Tensor:
        index = (image + r * width + c_).flatten()
        return table.index_select(0, index) * weight.reshape(-1, 1)

    samples = (
        tap(row.low, col.low, row.low_weight * col.low_weight)
        + tap(row.low, col.high, row.low_weight * col.high_weight)
        + tap(row.high, col.low, row.high_weight * col.low_weight)
        + tap(row.high, col.high, row.high_weight * col.high_weight)
    )
    samples = samples.to(x.dtype).reshape(b, h, n, w, c)
    return rearrange(samples, "b h n w c -> b c (h n) w")


def akconv2d(
    x: Tensor,
    offset: Tensor,
    weight: Tensor,
    points: Points,
    bias: Tensor | None = None,
    stride: int = 1,
    border: str = "paper",
) -> Tensor:
    """Apply an AKConv to `x`: bilinear samples at N moved points, then one column convolution.

    Args:
        x: Input (B, C1, H, W).
        offset: Displacements (B, 2N, h, w) in input pixels, `h = floor((H - 1) / stride) + 1`, same for w.
        weight: Column convolution (C2, C1, N, 1).
        points: N initial `(row, col)` points, see `shapes.sampling_points`.
        bias: Optional bias (C2).
        stride: Input pixels from one output pixel to the next.
        border: "paper", "clamp" or "zeros".

    Returns:
        Output (B, C2, h, w).

    Raises:
        ValueError: If a shape or the border is not allowed.

    Example:
        >>> x, weight = torch.randn(1, 8, 32, 32), torch.randn(16, 8, 5, 1)
        >>> akconv2d(x, torch.zeros(1, 10, 16, 16), weight, sampling_points(5), stride=2).shape
        torch.Size([1, 16, 16, 16])
    """
    samples = resample(x, offset, points, stride, border)  # (B, C1, h*N, w)
    return torch.nn.functional.conv2d(samples, weight, bias, stride=(len(points), 1))
