# SPDX-License-Identifier: AGPL-3.0-or-later
"""Export formats: whether an AKConv model works in each, how far its numbers are off, and what it costs there."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from ultralytics.engine.exporter import Exporter
from ultralytics.nn.autobackend import AutoBackend
from ultralytics.utils import DEFAULT_CFG_DICT

from ultralytics_akconv.benchmark.measurements import Report, machine
from ultralytics_akconv.benchmark.timing import find_device, interleave
from ultralytics_akconv.host import built_like, input_channels
from ultralytics_akconv.info import plain_model
from ultralytics_akconv.modules import AKConv
from ultralytics_akconv.opening import host_model

FORMATS = ("torchscript", "onnx", "onnx:19", "openvino", "ncnn", "mnn")
_IMAGES = 3  # compared in each format, none of which was traced


def benchmark_exports(
    formats: Sequence[str] = FORMATS,
    model: str = "yolov8n-akconv.yaml",
    imgsz: int = 320,
    repeats: int = 30,
    device: str = "cpu",
    half: bool = False,
) -> Report:
    """Export an AKConv model and its plain model, compare their outputs with PyTorch's and time them side by side.

    Both run in the host's own runtime of the format, at its default precision. A model without trained weights gets
    offsets and statistics as training would leave them, so that samples leave the map and differences show.

    Args:
        formats: The host's names, an ONNX opset after a colon where one is wanted: "onnx:19".
        model: Model YAML or checkpoint with AKConv.
        imgsz: Image side in pixels.
        repeats: Counted rounds.
        device: Where to export, and to run where the host has a runtime for it: cpu, cuda, cuda:1 or 1.
        half: Export in half precision.

    Returns:
        A row a format: the largest difference of AKConv's and of the plain model's outputs, relative to what the boxes
        and the scores span, the times, and the ratio; or why the export failed.
    """
    where = find_device(device)
    torch.manual_seed(0)
    network = host_model(model, exported=False).model
    plain = built_like(network, plain_model(network.yaml))
    plain.args, plain.task = network.args, network.task  # what the exporter reads
    networks = {"plain": plain, "akconv": network}
    trained = any(layer.p_conv.weight.any() for layer in network.modules() if isinstance(layer, AKConv))
    for peer in (plain,) if trained else (plain, network):
        settle(peer, imgsz)
    images = torch.rand(_IMAGES, input_channels(network), imgsz, imgsz)
    rows = [_row(name, networks, images, repeats, where, half) for name in formats]
    settings = {"model": model, "imgsz": imgsz, "device": device, "half": half, "rounds": repeats}
    return Report("AKConv exports", settings, machine(where), rows)


def settle(network: nn.Module, imgsz: int) -> None:
    """Give offsets to layers that never learned any, and batch norms the statistics of what flows through them."""
    for layer in network.modules():
        if isinstance(layer, AKConv):
            nn.init.normal_(layer.p_conv.weight, std=0.05)
            nn.init.normal_(layer.p_conv.bias)
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    momentum = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = None  # cumulative
        norm.reset_running_stats()
    network.train()
    with torch.no_grad():
        for _ in range(_IMAGES):
            network(torch.rand(2, input_channels(network), imgsz, imgsz))
    for norm, before in zip(norms, momentum):
        norm.momentum = before
    network.eval()


def _row(
    name: str, networks: dict[str, nn.Module], images: Tensor, repeats: int, device: torch.device, half: bool
) -> dict[str, object]:
    """Measure one format."""
    format_, _, opset = name.partition(":")
    row = {"format": name, "works": "yes", "difference": None, "plain difference": None, "plain ms": None}
    row.update({"akconv ms": None, "x plain": None, "runs on": None})
    with _folder() as folder:
        try:
            loaded = {
                kind: _exported(net, Path(folder, kind), format_, opset, images, device, half)
                for kind, net in networks.items()
            }
        except Exception as error:  # whatever a converter raises is what the table tells
            return {**row, "works": f"no: {type(error).__name__}: {error}".splitlines()[0]}
        row["plain difference"] = f"{_difference(loaded['plain'], networks['plain'], images):.0e}"
        row["difference"] = f"{_difference(loaded['akconv'], networks['akconv'], images):.0e}"
        row["runs on"] = _place(loaded["akconv"])
        peers = {kind: (lambda run=run: run(images[:1].to(run.device))) for kind, run in loaded.items()}
        times = interleave(peers, device, repeats)
    row.update({f"{kind} ms": timing.median for kind, timing in times.items()})
    return {**row, "x plain": times["akconv"].ratio}


@contextlib.contextmanager
def _folder() -> Iterator[str]:
    """Make a folder for the time of a measurement; Windows keeps a file that a runtime has not let go of."""
    folder = tempfile.mkdtemp()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _exported(
    network: nn.Module,
    folder: Path,
    format_: str,
    opset: str,
    images: Tensor,
    device: torch.device,
    half: bool,
) -> AutoBackend:
    """Export a model with the host's exporter and load it in the host's runtime of the format."""
    folder.mkdir()
    where = "cpu" if device.type == "cpu" else str(device.index)  # as the host takes it
    settings = {"format": format_, "imgsz": images.shape[-1], "batch": 1, "device": where}  # the default batch is 16
    settings["opset"] = int(opset) if opset else None
    if half:
        settings.update({"quantize": 16} if "quantize" in DEFAULT_CFG_DICT else {"half": True})
    network.pt_path = str(folder / "model.pt")  # the host writes beside it
    return AutoBackend(Exporter(overrides=settings)(model=network), device, fp16=half)


def _place(loaded: AutoBackend) -> str:
    """Return where a loaded model runs: ONNX Runtime may have no provider for the device that was asked for."""
    session = getattr(loaded, "session", None) or getattr(getattr(loaded, "backend", None), "session", None)
    return session.get_providers()[0] if hasattr(session, "get_providers") else str(loaded.device)


def _difference(loaded: AutoBackend, network: nn.Module, images: Tensor) -> float:
    """Return the largest difference from PyTorch, relative to what the boxes and what the scores span."""
    worst = 0.0
    for image in images.split(1):
        with torch.no_grad():
            expected = network.eval()(image)[0]
        out = loaded(image.to(loaded.device))
        out = torch.as_tensor(out[0] if isinstance(out, (list, tuple)) else out).to("cpu", torch.float32)
        for part in (slice(0, 4), slice(4, None)):
            span = expected[:, part].max() - expected[:, part].min()
            worst = max(worst, float((out[:, part] - expected[:, part]).abs().max() / span))
    return worst
