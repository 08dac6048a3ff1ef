# SPDX-License-Identifier: AGPL-3.0-or-later
"""Other ways to sample at the same points, to measure against: by the definition, and with ready-made operators.

Within the map they agree; beyond it each has the border of its operator, as its docstring says. Each is a function like
`functional.resample`, slower or unable to do all that AKConv does, and used here only.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import grid_sample
from torchvision.ops import deform_conv2d

from ultralytics_akconv.functional import sampling_positions
from ultralytics_akconv.modules import AKConv
from ultralytics_akconv.shapes import Points

Resampler = Callable[[Tensor, Tensor, Points, int], Tensor]


def naive_samples(x: Tensor, offset: Tensor, points: Points, stride: int) -> Tensor:
    """Sample as the definition reads: four gathers with int64 indices expanded over the channels, border "paper"."""
    b, c, height, width = x.shape
    n, (h, w) = len(points), offset.shape[2:]
    row, col = sampling_positions(offset, points, stride).chunk(2, 1)  # (B, N, h, w) each
    corners = {"low": (row.detach().floor(), col.detach().floor())}
    corners["high"] = (corners["low"][0] + 1, corners["low"][1] + 1)
    row, col = row.clamp(0, height - 1), col.clamp(0, width - 1)
    pixels = x.flatten(2)  # (B, C, H*W)
    samples = 0
    for i in ("low", "high"):
        for j in ("low", "high"):
            r, k = corners[i][0].clamp(0, height - 1), corners[j][1].clamp(0, width - 1)
            weight = (1 + r - row if i == "low" else 1 - r + row) * (1 + k - col if j == "low" else 1 - k + col)
            index = (r * width + k).long().flatten(1)[:, None].expand(-1, c, -1)
            samples = samples + pixels.gather(2, index).view(b, c, n, h, w) * weight[:, None]
    return rearrange(samples, "b c n h w -> b c (h n) w")


def grid_samples(x: Tensor, offset: Tensor, points: Points, stride: int) -> Tensor:
    """Sample with `grid_sample`, border "clamp"; maps of height or width 1 are beyond it."""
    height, width = x.shape[2:]
    row, col = sampling_positions(offset, points, stride).chunk(2, 1)
    grid = torch.stack((col * (2 / (width - 1)) - 1, row * (2 / (height - 1)) - 1), dim=-1)  # (B, N, h, w, 2)
    grid = rearrange(grid, "b n h w two -> b (h n) w two")
    return grid_sample(x, grid.to(x.dtype), padding_mode="border", align_corners=True)


class Peer(nn.Module):
    """An AKConv layer whose samples another function computes; it shares the layer's weights."""

    def __init__(self, layer: AKConv, resampler: Resampler) -> None:
        super().__init__()
        self.layer, self.resampler = layer, resampler

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer: (B, C1, H, W) -> (B, C2, h, w)."""
        samples = self.resampler(x, self.layer.offsets(x), self.layer.points, self.layer.stride)
        return self.layer.conv(samples.to(x.dtype))  # positions in float32 have made them float32


class DeformPeer(nn.Module):
    """An AKConv layer as torchvision's `deform_conv2d` with an (N, 1) kernel, border "zeros"; shares its weights."""

    def __init__(self, layer: AKConv) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer: the operator's own kernel steps down the rows, its offsets take that back."""
        layer, n = self.layer, self.layer.num_param
        offset = layer.offsets(x)
        wanted = torch.tensor(layer.points, dtype=offset.dtype, device=offset.device)  # (N, 2)
        wanted[:, 0] -= torch.arange(n, device=offset.device)
        offset = rearrange(offset, "b (two n) h w -> b n two h w", two=2) + wanted[:, :, None, None]
        missing = (layer.stride * (offset.shape[3] - 1) + n - x.shape[2], 0)  # rows the kernel of N rows lacks below
        x = nn.functional.pad(x, (0, 0, 0, max(0, missing[0])))
        weight = layer.conv.conv.weight
        weight = weight.flatten().view(weight.shape)  # of a 1x1 kernel, torchvision 0.21 trains none in channels_last
        out = deform_conv2d(x, offset.flatten(1, 2), weight, layer.conv.conv.bias, stride=layer.stride)
        out = out[:, :, : offset.shape[3], : offset.shape[4]]
        return layer.conv.act(layer.conv.bn(out) if hasattr(layer.conv, "bn") else out)


def peers_of(layer: AKConv) -> dict[str, nn.Module]:
    """Return all peers of a layer by the name they have in the tables."""
    return {
        "definition": Peer(layer, naive_samples),
        "grid_sample": Peer(layer, grid_samples),
        "deform_conv2d": DeformPeer(layer),
    }
