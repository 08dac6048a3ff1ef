# SPDX-License-Identifier: AGPL-3.0-or-later
"""Runs the cells of a sweep: what is done is not repeated, what is half done resumes, what fails does not stop it."""

from __future__ import annotations

import pickle
import shutil
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from ultralytics.utils import DEFAULT_CFG_DICT, LOGGER

from ultralytics_akconv.evaluation import check_evaluation, evaluate
from ultralytics_akconv.opening import host_model, model_task
from ultralytics_akconv.sweep.plan import STATE, Cell, Plan, read_state, write_json
from ultralytics_akconv.sweep.results import write_report
from ultralytics_akconv.sweep.settings import model_file

_EVALUATION = ("imgsz", "batch", "device", "workers", "max_det", "conf", "iou", "classes", "single_cls")


def run_sweep(plan: Plan, folder: str | Path, engine: str = "serial") -> dict[str, str]:
    """Run what is missing of a sweep and write its report, after every cell anew.

    Args:
        plan: The sweep.
        folder: Folder of the results, new or of the same sweep. A cell's own lies in it: the host's training and its
            state. A sweep that was killed goes on when it is run again; cells that failed are tried again.
        engine: "serial": one cell after another in this process; "ray": on all machines of a Ray cluster, to whom
            `folder` and the dataset must be the same paths (a local cluster if none is found).

    Returns:
        The status of each cell by name: "done", "failed", or "running" if the worker that ran it was lost for good.

    Raises:
        ImportError: If Ray or faster-coco-eval is wanted and not installed.
        FileNotFoundError: If a model or the dataset is not there.
        ValueError: If the folder belongs to another sweep, another command runs one in it, there is no such engine, or
            what is trained could not be evaluated, see `check_evaluation`.
    """
    if engine not in ENGINES:
        raise ValueError(f"there is no engine {engine!r}: {', '.join(ENGINES)}")
    folder = Path(folder).resolve()
    plan.check(folder)
    if any(read_state(folder, cell)["status"] != "done" for cell in plan.cells()):
        for task in sorted({model_task(model) for model in plan.models}):
            check_evaluation(task, plan.data, plan.split)
    with plan.claim(folder):
        waiting = [cell for cell in plan.cells() if read_state(folder, cell)["status"] != "done"]
        LOGGER.info(f"Sweep in {folder}: {len(waiting)} of {len(plan.cells())} cells to do")
        for cell, status in ENGINES[engine](plan, waiting, folder):
            LOGGER.info(f"Sweep: {cell.name} {status}")
            try:
                write_report(plan, folder)
            except PermissionError as error:  # Windows: somebody has opened a table; there will be another report
                LOGGER.warning(f"Sweep: the report was not written: {error}")
        write_report(plan, folder)
        return {cell.name: read_state(folder, cell)["status"] for cell in plan.cells()}


def run_cell(plan: Plan, cell: Cell, folder: Path) -> str:
    """Train and evaluate one cell, resuming what lies in its folder; return its status. An error becomes its state."""
    state = folder / cell.name / STATE
    state.parent.mkdir(exist_ok=True)
    seconds = read_state(folder, cell).get("seconds", 0.0)
    write_json(state, {"status": "running", "seconds": seconds})
    start = time.monotonic()
    try:
        _train(plan, cell, state.parent)
        settings = {key: plan.arguments[key] for key in _EVALUATION if key in plan.arguments}
        best = state.parent / "train/weights/best.pt"
        result = evaluate(best, plan.data, plan.split, **settings).figures()
    except Exception as error:  # whatever stops one cell, the rest goes on; the report tells it
        text = f"{type(error).__name__}: {error}"
        spent = {"seconds": seconds + time.monotonic() - start}
        write_json(state, {"status": "failed", **spent, "error": text, "traceback": traceback.format_exc()})
        LOGGER.error(f"{cell.name}: {text}")
        return "failed"
    write_json(state, {"status": "done", "seconds": seconds + time.monotonic() - start, "result": result})
    return "done"


def _train(plan: Plan, cell: Cell, folder: Path) -> None:
    """Train a cell in `folder`/train, from where a former training there stopped."""
    epochs = plan.arguments.get("epochs", DEFAULT_CFG_DICT["epochs"])
    ended, checkpoint = what_is_left(folder / "train/weights", epochs)
    if ended:
        return
    if checkpoint is None:
        shutil.rmtree(folder / "train", ignore_errors=True)
    own = {"project": str(folder), "name": "train", "exist_ok": True, "seed": cell.seed, "resume": bool(checkpoint)}
    model = checkpoint or model_file(cell.model, cell.num_param, cell.shape)
    host_model(model).train(data=plan.data, **{"plots": False, **plan.arguments, **own})


def what_is_left(weights: Path, epochs: int) -> tuple[bool, Path | None]:
    """Return whether a training of so many epochs has ended, and if not, the checkpoint to resume it from, if any.

    The host writes last.pt and then, after an epoch better than all before, the same into best.pt, each over the old
    file; after the last epoch it does so with both once more, and marks them with epoch -1. So a kill cuts off one of
    them at most. If it was best.pt, it is copied again from last.pt: the host, resuming, would miss it at its end.
    """
    last, best = weights / "last.pt", weights / "best.pt"
    found = {file: last_epoch(file) for file in (last, best)}
    if found[best] is None and found[last] not in (None, -1):
        shutil.copyfile(last, best)
        found[best] = found[last]
    ends = (-1, epochs - 1)  # the host refuses to resume after the last epoch, marked or not
    if found[best] in ends or (found[last] in ends and found[best] is not None):
        return True, None
    return False, next((file for file, epoch in found.items() if epoch not in (None, *ends)), None)


def last_epoch(checkpoint: Path) -> int | None:
    """Return the last epoch in a checkpoint, -1 when its training has ended, None without a readable one."""
    if not checkpoint.is_file():
        return None
    try:
        return torch.load(checkpoint, map_location="cpu", weights_only=False)["epoch"]
    except (EOFError, OSError, RuntimeError, pickle.UnpicklingError) as error:
        LOGGER.warning(f"{checkpoint} was cut off: {error}")
        return None


def _serial(plan: Plan, cells: Iterable[Cell], folder: Path) -> Iterator[tuple[Cell, str]]:
    """Run cells in this process, one after another."""
    for cell in cells:
        yield cell, run_cell(plan, cell, folder)


def _ray(plan: Plan, cells: Iterable[Cell], folder: Path) -> Iterator[tuple[Cell, str]]:
    """Run cells on a Ray cluster: one a GPU, or one a CPU where the cluster has no GPU."""
    try:
        import ray
    except ImportError as error:
        raise ImportError("the engine 'ray' needs Ray: pip install 'ultralytics-akconv[ray]'") from error
    if not ray.is_initialized():
        ray.init()
    needs: dict[str, Any] = {"num_gpus": 1} if ray.cluster_resources().get("GPU") else {"num_cpus": 1}
    remote = ray.remote(**needs, max_retries=2)(run_cell)  # a cell whose machine is lost resumes on another
    running = {remote.remote(plan, cell, folder): cell for cell in cells}
    while running:
        (done,), _ = ray.wait(list(running), num_returns=1)
        cell = running.pop(done)
        try:
            status = ray.get(done)
        except ray.exceptions.RayError as error:  # the worker died; its state says "running" until the next start
            LOGGER.error(f"{cell.name}: {error}")
            status = "lost"
        yield cell, status


ENGINES: dict[str, Callable[[Plan, Iterable[Cell], Path], Iterator[tuple[Cell, str]]]] = {
    "serial": _serial,
    "ray": _ray,
}
