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


def interleave(peers: dict[str, Callable[[], object]], repeats: int, warmup: int = 3) -> dict[str, Timing]:
    """Run the peers in turn, `repeats` rounds after `warmup` uncounted ones, and return their times.

    A ratio is taken within a round, so a machine whose speed drifts slows both its sides.
    """
    times: dict[str, list[float]] = {name: [] for name in peers}
    for turn in range(warmup + repeats):
        for name, run in peers.items():
            _synchronize()
            start = time.perf_counter()
            run()
            _synchronize()
            if turn >= warmup:
                times[name].append((time.perf_counter() - start) * 1e3)
    first = next(iter(times.values()))
    return {name: _timing(taken, first) for name, taken in times.items()}


def _timing(taken: list[float], first: list[float]) -> Timing:
    """Summarise the rounds of one peer."""
    quartiles = statistics.quantiles(taken, n=4) if len(taken) > 1 else taken * 3
    return Timing(
        statistics.median(taken), quartiles[0], quartiles[2], statistics.median(a / b for a, b in zip(taken, first))
    )


def _synchronize() -> None:
    """Wait for work that a GPU still has to do."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_memory(prepare: Callable[..., Callable[[], object]], *args: object, processes: int = 5) -> float:
    """Return how much `prepare(*args)()` raises the memory of a fresh process at its peak, in MB: a median of several.

    On a GPU the allocator's peak counts, on a CPU the resident set of the process, which differs by some percent from
    one process to the next with what the C library keeps of the memory that is free. `prepare` builds all that is there
    before, its result is what is measured; both must be importable, since they run in processes of their own.
    """
    return statistics.median(_peak_of_a_process(prepare, args) for _ in range(processes))


def _peak_of_a_process(prepare: Callable[..., Callable[[], object]], args: tuple) -> float:
    """Measure in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_peak, prepare, args).result()


def _peak(prepare: Callable[..., Callable[[], object]], args: tuple) -> float:
    """Measure in this process, which has done nothing else."""
    run = prepare(*args)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
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
