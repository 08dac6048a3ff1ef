# SPDX-License-Identifier: AGPL-3.0-or-later
"""`akconv plot ablation`."""

from __future__ import annotations

import argparse

from ultralytics_akconv.ablation import ablate_offsets
from ultralytics_akconv.cli.arguments import HOST_ARGUMENTS_HELP, positive
from ultralytics_akconv.cli.plot import add_output, save
from ultralytics_akconv.datasets import find_data
from ultralytics_akconv.files import check_figure
from ultralytics_akconv.plots import plot_ablation
from ultralytics_akconv.sweep import host_arguments


def add_ablation(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `akconv plot ablation`."""
    parser.allow_abbrev, parser.epilog = False, HOST_ARGUMENTS_HELP
    parser.add_argument("model", help="a checkpoint")
    parser.add_argument("data", help="coco, voc, visdrone, a dataset YAML or a dataset's folder")
    parser.add_argument("--split", default="val", help="what is evaluated (default val)")
    parser.add_argument("--imgsz", type=positive, default=640, help="image side in pixels (default 640)")
    parser.add_argument(
        "--images", type=positive, default=64, help="training images that the means are over (default 64)"
    )
    parser.add_argument(
        "--score", help="the score drawn (default AP by COCO rules, or the mAP or accuracy of the task)"
    )
    add_output(parser, "ablation.png", _run)
    parser.set_defaults(host_arguments=[])


def _run(options: argparse.Namespace) -> None:
    """Evaluate three times, print the figures, draw them and say where."""
    check_figure(options.output)  # before the work
    arguments = {"split": options.split, "imgsz": options.imgsz, **host_arguments(options.host_arguments)}
    ablation = ablate_offsets(options.model, find_data(options.data), images=options.images, **arguments)
    print(ablation.table())
    save(plot_ablation(ablation, options.score, options.dark), options.output)
