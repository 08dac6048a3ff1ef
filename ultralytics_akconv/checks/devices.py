# SPDX-License-Identifier: AGPL-3.0-or-later
"""The devices: the path that a layer takes on each, the self-check of the kernels, and the time of one layer."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator

import torch

from ultralytics_akconv.benchmark import LayerSize, benchmark_layers
from ultralytics_akconv.benchmark.measurements import machine
from ultralytics_akconv.checks.environment import Finding
from ultralytics_akconv.functional.kernels import kernel_status
from ultralytics_akconv.functional.kernels.trust import CAPABILITY, SWITCH
from ultralytics_akconv.functional.paths import sampling_path

_LAYER = LayerSize(64, 128, 80)  # the middle one of the six of YOLOv8n
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def devices() -> Iterator[Finding]:
    """Yield what there is to say of the CPU and of every GPU."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    yield Finding("GPUs", str(count) if count else f"none that torch {torch.__version__} can use")
    for device in [torch.device("cuda", index) for index in range(count)] or [torch.device("cpu")]:
        try:
            yield from device_findings(device)
        except Exception as error:  # a driver or a compiler raises what it likes, and that is what is looked for
            text = f"{type(error).__name__}: {error}".splitlines()[0]
            yield Finding(str(device), "failed", f"{device}: {text}")


def device_findings(device: torch.device) -> Iterator[Finding]:
    """Yield a device's name, its path by dtype, and the time of a layer beside its Conv."""
    about = machine(device)
    gpu = device.type == "cuda"
    if gpu:
        major, minor = torch.cuda.get_device_capability(device)
        memory = torch.cuda.get_device_properties(device).total_memory / 2**30
        yield Finding(
            str(device), f"{about['processor']}, sm_{major}{minor}, {memory:.0f} GB, CUDA {torch.version.cuda}"
        )
    else:
        yield Finding(str(device), f"{about['processor']}, {about['threads']} threads")
    for dtype in _DTYPES:
        yield path(device, dtype)
    yield layer_time(device, torch.float16 if gpu else torch.float32, batch=16 if gpu else 1)


def path(device: torch.device, dtype: torch.dtype) -> Finding:
    """Return the path that the samples of a dtype take on a device; on a GPU, why, and what the self-check found.

    A card or a system without Triton, and kernels that are switched off, are said. Kernels that should run and do not
    are a problem.
    """
    x, offset = torch.zeros(1, 8, 8, 8, device=device, dtype=dtype), torch.zeros(1, 2, 8, 8, device=device, dtype=dtype)
    name, value = f"{device} {str(dtype)[6:]}", f"path {sampling_path(x, offset)}"
    if device.type != "cuda":
        return Finding(name, value)
    status = kernel_status(device, dtype)
    errors = ", ".join(f"{what} {error:.0e}" for what, error in status.errors.items())
    value += f"; self-check: {errors}" if errors else ""
    if status.trusted:
        return Finding(name, value)
    could = importlib.util.find_spec("triton") and torch.cuda.get_device_capability(device) >= CAPABILITY
    problem = f"{name}: the kernels are not used: {status.reason}" if could and os.environ.get(SWITCH) != "0" else None
    return Finding(name, f"{value}; no kernels: {status.reason}", problem)


def layer_time(device: torch.device, dtype: torch.dtype, batch: int) -> Finding:
    """Return the times of one AKConv and of the Conv in its place; a few rounds, so no more than a hint."""
    conv, ours = benchmark_layers(
        [_LAYER], batch=batch, device=str(device), dtype=dtype, repeats=10, peers=("conv 3x3", "akconv")
    ).rows
    times = "; ".join(
        f"{what} {ours[f'{key} ms']:.2f} ms, Conv {conv[f'{key} ms']:.2f} ({ours[ratio]:.2f}x)"
        for what, key, ratio in (("forward", "forward", "x conv"), ("training", "training", "x conv, training"))
    )
    return Finding("one layer", f"{ours['layer']}, N=5, batch {batch}, {str(dtype)[6:]}: {times}")
