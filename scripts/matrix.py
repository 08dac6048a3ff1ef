# SPDX-License-Identifier: AGPL-3.0-or-later
"""Runs the tests that touch the host on several Ultralytics releases and writes the compatibility table of the README.

python scripts/matrix.py                     the releases of RELEASES and the newest one
python scripts/matrix.py 8.3.9 8.4.190       these
python scripts/matrix.py --readme 8.3.9 ...  and put the table into README.md

Each release is installed without its dependencies into .matrix/<release> and put in front on PYTHONPATH; all else is
from the environment that runs the script (`pip install -e ".[dev,matrix]"`). Logs stay beside the releases.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".matrix"
RELEASES = ("8.3.9", "8.3.78", "8.3.253", "8.4.0", "8.4.100", "8.4.150")
# Column of the table -> the tests behind it.
GROUPS = {
    "layer, parser, names": ("test_modules.py", "test_plugin.py", "test_rows.py", "test_state.py", "test_blocks.py"),
    "every model YAML": ("test_configs.py", "test_graft.py"),
    "train, val, predict, resume": ("test_processes.py",),
    "TorchScript, ONNX": ("test_export.py",),
    "pretrained weights": ("test_transfer.py",),
}


def install(release: str) -> Path:
    """Install a release, unless it is there already, and return its folder."""
    folder = FOLDER / release
    if not folder.exists():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder]
        subprocess.run([*command, f"ultralytics=={release}"], check=True)
    return folder


def newest() -> str:
    """Return the newest release the package index has."""
    command = [sys.executable, "-m", "pip", "index", "versions", "ultralytics"]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return re.search(r"\((.+?)\)", out)[1]


def run(release: str, column: str, workers: int) -> str:
    """Run one group of tests on one release and return what the table says of it."""
    environment = {**os.environ, "PYTHONPATH": str(install(release))}
    tests = [str(ROOT / "tests" / name) for name in GROUPS[column]]
    command = [sys.executable, "-m", "pytest", "-q", "-n", str(workers), "--dist", "loadgroup", *tests]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    log = FOLDER / f"{release} {column}.log"
    log.write_text(done.stdout + done.stderr, "utf-8")
    # The host's words follow pytest's last line on some releases, so the line is looked for.
    summaries = [line for line in done.stdout.splitlines() if re.search(r"\d+ (passed|failed|errors?)\b.* in ", line)]
    counts = {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|skipped|error)", "".join(summaries[-1:]))}
    bad = counts.get("failed", 0) + counts.get("error", 0)
    if done.returncode or bad or "passed" not in counts:
        print(f"   see {log}")
        return f"**{bad} failed** of {sum(counts.values())}" if counts else "**could not run**"
    skipped = f", {counts['skipped']} skipped" if "skipped" in counts else ""
    return f"{counts['passed']} passed{skipped}"


def table(results: dict[str, list[str]]) -> str:
    """Return the results as Markdown, with what they were made on."""
    import torch

    made_on = (
        f"{datetime.date.today()}, Python {platform.python_version()}, torch {torch.__version__.split('+')[0]}, CPU"
    )
    lines = [f"| Ultralytics | {' | '.join(GROUPS)} |", "|---" * (len(GROUPS) + 1) + "|"]
    lines += [f"| {release} | {' | '.join(cells)} |" for release, cells in results.items()]
    return f"Tests run on {made_on}:\n\n" + "\n".join(lines) + "\n"


def main() -> int:
    """Run the matrix, print the table and return 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("releases", nargs="*", help="Ultralytics releases")
    parser.add_argument("--readme", action="store_true", help="put the table into README.md")
    parser.add_argument("--workers", type=int, default=2, help="test processes at a time (default 2)")
    options = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    results: dict[str, list[str]] = {}
    for release in options.releases or [*RELEASES, newest()]:
        results[release] = []
        for column in GROUPS:
            results[release].append(run(release, column, options.workers))
            print(f"{release}: {column}: {results[release][-1]}", flush=True)
    text = table(results)
    print(f"\n{text}")
    if options.readme:
        readme = ROOT / "README.md"
        begin, end = "<!-- matrix: begin -->", "<!-- matrix: end -->"
        old = readme.read_text("utf-8")
        readme.write_text(f"{old.split(begin)[0]}{begin}\n\n{text}\n{end}{old.split(end)[1]}", "utf-8")
    return int(any("**" in cell for cells in results.values() for cell in cells))


if __name__ == "__main__":
    sys.exit(main())
