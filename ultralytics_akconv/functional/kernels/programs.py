# SPDX-License-Identifier: AGPL-3.0-or-later
"""The Triton programs of the bilinear sum; nothing but `samples` imports them, since Triton may be absent.

A program takes a block of samples of one image and all their channels. It works the four pixels of a sample out of its
offset, its point and the size of the map, so nothing is kept for the backward pass. A sample is a row of channels,
contiguous in a channels_last map: a thread reads 16 bytes of it at once. Samples lie in the order (h, N, w).

Pixels and samples of one image are counted in 32 bits, whatever is multiplied by images or channels in 64.
"""

from __future__ import annotations

import os

import torch
import triton
import triton.language as tl

PAPER, CLAMP, ZEROS = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)  # in the order of `taps.BORDERS`
REACH = tl.constexpr(2.0**22)  # as in taps.py
# Compiled once whatever their values; the number of channels is what makes a load wide.
_SIZES = ("stride", "h", "w", "height", "width", "ob", "ok", "oi", "oj")
# What `pixel_gradient_program` may take; left to itself, the assembler takes 48 on some cards and spills what is left.
REGISTERS = {"maxnreg": 64} if torch.version.hip is None else {}
INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") == "1"  # as Triton has read it: programs run on a CPU, slowly


@triton.jit
def _axis(offset, point, start, last, BORDER: tl.constexpr):
    """Return the two pixels of an axis, their weights and their slopes, by the rules of `taps.sampling_taps`.

    A NaN is put off the map, where slopes are 0: a cast of it to an integer would be undefined.
    """
    number = offset == offset
    pixel = tl.floor(point)
    moved = tl.minimum(tl.maximum(tl.where(number, offset, -REACH), -REACH), REACH) + (point - pixel)
    floor = tl.floor(moved)
    fraction = tl.where(number, moved - floor, offset)
    whole = start + pixel.to(tl.int32) + floor.to(tl.int32)
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
    m, there, image, offset, points, stride, w, height, width, ob, ok, oi, oj,
    N: tl.constexpr, BORDER: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Return the offsets of the samples `m` of an image, where the row offsets lie, and the taps of both axes."""
    j, n, i = m % w, (m // w) % N, m // (w * N)
    at = image * ob + n.to(tl.int64) * ok + i.to(tl.int64) * oi + j.to(tl.int64) * oj
    r = tl.load(offset + at, mask=there, other=0.0).to(ACC)
    c = tl.load(offset + at + N * ok.to(tl.int64), mask=there, other=0.0).to(ACC)
    r_point, c_point = tl.load(points + 2 * n).to(ACC), tl.load(points + 2 * n + 1).to(ACC)
    rl, rh, rlw, rhw, rls, rhs = _axis(r, r_point, i * stride, height - 1, BORDER)
    cl, ch, clw, chw, cls, chs = _axis(c, c_point, j * stride, width - 1, BORDER)
    return r, c, at, rl, rh, rlw, rhw, rls, rhs, cl, ch, clw, chw, cls, chs


@triton.jit(do_not_specialize=_SIZES)
def sample_program(
    x, offset, points, stride, h, w, height, width, ob, ok, oi, oj, samples,
    C: tl.constexpr, N: tl.constexpr, BORDER: tl.constexpr, ACC: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Write a block of samples."""
    count = h * w * N
    blocks = tl.cdiv(count, BLOCK_M)
    image = (tl.program_id(0) // blocks).to(tl.int64)
    m = tl.program_id(0) % blocks * BLOCK_M + tl.arange(0, BLOCK_M)
    there = m < count
    _, _, _, rl, rh, rlw, rhw, _, _, cl, ch, clw, chw, _, _ = _taps(
        m, there, image, offset, points, stride, w, height, width, ob, ok, oi, oj, N, BORDER, ACC
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
    x, offset, points, stride, h, w, height, width, ob, ok, oi, oj, grad, grad_offset, cells, weights, images,
    C: tl.constexpr, N: tl.constexpr, BORDER: tl.constexpr, ACC: tl.constexpr,
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
        m, there, image, offset, points, stride, w, height, width, ob, ok, oi, oj, N, BORDER, ACC
    )
    sample = image * count + m
    if BY_X:
        # Where both pixels of an axis are one, the low one has the weight of both. Zeros are put in last: times NaN
        # they would be none.
        r0, c0 = tl.where(rl == rh, rlw + rhw, rlw), tl.where(cl == ch, clw + chw, clw)
        w00, w01, w10 = r0 * c0, tl.where(cl == ch, 0.0, r0 * chw), tl.where(rl == rh, 0.0, rhw * c0)
        w11 = tl.where((rl == rh) | (cl == ch), 0.0, rhw * chw)
        nowhere = (w00 == 0) & (w01 == 0) & (w10 == 0) & (w11 == 0)
        cell = tl.where(nowhere, images.to(tl.int64) * height * width, (image * height + rl) * width + cl)
        tl.store(cells + sample, cell.to(cells.dtype.element_ty), mask=there)
        tl.store(weights + 4 * sample, w00, mask=there)
        tl.store(weights + 4 * sample + 1, w01, mask=there)
        tl.store(weights + 4 * sample + 2, w10, mask=there)
        tl.store(weights + 4 * sample + 3, w11, mask=there)
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
        tl.store(grad_offset + at + N * ok.to(tl.int64), by_col.to(grad_offset.dtype.element_ty), mask=there)


@triton.jit
def _weighted(grad, weights, order, k, low, end, c, C: tl.constexpr, ACC: tl.constexpr):
    """Return the gradients of the samples at `k` in the order of the cells, times their weights: a row each.

    Those before `low` are of the cell on the left, of which the pixel is the right corner.
    """
    there = k < end
    sample = tl.load(order + k, mask=there, other=0)
    weight = tl.load(weights + 4 * sample + (k < low).to(tl.int32), mask=there, other=0.0)[:, None]
    # The rows are loaded beside the weights and not by them: to wait for both in turn takes a fifth longer.
    g = tl.load(grad + sample[:, None] * C + c, mask=there[:, None] & (c < C), other=0.0).to(ACC)
    return tl.where(weight != 0, g * weight, 0.0)  # a weight of 0 times NaN or infinity would be none


@triton.jit(do_not_specialize=("height", "width"))
def pixel_gradient_program(
    grad, weights, order, starts, grad_x, height, width,
    C: tl.constexpr, ACC: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr, LONG: tl.constexpr,
):  # fmt: skip
    """Write the gradient of a block of pixels: each is one corner of the samples of four cells.

    Two cells side by side have their samples one after the other, so they are one run, and a pixel has two. One program
    writes an element, and the samples are sorted by their cell: every time they are summed in the same order. What a
    run has beyond `LONG` samples, the block sums together: offsets off one side of the map bring all to one cell.
    """
    blocks = tl.cdiv(height * width, BLOCK_M)
    image = (tl.program_id(0) // blocks).to(tl.int64) * height * width
    own = tl.arange(0, BLOCK_M)
    pixel = tl.program_id(0) % blocks * BLOCK_M + own
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]
    starts += image
    result = tl.zeros((BLOCK_M, BLOCK_C), ACC)
    for above in range(2):
        cell = pixel - above * width
        inside = (cell >= 0) & (pixel < height * width)
        low = tl.load(starts + cell, mask=inside, other=0)
        at = tl.load(starts + cell - (pixel % width > 0).to(tl.int32), mask=inside, other=0)
        end = tl.load(starts + cell + 1, mask=inside, other=0)
        longest = tl.max(end - at)
        for _ in range(tl.minimum(longest, LONG)):
            result += _weighted(grad, weights, order, at, low, end, c, C, ACC)
            at += 1
        if longest > LONG:
            for one in range(BLOCK_M):
                first, last = tl.sum(tl.where(own == one, at, 0)), tl.sum(tl.where(own == one, end, 0))
                middle = tl.sum(tl.where(own == one, low, 0))
                for start in range(first, last, BLOCK_M):
                    rows = _weighted(grad, weights, order, start + own, middle, last, c, C, ACC)
                    result += tl.where((own == one)[:, None], tl.sum(rows, 0)[None, :], 0.0)
        weights += 2  # the lower corners
    place = grad_x + (image + pixel)[:, None] * C + c
    tl.store(place, result.to(grad_x.dtype.element_ty), mask=(pixel < height * width)[:, None] & (c < C))
