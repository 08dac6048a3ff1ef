# SPDX-License-Identifier: AGPL-3.0-or-later
"""Coordinates for the weights of AKConv layers in which their inputs are uncorrelated and of variance one.

Neighbouring points of a smooth map read nearly the same, and so do many channels. An optimizer that moves each weight
by itself is slow along such directions and wild across them; in these coordinates a step has the same size in all of
them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from einops import rearrange
from torch import Tensor, nn

from ultralytics_akconv.conversion.distances import head_inputs
from ultralytics_akconv.functional import resample
from ultralytics_akconv.modules import AKConv

_FLOOR = 1e-3  # least variance of an input, relative to the layer's mean


class Uncorrelated(nn.Module):
    """Parametrization of a convolution's weight by coordinates whose inputs are uncorrelated and of variance one.

    Args:
        moments: Second moments (D, D) of the inputs under the kernel, D = C1 * kernel area.
        scale: By how much each output channel is larger than its coordinates (C2).
    """

    def __init__(self, moments: Tensor, scale: Tensor) -> None:
        super().__init__()
        moments = moments.cpu().double()  # in this order: Apple's GPU has no float64
        one = torch.eye(len(moments), dtype=torch.float64)
        ridge = _FLOOR * moments.diagonal().mean().clamp(min=torch.finfo(torch.float32).tiny)
        factor = torch.linalg.cholesky(moments + ridge * one)
        self.register_buffer("factor", factor.float())
        self.register_buffer("inverse", torch.linalg.solve_triangular(factor, one, upper=False).float())
        self.register_buffer("scale", scale.detach().float().cpu()[:, None])

    def forward(self, coordinates: Tensor) -> Tensor:
        """Return the weight (C2, C1, kh, kw)."""
        with torch.autocast(coordinates.device.type, enabled=False):
            return (self.scale * (coordinates.flatten(1) @ self.inverse)).view_as(coordinates)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Return the coordinates of a weight, in its shape."""
        return (weight.flatten(1) @ self.factor / self.scale).view_as(weight)


class Moments:
    """Second moments of the inputs under a kernel, (rows, C1, points) a batch.

    They are not about the means: the output's mean would else move by any amount where an input hardly varies. Summed
    up they are about the first batch's mean, since float32 loses a small variance beside the square of a large mean.
    """

    def __init__(self) -> None:
        self.count, self.centre = 0, None

    def add(self, inputs: Tensor) -> None:
        """Add a batch of inputs."""
        rows = inputs.flatten(1)
        if self.centre is None:
            self.points, self.centre = inputs.shape[2], rows.mean(0)
            self.sums, self.mean = rows.new_zeros(rows.shape[1], rows.shape[1]), torch.zeros_like(self.centre)
        rows = rows - self.centre
        self.sums += rows.T @ rows
        self.mean += rows.sum(0)
        self.count += len(rows)

    def estimate(self) -> Tensor:
        """Return the moments (D, D), the covariance in them drawn towards a simpler one by a row an input.

        Few images of deep, small maps have fewer rows than inputs: in the directions that they did not show, any step
        would be far too large. The simpler one has uncorrelated channels, each with the same correlation of the points.
        """
        mean = self.mean.cpu().double() / self.count
        cov = self.sums.cpu().double() / self.count - torch.outer(mean, mean)
        mean += self.centre.cpu().double()
        channels = len(cov) // self.points
        blocks = cov.view(channels, self.points, channels, self.points).diagonal(dim1=0, dim2=2)  # (points, points, C1)
        power = blocks.diagonal().clamp(min=0).mean(1)  # (C1); less than 0 by rounding alone
        power = power.clamp(min=max(_FLOOR * float(power.mean()), torch.finfo(torch.float32).tiny))
        simple = torch.kron(torch.diag(power), (blocks / power).mean(2))
        share = self.count / (self.count + len(cov))
        return torch.outer(mean, mean) + share * cov + (1 - share) * simple


@torch.no_grad()
def input_moments(
    model: nn.Module, layers: Sequence[AKConv], batches: Iterable[Tensor]
) -> dict[AKConv, tuple[Tensor, Tensor]]:
    """Return for each layer the second moments of its samples (N*C1 squared) and of what its offsets read (9*C1)."""
    moments = {layer: (Moments(), Moments()) for layer in layers}

    def add(layer: AKConv, args: tuple, output: Tensor) -> None:
        x, (samples, patches) = args[0], moments[layer]
        read = resample(x, layer.offsets(x), layer.points, layer.stride, layer.border)  # (B, C1, h*N, w)
        samples.add(rearrange(read, "b c (h n) w -> (b h w) c n", n=layer.num_param))
        patches.add(
            rearrange(nn.functional.unfold(x, 3, padding=1, stride=layer.stride), "b (c k) l -> (b l) c k", k=9)
        )

    handles = [layer.register_forward_hook(add) for layer in layers]
    try:
        for images in batches:
            head_inputs(model, images)
    finally:
        for handle in handles:
            handle.remove()
    return {layer: (samples.estimate(), patches.estimate()) for layer, (samples, patches) in moments.items()}
