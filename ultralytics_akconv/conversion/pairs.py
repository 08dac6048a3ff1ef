# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which Conv of a source model feeds which AKConv, and what one AKConv gets from its Conv without data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from ultralytics.nn.modules.conv import Conv

from ultralytics_akconv.conversion.closed_form import kernel_gram, place_points, project
from ultralytics_akconv.layers import akconvs
from ultralytics_akconv.modules import AKConv

# With the "paper" border a point that lands on the last pixel counts twice. So close before it, it reads the same pixel
# and counts once. A power of two, which float16 holds exactly next to any whole point of a shape.
_BEFORE_LAST = 2.0**-10


@dataclass(frozen=True)
class Pair:
    """An AKConv and the Conv that stands in its place in the source model."""

    name: str
    akconv: AKConv
    conv: Conv

    @property
    def gain(self) -> Tensor:
        """What the source layer multiplies each output channel by after its convolution (C2), from its BatchNorm."""
        bn = self.conv.bn
        return (bn.weight / (bn.running_var + bn.eps).sqrt()).detach().cpu().double()


@dataclass(frozen=True)
class Solution:
    """The data-free solution of a layer.

    Attributes:
        points: Places of the points (N, 2) in input pixels, in the order of the AKConv's own.
        weight: Weights of the points (C2, C1, N), float64.
    """

    points: Tensor
    weight: Tensor


def mismatch(akconv: AKConv, source: nn.Module | None) -> str | None:
    """Return why a module cannot give its weights to an AKConv, or None if it can."""
    if source is None:
        return "the source model has no such layer"
    if isinstance(source, AKConv):
        return "the source layer is an AKConv already"
    if not isinstance(source, Conv) or not isinstance(source.conv, nn.Conv2d):
        return f"the source layer is a {type(source).__name__}, not a Conv"
    if not hasattr(source, "bn"):
        return "the source model is fused: its BatchNorm is gone; take the checkpoint before fuse()"
    conv = source.conv
    plain = (conv.kernel_size, conv.padding, conv.dilation, conv.groups) == ((3, 3), (1, 1), (1, 1), 1)
    if not plain:
        return (
            f"the source layer has kernel {conv.kernel_size}, padding {conv.padding}, dilation {conv.dilation}, groups "
            f"{conv.groups}; only a plain 3x3 convolution with padding 1 can become an AKConv"
        )
    got = (conv.in_channels, conv.out_channels, *conv.stride)
    wanted = (akconv.in_channels, akconv.out_channels, akconv.stride, akconv.stride)
    if got != wanted:
        return f"the source layer has (in, out, stride, stride) {got}, the AKConv {wanted}"
    return None


def find_pairs(model: nn.Module, source: nn.Module) -> tuple[list[Pair], dict[str, str]]:
    """Return every AKConv with its Conv, front to back, and for the others the name and the reason."""
    modules = dict(source.named_modules())
    pairs, reasons = [], {}
    for name, akconv in akconvs(model).items():
        reason = mismatch(akconv, modules.get(name))
        if reason is None:
            pairs.append(Pair(name, akconv, modules[name]))
        else:
            reasons[name] = reason
    return pairs, reasons


def solve_without_data(pair: Pair) -> Solution:
    """Return where the points of a layer go and the weights they get, from the source's weights alone."""
    kernels = pair.conv.conv.weight.detach().cpu().double()  # in this order: Apple's GPU has no float64
    gram = kernel_gram(kernels, pair.gain)
    points = place_points(gram, pair.akconv.num_param)
    weight = project(kernels, points)
    if pair.akconv.border == "paper":
        points = torch.where(points == 1, 1 - _BEFORE_LAST, points)
    # Both in row-major order, so that no point is moved further than it must be.
    by_start = sorted(range(len(points)), key=pair.akconv.points.__getitem__)
    by_place = sorted(range(len(points)), key=points.tolist().__getitem__)
    order = [point for _, point in sorted(zip(by_start, by_place))]
    return Solution(points[order], weight[..., order])


def converted_state(pair: Pair, points: Tensor, weight: Tensor) -> dict[str, Tensor]:
    """Return the AKConv's state dict: the points in the offset bias, their weights, and the source's BatchNorm.

    Args:
        pair: The layer.
        points: Places of the points (N, 2) in input pixels, in the order of the AKConv's own.
        weight: Weights of the points (C2, C1, N).
    """
    device = pair.conv.conv.weight.device
    start = torch.tensor(pair.akconv.points, dtype=points.dtype, device=points.device)
    shift = (points - start).T.flatten()  # (2N): rows, then columns
    state = {
        "p_conv.weight": torch.zeros(pair.akconv.p_conv.weight.shape, device=device),
        "p_conv.bias": shift.float().to(device),  # a float16 source must not round what is computed anew
        "conv.conv.weight": weight[..., None].float().to(device),  # (C2, C1, N, 1)
    }
    state.update({f"conv.bn.{key}": value for key, value in pair.conv.bn.state_dict().items()})
    return state


def named_state(pair: Pair, solution: Solution) -> dict[str, Tensor]:
    """Return `converted_state` of a data-free solution, by the names that its tensors have in the model."""
    state = converted_state(pair, solution.points, solution.weight)
    return {f"{pair.name}.{key}": value for key, value in state.items()}


def placed(akconv: AKConv) -> tuple[tuple[float, float], ...]:
    """Return where an AKConv reads as far as it does not depend on the image, (row, col) from the pixel's anchor."""
    rows, cols = akconv.p_conv.bias.detach().cpu().view(2, -1).tolist()
    return tuple((row + y, col + x) for (row, col), y, x in zip(akconv.points, rows, cols))


def converted_tensors(model: nn.Module, source: nn.Module) -> tuple[dict[str, Tensor], list[Pair]]:
    """Return the data-free state of every AKConv of `model` that has a Conv in `source`, and these pairs."""
    pairs, _ = find_pairs(model, source)
    tensors = {}
    for pair in pairs:
        tensors.update(named_state(pair, solve_without_data(pair)))
    return tensors, pairs
