# SPDX-License-Identifier: AGPL-3.0-or-later
"""Whole models: the AKConv model against the same model with ordinary convolutions, and with AKConv done naively."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ultralytics_akconv.benchmark.measurements import Report, machine
from ultralytics_akconv.benchmark.operator import LAYOUTS
from ultralytics_akconv.benchmark.peers import Peer, grid_samples, naive_samples
from ultralytics_akconv.benchmark.timing import find_device, interleave, peak_memory
from ultralytics_akconv.host import built_like, input_channels
from ultralytics_akconv.info import plain_model
from ultralytics_akconv.layers import akconvs
from ultralytics_akconv.modules import AKConv
from ultralytics_akconv.opening import host_model

PEERS = ("conv 3x3", "akconv", "definition", "grid_sample")


def benchmark_models(
    model: str = "yolov8n-akconv.yaml",
    imgsz: int = 640,
    batch: int = 4,
    device: str = "cpu",
    layout: str = "channels_last",
    repeats: int = 15,
    compile: bool = False,
    memory: bool = True,
) -> Report:
    """Time inference (fused, one image) and a training step, and measure the training step's peak memory.

    Args:
        model: Model YAML or checkpoint with AKConv.
        imgsz: Image side in pixels.
        batch: Images of a training step.
        device: Where to run: cpu, cuda, cuda:1 or 1.
        layout: "channels_last" or "contiguous".
        repeats: Counted rounds.
        compile: Time inference under `torch.compile` too, where the peer allows it.
        memory: Measure peak memory, each peer in processes of its own.

    Returns:
        A row a peer; ratios are to the model with 3x3 convolutions in the same rounds.
    """
    where = find_device(device)
    common = (model, imgsz, where, layout)
    compiled = {}
    inference = interleave({name: _inference(name, *common) for name in PEERS}, where, repeats)
    training = interleave({name: _training(name, batch, *common) for name in PEERS}, where, repeats)
    if compile:
        both = {name: _inference(name, *common, compile=True) for name in ("conv 3x3", "akconv")}
        compiled = interleave(both, where, repeats)
    first = peak_memory(where, _training, PEERS[0], batch, *common) if memory else None
    rows = []
    for name in PEERS:
        peak = first if name == PEERS[0] or not memory else peak_memory(where, _training, name, batch, *common)
        row = {
            "model": name,
            "inference ms": inference[name].median,
            "spread": f"{inference[name].low:.1f}-{inference[name].high:.1f}",
            "x conv": inference[name].ratio,
            "training ms": training[name].median,
            "x conv, training": training[name].ratio,
            "peak MB": peak,
            "x conv, peak": peak / first if first else None,  # 0: a step fits into what a CPU's process has free
        }
        if compile:
            row["compiled ms"] = compiled[name].median if name in compiled else None
            row["x conv, compiled"] = compiled[name].ratio if name in compiled else None
        rows.append(row)
    settings = {"model": model, "imgsz": imgsz, "batch": batch, "device": device, "layout": layout, "rounds": repeats}
    return Report("AKConv model", settings, machine(where), rows)


def _network(name: str, model: str, device: torch.device, layout: str) -> nn.Module:
    """Return the model of one peer, its offsets with a standard deviation of about 1 px."""
    torch.manual_seed(0)
    first = host_model(model, exported=False).model
    # A second one for every peer: the first, dropped, leaves free memory that a step takes up without a higher peak.
    plain = name == "conv 3x3"
    network = built_like(first, plain_model(first.yaml)) if plain else copy.deepcopy(first)
    for layer in akconvs(network).values():
        nn.init.normal_(layer.p_conv.weight, std=0.02)
        nn.init.normal_(layer.p_conv.bias)
    if name in ("definition", "grid_sample"):
        replace_layers(network, {"definition": naive_samples, "grid_sample": grid_samples}[name])
    return network.to(device, memory_format=LAYOUTS[layout])


def replace_layers(network: nn.Module, resampler: Callable) -> None:
    """Put a peer in the place of every AKConv; the attributes the host's loop reads go with it."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, AKConv):
                peer = Peer(child, resampler)
                peer.i, peer.f, peer.type = (getattr(child, key, None) for key in ("i", "f", "type"))
                setattr(module, name, peer)


def _images(network: nn.Module, batch: int, imgsz: int, device: torch.device, layout: str) -> Tensor:
    """Return random images (B, C, H, W) as a network takes them."""
    images = torch.rand(batch, input_channels(network), imgsz, imgsz, device=device)
    return images.to(memory_format=LAYOUTS[layout])


def _inference(
    name: str, model: str, imgsz: int, device: torch.device, layout: str, compile: bool = False
) -> Callable[[], None]:
    """Return a forward pass of one image through the fused model."""
    network = _network(name, model, device, "contiguous").eval().fuse(verbose=False)
    network = network.to(memory_format=LAYOUTS[layout])  # only now: most releases cannot fuse channels_last weights
    x = _images(network, 1, imgsz, device, layout)
    forward = torch.compile(network) if compile else network

    def run() -> None:
        with torch.no_grad():
            forward(x)

    return run


def _training(name: str, batch: int, model: str, imgsz: int, device: torch.device, layout: str) -> Callable[[], None]:
    """Return a forward and backward pass; the loss is the mean square of the raw outputs."""
    network = _network(name, model, device, layout).train()
    x = _images(network, batch, imgsz, device, layout)

    def run() -> None:
        network.zero_grad(set_to_none=True)
        outputs = network(x)
        outputs = outputs.values() if isinstance(outputs, dict) else outputs
        sum(out.float().square().mean() for out in outputs if isinstance(out, Tensor)).backward()

    return run
