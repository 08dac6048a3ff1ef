# SPDX-License-Identifier: AGPL-3.0-or-later
"""Runs the steps in a process of their own, which is replaced when a step crashes it or takes too long."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ultralytics_akconv.benchmark.timing import find_device
from ultralytics_akconv.gpu.facts import FACTS, LOG, Settings, read_facts, write_fact
from ultralytics_akconv.gpu.steps import STEPS

_PACKAGE = Path(__file__).resolve().parents[2]
_WORKER = ("-m", "ultralytics_akconv.gpu.worker")
_MINUTES = 8.0  # what the seconds of the steps are meant for
_START = 300.0  # seconds until the first step begins, on a slow disk
_GRACE = 15.0  # seconds that a step may take longer than it was given, to end by itself


def run_steps(
    settings: Settings,
    output: Path,
    steps: Sequence[str] = tuple(STEPS),
    tell: Callable[[dict[str, Any]], object] = print,
) -> list[dict[str, Any]]:
    """Run steps in their order and return the facts, which are in `output`/facts.jsonl from the moment they are known.

    A step that fails, crashes its process or does not end is a fact, and the next one runs.

    Args:
        settings: Device, size and time.
        output: Folder of the facts and of the log, new or empty.
        steps: Names of `STEPS`.
        tell: Called with each fact, too.

    Raises:
        ValueError: If there is no such device or step, or the folder holds facts already.
    """
    find_device(settings.device)
    unknown = [step for step in steps if step not in STEPS]
    if unknown:
        raise ValueError(f"there is no step {', '.join(unknown)}: {', '.join(STEPS)}")
    if (output / FACTS).exists():
        raise ValueError(f"{output} holds facts of another run: give a new folder")
    output.mkdir(parents=True, exist_ok=True)
    end, waiting = time.monotonic() + 60 * settings.minutes, list(steps)
    with tempfile.TemporaryDirectory(prefix="akconv-gpu-") as work:
        while waiting and time.monotonic() < end:
            waiting = _worker(settings, output, Path(work), waiting, end, tell)
    for step in waiting:
        tell(write_fact(output, step=step, left_out=f"{settings.minutes:g} minutes were over"))
    return read_facts(output)


def _worker(
    settings: Settings,
    output: Path,
    work: Path,
    steps: list[str],
    end: float,
    tell: Callable[[dict[str, Any]], object],
) -> list[str]:
    """Run steps in one process and return those that are left when it has ended, or was ended."""
    command = [sys.executable, *_WORKER, settings.to_json(), str(output), str(work)]
    seconds = {step: STEPS[step].seconds * settings.minutes / _MINUTES for step in steps}
    shown, running, until = len(read_facts(output)), steps[0], time.monotonic() + _START
    with open(output / LOG, "ab") as log:
        process = subprocess.Popen(
            [*command, *(f"{step}={limit}" for step, limit in seconds.items())],
            stdout=log,
            stderr=log,
            env=environment(settings, work),
            start_new_session=os.name == "posix",  # what it starts ends with it
        )
        try:
            over = False
            while not over:
                over = process.poll() is not None  # before the facts are read: all are there then
                facts = read_facts(output)
                for fact in facts[shown:]:
                    tell(fact)
                    if "started" in fact:
                        running = fact["step"]
                        until = min(time.monotonic() + seconds[running], end) + _GRACE
                    if "seconds" in fact:
                        steps = steps[steps.index(running) + 1 :]
                shown = len(facts)
                if not over and time.monotonic() > until:
                    tell(write_fact(output, step=running, failed="did not end in time, its process was ended"))
                    return steps[1:]
                time.sleep(0 if over else 0.2)
        finally:
            _end(process)
    if steps and steps[0] == running:
        tell(write_fact(output, step=running, failed=f"its process ended with {process.returncode}; see {LOG}"))
        return steps[1:]
    return steps


def environment(settings: Settings, work: Path) -> dict[str, str]:
    """Return the environment of what is started: the host offline and with its files in `work`."""
    host = {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "YOLO_CONFIG_DIR": str(work / "config")}
    (work / "config").mkdir(exist_ok=True)
    if settings.device == "cpu":
        host["TRITON_INTERPRET"] = "1"
    paths = [str(_PACKAGE), os.environ.get("PYTHONPATH", "")]  # a checkout need not be installed
    return {**os.environ, **host, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def _end(process: subprocess.Popen) -> None:
    """End a process and what it has started."""
    if process.poll() is None:
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait()
