# SPDX-License-Identifier: AGPL-3.0-or-later
"""Validates a model on COCO, VOC, VisDrone or a dataset of your own, with --coco-metrics by COCO rules, too.

    python scripts/val.py best.pt --data voc
    python scripts/val.py best.pt --data coco --coco-metrics batch=32

Any argument of Ultralytics follows as key=value or --key value. `akconv evaluate` is val.py --coco-metrics.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from ultralytics_akconv.cli.arguments import exit_status, host_command, script_parser
from ultralytics_akconv.datasets import find_data
from ultralytics_akconv.evaluation import evaluate
from ultralytics_akconv.opening import host_model
from ultralytics_akconv.sweep import host_arguments


def main(arguments: Sequence[str] | None = None) -> int:
    """Validate, or print what would run; return 0, or 1 after an error of the user's."""
    parser = script_parser("val.py", __doc__)
    parser.add_argument("model", help="a checkpoint")
    parser.add_argument("--coco-metrics", action="store_true", help="AP, AP50, AP75, APS, APM, APL by COCO rules")
    options, rest = parser.parse_known_args(arguments)
    return exit_status(parser.prog, lambda: validate(options, host_arguments(rest)))


def validate(options: argparse.Namespace, settings: dict[str, Any]) -> None:
    """Validate by the host's rules or by COCO's."""
    if options.dry_run:
        print(host_command("val", options.model, options.data, settings))
        return
    data = find_data(options.data)
    if options.coco_metrics:
        print(evaluate(options.model, data, **settings).table())
    else:
        host_model(options.model).val(data=str(data), **settings)


if __name__ == "__main__":
    sys.exit(main())
