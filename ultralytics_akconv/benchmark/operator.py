# SPDX-License-Identifier: AGPL-3.0-or-later
"""One AKConv layer against a 3x3 Conv of the same channels and against the peers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from ultralytics.nn.modules.conv import Conv

from ultralytics_akconv.benchmark.measurements import Report, machine
from ultralytics_akconv.benchmark.peers import peers_of
from ultralytics_akconv.benchmark.timing import find_device, interleave, peak_memory
from ultralytics_akconv.modules import AKConv

LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}


class LayerSize(NamedTuple):
    """A stride-2 layer: input and output channels, and the side of its square input in pixels."""

    in_channels: int
    out_channels: int
    side: int


# The six convolutions AKConv replaces in YOLOv8n, on a 640 px image.
YOLOV8N_LAYERS = (
    LayerSize(16, 32, 320),
    LayerSize(32, 64, 160),
    LayerSize(64, 128, 80),
    LayerSize(128, 256, 40),
    LayerSize(64, 64, 80),
    LayerSize(128, 128, 40),
)


LAYER_PEERS = ("conv 3x3", "akconv", "definition", "grid_sample", "deform_conv2d")


class Setting(NamedTuple):
    """What all peers of a run have in common."""

    size: LayerSize
    num_param: int
    batch: int
    device: torch.device
    dtype: torch.dtype
    layout: str


def benchmark_layers(
    sizes: Sequence[LayerSize] = YOLOV8N_LAYERS,
    num_param: int | Sequence[int] = 5,
    batch: int = 1,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    layout: str = "channels_last",
    repeats: int = 30,
    memory: bool = False,
    peers: Sequence[str] = LAYER_PEERS,
) -> Report:
    """Time forward and forward + backward of single layers, and their peak memory if asked for.

    Offsets have a standard deviation of about 1 px, so samples leave the map as they do in a trained model.

    Args:
        sizes: The layers, of stride 2.
        num_param: Number of sampling points, or several to compare.
        batch: Images at a time.
        device: Where to run: cpu, cuda, cuda:1 or 1.
        dtype: Of input and weights.
        layout: "channels_last" or "contiguous", of input and weights.
        repeats: Counted rounds.
        memory: Measure the peak memory of a training step too, each in processes of its own.
        peers: What to measure, the first being what the others are compared with.

    Returns:
        A row for each layer and peer; ratios are to the first peer, the 3x3 Conv, in the same rounds.
    """
    where = find_device(device)
    rows = []
    for size in sizes:
        for n in [num_param] if isinstance(num_param, int) else num_param:
            setting = Setting(size, n, batch, where, dtype, layout)
            forward = interleave({name: inference(name, setting) for name in peers}, where, repeats)
            both = interleave({name: training(name, setting) for name in peers}, where, repeats)
            for name in peers:
                rows.append(
                    {
                        "layer": f"{size.in_channels}->{size.out_channels} {size.side}x{size.side}",
                        "N": n,
                        "peer": name,
                        "forward ms": forward[name].median,
                        "spread": f"{forward[name].low:.2f}-{forward[name].high:.2f}",
                        "x conv": forward[name].ratio,
                        "training ms": both[name].median,
                        "x conv, training": both[name].ratio,
                        "peak MB": peak_memory(where, training, name, setting) if memory else None,
                    }
                )
    settings = {"batch": batch, "device": device, "dtype": str(dtype)[6:], "layout": layout, "rounds": repeats}
    return Report("AKConv layer", settings, machine(where), rows)


def _peer(name: str, setting: Setting) -> tuple[nn.Module, Tensor]:
    """Return a layer by its name in the table, and an input for it."""
    torch.manual_seed(0)
    size, memory_format = setting.size, LAYOUTS[setting.layout]
    akconv = AKConv(size.in_channels, size.out_channels, setting.num_param, 2)
    nn.init.normal_(akconv.p_conv.weight, std=(9 * size.in_channels) ** -0.5)
    conv = Conv(size.in_channels, size.out_channels, 3, 2)
    module = {"conv 3x3": conv, "akconv": akconv, **peers_of(akconv)}[name]
    module = module.to(setting.device, setting.dtype, memory_format=memory_format)
    x = torch.randn(setting.batch, size.in_channels, size.side, size.side, dtype=setting.dtype, device=setting.device)
    return module, x.to(memory_format=memory_format)


def inference(name: str, setting: Setting) -> Callable[[], None]:
    """Return a forward pass without gradients."""
    module, x = _peer(name, setting)
    module.eval()

    def run() -> None:
        with torch.no_grad():
            module(x)

    return run


def training(name: str, setting: Setting) -> Callable[[], None]:
    """Return a forward and a backward pass, with a gradient for the input as inside a network."""
    module, x = _peer(name, setting)
    x.requires_grad_()

    def run() -> None:
        module.zero_grad(set_to_none=True)
        x.grad = None
        module(x).sum().backward()

    return run
