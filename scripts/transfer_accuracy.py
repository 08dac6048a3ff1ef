# SPDX-License-Identifier: AGPL-3.0-or-later
"""Measures what a trained detector keeps when it is converted and not trained after: for every N, border and way.

python scripts/transfer_accuracy.py --source best.pt --data data.yaml -o results/kept.csv
"""

from __future__ import annotations

import argparse
import csv
import itertools
from pathlib import Path

from ultralytics import YOLO

from ultralytics_akconv import transfer

COLUMNS = ("N", "border", "images", "mAP50", "mAP50-95", "kept", "expected error", "measured error", "parameters")


def main() -> None:
    """Convert and validate every combination and write a row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", required=True, help="a trained checkpoint with ordinary convolutions")
    parser.add_argument("--data", required=True, help="dataset YAML; fitted on its train split, measured on val")
    parser.add_argument("--num-param", type=int, nargs="+", default=list(range(1, 10)))
    parser.add_argument("--border", nargs="+", default=["zeros"])
    parser.add_argument("--images", type=int, nargs="+", default=[0, 16], help="0 for without data")
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the CSV file to write")
    options = parser.parse_args()
    settings = {"data": options.data, "imgsz": options.imgsz, "batch": 8, "workers": 0, "device": options.device}
    settings |= {"plots": False, "verbose": False}
    temporary = options.output.with_suffix(".pt")
    plain = YOLO(options.source).val(**settings).box
    if not plain.map:
        parser.error(f"{options.source} has mAP50-95 0 on the validation split of {options.data}: nothing to keep")
    rows = [{"N": "3x3 Conv", "mAP50": f"{plain.map50:.4f}", "mAP50-95": f"{plain.map:.4f}", "kept": "100.0 %"}]
    for border, images, num_param in itertools.product(options.border, options.images, options.num_param):
        fit = {"data": options.data, "images": images, "imgsz": options.imgsz} if images else {}
        result = transfer(options.source, num_param=num_param, border=border, **fit)
        box = YOLO(result.save(temporary)).val(**settings).box
        rows.append({"N": num_param, "border": border, "images": images})
        rows[-1] |= {
            "mAP50": f"{box.map50:.4f}",
            "mAP50-95": f"{box.map:.4f}",
            "kept": f"{100 * box.map / plain.map:.1f} %",
        }
        expected, measured = ([getattr(layer, name) for layer in result.layers] for name in ("expected", "fitted"))
        rows[-1]["expected error"] = f"{100 * sum(expected) / len(expected):.1f} %"
        if images:
            rows[-1]["measured error"] = f"{100 * sum(measured) / len(measured):.1f} %"
        rows[-1]["parameters"] = sum(parameter.numel() for parameter in result.model.parameters())
    temporary.unlink()
    with open(options.output, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
