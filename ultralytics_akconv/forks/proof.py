# SPDX-License-Identifier: AGPL-3.0-or-later
"""Proof of an import: every layer with weights is computed a second time, from the record, by its definition.

The rebuilt model runs in float64 on a pattern or an image. What enters each convolution, BatchNorm, linear layer and
AKConv of it is also given to the definition of that layer with the record's own tensors and settings, and what comes
out is compared. So a wrong or misplaced tensor, stride, shape, border or epsilon shows. The code here shares nothing
with the operator of this package. What runs between the layers is the host's own, of the same class names, and is not
proved: the file does not hold the fork's code.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ultralytics_akconv.forks.recognition import found, initial_points, parts
from ultralytics_akconv.forks.records import CheckpointError, Record, TensorRecord, named_modules
from ultralytics_akconv.host import input_channels
from ultralytics_akconv.modules import AKConv
from ultralytics_akconv.shapes import sampling_points

_TOLERANCE = 1e-9  # of the largest number of a layer's output; float64 has 1e-16
_SIDE = 640


class Proof(NamedTuple):
    """What was compared.

    Attributes:
        layers: How many layers were computed twice, by their kinds.
        parameters: How many of the model's parameters they hold, as a fraction.
        error: The largest difference, relative to the largest number of the layer's output.
        tensors: How many tensors are bit-equal to the file's: all.
        on: What the model ran on.
    """

    layers: dict[str, int]
    parameters: float
    error: float
    tensors: int
    on: str

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.layers.items())
        return (
            f"checked: {self.tensors} tensors bit-equal; {kinds} ({100 * self.parameters:.1f} % of the parameters) "
            f"computed again from the file on {self.on}, largest difference {self.error:.1e}"
        )


def prove(model: nn.Module, record: Record, tensors: int, image: str | Path | None = None) -> Proof:
    """Compute every layer of a rebuilt model twice and return how far they are apart.

    Args:
        model: The rebuilt model; it is left as it is.
        record: The record it was rebuilt from.
        tensors: How many tensors of both have been found bit-equal.
        image: An image to run on, None for a fixed pattern.

    Raises:
        CheckpointError: If a layer computes something else, or something that is no number.
        FileNotFoundError: If there is no such image.
        ValueError: If it cannot be read, or does not fit the model.
    """
    channels = input_channels(model)
    x = _pattern(channels) if image is None else _image(image, channels)
    running = copy.deepcopy(model).double().eval()
    records = dict(named_modules(record))
    errors: dict[str, float] = {}

    def compare(name: str) -> Callable:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if not all(tensor.isfinite().all() for tensor in (inputs[0], output)):
                raise CheckpointError(f"{name} computes what is not finite: nothing is written")
            wanted = _definition(records[name], module)(inputs[0])
            scale = max(wanted.abs().max().item(), 1e-30)
            errors[name] = max((output - wanted).abs().max().item() / scale, errors.get(name, 0.0))

        return hook

    inside = [name for name, module in running.named_modules() if isinstance(module, AKConv)]
    for name, module in running.named_modules():
        below = any(name.startswith(f"{prefix}.") for prefix in inside)
        if isinstance(module, AKConv) or (type(module) in _DEFINITIONS and not below):
            module.register_forward_hook(compare(name))
    try:
        with torch.no_grad():
            running(x)
    except CheckpointError:
        raise
    except Exception as error:  # rows of a stranger, whose layers fit each other in channels and not in size
        raise CheckpointError(f"its model cannot be computed: {error!r:.300}") from error
    for name, error in errors.items():
        if error > _TOLERANCE:
            raise CheckpointError(f"{name} computes something else than its record, by {error:.1e}: nothing is written")
    modules = [running.get_submodule(name) for name in errors]
    kinds = Counter(type(module).__name__ for module in modules)
    held = {id(parameter): parameter.numel() for module in modules for parameter in module.parameters()}
    share = sum(held.values()) / sum(parameter.numel() for parameter in running.parameters())
    return Proof(dict(kinds.most_common()), share, max(errors.values()), tensors, str(image or "a fixed pattern"))


def _pattern(channels: int) -> Tensor:
    """Return a smooth picture of waves, no two rows, columns or channels alike, of 256 x 192 pixels."""
    rows, columns = torch.arange(256.0)[:, None], torch.arange(192.0)
    waves = [torch.sin(rows / (5 + c) + columns / (11 - c % 7) + c) for c in range(channels)]
    return (0.5 + 0.5 * torch.stack(waves)[None]).double()


def _image(file: str | Path, channels: int) -> Tensor:
    """Return an image as the host gives it to a model, its sides multiples of 32 pixels and at most 640."""
    import cv2  # with the host's own; slow to import

    if not Path(file).is_file():
        raise FileNotFoundError(f"'{file}' does not exist")
    picture = cv2.imread(str(file))
    if picture is None:
        raise ValueError(f"'{file}' is no image")
    if channels != 3:
        raise ValueError(f"the model reads {channels} channels, '{file}' has 3")
    scale = min(1.0, _SIDE / max(picture.shape[:2]))
    height, width = (max(64, round(side * scale / 32) * 32) for side in picture.shape[:2])
    picture = cv2.resize(picture, (width, height))[..., ::-1].copy()
    return torch.from_numpy(picture).permute(2, 0, 1)[None].double() / 255


def _double(record: Record, name: str) -> Tensor | None:
    """Return a tensor of a record in float64, None if it has none."""
    tensor = record.get(name)
    return tensor.read().double() if isinstance(tensor, TensorRecord) else None


def _setting(record: Record, name: str, default: Any) -> Any:
    """Return a setting of a layer as the file has it."""
    value = record.state.get(name, default)
    return default if value is None else value


def _definition(record: Record, module: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return what a record computes."""
    return _akconv(record) if isinstance(module, AKConv) else _DEFINITIONS[type(module)](record)


