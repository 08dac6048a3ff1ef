# SPDX-License-Identifier: AGPL-3.0-or-later
"""Runs the cells of a sweep: what is done is not repeated, what is half done resumes, what fails does not stop it."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import pickle
import shutil
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

import torch
from ultralytics.utils import DEFAULT_CFG_DICT, LOGGER

from ultralytics_akconv.evaluation import check_evaluation, evaluate
from ultralytics_akconv.opening import host_model, model_task
from ultralytics_akconv.sweep.arms import OFFSETS, frozen
from ultralytics_akconv.sweep.differences import student
from ultralytics_akconv.sweep.plan import STATE, Cell, Plan, read_state, write_json
from ultralytics_akconv.sweep.results import write_report

_EVALUATION = ("imgsz", "batch", "device", "workers", "max_det", "conf", "iou", "classes", "single_cls")


def run_sweep(
    plan: Plan, folder: str | Path, engine: str = "serial", minutes: float | None = None, jobs: int = 1
) -> dict[str, str]:
    """Run what is missing of a sweep and write its report, after every cell anew.

    Args:
        plan: The sweep.
        folder: Folder of the results, new or of the same sweep. A cell's own lies in it: Ultralytics' training and its
            state. A sweep that was killed goes on when it is run again; cells that failed are tried again.
        engine: "serial": one cell after another in this process; "processes": `jobs` of them side by side, each in a
            process of its own; "ray": on all machines of a Ray cluster, to whom `folder` and the dataset must be the
            same paths (a local cluster if none is found).
        minutes: No seed is begun that would not end in this time, going by those before it; the first always is.
        jobs: Cells side by side, on one GPU or on the cores of one machine.

    Returns:
        The status of each cell by name: "done", "failed", "waiting" if there was no time for it, or "running" if the
        worker that ran it was lost for good.

    Raises:
        FileNotFoundError: If a model or the dataset is not there.
        ImportError: If Ray, SciPy or faster-coco-eval is wanted and not installed.
        ValueError: If the folder belongs to another sweep, another command runs one in it, there is no such engine, the
            engine cannot do with `minutes` or `jobs`, or what is trained could not be evaluated: `check_evaluation`.
    """
    if engine not in ENGINES:
        raise ValueError(f"there is no engine {engine!r}: {', '.join(ENGINES)}")
    if minutes is not None and (engine == "ray" or not minutes > 0):
        raise ValueError(f"{minutes} minutes with the engine {engine!r}: they must be above 0, and 'ray' takes none")
    if jobs < 1 or (jobs > 1 and engine != "processes"):
        raise ValueError(f"{jobs} jobs with the engine {engine!r}: 1 or more, and above 1 with 'processes' alone")
    student()  # before the work
    folder = Path(folder).resolve()
    plan.check(folder)
    if any(read_state(folder, cell)["status"] != "done" for cell in plan.cells()):
        for task in sorted({model_task(model) for model in plan.models}):
            check_evaluation(task, plan.data, plan.split)
    with plan.claim(folder):
        waiting = [cell for cell in plan.cells() if read_state(folder, cell)["status"] != "done"]
        LOGGER.info(f"Sweep in {folder}: {len(waiting)} of {len(plan.cells())} cells to do")
        cells = waiting if minutes is None else _within(waiting, minutes)
        for cell, status in ENGINES[engine](plan, cells, folder, jobs):
            LOGGER.info(f"Sweep: {cell.name} {status}")
            try:
                write_report(plan, folder)
            except PermissionError as error:  # Windows: somebody has opened a table; there will be another report
                LOGGER.warning(f"Sweep: the report was not written: {error}")
        write_report(plan, folder)
        return {cell.name: read_state(folder, cell)["status"] for cell in plan.cells()}


def _within(cells: Iterable[Cell], minutes: float) -> Iterator[Cell]:
    """Yield cells, a seed with all its arms or not at all, as long as a further seed is likely to end in time."""
    start = time.monotonic()
    for seeds, (_, arms) in enumerate(itertools.groupby(cells, key=lambda cell: cell.seed)):
        spent = (time.monotonic() - start) / 60
        if seeds and spent * (seeds + 1) / seeds > minutes:
            LOGGER.info(f"Sweep: {spent:.1f} of {minutes:g} minutes are spent, too few are left for another seed")
            return
        yield from arms


def run_cell(plan: Plan, cell: Cell, folder: Path) -> str:
    """Train and evaluate one cell, resuming what lies in its folder; return its status. An error becomes its state."""
    state = folder / cell.name / STATE
    state.parent.mkdir(exist_ok=True)
    seconds = read_state(folder, cell).get("seconds", 0.0)
    write_json(state, {"status": "running", "seconds": seconds})
    start = time.monotonic()
    try:
        _train(plan, cell, state.parent)
        arguments = cell.arm.settings(plan.arguments)
        settings = {key: arguments[key] for key in _EVALUATION if key in arguments}
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
    arguments = cell.arm.settings(plan.arguments)
    epochs = arguments.get("epochs", DEFAULT_CFG_DICT["epochs"])
    ended, checkpoint = what_is_left(folder / "train/weights", epochs)
    if ended:
        return
    if checkpoint is None:
        shutil.rmtree(folder / "train", ignore_errors=True)
    own = {"project": str(folder), "name": "train", "exist_ok": True, "seed": cell.seed, "resume": bool(checkpoint)}
    model = host_model(checkpoint or cell.arm.file())
    if arguments.get("freeze") == OFFSETS:
        arguments["freeze"] = frozen(model.model)
    model.train(data=plan.data, **{"plots": False, **arguments, **own})


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


def _serial(plan: Plan, cells: Iterable[Cell], folder: Path, jobs: int) -> Iterator[tuple[Cell, str]]:
    """Run cells in this process, one after another."""
    for cell in cells:
        yield cell, run_cell(plan, cell, folder)


def _processes(plan: Plan, cells: Iterable[Cell], folder: Path, jobs: int) -> Iterator[tuple[Cell, str]]:
    """Run cells in processes of this machine, `jobs` side by side; the next is asked for when one has ended."""
    rest = iter(cells)
    context = multiprocessing.get_context("spawn")  # CUDA does not outlive a fork
    with ProcessPoolExecutor(jobs, context, initializer=_end_with_parent) as pool:
        running = {pool.submit(run_cell, plan, cell, folder): cell for cell in itertools.islice(rest, jobs)}
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                cell = running.pop(future)
                yield cell, future.result()
                running.update({pool.submit(run_cell, plan, cell, folder): cell for cell in itertools.islice(rest, 1)})


def _end_with_parent() -> None:
    """End this process with the one that started it, whose lock on the sweep's folder ends then."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _ray(plan: Plan, cells: Iterable[Cell], folder: Path, jobs: int) -> Iterator[tuple[Cell, str]]:
    """Run cells on a Ray cluster: one a GPU, or one a CPU where the cluster has no GPU or the CPU was asked for."""
    try:
        import ray
    except ImportError as error:
        raise ImportError("the engine 'ray' needs Ray: pip install 'ultralytics-akconv[ray]'") from error
    if not ray.is_initialized():
        ray.init()
    gpu = ray.cluster_resources().get("GPU") and plan.arguments.get("device") != "cpu"
    needs: dict[str, Any] = {"num_gpus": 1} if gpu else {"num_cpus": 1}
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


ENGINES: dict[str, Callable[[Plan, Iterable[Cell], Path, int], Iterator[tuple[Cell, str]]]] = {
    "serial": _serial,
    "processes": _processes,
    "ray": _ray,
}
