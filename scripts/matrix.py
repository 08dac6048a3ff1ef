# SPDX-License-Identifier: AGPL-3.0-or-later
"""Runs the tests that touch the host on several Ultralytics releases and writes the compatibility table of the README.

python scripts/matrix.py                     the releases of RELEASES and the newest one
python scripts/matrix.py 8.3.9 8.4.190       these
python scripts/matrix.py --readme 8.3.9 ...  and put the table into README.md

Each release is installed without its dependencies into .matrix/<release> and put in front on PYTHONPATH; all else is
from the environment that runs the script (`pip install -e ".[dev,matrix]"`). Logs stay beside the releases, and so
does results.json: a row for each release, Python and torch that was run, of which the table is made. So rows of
another Python come into the table by running the script with it; delete the file to begin anew. The rows of an old
torch are made with what `scripts/oldest_torch.txt` constrains pip to, as in the weekly run.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from ultralytics_akconv.markdown import markdown_table

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".matrix"
RESULTS = FOLDER / "results.json"
RELEASES = ("8.3.9", "8.3.78", "8.3.253", "8.4.0", "8.4.100", "8.4.150")
# Column of the table -> beginnings of the names of the test files behind it.
GROUPS = {
    "layer, parser, names": ("modules", "plugin", "rows", "state", "blocks"),
    "every model YAML": ("configs", "graft"),
    "train, val, predict, resume, DDP": ("processes", "distributed"),
    "TorchScript, ONNX": ("export",),
    "pretrained weights": ("transfer",),
}


def install(release: str) -> Path:
    """Install a release, unless it is there already, and return its folder."""
    folder = FOLDER / release
    if not folder.exists():
        unfinished = folder.with_name(f"{release}.unfinished")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade", "--target", unfinished]
        subprocess.run([*command, f"ultralytics=={release}"], check=True)
        unfinished.rename(folder)
    return folder


def newest() -> str:
    """Return the newest release the package index has."""
    command = [sys.executable, "-m", "pip", "index", "versions", "ultralytics"]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return re.search(r"\((.+?)\)", out)[1]


def run(release: str, column: str, workers: int) -> str:
    """Run one group of tests on one release and return what the table says of it."""
    environment = {**os.environ, "PYTHONPATH": str(install(release))}
    tests = [str(file) for name in GROUPS[column] for file in sorted((ROOT / "tests").glob(f"test_{name}*.py"))]
    command = [sys.executable, "-m", "pytest", "-q", "-n", str(workers), "--dist", "loadfile", *tests]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    log = FOLDER / f"{release} Python {platform.python_version()} {column}.log"
    log.write_text(done.stdout + done.stderr, "utf-8")
    # The host's words follow pytest's last line on some releases, so the line is looked for.
    summaries = [line for line in done.stdout.splitlines() if re.search(r"\d+ (passed|failed|errors?)\b.* in ", line)]
    found = re.findall(r"(\d+) (passed|failed|skipped|xfailed|error)", "".join(summaries[-1:]))
    counts = {word: int(number) for number, word in found}
    bad = counts.get("failed", 0) + counts.get("error", 0)
    if done.returncode or bad or "passed" not in counts:
        print(f"   see {log}")
        return f"**{bad} failed** of {sum(counts.values())}" if counts else "**could not run**"
    skipped = f", {counts['skipped']} skipped" if "skipped" in counts else ""
    expected = f", {counts['xfailed']} expected failures" if "xfailed" in counts else ""
    return f"{counts['passed']} passed{skipped}{expected}"


def record(release: str, cells: list[str]) -> list[dict[str, Any]]:
    """Put a row into results.json in the place of an older one of the same versions; return all rows, in order."""
    import torch

    made_on = {"python": platform.python_version(), "torch": torch.__version__.split("+")[0]}
    row = {"release": release, **made_on, "date": str(datetime.date.today()), "cells": dict(zip(GROUPS, cells))}
    rows = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else []
    versions = ("release", "python", "torch")
    rows = [other for other in rows if any(other[key] != row[key] for key in versions)] + [row]
    rows.sort(key=lambda row: [[int(number) for number in re.findall(r"\d+", row[key])] for key in versions])
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as Markdown, with what they were made on."""
    dates = sorted({row["date"] for row in rows})
    versions = ("release", "python", "torch")
    cells = [
        [*(row[name] for name in versions), *(row["cells"].get(column, "not run") for column in GROUPS)] for row in rows
    ]
    told = markdown_table(("Ultralytics", "Python", "torch", *GROUPS), cells)
    return f"Tests run on {' to '.join(dates[:: max(len(dates) - 1, 1)])}, on a CPU:\n\n{told}\n"


def main() -> int:
    """Run the matrix, print the table and return 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("releases", nargs="*", help="Ultralytics releases")
    parser.add_argument("--readme", action="store_true", help="put the table into README.md")
    parser.add_argument("--workers", type=int, default=2, help="test processes at a time (default 2)")
    options = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    failed, text = False, ""
    for release in options.releases or [*RELEASES, newest()]:
        cells = []
        for column in GROUPS:
            cells.append(run(release, column, options.workers))
            print(f"{release}: {column}: {cells[-1]}", flush=True)
            text = table(record(release, cells))  # after each: a run that is stopped has what it ran
        failed = failed or any("**" in cell for cell in cells)
    print(f"\n{text}")
    if options.readme:
        readme = ROOT / "README.md"
        begin, end = "<!-- matrix: begin -->", "<!-- matrix: end -->"
        old = readme.read_text("utf-8")
        readme.write_text(f"{old.split(begin)[0]}{begin}\n\n{text}\n{end}{old.split(end)[1]}", "utf-8")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
