# SPDX-License-Identifier: AGPL-3.0-or-later
"""The bilinear sum and its gradients as operators of PyTorch over the Triton programs, and the autograd function.

Operators and not mere launches, so that whatever looks at PyTorch sees them: profilers, counters, fake tensors.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ultralytics_akconv.functional.taps import BORDERS, Base

KERNEL_DTYPES = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
# Values a program, of so many warps. A thread has eight: 16 bytes of a half. More of them, or fewer warps, need more
# registers than leave the loads room to overlap.
_ROWS, _ROW_WARPS = 1024, 4
_PIXELS, _PIXEL_WARPS = 512, 2
_CHANNELS = 128

_BASE = "Tensor row, Tensor col, Tensor? fraction, str border"
_LIBRARY = torch.library.Library("ultralytics_akconv", "DEF")
_LIBRARY.define(f"sample(Tensor x, Tensor offset, {_BASE}) -> Tensor")
_LIBRARY.define(
    f"sample_gradient(Tensor grad, Tensor x, Tensor offset, {_BASE}, bool by_x, bool by_offset)"
    " -> (Tensor grad_offset, Tensor cells, Tensor weights)"
)
_LIBRARY.define("pixel_gradient(Tensor grad, Tensor weights, Tensor order, Tensor starts, Tensor like) -> Tensor")


def _empty(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return memory for a result; all of it is allocated here."""
    return torch.empty(shape, dtype=dtype, device=device)


def _accumulator(*tensors: Tensor) -> torch.dtype:
    """Return the dtype that positions, weights and sums have for these tensors."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def _launch(name: str, grid: tuple[int, ...], like: Tensor, *arguments: Any, **constants: Any) -> None:
    """Launch a program on the device of `like`, which need not be the current one."""
    import triton.language as tl

    from ultralytics_akconv.functional.kernels import programs

    if like.device.type != "cuda" and not programs.INTERPRETED:
        raise RuntimeError(
            f"AKConv's kernels run on CUDA tensors, or on a CPU where TRITON_INTERPRET=1 is in the environment before "
            f"Python starts; got a tensor on {like.device}"
        )
    constants["ACC"] = getattr(tl, str(constants["ACC"]).removeprefix("torch."))
    with torch.cuda.device_of(like):
        getattr(programs, name)[grid](*arguments, **constants)


def _blocks(values: int, channels: int) -> tuple[int, int]:
    """Return rows and channels of a block of so many values, both powers of two."""
    block_c = min(_CHANNELS, 1 << (channels - 1).bit_length())
    return max(1, values // block_c), block_c


def _settings(x: Tensor, offset: Tensor, base: Base, border: str) -> tuple[tuple[int, ...], tuple[int, ...], dict]:
    """Return the grid, the sizes and the constants that the programs over samples share."""
    b, c, height, width = x.shape
    n, (h, w) = base.row.shape[1], offset.shape[2:]
    block_m, block_c = _blocks(_ROWS, c)
    constants = {
        "C": c,
        "N": n,
        "BORDER": BORDERS.index(border),
        "BETWEEN": base.fraction is not None,
        "ACC": _accumulator(x, offset),
        "BLOCK_M": block_m,
        "BLOCK_C": block_c,
        "num_warps": _ROW_WARPS,
    }
    return (b * -(-h * w * n // block_m),), (h, w, height, width, *offset.stride()), constants


def _tables(base: Base) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the base as the programs read it: (h, N), (N, w) and (N, 2), each without gaps."""
    fraction = None if base.fraction is None else base.fraction.T.contiguous()
    return base.row.contiguous(), base.col.contiguous(), fraction


def _sample(x: Tensor, offset: Tensor, row: Tensor, col: Tensor, fraction: Tensor | None, border: str) -> Tensor:
    """Return the samples (B, h, N, w, C) of a channels_last map."""
    base = Base(row, col, fraction)
    samples = _empty((len(x), len(row), row.shape[1], col.shape[1], x.shape[1]), x.dtype, x.device)
    if samples.numel() and not x.is_meta:
        grid, sizes, constants = _settings(x, offset, base, border)
        _launch("sample_program", grid, x, x, offset, *_tables(base), samples, *sizes, **constants)
    return samples


