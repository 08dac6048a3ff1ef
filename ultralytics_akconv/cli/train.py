# SPDX-License-Identifier: AGPL-3.0-or-later
"""`akconv benchmark train` and `akconv evaluate`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

from ultralytics_akconv.cli.arguments import HOST_ARGUMENTS_HELP, add_data, positive, settings_text
from ultralytics_akconv.datasets import find_data
from ultralytics_akconv.evaluation import evaluate
from ultralytics_akconv.files import check_folder, write_whole
from ultralytics_akconv.sweep import ENGINES, PRESETS, Plan, host_arguments, read_arm, run_sweep


def add_train(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `akconv benchmark train`."""
    _add_common(parser, _run_train)
    parser.add_argument("--model", nargs="+", default=["yolov8n.yaml"], help="models without AKConv")
    parser.add_argument("--num-param", type=positive, nargs="*", default=[3, 5, 9], metavar="N",
                        help="numbers of sampling points, none for the arms alone (default 3 5 9)")  # fmt: skip
    parser.add_argument("--shape", nargs="+", default=["default"], metavar="SHAPE",
                        help="initial shapes of each number of points (default: default)")  # fmt: skip
    parser.add_argument(
        "--arm", action="append", default=[], metavar="'KEY=VALUE ...'",
        help="a further arm of each model, may be repeated: num_param, shape, where, border, origin as of `graft`, and "
        "arguments of Ultralytics of its own; freeze=offsets leaves the offsets as they start",
    )  # fmt: skip
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of each arm (default 0 1 2)")
    parser.add_argument("--no-baseline", action="store_true", help="leave out the models without AKConv")
    parser.add_argument("--split", default="val", help="split on which the best epoch is evaluated (default val)")
    parser.add_argument("--engine", choices=ENGINES, help="default serial, or processes with --jobs")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="trainings side by side (default 1)")
    parser.add_argument(
        "--budget-minutes", type=float, metavar="M", help="begin no seed that would not end in this time"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the cells and their settings, run nothing")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="results; resumed if there")


def add_evaluate(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `akconv evaluate`."""
    _add_common(parser, _run_evaluate)
    parser.add_argument("model", help="a checkpoint")
    parser.add_argument("--split", default="val", help="val, test or train (default val)")
    parser.add_argument("--imgsz", type=positive, default=640, help="image side in pixels (default 640)")
    parser.add_argument("--annotations", metavar="JSON", help="the original instances JSON, if not beside the dataset")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON")


def _add_common(parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], None]) -> None:
    """Add what the commands have in common that take a dataset and arguments of the host."""
    parser.allow_abbrev, parser.epilog = False, HOST_ARGUMENTS_HELP
    add_data(parser)
    parser.set_defaults(run=run, host_arguments=[])


def _run_train(options: argparse.Namespace) -> None:
    """Run the sweep and print its table."""
    arguments = {**PRESETS.get(options.data, {}), **host_arguments(options.host_arguments)}
    data = options.data if options.dry_run else str(find_data(options.data))
    plan = Plan(
        data,
        options.model,
        options.num_param,
        options.shape,
        options.seeds,
        not options.no_baseline,
        options.split,
        arguments,
        [read_arm(text) for text in options.arm],
    )
    if options.dry_run:
        print("\n".join(cell.name for cell in plan.cells()))
        print(f"each: train data={data} {settings_text(arguments)}")
        return
    engine = options.engine or ("serial" if options.jobs == 1 else "processes")
    ended = run_sweep(plan, options.output, engine, options.budget_minutes, options.jobs)
    failed = [name for name, status in ended.items() if status not in ("done", "waiting")]
    print((options.output / "table.md").read_text("utf-8"))
    if failed:
        raise ValueError(f"not all cells could be done, run again to try once more: {', '.join(failed)}")


def _run_evaluate(options: argparse.Namespace) -> None:
    """Evaluate and print the figures."""
    if options.json:
        check_folder(options.json)  # before the work
    settings = {"split": options.split, "imgsz": options.imgsz, **host_arguments(options.host_arguments)}
    result = evaluate(options.model, find_data(options.data), annotations=options.annotations, **settings)
    print(result.table())
    if options.json:
        write_whole(options.json, json.dumps(result.figures(), indent=2) + "\n")
        print(f"wrote {options.json}")
