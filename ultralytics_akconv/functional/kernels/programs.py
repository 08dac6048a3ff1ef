# SPDX-License-Identifier: AGPL-3.0-or-later
"""The Triton programs of the bilinear sum; nothing but `samples` imports them, since Triton may be absent.

A program takes a block of samples of one image and all their channels. It works the four pixels of a sample out of its
offset, the base and the size of the map, so nothing is kept for the backward pass. A sample is a row of channels,
contiguous in a channels_last map: a thread reads 16 bytes of it at once. Samples lie in the order (h, N, w).

Pixels and samples of one image are counted in 32 bits, whatever is multiplied by images or channels in 64.
"""

from __future__ import annotations

import os

import triton
import triton.language as tl

PAPER, CLAMP, ZEROS = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)  # in the order of `taps.BORDERS`
REACH = tl.constexpr(2.0**22)  # as in taps.py
# Compiled once whatever their values; the number of channels is what makes a load wide.
_SIZES = ("h", "w", "height", "width", "ob", "ok", "oi", "oj")
INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") == "1"  # as Triton has read it: programs run on a CPU, slowly


@triton.jit
def _axis(offset, part, base, last, BORDER: tl.constexpr):
    """Return the two pixels of an axis, their weights and their slopes, by the rules of `taps.sampling_taps`.

    A NaN is put off the map, where slopes are 0: a cast of it to an integer would be undefined.
    """
    number = offset == offset
    moved = tl.minimum(tl.maximum(tl.where(number, offset, -REACH), -REACH), REACH) + part
    floor = tl.floor(moved)
    fraction = tl.where(number, moved - floor, offset)
    whole = base + floor.to(tl.int32)
    low = tl.minimum(tl.maximum(whole, 0), last)
    high = tl.minimum(tl.maximum(whole + 1, 0), last)
    if BORDER == ZEROS:
        low_inside = (low == whole).to(fraction.dtype)
        high_inside = (high == whole + 1).to(fraction.dtype)
        return low, high, (1 - fraction) * low_inside, fraction * high_inside, low_inside, high_inside
    between = (high - low).to(fraction.dtype)
    factor = 2 - between if BORDER == PAPER else 1
    high_weight = fraction * factor
    return low, high, factor - high_weight, high_weight, between, between


