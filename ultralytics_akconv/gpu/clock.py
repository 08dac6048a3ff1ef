# SPDX-License-Identifier: AGPL-3.0-or-later
"""Times, busy time and memory on a device; on a CPU the same figures by the means that it has."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from ultralytics_akconv.benchmark.timing import Timing, interleave, summary, synchronize

_CACHE = 2**28  # bytes written between two runs, more than the last cache of any card
_SPANS = ("Optimizer.", "ProfilerStep")  # what PyTorch annotates by itself
_AHEAD = 12.0  # ms of such writing that the card is given first, so that it never waits for the launches of a run


def milliseconds(
    peers: dict[str, Callable[[], object]], device: torch.device, rounds: int, warmup: int = 2
) -> dict[str, Timing]:
    """Return the times of peers that take turns: on a GPU its own, with cold caches and launches queued beforehand."""
    if device.type != "cuda":
        return interleave(peers, device, rounds, warmup)
    cache = torch.empty(_CACHE, dtype=torch.int8, device=device)
    times: dict[str, list[float]] = {name: [] for name in peers}
    fill = min(_elapsed(cache.zero_, lambda: None) for _ in range(5))  # a slow one would leave no head start
    fills = max(1, math.ceil(_AHEAD / fill))
    for turn in range(warmup + rounds):
        for name, run in peers.items():
            taken = _elapsed(run, lambda: [cache.zero_() for _ in range(fills)])
            if turn >= warmup:
                times[name].append(taken)
    first = next(iter(times.values()))
    return {name: summary(taken, first) for name, taken in times.items()}


def _elapsed(run: Callable[[], object], before: Callable[[], object]) -> float:
    """Return the milliseconds between two events on the card."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    before()
    start.record()
    run()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end)


def busy_milliseconds(run: Callable[[], object], device: torch.device) -> dict[str, Any]:
    """Return how long something keeps the device at work, and in how many kernels: by PyTorch's profiler.

    On a CPU, where operators call one another, it is the time of all operators without what they call.
    """
    from torch.profiler import ProfilerActivity, profile

    activity = ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU
    with profile(activities=[activity]) as profiler:
        run()
        synchronize(device)
    if device.type != "cuda":
        events = profiler.key_averages()
        total = sum(event.self_cpu_time_total for event in events)
        return {"busy ms": round(total / 1e3, 3), "kernels": sum(event.count for event in events)}
    kernels = [event for event in profiler.events() if _is_kernel(event)]
    total = sum(event.time_range.elapsed_us() for event in kernels)
    return {"busy ms": round(total / 1e3, 3), "kernels": len(kernels)}


def _is_kernel(event: Any) -> bool:
    """Return whether an event of the profiler is work on the card: annotations span such work and are none."""
    on_card = event.device_type == torch.autograd.DeviceType.CUDA
    return on_card and not getattr(event, "is_user_annotation", False) and not event.name.startswith(_SPANS)


def rounds_in(seconds: float, once: float, most: int) -> int:
    """Return how many rounds of `once` milliseconds fit into some seconds: one at least, and so many at most."""
    return max(1, min(most, int(1e3 * seconds / once)))


def step_times(
    run: Callable[[], object], device: torch.device, repeats: int, warmup: int, seconds: float = 8.0
) -> dict[str, float]:
    """Return median and quartiles of a training step in wall-clock milliseconds, and a GPU's memory at its peak.

    A step that is slow is run less often, so that all of it takes some `seconds`.
    """
    run()  # compiles what has to be
    if repeats > 1:
        once = interleave({"step": run}, device, 1, 0)["step"].median
        repeats = rounds_in(seconds, once, repeats)
    for _ in range(min(warmup, repeats)):
        run()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    timing = interleave({"step": run}, device, repeats, 0)["step"]
    facts = {"ms": timing.median, "low ms": timing.low, "high ms": timing.high, "runs": repeats}
    if device.type == "cuda":
        facts["peak MB"] = torch.cuda.max_memory_allocated(device) / 2**20
    return {name: round(value, 2) for name, value in facts.items()}
