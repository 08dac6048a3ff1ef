# SPDX-License-Identifier: AGPL-3.0-or-later
"""AKConv by its definition, in loops over plain numbers: what every form is compared with.

Imports torch only, and nothing of the package. Float64, forward only; the gradients are held by the golden files.
"""

import math

import torch


def initial_points(num_param):
    """The paper's generated shape: `num_param // base` full rows of `base` columns, then the rest in one more row."""
    base = round(math.sqrt(num_param))
    rows, rest = divmod(num_param, base)
    return [(row, col) for row in range(rows) for col in range(base)] + [(rows, col) for col in range(rest)]


def centred(points):
    """Move the points so that the middle of their bounding box, halves away from zero, is (0, 0)."""

    def middle(values):
        half = (min(values) + max(values)) / 2
        return math.floor(half + 0.5) if half >= 0 else math.ceil(half - 0.5)

    row, col = middle([p[0] for p in points]), middle([p[1] for p in points])
    return [(r - row, c - col) for r, c in points]


def positions(offset, points, stride):
    """Where each sample lies: (B, 2N, h, w), N rows then N columns, nothing clamped."""
    batch, _, height, width = offset.shape
    count = len(points)
    result = torch.empty(offset.shape, dtype=torch.float64)
    for b in range(batch):
        for n in range(count):
            for i in range(height):
                for j in range(width):
                    result[b, n, i, j] = i * stride + points[n][0] + float(offset[b, n, i, j])
                    result[b, count + n, i, j] = j * stride + points[n][1] + float(offset[b, count + n, i, j])
    return result


def axis(position, size, border):
    """The two `(pixel, weight)` pairs of one axis; a pixel outside the map (zeros) has weight 0."""
    if math.isnan(position):
        return [(0, math.nan), (0, math.nan)]
    if math.isinf(position):
        position = math.copysign(1e9, position)
    low = math.floor(position)
    if border == "zeros":
        pairs = [(low, low + 1 - position), (low + 1, position - low)]
        return [(pixel, weight) if 0 <= pixel < size else (0, 0.0) for pixel, weight in pairs]
    clamped = min(max(position, 0), size - 1)
    if border == "clamp":
        low = math.floor(clamped)
        return [(low, low + 1 - clamped), (min(low + 1, size - 1), clamped - low)]
    low, high = min(max(low, 0), size - 1), min(max(low + 1, 0), size - 1)
    return [(low, 1 + low - clamped), (high, 1 - high + clamped)]


def resample(x, offset, points, stride=1, border="paper"):
    """The samples (B, C, h*N, w), the N samples of an output pixel below each other."""
    where = positions(offset, points, stride).tolist()
    batch, channels, height, width = x.shape
    count, (out_height, out_width) = len(points), offset.shape[2:]
    values = x.tolist()
    result = torch.zeros(batch, channels, out_height * count, out_width, dtype=torch.float64)
    for b in range(batch):
        for i in range(out_height):
            for j in range(out_width):
                for n in range(count):
                    rows = axis(where[b][n][i][j], height, border)
                    cols = axis(where[b][count + n][i][j], width, border)
                    for c in range(channels):
                        image = values[b][c]
                        result[b, c, i * count + n, j] = sum(
                            wr * wc * image[row][col] for row, wr in rows for col, wc in cols
                        )
    return result


def akconv2d(x, offset, weight, points, bias=None, stride=1, border="paper"):
    """The layer's output (B, C2, h, w): every output pixel is a weighted sum of its N samples."""
    samples = resample(x, offset, points, stride, border)
    count, (height, width) = len(points), offset.shape[2:]
    result = torch.zeros(x.shape[0], weight.shape[0], height, width, dtype=torch.float64)
    for i in range(height):
        for n in range(count):
            result[:, :, i] += torch.einsum("bcw,oc->bow", samples[:, :, i * count + n], weight[:, :, n, 0].double())
    return result if bias is None else result + bias.double()[:, None, None]
