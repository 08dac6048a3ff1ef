# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which path computes the samples: the one that is fastest for a tensor and can be relied upon there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import Parameter

from ultralytics_akconv.functional.kernels import KERNEL_DTYPES, kernel_status
from ultralytics_akconv.functional.tracing import is_traced, is_transformed

# "bags" is fast on a CPU, "kernels" on a GPU, "grid" on a GPU without Triton; "gather" works everywhere.
PATHS = ("bags", "kernels", "grid", "gather")
_COUNTED = 2**31 - 2**10  # the kernels count the pixels and samples of an image in 32 bits, a block beyond the last
# A variable of the process and not of a context: a backward pass on a GPU runs in threads of its own.
_forced: str | None = None


@contextmanager
def using_path(path: str) -> Iterator[None]:
    """Let every layer that is not traced use one path, to measure or to test it; in all threads of the process.

    Args:
        path: One of `PATHS`. "kernels" needs CUDA tensors, or `TRITON_INTERPRET=1` in the environment.

    Raises:
        ValueError: If there is no such path.

    Example:
        >>> with using_path("gather"):
        ...     layer(x).sum().backward()
    """
    global _forced
    if path not in PATHS:
        raise ValueError(f"path must be one of {', '.join(PATHS)}, got {path!r}")
    before, _forced = _forced, path
    try:
        yield
    finally:
        _forced = before


def sampling_path(x: Tensor, offset: Tensor) -> str:
    """Return the path by which `resample` computes the samples of `x` at `offset`, one of `PATHS`.

    The first call for a dtype on a GPU runs the self-check of the kernels, see `kernels.kernel_status`.
    """
    if is_traced() or is_transformed() or not x.numel() or not offset.numel():
        return "gather"
    if _forced is not None:
        return _forced
    if x.device.type == "cpu":
        return "bags" if x.dtype in (torch.float32, torch.float64) else "gather"
    if x.device.type == "cuda" and type(x) in (Tensor, Parameter):  # not fake ones and the like, without memory
        n, (h, w) = offset.shape[1] // 2, offset.shape[2:]
        counted = max(x.shape[2] * x.shape[3], n * h * w) < _COUNTED
        return _gpu_path(x.device, x.dtype, offset.dtype, counted)
    return "gather"


def _gpu_path(device: torch.device, dtype: torch.dtype, offset_dtype: torch.dtype, counted: bool = True) -> str:
    """Return the path on a GPU, for an input and offsets of these dtypes whose pixels can be counted in 32 bits."""
    if counted and {dtype, offset_dtype} <= KERNEL_DTYPES and kernel_status(device, dtype).trusted:
        return "kernels"
    if torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled():
        return "gather"  # the gradient of `grid_sample` is summed in any order, which PyTorch would refuse
    return "grid"
