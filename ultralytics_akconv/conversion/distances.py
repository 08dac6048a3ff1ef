# SPDX-License-Identifier: AGPL-3.0-or-later
"""How far a converted model is from its source: in the maps that the head reads, whatever the task is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import copy, deepcopy

import torch
from torch import Tensor, nn

from ultralytics_akconv.layers import seen_in_pass

_FLOOR = 1e-3  # least variance of a channel, relative to the mean of its map's
_EVERYWHERE = 0.2  # of what counts by confidence: as much as this share of its mean counts at every place
_UNSURE = 1e-3  # mean confidence in a map below which it counts less, since nothing in it is an object


def head_inputs(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Return the maps (B, C, h, w) that a model's last layer, its head, reads; the head itself is not run."""

    def maps(head: nn.Module, x: Tensor | Sequence[Tensor], _: None) -> list[Tensor]:
        inputs = x if isinstance(x, (list, tuple)) else [x]
        return [each for each in inputs if each.ndim == 4]  # some heads read embeddings of words, too

    (seen,) = seen_in_pass(model, images, [model.model[-1]], maps, before=True).values()
    return seen


class HeadDistance:
    """How far models are from their source in what the head reads.

    The square difference of two maps is taken relative to the variance of its channel. Where it is large it counts by
    its root (pseudo-Huber): a few channels fire on few images, and would lead all others. Places count by how sure the
    source is that an object is there, if its head has a branch that says so; background is most of every map.

    Args:
        source: The source model in eval mode.
        batches: Images (B, C, H, W) that the channels' variances are taken from; some hundred are better than a few.
    """

    def __init__(self, source: nn.Module, batches: Iterable[Tensor]) -> None:
        self.source = source
        self.variances = _variances(source, batches)

    def to(self, device: torch.device, layout: torch.memory_format) -> HeadDistance:
        """Return the same distance with a copy of the source on a device, with a memory layout."""
        moved = copy(self)
        moved.source = deepcopy(self.source).to(device).to(memory_format=layout)
        moved.variances = [variance.to(device) for variance in self.variances]
        return moved

    def __call__(self, model: nn.Module, images: Tensor) -> Tensor:
        """Return the mean distance of a model's maps for a batch of images, to be learned by."""
        with torch.no_grad():
            wanted = head_inputs(self.source, images)
            weights = _weights(self.source.model[-1], wanted)
        parts = []
        for a, b, variance, weight in zip(wanted, head_inputs(model, images), self.variances, weights):
            excess = (b.float() - a.float()).square() / variance[:, None, None]
            robust = 2 * excess / (1 + (1 + excess).sqrt())  # 2 * (sqrt(1 + excess) - 1), exact for small ones too
            parts.append((weight * robust.mean(1)).mean())
        return torch.stack(parts).mean()

    @torch.no_grad()
    def error(self, model: nn.Module, batches: Iterable[Tensor]) -> float:
        """Return the root of the distance over all images: where it is small, the relative error of the maps."""
        total, count = 0.0, 0
        for images in batches:
            total += len(images) * float(self(model, images))
            count += len(images)
        return (total / count) ** 0.5


@torch.no_grad()
def _variances(source: nn.Module, batches: Iterable[Tensor]) -> list[Tensor]:
    """Return the variance of each channel (C) of each map that the source's head reads, with a floor for dead ones."""
    sums: list[Tensor] = []
    count = 0
    for images in batches:
        variances = [maps.float().var((0, 2, 3), correction=0) for maps in head_inputs(source, images)]
        sums = [total + each for total, each in zip(sums, variances)] if sums else variances
        count += 1
    floors = [max(_FLOOR * float(total.mean()), torch.finfo(torch.float32).tiny ** 0.5) for total in sums]
    return [total.clamp(min=floor) / count for total, floor in zip(sums, floors)]


def _weights(head: nn.Module, maps: Sequence[Tensor]) -> list[Tensor]:
    """Return by how much each place of the maps counts, (B, h, w) or () where a head does not tell: 1 in the mean."""
    branches = getattr(head, "one2one_cv3" if getattr(head, "end2end", False) else "cv3", None)
    if not isinstance(branches, nn.ModuleList) or len(branches) != len(maps):
        return [each.new_ones(()) for each in maps]
    logits = [branch(each) for branch, each in zip(branches, maps)]
    if any(each.shape[1] != getattr(head, "nc", None) for each in logits):  # features to be compared with words
        return [each.new_ones(()) for each in maps]
    weights = []
    for each in logits:
        confidence = each.float().sigmoid().amax(1)
        mean = confidence.mean().clamp(min=_UNSURE)
        weights.append((confidence + _EVERYWHERE * mean) / ((1 + _EVERYWHERE) * mean))
    return weights
