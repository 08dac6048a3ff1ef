# SPDX-License-Identifier: AGPL-3.0-or-later
"""Settles in some minutes on one GPU what no machine without one can: right numbers, speed, memory, real trainings.

    python scripts/gpu.py -o gpu                          # eight minutes: facts.jsonl, table.md, log.txt in gpu/
    python scripts/gpu.py -o gpu --steps errors layers
    python scripts/gpu.py -o pairs --train --data bccd/data.yaml
    python scripts/gpu.py -o dry --device cpu --tiny --minutes 60

The most important step comes first, each fact is written as soon as it is known, and a step that fails does not stop
the next. --train instead trains YOLOv8n plain and with AKConv N=5 by the same seeds, several trainings side by side,
as many as fit. With --device cpu --tiny all of it runs as a rehearsal, the kernels in Triton's interpreter.

torch with Triton and what the package itself requires are enough, with SciPy and faster-coco-eval for --train. Nothing
is downloaded. In a checkout that is not installed, put PYTHONPATH=. before the command.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from ultralytics_akconv.cli.arguments import exit_status
from ultralytics_akconv.files import write_whole
from ultralytics_akconv.gpu import STEPS, Settings, run_steps, tables, train_pairs


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the steps or the trainings; return 0, or 1 after an error or if anything failed."""
    parser = argparse.ArgumentParser(
        "gpu.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="where the facts go")
    parser.add_argument("--device", default="cuda", help="cuda (default), a GPU by its number, or cpu")
    parser.add_argument("--minutes", type=float, default=8.0, help="what all may take (default 8)")
    parser.add_argument("--tiny", action="store_true", help="the smallest sizes: a rehearsal")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS), metavar="STEP",
                        help="; ".join(f"{name}: {step.what}" for name, step in STEPS.items()))  # fmt: skip
    parser.add_argument("--train", action="store_true", help="paired trainings in place of the steps")
    parser.add_argument("--data", help="dataset YAML of --train")
    parser.add_argument("--jobs", type=int, default=8, help="trainings at a time of --train (default 8)")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # by way of `finally`, where what was started is ended
    if options.train and not options.data:
        parser.error("--train needs --data, a dataset YAML")
    return exit_status(parser.prog, lambda: run(options))


def run(options: argparse.Namespace) -> None:
    """Run what was asked for and print the table."""
    settings = Settings(options.device, options.tiny, options.minutes)
    if options.train:
        os.environ.update(YOLO_OFFLINE="true", YOLO_AUTOINSTALL="false")  # of the trainings: no weights for AMP's check
        states = train_pairs(options.data, options.output, settings, options.jobs)
        print((options.output / "table.md").read_text("utf-8"))
        failed = [name for name, status in states.items() if status == "failed"]
    else:
        facts = run_steps(settings, options.output, options.steps)
        write_whole(options.output / "table.md", tables(facts))
        print(tables(facts))
        failed = [fact["step"] for fact in facts if "failed" in fact]
    if failed:
        raise ValueError(f"failed: {', '.join(dict.fromkeys(failed))}")


if __name__ == "__main__":
    sys.exit(main())
