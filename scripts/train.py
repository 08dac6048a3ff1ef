# SPDX-License-Identifier: AGPL-3.0-or-later
"""Trains a model on COCO, VOC, VisDrone or a dataset of your own, with the paper's settings for the three.

    python scripts/train.py --data voc --model yolov8n.yaml --num-param 5
    python scripts/train.py --data visdrone --model yolov8n.yaml --num-param 5 --shape cross epochs=100 batch=32
    python scripts/train.py --data my.yaml --model yolo11s.yaml --num-param 7 --pretrained yolo11s.pt

The paper's settings (arXiv 2311.11587): 300 epochs of SGD at 640 px, from scratch. Where it is silent, and for datasets
of your own, Ultralytics' defaults stand. Any argument of Ultralytics follows as key=value or --key value, resume=True
too.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from ultralytics_akconv.cli.arguments import exit_status, host_command, script_parser
from ultralytics_akconv.datasets import find_data
from ultralytics_akconv.opening import host_model
from ultralytics_akconv.sweep import PRESETS, host_arguments, model_file


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, or print what would run; return 0, or 1 after an error of the user's."""
    parser = script_parser("train.py", __doc__)
    parser.add_argument("--model", default="yolov8n-akconv.yaml", help="a model YAML or a checkpoint")
    parser.add_argument("--num-param", type=int, metavar="N", help="put AKConv with N points into a model without")
    parser.add_argument("--shape", help="initial sampling shape of --num-param")
    parser.add_argument("--pretrained", metavar="FILE", help="a checkpoint whose weights to start from")
    options, rest = parser.parse_known_args(arguments)
    return exit_status(parser.prog, lambda: train(options, host_arguments(rest)))


def train(options: argparse.Namespace, settings: dict[str, Any]) -> None:
    """Train with the settings of the user's, over those of the paper."""
    settings = {**PRESETS.get(options.data, {}), **settings}
    if options.pretrained:
        settings["pretrained"] = options.pretrained
    model = model_file(options.model, options.num_param, options.shape)
    if options.dry_run:
        print(host_command("train", model, options.data, settings))
    else:
        host_model(model).train(data=str(find_data(options.data)), **settings)


if __name__ == "__main__":
    sys.exit(main())
