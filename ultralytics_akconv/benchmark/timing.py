# SPDX-License-Identifier: AGPL-3.0-or-later
"""Times and memory that can be trusted on a noisy machine: peers take turns, medians are compared."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch


class Timing(NamedTuple):
    """Wall-clock milliseconds of one peer: median, and the first and third quartile as its spread."""

    median: float
    low: float
    high: float
    ratio: float  # median over the rounds of this peer's time by the first peer's in the same round


def find_device(name: str) -> torch.device:
    """Return the device of a name: "cpu", "cuda", "cuda:1", or as the host writes it, "1".

    Raises:
        ValueError: If it is none of them or this machine has no such device; the message says what it has.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    allowed = ["cpu", *(["cuda"] if count else []), *(f"cuda:{index}" for index in range(count))]
    device = f"cuda:{name}" if name.isdecimal() else name
    if device not in allowed:
        raise ValueError(f"there is no device {name!r} here, only {', '.join(allowed)}")
    return torch.device("cuda:0" if device == "cuda" else device)  # a tensor there says its number, too


def interleave(
    peers: dict[str, Callable[[], object]], device: torch.device, repeats: int, warmup: int = 3
) -> dict[str, Timing]:
    """Run the peers in turn, `repeats` rounds after `warmup` uncounted ones, and return their times.

    A ratio is taken within a round, so a machine whose speed drifts slows both its sides. The clock waits for `device`,
    the one they run on.
    """
    times: dict[str, list[float]] = {name: [] for name in peers}
    for turn in range(warmup + repeats):
        for name, run in peers.items():
            synchronize(device)
            start = time.perf_counter()
            run()
            synchronize(device)
            if turn >= warmup:
                times[name].append((time.perf_counter() - start) * 1e3)
    first = next(iter(times.values()))
    return {name: summary(taken, first) for name, taken in times.items()}


def summary(taken: list[float], first: list[float]) -> Timing:
    """Summarise the rounds of one peer."""
    quartiles = statistics.quantiles(taken, n=4) if len(taken) > 1 else taken * 3
    return Timing(
        statistics.median(taken), quartiles[0], quartiles[2], statistics.median(a / b for a, b in zip(taken, first))
    )


def synchronize(device: torch.device) -> None:
    """Wait for work that a GPU still has to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(
    device: torch.device, prepare: Callable[..., Callable[[], object]], *args: object, processes: int = 5
) -> float:
    """Return how much `prepare(*args)()` raises the memory of `device` at its peak, in MB, in a fresh process.

    On a GPU the allocator's peak counts, which is the same in every process. On a CPU it is the resident set, a median
    of several: it differs by some percent from one process to the next with what the C library keeps of the memory that
    is free. `prepare` builds all that is there before, its result is what is measured; both must be importable, since
    they run in processes of their own.
    """
    processes = processes if device.type == "cpu" else 1
    return statistics.median(_peak_of_a_process(device, prepare, args) for _ in range(processes))


def _peak_of_a_process(device: torch.device, prepare: Callable[..., Callable[[], object]], args: tuple) -> float:
    """Measure in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_peak, device, prepare, args).result()


def _peak(device: torch.device, prepare: Callable[..., Callable[[], object]], args: tuple) -> float:
    """Measure in this process, which has done nothing else."""
    run = prepare(*args)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    before = _resident()
    run()
    return _resident_peak() - before


def _resident() -> float:
    """Return the resident set of this process now, in MB."""
    return _memory_info().rss / 2**20


def _resident_peak() -> float:
    """Return the largest resident set that this process has had, in MB.

    Linux tells it in /proc: its `getrusage` would not do, since a new process inherits the peak of the one that started
    it. Windows has a counter of its own. What is left has `getrusage`, in bytes on macOS.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text("utf-8").splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 2**10
    windows = getattr(_memory_info(), "peak_wset", None)
    if windows is not None:
        return windows / 2**20
    import resource  # here, since Windows has none

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def _memory_info() -> Any:
    """Return what the system counts of this process's memory; by a library that the host needs too."""
    import psutil  # here, since only a measurement needs it

    return psutil.Process().memory_info()
