# SPDX-License-Identifier: AGPL-3.0-or-later
"""The bilinear sum and its gradients as operators of PyTorch over the Triton programs, and the autograd function.

Operators and not mere launches, so that whatever gets between PyTorch and its calls sees them: counters, fake tensors,
exporters. Where nothing does, the functions behind them are called at once: a training step of a small batch waits for
the launches and not for the GPU, and an operator in Python takes half as long as a launch.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import cache, lru_cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ultralytics_akconv.functional.remembering import remembered, under_a_mode
from ultralytics_akconv.functional.taps import BORDERS, position_dtype
from ultralytics_akconv.shapes import Points

KERNEL_DTYPES = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
# Values a program, of so many warps. A thread has eight: 16 bytes of a half. With sixteen, the pixels would be a tenth
# faster on an H200, but spill registers on older cards.
_ROWS, _ROW_WARPS = 1024, 4
_PIXELS, _PIXEL_WARPS = 512, 2
_CHANNELS = 128
_LONG = 64  # samples of two cells side by side; ordinary ones have two or three
_filling = threading.Lock()  # each GPU's backward pass is a thread


def _empty(
    shape: int | tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Tensor:
    """Return memory for what is about to be written, all of it.

    Under deterministic algorithms, which the host trains with, PyTorch fills new memory with NaN before anybody writes
    to it: a tenth of what a layer moves. Newer releases of the host switch that off; here it is, for these alone.
    """
    make = partial(torch.empty, shape, dtype=dtype, device=device, memory_format=memory_format)
    settings = getattr(torch.utils, "deterministic", None)  # torch 2.1 does not fill
    if settings is None or not (torch.are_deterministic_algorithms_enabled() and settings.fill_uninitialized_memory):
        return make()
    with _filling:
        settings.fill_uninitialized_memory = False
        try:
            return make()
        finally:
            settings.fill_uninitialized_memory = True


@cache
def _programs() -> tuple[Any, dict[torch.dtype, Any]]:
    """Return the module of the programs, and what Triton calls the dtypes that they compute in."""
    import triton.language as tl

    from ultralytics_akconv.functional.kernels import programs

    return programs, {torch.float32: tl.float32, torch.float64: tl.float64}


def _accumulator(*tensors: Tensor) -> torch.dtype:
    """Return the dtype that positions, weights and sums have for these tensors."""
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32


def _launch(name: str, grid: tuple[int, ...], like: Tensor, *arguments: Any, **constants: Any) -> None:
    """Launch a program on the device of `like`, which need not be the current one."""
    programs, dtypes = _programs()
    if not (like.is_cuda or programs.INTERPRETED):
        raise RuntimeError(
            f"AKConv's kernels run on CUDA tensors, or on a CPU where TRITON_INTERPRET=1 is in the environment before "
            f"Python starts; got a tensor on {like.device}"
        )
    constants["ACC"] = dtypes[constants["ACC"]]
    if name == "pixel_gradient_program":
        constants.update(programs.REGISTERS)
    with torch.cuda.device_of(like):
        getattr(programs, name)[grid](*arguments, **constants)


def _blocks(values: int, channels: int) -> tuple[int, int]:
    """Return rows and channels of a block of so many values, both powers of two."""
    block_c = min(_CHANNELS, 1 << (channels - 1).bit_length())
    return max(1, values // block_c), block_c


@remembered(128)
def _table(points: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the points (2N) on a device."""
    return torch.tensor(points, dtype=dtype, device=device)


@lru_cache(maxsize=128)
def _flattened(points: Points) -> tuple[float, ...]:
    """Return the points as operators take them, row and column in turn (2N)."""
    return tuple(number for point in points for number in point)


