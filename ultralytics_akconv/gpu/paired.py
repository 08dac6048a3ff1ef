# SPDX-License-Identifier: AGPL-3.0-or-later
"""Plain and AKConv trainings of the same seeds, several side by side on one card, as many as fit into some minutes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from ultralytics.data.dataset import YOLODataset
from ultralytics.data.utils import check_det_dataset

from ultralytics_akconv.benchmark.timing import find_device
from ultralytics_akconv.gpu.facts import LOG, Settings
from ultralytics_akconv.gpu.run import end_process, environment
from ultralytics_akconv.sweep import Cell, Plan, write_report
from ultralytics_akconv.sweep.plan import read_state

SEEDS = 40  # more than fit


def train_pairs(
    data: str | Path, folder: Path, settings: Settings, jobs: int = 8, tell: Callable[[str], object] = print
) -> dict[str, str]:
    """Train YOLOv8n plain and with N=5 on a dataset, a process a training, and write the report of a sweep.

    The next training begins if the longest so far would fit into the time that is left. What the end of the time cuts
    off is resumed when the folder is given again, as in every sweep.

    Args:
        data: Dataset YAML.
        folder: Folder of the sweep.
        settings: Device, size and time.
        jobs: Trainings at a time.
        tell: Called with each training that has ended.

    Returns:
        The status of each cell by name.

    Raises:
        ValueError: If there is no such device, `jobs` is below 1, or the folder belongs to another sweep.
    """
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}")
    device, folder = find_device(settings.device), folder.resolve()
    tiny = {"epochs": 1, "imgsz": 32, "batch": 8, "workers": 0}
    full = {"epochs": 60, "imgsz": 320, "batch": 16, "workers": 2, "cache": True}
    arguments = {
        **(tiny if settings.tiny else full),
        "device": str(device.index) if device.index is not None else "cpu",
    }
    seeds = tuple(range(1 if settings.tiny else SEEDS))
    plan = Plan(str(data), num_param=(5,), seeds=seeds, arguments={**arguments, "verbose": False})
    end = time.monotonic() + 60 * settings.minutes
    with tempfile.TemporaryDirectory(prefix="akconv-gpu-", ignore_cleanup_errors=True) as work, plan.claim(folder):
        _read_labels(data)
        _side_by_side(plan, folder, environment(settings, Path(work)), jobs, end, tell)
        write_report(plan, folder)
        return {cell.name: read_state(folder, cell)["status"] for cell in plan.cells()}


def _read_labels(data: str | Path) -> None:
    """Let the host read the labels once: it writes a cache beside them, and trainings begin together."""
    described = check_det_dataset(str(data))
    for split in ("train", "val"):
        YOLODataset(img_path=described[split], data=described, task="detect")


def _side_by_side(
    plan: Plan, folder: Path, env: dict[str, str], jobs: int, end: float, tell: Callable[[str], object]
) -> None:
    """Run cells that are not done until the time is over; the two of a seed follow one another."""
    waiting = [cell for cell in plan.cells() if read_state(folder, cell)["status"] != "done"]
    running: dict[subprocess.Popen, tuple[Cell, float]] = {}
    longest = 0.0
    try:
        while (waiting or running) and time.monotonic() < end:
            while waiting and len(running) < jobs and time.monotonic() + longest < end:
                cell = waiting.pop(0)
                running[_start(folder, cell, env)] = cell, time.monotonic()
            for process in [process for process in running if process.poll() is not None]:
                cell, start = running.pop(process)
                longest = max(longest, time.monotonic() - start)
                tell(f"{cell.name}: {read_state(folder, cell)['status']} in {time.monotonic() - start:.0f} s")
            if not running:
                return  # none is left, or none would be in time
            time.sleep(0.2)
    finally:
        for process in running:
            end_process(process)


def _start(folder: Path, cell: Cell, env: dict[str, str]) -> subprocess.Popen:
    """Start the training and evaluation of a cell; it goes on in its own folder if it was begun."""
    (folder / cell.name).mkdir(exist_ok=True)
    env = {**env, "OMP_NUM_THREADS": env.get("OMP_NUM_THREADS", "1")}
    with open(folder / cell.name / LOG, "ab") as log:
        command = [sys.executable, "-m", "ultralytics_akconv.gpu.cell", str(folder), cell.name]
        return subprocess.Popen(command, stdout=log, stderr=log, env=env, start_new_session=os.name == "posix")