def _sample_gradient(
    grad: Tensor,
    x: Tensor,
    offset: Tensor,
    row: Tensor,
    col: Tensor,
    fraction: Tensor | None,
    border: str,
    by_x: bool,
    by_offset: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradient by the offsets, and cells (samples) and corner weights (4, samples) for that by the input.

    What is not asked for is empty.
    """
    base = Base(row, col, fraction)
    count, pixels = grad.numel() // grad.shape[-1], len(x) * x.shape[2] * x.shape[3]
    grad_offset = torch.empty_like(offset) if by_offset else offset.new_empty(0)
    wide = torch.int32 if pixels < 2**31 else torch.int64
    cells = _empty((count if by_x else 0,), wide, x.device)
    weights = _empty((4, len(cells)), _accumulator(x, offset), x.device)
    if not x.is_meta:
        grid, sizes, constants = _settings(x, offset, base, border)
        _launch(
            "sample_gradient_program", grid, x, x, offset, *_tables(base), grad, grad_offset, cells, weights, len(x),
            *sizes, BY_X=by_x, BY_OFFSET=by_offset, **constants,
        )  # fmt: skip
    return grad_offset, cells, weights


def _pixel_gradient(grad: Tensor, weights: Tensor, order: Tensor, starts: Tensor, like: Tensor) -> Tensor:
    """Return the gradient by the input, (B, C, H, W) channels_last in the dtype of `like`."""
    b, c, height, width = like.shape
    pixels = _empty((b, height, width, c), like.dtype, like.device)
    if not like.is_meta:
        block_m, block_c = _blocks(_PIXELS, c)
        grid = b * -(-height * width // block_m), -(-c // block_c)
        _launch(
            "pixel_gradient_program", grid, like, grad, weights, order, starts, pixels, len(order), height, width,
            C=c, ACC=weights.dtype, BLOCK_M=block_m, BLOCK_C=block_c, num_warps=_PIXEL_WARPS,
        )  # fmt: skip
    return pixels.permute(0, 3, 1, 2)


for _name, _function in (
    ("sample", _sample),
    ("sample_gradient", _sample_gradient),
    ("pixel_gradient", _pixel_gradient),
):
    for _key in ("CPU", "CUDA", "Meta"):
        _LIBRARY.impl(_name, _function, _key)


def _pixel_rows(x: Tensor) -> Tensor:
    """Return the map with its pixels as rows without gaps: itself if it is channels_last."""
    return x.contiguous(memory_format=torch.channels_last)


class KernelSamples(torch.autograd.Function):
    """Samples as rows, (B, h, N, w, C), of `x` (B, C, H, W) and `offset` (B, 2N, h, w); neither is empty."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, offset: Tensor, base: Base, border: str) -> Tensor:
        """Sum the four rows of every sample."""
        ctx.save_for_backward(x, offset)
        ctx.base, ctx.border = base, border
        return torch.ops.ultralytics_akconv.sample(_pixel_rows(x), offset, *base, border)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        """Return the gradients by `x` and `offset`, each only if it is asked for."""
        x, offset = ctx.saved_tensors
        by_x, by_offset = ctx.needs_input_grad[:2]
        operators, grad = torch.ops.ultralytics_akconv, grad.contiguous()
        x = _pixel_rows(x)
        if torch.empty_like(offset, device="meta").stride() != offset.stride():  # expanded, or with gaps
            offset = offset.contiguous()
        grad_offset, cells, weights = operators.sample_gradient(grad, x, offset, *ctx.base, ctx.border, by_x, by_offset)
        grad_x = None
        if by_x:
            cells, order = cells.sort(stable=True)
            pixels = torch.arange(len(x) * x.shape[2] * x.shape[3] + 1, dtype=cells.dtype, device=x.device)
            starts = torch.searchsorted(cells, pixels, out_int32=len(order) < 2**31)
            grad_x = operators.pixel_gradient(grad, weights, order, starts, x)
        return grad_x, grad_offset if by_offset else None, None, None