def _convolution(record: Record) -> Callable[[Tensor], Tensor]:
    weight, bias = _double(record, "weight"), _double(record, "bias")
    settings = [_setting(record, *pair) for pair in (("stride", 1), ("padding", 0), ("dilation", 1), ("groups", 1))]
    return lambda x: F.conv2d(x, weight, bias, *settings)


def _transposed(record: Record) -> Callable[[Tensor], Tensor]:
    weight, bias = _double(record, "weight"), _double(record, "bias")
    pairs = (("stride", 1), ("padding", 0), ("output_padding", 0), ("groups", 1), ("dilation", 1))
    settings = [_setting(record, *pair) for pair in pairs]
    return lambda x: F.conv_transpose2d(x, weight, bias, *settings)


def _batch_norm(record: Record) -> Callable[[Tensor], Tensor]:
    mean, variance = _double(record, "running_mean"), _double(record, "running_var")
    weight, bias = _double(record, "weight"), _double(record, "bias")
    eps = _setting(record, "eps", 1e-5)

    def normalised(x: Tensor) -> Tensor:
        shape = (1, -1, 1, 1)
        return (x - mean.view(shape)) / (variance.view(shape) + eps).sqrt() * weight.view(shape) + bias.view(shape)

    return normalised


def _linear(record: Record) -> Callable[[Tensor], Tensor]:
    weight, bias = _double(record, "weight"), _double(record, "bias")
    return lambda x: x @ weight.T + (0 if bias is None else bias)


def _layer_norm(record: Record) -> Callable[[Tensor], Tensor]:
    weight, bias = _double(record, "weight"), _double(record, "bias")
    return lambda x: F.layer_norm(x, weight.shape, weight, bias, _setting(record, "eps", 1e-5))


_DEFINITIONS: dict[type[nn.Module], Callable[[Record], Callable[[Tensor], Tensor]]] = {
    nn.Conv2d: _convolution,
    nn.ConvTranspose2d: _transposed,
    nn.BatchNorm2d: _batch_norm,
    nn.Linear: _linear,
    nn.LayerNorm: _layer_norm,
}


def _akconv(record: Record) -> Callable[[Tensor], Tensor]:
    """Return the operator as the paper defines it, a sampling point at a time; a border pixel counts twice an axis."""
    offset, column, norm = parts(record)
    what = found(record)
    points = initial_points(record.get("p_n"), what.num_param) or sampling_points(what.num_param, "default")
    kernel, bias = _double(column, "weight"), _double(column, "bias")
    normalise, act = _batch_norm(norm), getattr(nn, what.act)()
    offsets = _convolution(offset)

    def computed(x: Tensor) -> Tensor:
        shift = offsets(x)
        height, width = shift.shape[2:]
        rows = torch.arange(height).double()[:, None] * what.stride
        columns = torch.arange(width).double() * what.stride
        total = torch.zeros(())
        for n, (row, column) in enumerate(points):
            down = _corners(rows + row + shift[:, n], x.shape[2])
            across = _corners(columns + column + shift[:, what.num_param + n], x.shape[3])
            sample = sum(u * v * _at(x, i, j) for i, u in down for j, v in across)  # (B, C1, h, w)
            total = total + torch.einsum("bchw,oc->bohw", sample, kernel[:, :, n, 0])
        return act(normalise(total if bias is None else total + bias[:, None, None]))

    return computed


def _corners(position: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    """Return the two pixels of an axis that a position (B, h, w) lies between, each with its weight (B, 1, h, w)."""
    low = position.floor().clamp(0, size - 1)
    high = (position.floor() + 1).clamp(0, size - 1)
    inside = position.clamp(0, size - 1)
    return [(low.long(), (1 + low - inside)[:, None]), (high.long(), (1 - high + inside)[:, None])]


def _at(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return the pixels (B, C, h, w) of a map at rows and columns (B, h, w)."""
    index = (rows * x.shape[3] + columns).flatten(1)[:, None].expand(-1, x.shape[1], -1)
    return x.flatten(2).gather(2, index).view(*x.shape[:2], *rows.shape[1:])