def _settings(x: Tensor, offset: Tensor, points: Sequence[float], stride: int, border: str) -> tuple[Any, ...]:
    """Return the grid, the arguments and the constants that the programs over samples begin with."""
    b, c, height, width = x.shape
    n, (h, w) = len(points) // 2, offset.shape[2:]
    block_m, block_c = _blocks(_ROWS, c)
    constants = {
        "C": c,
        "N": n,
        "BORDER": BORDERS.index(border),
        "ACC": _accumulator(x, offset),
        "BLOCK_M": block_m,
        "BLOCK_C": block_c,
        "num_warps": _ROW_WARPS,
    }
    table = _table(tuple(points), position_dtype(offset.dtype), x.device)
    arguments = x, offset, table, stride, h, w, height, width, *offset.stride()
    return (b * -(-h * w * n // block_m),), arguments, constants


def _sample(x: Tensor, offset: Tensor, points: Sequence[float], stride: int, border: str) -> Tensor:
    """Return the samples (B, C, h*N, w) of a channels_last map, channels_last as well."""
    (b, c), (h, w) = x.shape[:2], offset.shape[2:]
    size = (b, c, h * (len(points) // 2), w)
    samples = _empty(size, x.dtype, x.device, torch.channels_last)
    if samples.numel() and not x.is_meta:
        grid, arguments, constants = _settings(x, offset, points, stride, border)
        _launch("sample_program", grid, x, *arguments, samples, **constants)
    return samples


def _sample_gradient(
    grad: Tensor,
    x: Tensor,
    offset: Tensor,
    points: Sequence[float],
    stride: int,
    border: str,
    by_x: bool,
    by_offset: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradient by the offsets, and cells (samples) and corner weights (samples, 4) for that by the input.

    What is not asked for is empty.
    """
    count, pixels = grad.numel() // x.shape[1], len(x) * x.shape[2] * x.shape[3]
    grad_offset = torch.empty_like(offset) if by_offset else offset.new_empty(0)
    cells = _empty(count if by_x else 0, torch.int32 if pixels < 2**31 else torch.int64, x.device)
    weights = _empty((len(cells), 4), _accumulator(x, offset), x.device)
    if grad.numel() and not x.is_meta:
        grid, arguments, constants = _settings(x, offset, points, stride, border)
        constants.update(BY_X=by_x, BY_OFFSET=by_offset)
        _launch("sample_gradient_program", grid, x, *arguments, grad, grad_offset, cells, weights, len(x), **constants)
    return grad_offset, cells, weights


def _pixel_gradient(grad: Tensor, weights: Tensor, order: Tensor, starts: Tensor, like: Tensor) -> Tensor:
    """Return the gradient by the input, (B, C, H, W) channels_last in the dtype of `like`."""
    b, c, height, width = like.shape
    pixels = _empty((b, c, height, width), like.dtype, like.device, torch.channels_last)
    if pixels.numel() and not like.is_meta:
        block_m, block_c = _blocks(_PIXELS, c)
        grid = b * -(-height * width // block_m), -(-c // block_c)
        _launch(
            "pixel_gradient_program", grid, like, grad, weights, order, starts, pixels, height, width,
            C=c, ACC=weights.dtype, BLOCK_M=block_m, BLOCK_C=block_c, LONG=_LONG, num_warps=_PIXEL_WARPS,
        )  # fmt: skip
    return pixels


def _register() -> None:
    """Make the three functions operators of PyTorch, once a process: this module may be imported anew in a notebook."""
    if hasattr(torch.ops.ultralytics_akconv, "sample"):
        return
    library = torch.library.Library("ultralytics_akconv", "DEF")
    sampling = "Tensor x, Tensor offset, float[] points, int stride, str border"  # the points flattened
    schemas = {
        _sample: f"sample({sampling}) -> Tensor",
        _sample_gradient: f"sample_gradient(Tensor grad, {sampling}, bool by_x, bool by_offset)"
        " -> (Tensor grad_offset, Tensor cells, Tensor weights)",
        _pixel_gradient: "pixel_gradient(Tensor grad, Tensor weights, Tensor order, Tensor starts, Tensor like)"
        " -> Tensor",
    }
    for function, schema in schemas.items():
        name = library.define(schema)
        for key in ("CPU", "CUDA", "Meta"):
            library.impl(name, function, key)
    torch.ops.ultralytics_akconv.library = library  # operators go with it


_register()


def _channels_last(x: Tensor) -> Tensor:
    """Return the map with its pixels as rows without gaps: itself if it is channels_last."""
    return x.contiguous(memory_format=torch.channels_last)


def _is_dense(offset: Tensor) -> bool:
    """Return whether the offsets have no gaps and no place twice, so that a gradient can lie as they do."""
    return offset.is_contiguous() or offset.is_contiguous(memory_format=torch.channels_last)


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call one of the three functions, by way of its operator where a mode is to see it."""
    if under_a_mode():
        return getattr(torch.ops.ultralytics_akconv, function.__name__[1:])(*arguments)
    return function(*arguments)


def _samples(x: Tensor, offset: Tensor, points: Sequence[float], stride: int, border: str) -> Tensor:
    """Return the samples of a map in any layout."""
    return _call(_sample, _channels_last(x), offset, points, stride, border)


def kernel_samples(x: Tensor, offset: Tensor, points: Points, stride: int, border: str) -> Tensor:
    """Return `KernelSamples`, without what autograd does for a function where no gradient is asked for."""
    if torch.is_grad_enabled():
        return KernelSamples.apply(x, offset, points, stride, border)
    return _samples(x, offset, _flattened(points), stride, border)


class KernelSamples(torch.autograd.Function):
    """Samples (B, C, h*N, w), channels_last, of `x` (B, C, H, W) and `offset` (B, 2N, h, w)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, offset: Tensor, points: Points, stride: int, border: str) -> Tensor:
        """Sum the four rows of every sample."""
        ctx.save_for_backward(x, offset)
        ctx.sampling = _flattened(points), stride, border
        return _samples(x, offset, *ctx.sampling)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients by `x` and `offset`, each only if it is asked for."""
        by_x, by_offset = ctx.needs_input_grad[:2]
        x, offset = ctx.saved_tensors
        x, grad = _channels_last(x), _channels_last(grad)  # a row of channels is a pixel of either
        offset = offset if _is_dense(offset) else offset.contiguous()
        grad_offset, cells, weights = _call(_sample_gradient, grad, x, offset, *ctx.sampling, by_x, by_offset)
        grad_x = None
        if by_x:
            cells, order = cells.sort(stable=True)
            grad_x = _call(_pixel_gradient, grad, weights, order, _starts(cells, x), x)
        return grad_x, grad_offset if by_offset else None, None, None, None


def _starts(cells: Tensor, x: Tensor) -> Tensor:
    """Return where the samples of each pixel of `x` begin among its sorted cells, (B * H * W + 1).

    It is what a sparse matrix calls its row pointers, in one launch and without the pixels' numbers. Pixels in a row
    that no sample has are written by one thread: many, where all samples have run off one side.
    """
    pixels = len(x) * x.shape[2] * x.shape[3]
    return torch._convert_indices_from_coo_to_csr(cells, pixels, out_int32=len(cells) < 2**31)


def check_cells(grad: Tensor, x: Tensor, offset: Tensor, points: Points, stride: int) -> None:
    """Raise an ArithmeticError if a sample belongs to no pixel there is: `_starts` would write where nothing is."""
    x, grad = _channels_last(x), _channels_last(grad)
    _, cells, _ = _sample_gradient(grad, x, offset, _flattened(points), stride, "paper", True, True)
    pixels = len(x) * x.shape[2] * x.shape[3]
    low, high = cells.min().item(), cells.max().item()
    if not 0 <= low <= high < pixels:
        raise ArithmeticError(f"samples lie on pixels {low} to {high} of {pixels}")
