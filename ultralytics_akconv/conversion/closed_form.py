# SPDX-License-Identifier: AGPL-3.0-or-later
"""A 3x3 kernel rewritten for N points without any data: where the points go, and which weights they get.

Feature maps are smooth: neighbouring pixels are alike. With the correlation `RHO ** (L1 distance)` between two pixels
of a channel, the nine values under the kernel have the covariance K, and N points read `B @ values`, where B (N, 9)
holds their bilinear weights. The kernel W that sees only the points is then the regression `W K B' (B K B')^-1`, and
what it misses has a closed form too, so the places of the points can be chosen to miss least. A point between pixels
reads up to four of them, so that N such points lose far less than N of the nine pixels.

Coordinates are `(row, col)` in input pixels relative to the output pixel's anchor, as in `shapes`: a 3x3 kernel with
padding 1 covers -1..1. All sums are float64 and on the CPU, whatever the default device is.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from ultralytics_akconv.functional.remembering import remembered

RHO = 0.9  # the assumed correlation of neighbouring pixels: of those measured, it keeps a network's outputs best
# With which the expected error is computed: pixels are less alike once their mean is gone, and the BatchNorm takes it.
# So it comes out right for most layers and too high for the smoothest. Both were measured, see
# docs/results/transfer/conversion.md and expected.md.
RHO_CENTRED = 0.65
_NOISE = 1e-6  # variance of a point's own noise: points that read nearly the same pixels get bounded weights
_FIRST_STEP, _LAST_STEP = 0.5, 1 / 16  # px; the search halves its step between these
EXACT = {"dtype": torch.float64, "device": "cpu"}
_STARTS = 2  # layouts of whole pixels from which the search starts


@remembered(1)
def grid() -> Tensor:
    """Return the places of a 3x3 kernel's weights in row-major order, (9, 2)."""
    return torch.cartesian_prod(*[torch.arange(-1, 2, **EXACT)] * 2)


@remembered(8)
def covariance(rho: float = RHO) -> Tensor:
    """Return the covariance K (9, 9) of the nine pixels under the kernel, neighbours having the correlation `rho`."""
    return rho ** (grid()[:, None] - grid()).abs().sum(-1)


def interpolation(points: Tensor) -> Tensor:
    """Return the bilinear weights B (..., N, 9) with which points (..., N, 2) read the nine pixels under the kernel."""
    return (1 - (points[..., None, :] - grid()).abs()).clamp(min=0).prod(-1)


def kernel_gram(weight: Tensor, gain: Tensor | None = None) -> Tensor:
    """Return the second moments (9, 9) of a layer's 3x3 kernels, all that the expected error depends on.

    Args:
        weight: Convolution weight (C2, C1, 3, 3).
        gain: What the layer multiplies each output channel by afterwards (C2), from its BatchNorm; None for one.
    """
    kernels = weight.double().flatten(2)  # (C2, C1, 9)
    if gain is not None:
        kernels = kernels * gain.double()[:, None, None]
    kernels = kernels.flatten(0, 1)
    return kernels.T @ kernels


def _mixing(points: Tensor) -> Tensor:
    """Return the map (..., 9, N) from kernels to the weights of points (..., N, 2)."""
    b = interpolation(points)
    cross = covariance() @ b.mT  # (..., 9, N)
    inner = b @ cross + _NOISE * torch.eye(points.shape[-2], **EXACT)
    return torch.linalg.solve(inner, cross.mT).mT


def expected_error(gram: Tensor, points: Tensor, rho: float = RHO_CENTRED) -> Tensor:
    """Return the expected relative error (...) of a layer's output for points (..., N, 2), root mean square.

    Args:
        gram: `kernel_gram` of the layer.
        points: Places of the points (..., N, 2) in input pixels; their weights are those of `project`.
        rho: Correlation of neighbouring pixels.
    """
    missed = torch.eye(9, **EXACT) - _mixing(points) @ interpolation(points)  # (..., 9, 9)
    cov = covariance(rho)
    lost = (gram * (missed @ cov @ missed.mT)).sum((-2, -1))
    return (lost / (gram * cov).sum().clamp(min=torch.finfo(torch.float64).tiny)).sqrt()


def project(weight: Tensor, points: Tensor) -> Tensor:
    """Return the weights (C2, C1, N) for the points that reproduce a 3x3 convolution best for such pixels, float64.

    Points on all nine pixels get the kernel itself, any further ones zero.

    Args:
        weight: Convolution weight (C2, C1, 3, 3).
        points: Places of the points (N, 2) in input pixels.
    """
    kernels = weight.double().flatten(2)  # (C2, C1, 9)
    if len(points) >= 9 and torch.equal(points[:9], grid()):  # exact: no noise may blur it
        return torch.cat((kernels, kernels.new_zeros(*kernels.shape[:2], len(points) - 9)), dim=2)
    return kernels @ _mixing(points)


def place_points(gram: Tensor, num_param: int) -> Tensor:
    """Return the places (N, 2) of the N points that lose least of a layer's kernels, in row-major order.

    From nine points on nothing is lost: they lie on the nine pixels, further ones around these. Below that, the best
    choices of whole pixels are refined by moving one point at a time, with a step that is halved when no move helps.

    Args:
        gram: `kernel_gram` of the layer.
        num_param: Number of points N.
    """
    if num_param >= 9:
        return torch.cat((grid(), _around(num_param - 9)))
    choices = grid()[torch.tensor(list(itertools.combinations(range(9), num_param)), device="cpu")]  # (choices, N, 2)
    starts = choices[expected_error(gram, choices, RHO).argsort(stable=True)[:_STARTS]]
    refined = [_refine(gram, start) for start in starts]
    points = min(refined, key=lambda points: float(expected_error(gram, points, RHO)))
    return torch.tensor(sorted(points.tolist()), **EXACT)


def _around(count: int) -> Tensor:
    """Return the `count` pixels outside the 3x3 square that are nearest to it, (count, 2)."""
    reach = 2
    while (2 * reach + 1) ** 2 - 9 < count:
        reach += 1
    cells = torch.cartesian_prod(*[torch.arange(-reach, reach + 1, **EXACT)] * 2)
    cells = cells[cells.abs().amax(1) > 1]
    return cells[cells.square().sum(1).argsort(stable=True)[:count]]


def _refine(gram: Tensor, points: Tensor) -> Tensor:
    """Return the points (N, 2) after moving one at a time within the kernel's square as long as the error falls."""
    moves = torch.cartesian_prod(*[torch.tensor([-1.0, 0.0, 1.0], **EXACT)] * 2)
    moves = torch.einsum("nk,md->nmkd", torch.eye(len(points), **EXACT), moves).flatten(0, 1)  # (9N, N, 2)
    error, step = float(expected_error(gram, points, RHO)), _FIRST_STEP
    while step >= _LAST_STEP:
        candidates = (points + step * moves).clamp(-1, 1)
        errors = expected_error(gram, candidates, RHO)
        best = int(errors.argmin())
        if errors[best] < error - 1e-9:
            points, error = candidates[best], float(errors[best])
        else:
            step /= 2
    return points
