# SPDX-License-Identifier: AGPL-3.0-or-later
"""The converted layers learn together from the source model, on images without labels.

Least squares solves each layer by itself; what five or three points cannot do, it leaves to the layers after it as an
error. Here all AKConv layers are moved at once so that the maps which the head reads come near to the source model's.
Nothing else moves: every other tensor stays bit-equal and all layers stay in eval mode.

The weights of a layer are learned in coordinates in which its inputs are uncorrelated: neighbouring taps of a smooth
map read nearly the same, and Adam, which scales each coordinate by itself, is slow along such directions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.utils import parametrize
from ultralytics.utils import LOGGER, TQDM
from ultralytics.utils.torch_utils import autocast

from ultralytics_akconv.functional import resample
from ultralytics_akconv.modules import AKConv

_CHECKS = 8  # how often a run looks at the held-out images
_FLOOR = 1e-3  # least variance of a channel or an input, relative to the layer's mean


@dataclass(frozen=True)
class Recipe:
    """How the layers learn; the defaults are the ones that were measured to be best, see docs/transfer.md."""

    weight_lr: float = 0.05  # by how much of its spread a layer's output moves in a step, times the error at the start
    offset_lr: float = 0.05  # by how many pixels a tap moves in a step, times that error
    field_lr: float = 0.0  # by how many its movement with the image changes
    betas: tuple[float, float] = (0.9, 0.99)
    warmup: float = 0.1  # of the steps; then half a cosine down to zero


@dataclass(frozen=True)
class Learned:
    """What a distillation did. Errors are of the maps that the head reads, on the held-out images, see `head_error`."""

    steps: int
    step: int  # whose state is kept; 0: none was better than the start
    before: float
    after: float
    curve: tuple[tuple[int, float, float], ...]  # (step, training loss since the last, held-out error)


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


def _distance(wanted: Sequence[Tensor], got: Sequence[Tensor], variances: Sequence[Tensor]) -> Tensor:
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
        total += len(images) * float(_distance(head_inputs(source, images), head_inputs(model, images), variances))
        count += len(images)
    return (total / count) ** 0.5


class _Uncorrelated(nn.Module):
    """Parametrization of a convolution's weight by coordinates whose inputs are uncorrelated and of variance one.

    Args:
        moments: Second moments (D, D) of the inputs under the kernel, D = C1 * kernel area.
        scale: By how much each output channel is larger than its coordinates (C2).
    """

    def __init__(self, moments: Tensor, scale: Tensor) -> None:
        super().__init__()
        moments = moments.double().cpu()
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


class _Moments:
    """Second moments of the inputs under a kernel, (rows, C1, taps) a batch.

    They are not about the means: the output's mean would else move by any amount where an input hardly varies.
    """

    def __init__(self) -> None:
        self.count, self.sums, self.mean = 0, torch.zeros(()), torch.zeros(())

    def add(self, inputs: Tensor) -> None:
        """Add a batch of inputs."""
        self.taps = inputs.shape[2]
        rows = inputs.flatten(1)
        self.sums = self.sums.to(rows.device) + rows.T @ rows
        self.mean = self.mean.to(rows.device) + rows.sum(0)
        self.count += len(rows)

    def estimate(self) -> Tensor:
        """Return the moments (D, D), the covariance in them drawn towards a simpler one by a row an input.

        Few images of deep, small maps have fewer rows than inputs: in the directions that they did not show, any step
        would be far too large. The simpler one has uncorrelated channels, and in each the same correlation of the taps.
        """
        mean = self.mean.double().cpu() / self.count
        offset = torch.outer(mean, mean)
        cov = self.sums.double().cpu() / self.count - offset
        channels = len(cov) // self.taps
        blocks = cov.view(channels, self.taps, channels, self.taps).diagonal(dim1=0, dim2=2)  # (taps, taps, C1)
        power = blocks.diagonal().mean(1)  # (C1)
        power = power.clamp(min=max(_FLOOR * float(power.mean()), torch.finfo(torch.float32).tiny))
        simple = torch.kron(torch.diag(power), (blocks / power).mean(2))
        share = self.count / (self.count + len(cov))
        return offset + share * cov + (1 - share) * simple


@torch.no_grad()
def _input_moments(
    model: nn.Module, layers: Sequence[AKConv], batches: Iterable[Tensor]
) -> dict[AKConv, tuple[Tensor, Tensor]]:
    """Return for each layer the second moments of its samples and of what its offset branch reads."""
    moments = {layer: (_Moments(), _Moments()) for layer in layers}

    def add(layer: AKConv, args: tuple, output: Tensor) -> None:
        x, (samples, patches) = args[0], moments[layer]
        taps = resample(x, layer.offsets(x), layer.points, layer.stride, layer.border)  # (B, C1, h*N, w)
        samples.add(rearrange(taps, "b c (h n) w -> (b h w) c n", n=layer.num_param))
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


def _prepared(
    model: nn.Module, layers: Sequence[AKConv], batches: Sequence[Tensor], recipe: Recipe, error: float
) -> torch.optim.Optimizer:
    """Make the layers' weights learnable in uncorrelated coordinates, and nothing else; return the optimizer."""
    moments = _input_moments(model, layers, batches)
    model.requires_grad_(False)
    groups = []
    for layer in layers:
        column, offset, bn = layer.conv.conv, layer.p_conv, layer.conv.bn
        # Adam moves each coordinate by its learning rate. So one is chosen for what comes out: shares of what the
        # BatchNorm takes for a channel's spread, and pixels.
        scales = (bn.running_var + bn.eps).sqrt(), torch.ones_like(offset.bias)
        rates = recipe.weight_lr * error, recipe.field_lr * error
        for conv, second, scale, rate in zip((column, offset), moments[layer], scales, rates):
            module = _Uncorrelated(second, scale).to(conv.weight.device)
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
    source: nn.Module,
    names: Sequence[str],
    batches: Iterable[Tensor],
    held_out: Sequence[Tensor],
    steps: int,
    device: torch.device,
    recipe: Recipe = Recipe(),
) -> Learned:
    """Let the AKConv layers of a converted model learn together from the source model.

    Args:
        model: The converted model in eval mode; its AKConv layers change, all at once and at the end.
        source: The source model in eval mode.
        names: The layers that learn.
        batches: Endless images (B, C, H, W) as the model takes them.
        held_out: Images that choose the state to keep.
        steps: Number of batches to learn from.
        device: Where to work: with mixed precision on a GPU.
        recipe: Learning rates and the like.

    Returns:
        What was reached.
    """
    layout = torch.channels_last
    teacher, student = (deepcopy(each).to(device).to(memory_format=layout) for each in (source, model))
    teacher.requires_grad_(False)
    held_out = [images.to(device) for images in held_out]
    layers = [dict(student.named_modules())[name] for name in names]
    variances = map_variances(teacher, held_out)
    before = best = head_error(teacher, student, held_out, variances)
    optimizer = _prepared(student, layers, held_out, recipe, before)
    warmup = max(1.0, recipe.warmup * steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * step / steps))
    )
    amp = device.type == "cuda"
    scaler = (torch.amp if hasattr(torch.amp, "GradScaler") else torch.cuda.amp).GradScaler(enabled=amp)

    kept, kept_step, curve, losses = None, 0, [], []
    checks = {math.ceil(steps * (i + 1) / _CHECKS) for i in range(_CHECKS)}
    feed = iter(batches)
    with TQDM(range(1, steps + 1), desc="AKConv: learning from the source") as bar:
        for step in bar:
            images = next(feed).to(device, non_blocking=True).contiguous(memory_format=layout)
            with autocast(amp, device.type):
                with torch.no_grad():
                    wanted = head_inputs(teacher, images)
                loss = _distance(wanted, head_inputs(student, images), variances)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            schedule.step()
            losses.append(loss.detach())
            bar.set_description(f"AKConv: learning from the source, loss {float(losses[-1]):.4f}")
            if step in checks:
                error = head_error(teacher, student, held_out, variances)
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
