# SPDX-License-Identifier: AGPL-3.0-or-later
"""The AKConv operator as functions over tensors; no weights are kept here and nothing of the host is known.

Coordinates are `(row, col)` in input pixels and an integer is a pixel centre. A sample of output pixel `(i, j)` reads
the input at `(i * stride, j * stride) + point + offset`, by bilinear interpolation between the four pixels around it.
Example: stride 2, point (0, 1), offset (0.25, -0.5): output pixel (3, 4) reads (6.25, 8.5), that is
`0.75 * (0.5 * x[6, 8] + 0.5 * x[6, 9]) + 0.25 * (0.5 * x[7, 8] + 0.5 * x[7, 9])`;
`tests/test_functional.py::test_the_worked_example_of_the_module_docstring` computes it.

Source: AKConv, arXiv 2311.11587 (LDConv, Image and Vision Computing 2024, 105190).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ultralytics_akconv.functional.bags import BagSamples
from ultralytics_akconv.functional.columns import column_conv
from ultralytics_akconv.functional.forms import export_form, traced_form
from ultralytics_akconv.functional.gather import COMPILED, PLAIN, gather_samples
from ultralytics_akconv.functional.grid_samples import grid_sampler
from ultralytics_akconv.functional.kernels import kernel_samples
from ultralytics_akconv.functional.paths import PATHS, sampling_path, using_path
from ultralytics_akconv.functional.taps import BORDERS, Base, base_positions, cached_base_positions, position_dtype
from ultralytics_akconv.functional.tracing import is_exported, is_traced, is_transformed
from ultralytics_akconv.shapes import Points, check_int, check_points

__all__ = (
    "BORDERS",
    "PATHS",
    "akconv2d",
    "export_form",
    "is_traced",
    "resample",
    "sampler",
    "sampling_path",
    "sampling_positions",
    "traced_form",
    "using_path",
)


def _checked(points: Points, stride: int) -> Points:
    """Return the points as tuples, which can be remembered by, after checking them and the stride.

    Tuples of tuples, which a layer gives, are checked once; in a trace, which may know no memory, not at all.

    Raises:
        TypeError: If a point or the stride is of the wrong kind.
        ValueError: If one is not allowed.
    """
    check_int("stride", stride, 1)
    if not isinstance(points, tuple) or not all(isinstance(point, tuple) for point in points):
        return check_points(points)
    return points if is_traced() else _checked_tuples(points)


@lru_cache(maxsize=128)
def _checked_tuples(points: Points) -> Points:
    """Return `check_points`, remembered."""
    return check_points(points)


def _check_tensors(**tensors: Any) -> None:
    """Raise a TypeError that names what is no tensor."""
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a Tensor, got {type(tensor).__name__}")


def _check_offset(offset: Tensor, points: Points) -> None:
    """Raise a ValueError unless the offsets are (B, 2N, h, w) for these points."""
    if offset.ndim != 4 or offset.shape[1] != 2 * len(points):
        n = len(points)
        raise ValueError(f"offset must be (B, {2 * n}, h, w) for {n} points, got {tuple(offset.shape)}")


def _check_sizes(x: Tensor, offset: Tensor, weight: Tensor, stride: int) -> None:
    """Raise a ValueError unless the sizes of a layer's tensors fit together; what is no map is left to `sampler`."""
    if x.ndim != 4 or offset.ndim != 4:
        return
    if weight.shape[1] != x.shape[1]:
        raise ValueError(
            f"weight must be (C2, {x.shape[1]}, N, 1) for the channels of x {tuple(x.shape)}, got {tuple(weight.shape)}"
        )
    h, w = ((side - 1) // stride + 1 for side in x.shape[2:])
    if tuple(offset.shape[2:]) != (h, w):
        raise ValueError(
            f"offset must be (B, 2N, {h}, {w}) for x {tuple(x.shape)} and stride {stride}, got {tuple(offset.shape)}"
        )


def sampling_positions(offset: Tensor, points: Points, stride: int = 1) -> Tensor:
    """Return where every sample lies, before anything is clamped to the map.

    Args:
        offset: Learned displacements (B, 2N, h, w) in input pixels: N row offsets, then N column offsets.
        points: N initial `(row, col)` points, see `shapes.sampling_points`.
        stride: Input pixels from one output pixel to the next.

    Returns:
        Positions (B, 2N, h, w) in input pixels, N rows then N columns, at least float32.

    Raises:
        TypeError: If a point or the stride is of the wrong kind.
        ValueError: If one of them is not allowed, or the offset's shape does not fit the points.
    """
    points = _checked(points, stride)
    _check_tensors(offset=offset)
    _check_offset(offset, points)
    dtype = position_dtype(offset.dtype)
    # Not from `base_positions`: exact to a fraction of a point, for people, and no path takes its samples from here.
    row, col = torch.tensor(points, dtype=dtype, device=offset.device).T[:, :, None, None]  # (N, 1, 1) each
    h, w = offset.shape[2:]
    row = row + torch.arange(h, dtype=dtype, device=offset.device)[:, None] * stride  # (N, h, 1)
    col = col + torch.arange(w, dtype=dtype, device=offset.device) * stride  # (N, 1, w)
    base = torch.cat((row.expand(-1, h, w), col.expand(-1, h, w)))  # (2N, h, w)
    return base + offset.to(dtype)


def _sampler(x: Tensor, offset: Tensor, points: Points, stride: int, border: str) -> Callable[[], Tensor]:
    """Return what computes the samples (B, C, h*N, w) anew at each call, by the path that is taken here."""
    path = sampling_path(x, offset)
    if path == "kernels":
        return lambda: kernel_samples(x, offset, points, stride, border)
    traced = is_traced()
    base_of = base_positions if traced else cached_base_positions
    base = base_of(points, stride, *offset.shape[2:], position_dtype(offset.dtype), offset.device)
    if traced:
        how = PLAIN if is_exported() else COMPILED
        return lambda: gather_samples(x, offset, base, border, traced=True, how=how)
    if path == "bags":
        return lambda: BagSamples.apply(x, offset, base, border)
    if path == "grid":
        return grid_sampler(x, offset, base, border)
    return lambda: _recomputed_gather(x, offset, base, border)


def _recomputed_gather(x: Tensor, offset: Tensor, base: Base, border: str) -> Tensor:
    """Return `gather_samples`, of which autograd keeps the input and the offsets and no copies of the samples."""
    if torch.is_grad_enabled() and (x.requires_grad or offset.requires_grad) and not is_transformed():
        return checkpoint(gather_samples, x, offset, base, border, use_reentrant=False, preserve_rng_state=False)
    return gather_samples(x, offset, base, border)


def sampler(x: Tensor, offset: Tensor, points: Points, stride: int = 1, border: str = "paper") -> Callable[[], Tensor]:
    """Return a function without arguments that returns what `resample` does, the same values each time.

    What is needed for that alone is computed before. See `resample` for the arguments and errors.
    """
    if border not in BORDERS:
        raise ValueError(f"border must be one of {', '.join(BORDERS)}, got {border!r}")
    _check_tensors(x=x, offset=offset)
    if x.ndim != 4 or x.shape[0] != offset.shape[0]:
        raise ValueError(f"x must be (B, C, H, W) with the offset's B, got {tuple(x.shape)} and {tuple(offset.shape)}")
    if not x.is_floating_point():
        raise TypeError(f"x must be of floating point, got {x.dtype}")
    if x.device != offset.device:
        raise ValueError(f"x and offset must be on one device, got {x.device} and {offset.device}")
    points = _checked(points, stride)
    _check_offset(offset, points)
    return _sampler(x, offset, points, stride, border)


def resample(x: Tensor, offset: Tensor, points: Points, stride: int = 1, border: str = "paper") -> Tensor:
    """Sample the input at every position and stack the N samples of an output pixel along the rows.

    Args:
        x: Input (B, C, H, W), floating point.
        offset: Displacements (B, 2N, h, w) in input pixels: N row offsets, then N column offsets. As many output pixels
            as are wanted: those of an AKConv are `h = floor((H - 1) / stride) + 1` by w, more would begin off the map.
        points: N initial `(row, col)` points, see `shapes.sampling_points`.
        stride: Input pixels from one output pixel to the next.
        border: What is read beyond the map: "paper" (published: its last pixel counts twice an axis), "clamp" (its last
            pixel) or "zeros".

    Returns:
        Samples (B, C, h*N, w) in the order `(h n)`, in x's dtype and channels_last. Infinite offsets sample the border;
        a NaN offset gives NaN samples for that point and nothing else.

    Raises:
        TypeError: If an argument or the dtype of `x` is of the wrong kind.
        ValueError: If a shape, a device, a point, the stride or the border is not allowed; the message says what is.
    """
    return sampler(x, offset, points, stride, border)()


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
        border: "paper", "clamp" or "zeros", see `resample`.

    Returns:
        Output (B, C2, h, w).

    Raises:
        TypeError: If an argument or the dtype of `x` is of the wrong kind.
        ValueError: If a shape, a device, a point, the stride or the border is not allowed.

    Example:
        >>> x, weight = torch.randn(1, 8, 32, 32), torch.randn(16, 8, 5, 1)
        >>> akconv2d(x, torch.zeros(1, 10, 16, 16), weight, sampling_points(5), stride=2).shape
        torch.Size([1, 16, 16, 16])
    """
    points = _checked(points, stride)
    n = len(points)
    _check_tensors(weight=weight)
    if weight.ndim != 4 or tuple(weight.shape[2:]) != (n, 1):
        raise ValueError(f"weight must be (C2, C1, {n}, 1) for {n} points, got {tuple(weight.shape)}")
    if not is_traced():
        _check_sizes(x, offset, weight, stride)
    form = traced_form()
    if form is not None:
        return form(x, offset, weight, bias, points, stride, border)
    return column_conv(resample(x, offset, points, stride, border), weight, bias)
