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

from ultralytics_akconv.datasets import NAMED, find_data
from ultralytics_akconv.evaluate import evaluate, host_model
from ultralytics_akconv.sweep import host_arguments


def main(arguments: Sequence[str] | None = None) -> int:
    """Validate, or print what would run; return 0, or 1 after an error of the user's."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("model", help="a checkpoint")
    parser.add_argument("--data", required=True, help="coco, voc, visdrone, a dataset YAML or a dataset's folder")
    parser.add_argument("--coco-metrics", action="store_true", help="AP, AP50, AP75, APS, APM, APL by COCO rules")
    parser.add_argument("--dry-run", action="store_true", help="print what would run, run nothing")
    options, rest = parser.parse_known_args(arguments)
    try:
        settings = host_arguments(rest)
        if options.dry_run:
            text = " ".join(f"{key}={value}" for key, value in settings.items())
            print(f"yolo val model={options.model} data={NAMED.get(options.data, options.data)} {text}".rstrip())
            return 0
        data = find_data(options.data)
        if options.coco_metrics:
            print(evaluate(options.model, data, **settings).table())
        else:
            host_model(options.model).val(data=str(data), **settings)
    except (ImportError, OSError, TypeError, ValueError) as error:
        print(f"val.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
