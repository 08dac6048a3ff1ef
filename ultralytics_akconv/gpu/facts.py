# SPDX-License-Identifier: AGPL-3.0-or-later
"""Facts: what a run finds out, one JSON line each, in the file the moment it is known."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

FACTS, LOG = "facts.jsonl", "log.txt"


@dataclass(frozen=True)
class Settings:
    """What a run is made with.

    Args:
        device: "cuda", a GPU by its number, or "cpu".
        tiny: As little of everything as shows that it works; on a CPU the kernels run in Triton's interpreter.
        minutes: What all steps may take together.
    """

    device: str = "cuda"
    tiny: bool = False
    minutes: float = 8.0

    def __post_init__(self) -> None:
        if not self.minutes > 0:
            raise ValueError(f"minutes must be above 0, got {self.minutes}")

    def to_json(self) -> str:
        """Return the settings as a worker takes them."""
        return json.dumps(asdict(self))


class Run:
    """What a step is given: where to run and how long, a folder to write in, and `say` for what it finds.

    Args:
        settings: What the run is made with.
        step: Name of the step.
        device: The device of the settings.
        output: Folder of the facts.
        work: Folder for all else, which goes when the run ends.
        seconds: What the step may take.
    """

    def __init__(
        self, settings: Settings, step: str, device: torch.device, output: Path, work: Path, seconds: float
    ) -> None:
        self.tiny, self.step, self.device, self.work = settings.tiny, step, device, work
        self.output, self.end, self.failures = output, time.monotonic() + seconds, 0

    @property
    def cuda(self) -> bool:
        """Whether this runs on a GPU."""
        return self.device.type == "cuda"

    @property
    def left(self) -> float:
        """Seconds that are left for the step."""
        return self.end - time.monotonic()

    def say(self, **fact: Any) -> None:
        """Write a fact."""
        write_fact(self.output, step=self.step, **fact)

    def part(
        self,
        what: str,
        call: Callable[[], dict[str, Any]],
        seconds: float = 1.0,
        may_not_fit: bool = False,
        **about: Any,
    ) -> dict[str, Any]:
        """Write what a part of the step returns, or why it failed or was left out; the next part runs in any case.

        Args:
            what: Name of the part.
            call: Returns the facts.
            seconds: What has to be left for it.
            may_not_fit: Whether it is left out, and has not failed, where the memory of the card is too small for it.
            about: Facts that are known before.
        """
        if self.left < seconds:
            self.say(what=what, **about, left_out=f"{max(0.0, self.left):.0f} s left, {seconds:.0f} s needed")
            return {}
        try:
            facts = call()
        except Exception as error:  # what fails is a fact like any other
            if may_not_fit and isinstance(error, torch.cuda.OutOfMemoryError):
                self.say(what=what, **about, left_out="it does not fit into the memory of the card")
                return {}
            self.failures += 1
            self.say(what=what, **about, failed=reason(error))
            return {}
        self.say(what=what, **about, **facts)
        return facts


def reason(error: Exception) -> str:
    """Return what failed and where, the last calls of it."""
    return "".join(traceback.format_exception(type(error), error, error.__traceback__))[-1500:].strip()


def write_fact(output: Path, **fact: Any) -> dict[str, Any]:
    """Append a fact to the file of facts and return it with its time."""
    fact = {"time": round(time.time(), 1), **fact}
    line = json.dumps(fact, default=str)
    with open(output / FACTS, "a", encoding="utf-8") as file:
        file.write(line + "\n")  # closed at once: nothing stays in a buffer when the next step crashes
    return fact


def read_facts(output: Path) -> list[dict[str, Any]]:
    """Return all whole lines of the file of facts."""
    file = output / FACTS
    text = file.read_text("utf-8") if file.is_file() else ""
    return [json.loads(line) for line in text.split("\n")[:-1]]
