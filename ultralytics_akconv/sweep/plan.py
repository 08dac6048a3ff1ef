# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a sweep consists of: its cells, and the folder that belongs to it and to no other."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ultralytics_akconv.files import write_whole
from ultralytics_akconv.sweep.arms import Arm, arm_of

PLAN, STATE, LOCK = "sweep.json", "cell.json", "sweep.lock"
_OWN = {"model", "data", "seed", "project", "name", "exist_ok", "resume", "save_dir", "mode"}


@dataclass(frozen=True)
class Cell:
    """One training: an arm by a seed."""

    arm: Arm
    seed: int

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"{self.arm.name}-seed{self.seed}"


@dataclass(frozen=True)
class Plan:
    """A sweep: every model plain, with each number of points in each shape, and in each further arm, by every seed.

    Args:
        data: Dataset YAML.
        models: Model YAMLs with ordinary convolutions.
        num_param: Numbers of sampling points N.
        shapes: Initial sampling shapes.
        seeds: Seeds; the table tells the spread over them.
        baseline: Whether each model is trained as it is, too.
        split: The split of the dataset that the best epoch of each training is evaluated on.
        arguments: Ultralytics' arguments of `train`, equal in all cells.
        arms: Further arms of every model: options of `graft` (num_param, shape, where, border, origin) and arguments
            of Ultralytics that are the arm's own (pretrained, freeze, ...), by name.

    Raises:
        ValueError: If two cells are the same, there is none, `arguments` names what the sweep sets itself or leaves no
            checkpoint, or a seed is negative.
    """

    data: str
    models: Sequence[str] = ("yolov8n.yaml",)
    num_param: Sequence[int] = (3, 5, 9)
    shapes: Sequence[str] = ("default",)
    seeds: Sequence[int] = (0, 1, 2)
    baseline: bool = True
    split: str = "val"
    arguments: dict[str, Any] = field(default_factory=dict)
    arms: Sequence[Mapping[str, Any]] = ()

    def __post_init__(self) -> None:
        own = sorted(_OWN & {*self.arguments, *(key for options in self.arms for key in options)})
        if own:
            raise ValueError(f"a sweep sets these itself: {', '.join(own)}")
        if any(seed < 0 for seed in self.seeds):
            raise ValueError(f"a seed must be at least 0, got {min(self.seeds)}")
        if not all(cell.arm.settings(self.arguments).get("save", True) for cell in self.cells()):
            raise ValueError("a sweep evaluates the best epoch of each training, and save=False keeps none")
        names = [cell.name for cell in self.cells()]
        if not names:
            raise ValueError("the sweep has no cell: give models, seeds, and num_param or the baseline")
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"the sweep has a cell twice: {', '.join(twice)}")
        for cell in self.cells():
            cell.arm.file()  # a wrong shape or number is told before the work

    def cells(self) -> list[Cell]:
        """Return all cells; those of one seed follow one another, so that an unfinished sweep compares, too."""
        options: list[Mapping[str, Any]] = [{}] if self.baseline else []
        options += [{"num_param": n, "shape": shape} for n in self.num_param for shape in self.shapes]
        options += self.arms
        return [Cell(arm_of(model, arm), seed) for seed in self.seeds for model in self.models for arm in options]

    def check(self, folder: Path) -> None:
        """Refuse a folder that is not the one of this sweep and cannot become it; nothing in it is touched.

        Raises:
            ValueError: If the folder holds another sweep, or anything else.
        """
        file, own = folder / PLAN, json.loads(json.dumps(asdict(self)))
        if file.is_file():
            other = json.loads(file.read_text("utf-8"))
            changed = [f"{k} was {other.get(k)!r}, now {own.get(k)!r}" for k in own if other.get(k) != own.get(k)]
            if changed:
                raise ValueError(f"{folder} holds another sweep: {'; '.join(changed)}. Give another folder")
        elif folder.exists() and (not folder.is_dir() or any(entry.name != LOCK for entry in folder.iterdir())):
            raise ValueError(f"{folder} is not empty and holds no sweep: give a new or an empty folder")

    @contextmanager
    def claim(self, folder: Path) -> Iterator[None]:
        """Make `folder` the one of this sweep, and of this process as long as the context lasts.

        The system gives the lock back when the process ends, however it ends.

        Raises:
            ValueError: If the folder holds another sweep, or anything else, or another command runs a sweep in it.
        """
        self.check(folder)
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(f"another command runs a sweep in {folder}: wait for it or give another folder") from None
        try:
            self.check(folder)  # once more: in between, it may have become another's
            if not (folder / PLAN).is_file():
                write_json(folder / PLAN, asdict(self))
            yield
        finally:
            lock.release()


def write_json(file: Path, content: Any) -> None:
    """Write JSON so that a reader, and a next start after a kill, finds all of it or the old file."""
    write_whole(file, json.dumps(content, indent=2) + "\n")


def read_state(folder: Path, cell: Cell) -> dict[str, Any]:
    """Return what is known of a cell: its status (waiting, running, done, failed), and its result or error."""
    file = folder / cell.name / STATE
    return json.loads(file.read_text("utf-8")) if file.is_file() else {"status": "waiting"}
