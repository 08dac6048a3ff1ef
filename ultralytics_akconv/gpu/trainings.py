# SPDX-License-Identifier: AGPL-3.0-or-later
"""The real `yolo train`, as a command, on the bundled images: AMP, `deterministic` and layouts are the host's."""

from __future__ import annotations

import csv
import os
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from ultralytics_akconv.configs import DATASETS
from ultralytics_akconv.gpu.facts import Run

# The command `yolo` of this Python; the import stands for the start-up file, which a checkout need not have installed.
YOLO_COMMAND = (sys.executable, "-c", "import ultralytics_akconv; from ultralytics.cfg import entrypoint; entrypoint()")
_EPOCHS = 40  # in which both learn the few images: what they are then, half precision is measured with


def train(run: Run) -> None:
    """Tell of the plain model and of AKConv whether losses are numbers, what is learned, and what an epoch takes.

    The host looks for the weights of its AMP check in the net, where it is offline it trains under AMP without it.
    """
    for model in ("yolov8n-akconv.yaml",) if run.tiny else ("yolov8n-akconv.yaml", "yolov8n.yaml"):
        run.part("yolo train", lambda model=model: yolo_train(run, model), 45, model=model)


def trained(run: Run, model: str) -> Path | None:
    """Return the weights that the step `train` has left of a model, None if it was not run or did not get so far."""
    weights = run.work / f"{Path(model).stem}-train" / "weights" / "best.pt"
    return weights if weights.is_file() else None


def mini_dataset(run: Run) -> Path:
    """Return a YAML of the bundled images, copied to the work folder: the host writes a cache beside labels."""
    data = run.work / "mini.yaml"
    if not data.exists():
        shutil.copytree(DATASETS / "akconv-mini", run.work / "akconv-mini", dirs_exist_ok=True)
        names = "names: {0: RBC, 1: WBC, 2: Platelets}"
        text = f"path: {(run.work / 'akconv-mini').as_posix()}\ntrain: images/train\nval: images/val\n{names}\n"
        data.write_text(text, "utf-8")
    return data


def yolo_train(run: Run, model: str, **settings: Any) -> dict[str, Any]:
    """Train by the command and return what its results.csv and its output say."""
    name = f"{Path(model).stem}-{run.step}"
    device = str(run.device.index) if run.cuda else "cpu"
    arguments = {"model": model, "data": mini_dataset(run), "epochs": 1 if run.tiny else _EPOCHS, "device": device}
    arguments |= {"imgsz": 32 if run.tiny else 320, "batch": 4, "nbs": 4, "workers": 0 if run.tiny else 4}
    arguments |= {"plots": False, "project": run.work, "name": name, "exist_ok": True, **settings}
    command = [*YOLO_COMMAND, "train", *(f"{key}={value}" for key, value in arguments.items())]
    process = subprocess.run(
        command, cwd=run.work, capture_output=True, text=True, timeout=max(1.0, run.left), check=False, env=os.environ
    )
    said = process.stdout + process.stderr
    if process.returncode:
        raise RuntimeError(f"yolo train ended with {process.returncode}: {said[-1000:]}")
    return {**_results(run.work / name / "results.csv"), "warnings": _warnings(said)}


def _results(file: Path) -> dict[str, Any]:
    """Return the losses of the first and last epoch, the best mAP50, and the seconds of a median epoch.

    Raises:
        ArithmeticError: If a loss is not a number.
    """
    with open(file, encoding="utf-8", newline="") as stream:
        rows = [{key.strip(): float(value) for key, value in row.items()} for row in csv.DictReader(stream)]
    losses = [round(sum(value for key, value in row.items() if key.startswith("train/")), 3) for row in rows]
    if any(loss != loss or loss == float("inf") for loss in losses):
        raise ArithmeticError(f"a loss is not a number: {losses}")
    ends = [0.0, *(row["time"] for row in rows if "time" in row)]
    return {
        "epochs": len(rows),
        "first loss": losses[0],
        "last loss": losses[-1],
        "seconds an epoch": round(statistics.median(b - a for a, b in zip(ends, ends[1:])), 2),
        "mAP50": max(row["metrics/mAP50(B)"] for row in rows),
        "outside": rows[-1].get("akconv/outside"),
    }


def _warnings(said: str) -> list[str]:
    """Return what the host said of AMP, and the warnings of all that ran, without colours and each once."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", said)
    lines = [line.strip() for line in plain.splitlines() if re.search(r"\bAMP: |Warning: |^WARNING", line)]
    return list(dict.fromkeys(line[:300] for line in lines))
