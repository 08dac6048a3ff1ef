# SPDX-License-Identifier: AGPL-3.0-or-later
"""The six layers of YOLOv8n beside their Conv and beside every other way to compute them, and their sampling alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ultralytics_akconv.benchmark.operator import LAYER_PEERS, YOLOV8N_LAYERS, LayerSize, Setting, inference, training
from ultralytics_akconv.functional import resample
from ultralytics_akconv.functional.paths import using_path
from ultralytics_akconv.gpu.clock import busy_milliseconds, milliseconds
from ultralytics_akconv.gpu.exactness import Case, inputs, paths
from ultralytics_akconv.gpu.facts import Run
from ultralytics_akconv.shapes import sampling_points

_OTHERS = tuple(peer for peer in LAYER_PEERS if peer not in ("conv 3x3", "akconv"))  # published, and ready-made ones


def layers(run: Run) -> None:
    """Tell of each layer, on a GPU in float16 at batch 16, the times of all peers, then of its sampling with the GB/s.

    A peer that fails or does not fit into the memory is told by itself, the others beside it are measured all the same.
    """
    sizes, batch = ((LayerSize(4, 4, 6),), 1) if run.tiny else (YOLOV8N_LAYERS, 16)
    rounds = 1 if run.tiny else 20
    dtype = torch.float16 if run.cuda else torch.float32  # not all that is ready-made knows a half on a CPU
    for size in sizes:
        name = _name(size)
        setting = Setting(size, 5, batch, run.device, dtype, "channels_last")
        ours = {f"akconv {path}": ("akconv", path) for path in paths()}
        for peer, (kind, path) in {"conv 3x3": ("conv 3x3", None), **ours, **{k: (k, None) for k in _OTHERS}}.items():
            run.part(
                "layer",
                lambda k=kind, p=path, s=setting: _layer(run, k, p, s, rounds),
                4,
                may_not_fit=not peer.startswith(("conv", "akconv kernels")),
                layer=name,
                peer=peer,
            )
        case = Case((batch, size.in_channels, size.side, size.side))
        for path in paths():
            run.part("sampling", lambda c=case, p=path: _sampling(run, c, p, rounds), 4, layer=name, path=path)


def _layer(run: Run, kind: str, path: str | None, setting: Setting, rounds: int) -> dict[str, Any]:
    """Return the times of a layer; what the profiler says of a training step of it is a fact of its own."""
    forward, step = (_on_path(prepare(kind, setting), path) for prepare in (inference, training))
    times = milliseconds({"forward": forward, "training": step}, run.device, rounds)
    facts = {f"{name} ms": round(timing.median, 4) for name, timing in times.items()}
    run.part("layer busy", lambda: busy_milliseconds(step, run.device), layer=_name(setting.size), kind=kind, path=path)
    return facts


def _name(size: LayerSize) -> str:
    """Return how a layer is called in the tables."""
    return f"{size.in_channels}->{size.out_channels} {size.side}x{size.side}"


def _on_path(call: Callable[[], object], path: str | None) -> Callable[[], object]:
    """Return a call that takes a path, the backward pass in it too."""

    def run() -> None:
        with using_path(path):
            call()

    return run if path else call


def _sampling(run: Run, case: Case, path: str, rounds: int) -> dict[str, Any]:
    """Return the times of the samples and of their gradients alone, and the bandwidth that they come to.

    The bytes are those which any way has to move: the input and the offsets are read and the samples are written, and
    in the backward pass what comes and what was the input is read and what is its gradient is written.
    """
    x, offset = (tensor.requires_grad_() for tensor in inputs(case, torch.float16, run.device))
    points = sampling_points(case.num_param)

    def forward() -> torch.Tensor:
        with torch.no_grad():
            return resample(x, offset, points, case.stride)

    with using_path(path):
        samples = resample(x, offset, points, case.stride)
        grad = torch.randn_like(samples)

        def backward() -> None:
            torch.autograd.grad(samples, (x, offset), grad, retain_graph=True)

        times = milliseconds({"forward": forward, "backward": backward}, run.device, rounds)
    once = x.nbytes + offset.nbytes
    moved = {"forward": once + samples.nbytes, "backward": 2 * once + samples.nbytes}
    facts = {f"{name} ms": round(timing.median, 4) for name, timing in times.items()}
    return {**facts, **{f"{name} GB/s": round(moved[name] / times[name].median / 1e6, 1) for name in moved}}