@triton.jit
def _taps(
    m, there, image, offset, row, col, fraction, w, height, width, ob, ok, oi, oj,
    N: tl.constexpr, BORDER: tl.constexpr, BETWEEN: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Return the offsets of the samples `m` of an image, where the row offsets lie, and the taps of both axes."""
    j, n, i = m % w, (m // w) % N, m // (w * N)
    at = image * ob + n.to(tl.int64) * ok + i.to(tl.int64) * oi + j.to(tl.int64) * oj
    r = tl.load(offset + at, mask=there, other=0.0).to(ACC)
    c = tl.load(offset + at + N * ok, mask=there, other=0.0).to(ACC)
    r_part, c_part = 0.0, 0.0
    if BETWEEN:
        r_part = tl.load(fraction + 2 * n).to(ACC)
        c_part = tl.load(fraction + 2 * n + 1).to(ACC)
    r_base = tl.load(row + i * N + n, mask=there, other=0)
    c_base = tl.load(col + n * w + j, mask=there, other=0)
    rl, rh, rlw, rhw, rls, rhs = _axis(r, r_part, r_base, height - 1, BORDER)
    cl, ch, clw, chw, cls, chs = _axis(c, c_part, c_base, width - 1, BORDER)
    return r, c, at, rl, rh, rlw, rhw, rls, rhs, cl, ch, clw, chw, cls, chs


@triton.jit(do_not_specialize=_SIZES)
def sample_program(
    x, offset, row, col, fraction, samples, h, w, height, width, ob, ok, oi, oj,
    C: tl.constexpr, N: tl.constexpr, BORDER: tl.constexpr, BETWEEN: tl.constexpr, ACC: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Write a block of samples."""
    count = h * w * N
    blocks = tl.cdiv(count, BLOCK_M)
    image = (tl.program_id(0) // blocks).to(tl.int64)
    m = tl.program_id(0) % blocks * BLOCK_M + tl.arange(0, BLOCK_M)
    there = m < count
    _, _, _, rl, rh, rlw, rhw, _, _, cl, ch, clw, chw, _, _ = _taps(
        m, there, image, offset, row, col, fraction, w, height, width, ob, ok, oi, oj, N, BORDER, BETWEEN, ACC
    )
    x += image * height * width * C
    samples += image * count * C
    p00, p01 = (rl * width + cl).to(tl.int64)[:, None] * C, (rl * width + ch).to(tl.int64)[:, None] * C
    p10, p11 = (rh * width + cl).to(tl.int64)[:, None] * C, (rh * width + ch).to(tl.int64)[:, None] * C
    w00, w01, w10, w11 = (rlw * clw)[:, None], (rlw * chw)[:, None], (rhw * clw)[:, None], (rhw * chw)[:, None]
    for start in tl.static_range(0, C, BLOCK_C):
        c = start + tl.arange(0, BLOCK_C)[None, :]
        mask = there[:, None] & (c < C)
        total = tl.load(x + p00 + c, mask=mask, other=0.0).to(ACC) * w00
        total += tl.load(x + p01 + c, mask=mask, other=0.0).to(ACC) * w01
        total += tl.load(x + p10 + c, mask=mask, other=0.0).to(ACC) * w10
        total += tl.load(x + p11 + c, mask=mask, other=0.0).to(ACC) * w11
        tl.store(samples + m.to(tl.int64)[:, None] * C + c, total.to(samples.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=(*_SIZES, "images"))
def sample_gradient_program(
    x, offset, row, col, fraction, grad, grad_offset, cells, weights, images, h, w, height, width, ob, ok, oi, oj,
    C: tl.constexpr, N: tl.constexpr, BORDER: tl.constexpr, BETWEEN: tl.constexpr, ACC: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr, BY_X: tl.constexpr, BY_OFFSET: tl.constexpr,
):  # fmt: skip
    """Write the gradient by the offsets of a block of samples, and the cells and weights that the pixels will need.

    The cell of a sample is the pixel that is low on both axes. Off a map of zeros a sample has none, and comes last.
    """
    count = h * w * N
    blocks = tl.cdiv(count, BLOCK_M)
    image = (tl.program_id(0) // blocks).to(tl.int64)
    m = tl.program_id(0) % blocks * BLOCK_M + tl.arange(0, BLOCK_M)
    there = m < count
    r, c, at, rl, rh, rlw, rhw, rls, rhs, cl, ch, clw, chw, cls, chs = _taps(
        m, there, image, offset, row, col, fraction, w, height, width, ob, ok, oi, oj, N, BORDER, BETWEEN, ACC
    )
    sample = image * count + m
    if BY_X:
        # Where both pixels of an axis are one, the low one has the weight of both.
        r0, c0 = tl.where(rl == rh, rlw + rhw, rlw), tl.where(cl == ch, clw + chw, clw)
        r1, c1 = tl.where(rl == rh, 0.0, rhw), tl.where(cl == ch, 0.0, chw)
        cell = (image * height + rl) * width + cl
        nowhere = ((r0 == 0) & (r1 == 0)) | ((c0 == 0) & (c1 == 0))
        cell = tl.where(nowhere, images.to(tl.int64) * height * width, cell)
        tl.store(cells + sample, cell.to(cells.dtype.element_ty), mask=there)
        total = images.to(tl.int64) * count
        tl.store(weights + sample, r0 * c0, mask=there)
        tl.store(weights + total + sample, r0 * c1, mask=there)
        tl.store(weights + 2 * total + sample, r1 * c0, mask=there)
        tl.store(weights + 3 * total + sample, r1 * c1, mask=there)
    if BY_OFFSET:
        x += image * height * width * C
        p00, p01 = (rl * width + cl).to(tl.int64)[:, None] * C, (rl * width + ch).to(tl.int64)[:, None] * C
        p10, p11 = (rh * width + cl).to(tl.int64)[:, None] * C, (rh * width + ch).to(tl.int64)[:, None] * C
        d00 = tl.zeros((BLOCK_M,), ACC)
        d01, d10, d11 = d00, d00, d00
        for start in tl.static_range(0, C, BLOCK_C):
            k = start + tl.arange(0, BLOCK_C)[None, :]
            mask = there[:, None] & (k < C)
            g = tl.load(grad + sample[:, None] * C + k, mask=mask, other=0.0).to(ACC)
            d00 += tl.sum(g * tl.load(x + p00 + k, mask=mask, other=0.0).to(ACC), 1)
            d01 += tl.sum(g * tl.load(x + p01 + k, mask=mask, other=0.0).to(ACC), 1)
            d10 += tl.sum(g * tl.load(x + p10 + k, mask=mask, other=0.0).to(ACC), 1)
            d11 += tl.sum(g * tl.load(x + p11 + k, mask=mask, other=0.0).to(ACC), 1)
        by_row = rhs * (clw * d10 + chw * d11) - rls * (clw * d00 + chw * d01)
        by_col = chs * (rlw * d01 + rhw * d11) - cls * (rlw * d00 + rhw * d10)
        by_row, by_col = tl.where(r == r, by_row, 0.0), tl.where(c == c, by_col, 0.0)  # none by a NaN
        tl.store(grad_offset + at, by_row.to(grad_offset.dtype.element_ty), mask=there)
        tl.store(grad_offset + at + N * ok, by_col.to(grad_offset.dtype.element_ty), mask=there)


@triton.jit(do_not_specialize=("total", "height", "width"))
def pixel_gradient_program(
    grad, weights, order, starts, grad_x, total, height, width,
    C: tl.constexpr, ACC: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Write the gradient of a block of pixels: each is one corner of the samples of four cells.

    One program writes an element, and the samples are sorted by their cell: every run sums them in the same order.
    """
    blocks = tl.cdiv(height * width, BLOCK_M)
    image = (tl.program_id(0) // blocks).to(tl.int64) * height * width
    pixel = tl.program_id(0) % blocks * BLOCK_M + tl.arange(0, BLOCK_M)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]
    there = pixel < height * width
    row, col = pixel // width, pixel % width
    result = tl.zeros((BLOCK_M, BLOCK_C), ACC)
    for corner in tl.static_range(4):
        known = there & (row >= corner // 2) & (col >= corner % 2)
        cell = starts + image + pixel - corner // 2 * width - corner % 2
        at = tl.load(cell, mask=known, other=0)
        end = tl.load(cell + 1, mask=known, other=0)
        for _ in range(tl.max(end - at)):
            m = tl.load(order + at, mask=at < end, other=0)
            weight = tl.load(weights + corner * total.to(tl.int64) + m, mask=at < end, other=0.0)[:, None]
            mask = (weight != 0) & (c < C)
            g = tl.load(grad + m[:, None] * C + c, mask=mask, other=0.0).to(ACC)
            result += tl.where(mask, g * weight, 0.0)
            at += 1
    tl.store(
        grad_x + (image + pixel)[:, None] * C + c, result.to(grad_x.dtype.element_ty), mask=there[:, None] & (c < C)
    )
