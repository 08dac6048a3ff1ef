# SPDX-License-Identifier: AGPL-3.0-or-later
"""The weights of converted layers by least squares on real images.

Each layer is solved by itself, front to back: its own input in the converted model (which holds the error of the layers
before it) is regressed on the output that the source model's convolution has for the same image. The sums are the
normal equations, in float64; a ridge pulls towards the data-free solution in the metric of what that assumes,
by as much as one sample a weight, so that few images, equal images or dead channels change only what they say something
about.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from einops import rearrange
from torch import Tensor, nn

from ultralytics_akconv.conversion.closed_form import EXACT, covariance, interpolation
from ultralytics_akconv.conversion.pairs import Pair, Solution, converted_state
from ultralytics_akconv.functional import resample
from ultralytics_akconv.layers import seen_in_pass

_FLOOR = 1e-6  # least variance of a channel, relative to the layer's largest: a dead one keeps its data-free weights


def capture(model: nn.Module, modules: Sequence[nn.Module], images: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return the input and the output of modules in a forward pass, which is cut short after the last of them."""
    seen = seen_in_pass(model, images, modules, lambda module, x, output: (x, output))
    return [seen[module] for module in modules]


class _NormalEquations:
    """Sums over output pixels of one layer: the points' samples, the wanted outputs and all their products."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.samples = pair.akconv.num_param * pair.akconv.in_channels  # D
        size = self.samples + pair.akconv.out_channels + 1
        self.sums = torch.zeros(size, size, **EXACT)

    def add(self, x: Tensor, target: Tensor) -> None:
        """Add a batch: the AKConv's input (B, C1, H, W) and the source convolution's output (B, C2, h, w)."""
        akconv = self.pair.akconv
        samples = resample(x, akconv.offsets(x), akconv.points, akconv.stride, akconv.border)  # (B, C1, h*N, w)
        samples = rearrange(samples, "b c (h n) w -> (b h w) (c n)", n=akconv.num_param)
        target = rearrange(target, "b c h w -> (b h w) c")
        rows = torch.cat((samples, target, target.new_ones(len(target), 1)), 1)  # (B*h*w, D + C2 + 1)
        rows = (rows if rows.is_cuda else rows.cpu()).double()  # Apple's GPU has no float64
        self.sums += (rows.T @ rows).cpu()

    def solve(self, solution: Solution) -> tuple[Tensor, Tensor, float, float]:
        """Return the weights (C2, C1, N), the shift of the output's mean (C2), and the error before and after."""
        count = self.sums[-1, -1]
        mean = self.sums[:-1, -1] / count
        moments = self.sums[:-1, :-1] / count - mean[:, None] * mean  # the BatchNorm takes care of the mean
        gram, cross = moments[: self.samples, : self.samples], moments[: self.samples, self.samples :]
        power = moments.diagonal()[self.samples :]  # (C2)

        point_rows = interpolation(solution.points)
        point_covariance = point_rows @ covariance() @ point_rows.T  # (N, N)
        point_covariance += _FLOOR * torch.eye(len(point_rows), **EXACT)
        variance = (gram.diagonal().reshape(-1, len(point_rows)) / point_covariance.diagonal()).mean(1)  # (C1)
        variance = variance.clamp(min=max(_FLOOR * float(variance.max()), torch.finfo(torch.float32).tiny))
        ridge = self.samples / count * torch.kron(torch.diag(variance), point_covariance)

        start = solution.weight.flatten(1)  # (C2, D)
        weight = start + torch.linalg.solve(gram + ridge, cross - gram @ start.T).T

        def error(weight: Tensor) -> float:
            lost = power - 2 * (weight * cross.T).sum(1) + ((weight @ gram) * weight).sum(1)
            gain = self.pair.gain.square()
            scale = (gain * power).sum().clamp(min=torch.finfo(torch.float64).tiny)
            return float(((gain * lost).sum() / scale).clamp(min=0).sqrt())

        shift = weight @ mean[: self.samples] - mean[self.samples :]
        return weight.reshape(solution.weight.shape), shift, error(start), error(weight)


@torch.no_grad()
def fit(
    model: nn.Module,
    source: nn.Module,
    pairs: Sequence[Pair],
    solutions: Sequence[Solution],
    batches: Iterable[Tensor],
) -> list[tuple[float, float]]:
    """Replace the data-free weights of converted layers by least squares on images.

    Args:
        model: The converted model in eval mode, with the data-free weights; changed in place.
        source: The source model in eval mode.
        pairs: The layers, front to back.
        solutions: Their data-free solutions.
        batches: Images (B, C, H, W) as the model takes them; gone through once a layer.

    Returns:
        A layer's relative output error on these images before and after, root mean square.
    """
    errors = []
    for pair, solution in zip(pairs, solutions):
        equations = _NormalEquations(pair)
        for images in batches:
            ((_, target),) = capture(source, [pair.conv.conv], images)
            ((x, _),) = capture(model, [pair.akconv], images)
            equations.add(x, target)
        weight, shift, before, after = equations.solve(solution)
        pair.akconv.load_state_dict(converted_state(pair, solution.points, weight))
        mean = pair.akconv.conv.bn.running_mean
        mean += shift.to(mean)
        errors.append((before, after))
    return errors
