# SPDX-License-Identifier: AGPL-3.0-or-later
"""Plain and AKConv trainings of the same seeds, several side by side on one card, as many as fit into some minutes."""

from __future__ import annotations

from pathlib import Path

from ultralytics.data.dataset import YOLODataset
from ultralytics.data.utils import check_det_dataset

from ultralytics_akconv.benchmark.timing import find_device
from ultralytics_akconv.gpu.facts import Settings
from ultralytics_akconv.sweep import Plan, run_sweep

SEEDS = 40  # more than fit
_FULL = {"epochs": 60, "imgsz": 320, "batch": 16, "workers": 2, "cache": True}
_TINY = {"epochs": 1, "imgsz": 32, "batch": 8, "workers": 0}


def train_pairs(data: str | Path, folder: Path, settings: Settings, jobs: int = 8) -> dict[str, str]:
    """Train YOLOv8n plain and with N=5 on a dataset, as a sweep that is resumed where its folder is given again.

    Args:
        data: Dataset YAML.
        folder: Folder of the sweep, with its report.
        settings: Device, size and time.
        jobs: Trainings at a time.

    Returns:
        The status of each cell by name.

    Raises:
        ImportError: If a library of the report is not installed.
        ValueError: If there is no such device, or the sweep refuses the folder or the jobs.
    """
    device = find_device(settings.device)
    arguments = {**(_TINY if settings.tiny else _FULL), "verbose": False}
    arguments["device"] = "cpu" if device.type == "cpu" else str(device.index)
    seeds = tuple(range(1 if settings.tiny else SEEDS))
    plan = Plan(str(data), num_param=(5,), seeds=seeds, arguments=arguments)
    _read_labels(data)
    return run_sweep(plan, folder, "processes", settings.minutes, jobs)


def _read_labels(data: str | Path) -> None:
    """Let the host read the labels once: it writes a cache beside them, and trainings begin together."""
    described = check_det_dataset(str(data))
    for split in ("train", "val"):
        YOLODataset(img_path=described[split], data=described, task="detect")
