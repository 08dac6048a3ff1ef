# SPDX-License-Identifier: AGPL-3.0-or-later
"""The converted layers learn together from the source model, on images without labels.

Least squares solves each layer by itself; what five or three points cannot do, it leaves to the layers after it as an
error. Here all AKConv layers are moved at once so that the maps which the head reads come near to the source model's.
Nothing else moves: every other tensor stays bit-equal and all layers stay in eval mode. Of an AKConv the weights, the
BatchNorm's shift and the offsets learn, which may then depend on the image.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from ultralytics.utils import LOGGER, TQDM
from ultralytics.utils.torch_utils import autocast

from ultralytics_akconv.conversion.coordinates import Uncorrelated, input_moments
from ultralytics_akconv.conversion.distances import HeadDistance
from ultralytics_akconv.modules import AKConv

_CHECKS = 8  # how often a run looks at the held-out images


@dataclass(frozen=True)
class Recipe:
    """How the layers learn; the defaults come from the trials in docs/results/transfer/distillation.md."""

    weight_lr: float = 0.03  # by how much of its spread a layer's output moves in a step, times the error at the start
    offset_lr: float = 0.03  # by how many pixels a point moves in a step, times that error
    field_lr: float = 0.015  # by how many the part of it that depends on the image moves
    betas: tuple[float, float] = (0.9, 0.99)
    warmup: float = 0.1  # of the steps; then half a cosine down to zero


@dataclass(frozen=True)
class Learned:
    """What a distillation did. Errors are of the maps that the head reads, on the held-out images: `HeadDistance`."""

    steps: int
    step: int  # whose state is kept; 0: none was better than the start
    before: float
    after: float
    curve: tuple[tuple[int, float, float], ...]  # (step, training loss since the last, held-out error)


def _prepared(
    model: nn.Module, layers: Sequence[AKConv], batches: Iterable[Tensor], recipe: Recipe, error: float
) -> torch.optim.Optimizer:
    """Make the layers' weights learnable in uncorrelated coordinates, and nothing else; return the optimizer."""
    moments = input_moments(model, layers, batches)
    model.requires_grad_(False)
    groups = []
    for layer in layers:
        column, offset, bn = layer.conv.conv, layer.p_conv, layer.conv.bn
        # Adam moves each coordinate by its learning rate. So one is chosen for what comes out: shares of what the
        # BatchNorm takes for a channel's spread, and pixels.
        scales = (bn.running_var + bn.eps).sqrt(), torch.ones_like(offset.bias)
        rates = recipe.weight_lr * error, recipe.field_lr * error
        for conv, second, scale, rate in zip((column, offset), moments[layer], scales, rates):
            module = Uncorrelated(second, scale).to(conv.weight.device)
            parametrize.register_parametrization(conv, "weight", module)
            groups.append({"params": [conv.parametrizations.weight.original], "lr": rate * len(second) ** -0.5})
        groups.append({"params": [bn.bias], "lr": rates[0] * float(bn.weight.square().mean().sqrt())})
        groups.append({"params": [offset.bias], "lr": recipe.offset_lr * error})
    for group in groups:
        for parameter in group["params"]:
            parameter.requires_grad_(True)
    return torch.optim.Adam(groups, betas=recipe.betas)


def _learnt(layers: Sequence[AKConv]) -> list[dict[str, Tensor]]:
    """Return a copy of what the layers have learned, by the names of their state dicts."""
    return [
        {
            "p_conv.weight": layer.p_conv.weight.detach().clone(),
            "p_conv.bias": layer.p_conv.bias.detach().clone(),
            "conv.conv.weight": layer.conv.conv.weight.detach().clone(),
            "conv.bn.bias": layer.conv.bn.bias.detach().clone(),
        }
        for layer in layers
    ]


def distill(
    model: nn.Module,
    distance: HeadDistance,
    names: Sequence[str],
    batches: Iterable[Tensor],
    held_out: Sequence[Tensor],
    known: Iterable[Tensor],
    steps: int,
    device: torch.device,
    recipe: Recipe = Recipe(),
) -> Learned:
    """Let the AKConv layers of a converted model learn together from the source model.

    Args:
        model: The converted model in eval mode; its AKConv layers change, all at once and at the end.
        distance: What is made small: from the source model.
        names: The layers that learn.
        batches: Endless images (B, C, H, W) as the model takes them.
        held_out: Images that choose the state to keep.
        known: Images that tell how the layers' inputs are correlated; the more, the better.
        steps: Number of batches to learn from.
        device: Where to work: with mixed precision on a GPU.
        recipe: Learning rates and the like.

    Returns:
        What was reached.
    """
    layout = torch.channels_last
    distance = distance.to(device, layout)
    student = deepcopy(model).to(device).to(memory_format=layout)
    held_out = [images.to(device) for images in held_out]
    layers = [dict(student.named_modules())[name] for name in names]
    before = best = distance.error(student, held_out)
    optimizer = _prepared(student, layers, (images.to(device) for images in known), recipe, before)
    warmup = max(1.0, recipe.warmup * steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * step / steps))
    )
    amp = device.type == "cuda"
    scaler = gradient_scaler(amp)

    kept, kept_step, curve, losses = None, 0, [], []
    checks = {math.ceil(steps * (i + 1) / _CHECKS) for i in range(_CHECKS)}
    feed = iter(batches)
    with TQDM(range(1, steps + 1), desc="AKConv: learning from the source") as bar:
        for step in bar:
            images = next(feed).to(device, non_blocking=True).contiguous(memory_format=layout)
            with autocast(amp, device.type):
                loss = distance(student, images)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            schedule.step()
            losses.append(loss.detach())
            bar.set_description(f"AKConv: learning from the source, loss {float(losses[-1]):.4f}")
            if step in checks:
                error = distance.error(student, held_out)
                curve.append((step, float(torch.stack(losses).mean()), error))
                losses.clear()
                if error < best:
                    best, kept, kept_step = error, _learnt(layers), step
    if kept is None:
        LOGGER.warning(f"AKConv: {steps} steps made no state better than the fitted one, which is kept")
    else:
        modules = dict(model.named_modules())
        for name, state in zip(names, kept):
            modules[name].load_state_dict(state, strict=False)
    return Learned(steps, kept_step, before, best, tuple(curve))


def gradient_scaler(enabled: bool) -> torch.amp.GradScaler:
    """Return what scales gradients on a GPU, of whose class the name has changed with torch 2.3; else does nothing."""
    return (torch.amp if hasattr(torch.amp, "GradScaler") else torch.cuda.amp).GradScaler(enabled=enabled)
