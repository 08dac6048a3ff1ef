# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is looked at while time is left: the compiler, AutoBatch, moves between devices, exports made on the card."""

from __future__ import annotations

import copy
import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from ultralytics.utils import DEFAULT_CFG_DICT
from ultralytics.utils.autobatch import autobatch

from ultralytics_akconv.benchmark.exports import benchmark_exports
from ultralytics_akconv.gpu.clock import milliseconds
from ultralytics_akconv.gpu.facts import Run
from ultralytics_akconv.gpu.models import AKCONV, PLAIN, settled
from ultralytics_akconv.gpu.trainings import trained, yolo_train
from ultralytics_akconv.modules import AKConv


@contextmanager
def _whole_float32() -> Iterator[None]:
    """Let cuDNN compute float32 in all its bits; PyTorch leaves it 10, which a model without training multiplies."""
    before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def compiled(run: Run) -> None:
    """Tell whether compiled layers and models give what they gave, in what time, and train by the host compiled.

    A tiny run traces one layer and compiles no code: on a CPU that takes minutes.
    """
    run.part("compiled layer", lambda: _compiled(run, "layer"), 10)
    for model in () if run.tiny else (AKCONV, PLAIN):
        run.part("compiled model", lambda model=model: _compiled(run, model), 30, model=model)
    if "compile" not in DEFAULT_CFG_DICT:
        run.say(what="yolo train compile=True", left_out="this Ultralytics has no such argument")
    elif not run.tiny:
        run.part("yolo train compile=True", lambda: yolo_train(run, AKCONV, epochs=1, compile=True), 40)


def _compiled(run: Run, model: str) -> dict[str, Any]:
    """Compare an inference, and for a layer the gradient, with and without the compiler."""
    layer = model == "layer"
    side = 32 if run.tiny else 640
    network: nn.Module = AKConv(16, 32, 5, 2).to(run.device).eval() if layer else settled(model, side).to(run.device)
    network = network.to(memory_format=torch.channels_last).eval()
    x = torch.rand(1, 16 if layer else 3, side, side, device=run.device).to(memory_format=torch.channels_last)
    start = time.monotonic()
    fast = torch.compile(network, backend="aot_eager" if run.tiny else "inductor")
    with _whole_float32():
        with torch.no_grad():
            differ = [_difference(fast(x), network(x))]
        if layer:
            x = x.requires_grad_()
            found, wanted = (torch.autograd.grad(call(x).square().sum(), x)[0] for call in (fast, network))
            differ.append(_difference(found, wanted))
    seconds = time.monotonic() - start
    with torch.no_grad():
        peers = {"eager ms": lambda: network(x), "compiled ms": lambda: fast(x)}
        times = milliseconds(peers, run.device, 1 if run.tiny else 20)
    facts = {name: round(timing.median, 3) for name, timing in times.items()}
    return {"compile seconds": round(seconds, 1), "difference": max(differ), **facts}


def _difference(found: Any, wanted: Any) -> float:
    """Return the largest difference of outputs relative to the span of what is wanted.

    Raises:
        ArithmeticError: If it is a hundredth or more, or no number.
    """
    found, wanted = (out[0] if isinstance(out, (tuple, list)) else out for out in (found, wanted))
    error = float((found - wanted).abs().max() / (wanted.max() - wanted.min()))
    if not error < 1e-2:
        raise ArithmeticError(f"not the same outputs: they differ by {error} of their span")
    return float(f"{error:.1e}")


def autobatched(run: Run) -> None:
    """Tell the batch that the host finds for each model; on a CPU it returns its default."""
    for model in (PLAIN, AKCONV):
        run.part("autobatch", lambda model=model: _batch(run, model), 10, model=model)


def _batch(run: Run, model: str) -> dict[str, Any]:
    """Ask the host."""
    side = 64 if run.tiny else 640
    return {"batch": int(autobatch(settled(model, side).to(run.device).train(), imgsz=side))}


def moved(run: Run) -> None:
    """Tell whether a model computes the same after it was moved, copied and pickled: what it keeps must move too."""
    with _whole_float32():
        run.part("to and from the CPU", lambda: _moved(run), 5)


def _moved(run: Run) -> dict[str, Any]:
    """Compare outputs on the device with those on the CPU, and with those after the way back."""
    side = 64 if run.tiny else 320
    network, x = settled(AKCONV, side).eval(), torch.rand(1, 3, side, side)
    with torch.no_grad():
        on_cpu = network(x)
        there = network.to(run.device)(x.to(run.device))
        buffer = io.BytesIO()
        torch.save(network, buffer)
        buffer.seek(0)
        loaded = torch.load(buffer, map_location=run.device, weights_only=False)
        again = {"copy": copy.deepcopy(network)(x.to(run.device)), "pickle": loaded(x.to(run.device))}
        back = network.to("cpu")(x)
    facts = {name: _difference(out, there) for name, out in again.items()}
    return {"device": _difference(there[0].cpu(), on_cpu), "back": _difference(back, on_cpu), **facts}


def torchscript(run: Run) -> None:
    """Tell of TorchScript files traced on the device, in float32 and, on a GPU, in half precision."""
    for half in (False, True) if run.cuda else (False,):
        run.part("torchscript", lambda half=half: _exported(run, "torchscript", half), 10, half=half)


def onnx(run: Run) -> None:
    """Tell of ONNX files traced on the device and run by the provider that the host takes there."""
    run.part("onnx", lambda: _exported(run, "onnx", False), 10)


def _exported(run: Run, format_: str, half: bool) -> dict[str, Any]:
    """Export, load and compare by the host, as trained if it is."""
    side, repeats = (64, 1) if run.tiny else (320, 20)
    weights = trained(run, AKCONV)
    row = benchmark_exports([format_], str(weights or AKCONV), side, repeats, str(run.device), half).rows[0]
    if row["works"] != "yes":
        raise RuntimeError(row["works"])
    figures = {key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()}
    return {"trained": weights is not None, **figures}
