# SPDX-License-Identifier: AGPL-3.0-or-later
"""A table of measurements with what they were made on; as text, JSON and CSV."""

from __future__ import annotations

import csv
import datetime
import io
import json
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision
import ultralytics

import ultralytics_akconv
from ultralytics_akconv.files import write_whole
from ultralytics_akconv.markdown import markdown_table


def machine(device: torch.device) -> dict[str, Any]:
    """Return the hardware and the versions a measurement depends on."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "date": datetime.date.today().isoformat(),
        "processor": gpu or _processor(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "ultralytics": ultralytics.__version__,
        "ultralytics_akconv": ultralytics_akconv.__version__,
    }


def _processor() -> str:
    """Return the name of the CPU, with its vector instructions as PyTorch uses them."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text("utf-8").splitlines() if cpuinfo.exists() else []
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"


@dataclass(frozen=True)
class Report:
    """What a benchmark returns: the settings, the machine, and one mapping a row, all with the same keys."""

    title: str
    settings: dict[str, Any]
    machine: dict[str, Any]
    rows: list[dict[str, Any]]

    def table(self) -> str:
        """Return the rows as an aligned Markdown table under a line on settings and machine."""
        header = list(self.rows[0])
        table = markdown_table(header, [[_cell(row[key]) for key in header] for row in self.rows], padded=True)
        about = ", ".join(f"{key} {value}" for key, value in {**self.settings, **self.machine}.items())
        return f"{self.title}: {about}\n\n{table}"

    def to_json(self, path: str | Path) -> None:
        """Write everything as JSON."""
        write_whole(path, json.dumps(asdict(self), indent=2) + "\n")

    def to_csv(self, path: str | Path) -> None:
        """Write the rows as CSV."""
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(self.rows[0]))
        writer.writeheader()
        writer.writerows(self.rows)
        write_whole(path, text.getvalue())


def _cell(value: object) -> str:
    """Return a value as a person reads it; None is what was not measured."""
    if value is None:
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
