# SPDX-License-Identifier: AGPL-3.0-or-later
"""How far a converted model is from its source: in the maps that the head reads, whatever the task is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

_FLOOR = 1e-3  # least variance of a channel, relative to the mean of its map's


class _HeadReachedError(Exception):
    """Ends a forward pass where the head begins."""


def head_inputs(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Return the maps (B, C, h, w) that a model's last layer, its head, reads; the head itself is not run."""
    seen: list[Tensor] = []

    def stop(module: nn.Module, args: tuple) -> None:
        maps = args[0]
        seen.extend(maps if isinstance(maps, (list, tuple)) else [maps])
        raise _HeadReachedError

    handle = model.model[-1].register_forward_pre_hook(stop)
    try:
        model(images)
    except _HeadReachedError:
        pass
    finally:
        handle.remove()
    return seen


@torch.no_grad()
def map_variances(source: nn.Module, batches: Iterable[Tensor]) -> list[Tensor]:
    """Return the variance of each channel (C) of each map that the source's head reads, with a floor for dead ones."""
    sums: list[Tensor] = []
    count = 0
    for images in batches:
        variances = [maps.float().var((0, 2, 3), correction=0) for maps in head_inputs(source, images)]
        sums = [total + each for total, each in zip(sums, variances)] if sums else variances
        count += 1
    floors = [max(_FLOOR * float(total.mean()), torch.finfo(torch.float32).tiny ** 0.5) for total in sums]
    return [total.clamp(min=floor) / count for total, floor in zip(sums, floors)]


def map_distance(wanted: Sequence[Tensor], got: Sequence[Tensor], variances: Sequence[Tensor]) -> Tensor:
    """Return the mean square difference of maps, each channel over its variance."""
    parts = [
        ((b.float() - a.float()).square().mean((0, 2, 3)) / variance).mean()
        for a, b, variance in zip(wanted, got, variances)
    ]
    return torch.stack(parts).mean()


@torch.no_grad()
def head_error(source: nn.Module, model: nn.Module, batches: Sequence[Tensor], variances: Sequence[Tensor]) -> float:
    """Return the relative error of the maps that the head reads: root mean square, each channel over its spread."""
    total, count = 0.0, 0
    for images in batches:
        total += len(images) * float(map_distance(head_inputs(source, images), head_inputs(model, images), variances))
        count += len(images)
    return (total / count) ** 0.5
