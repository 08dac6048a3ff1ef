# SPDX-License-Identifier: AGPL-3.0-or-later
"""Writes the shipped model YAMLs (`cfg/models`) from those of the installed host: python scripts/make_configs.py.

The paper's models by name; every other combination needs no file, see `akconv models`. `yolov7-tiny.yaml`, which the
host does not have, is written by hand and only read here.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ultralytics_akconv import graft
from ultralytics_akconv.configs import MODELS

PUBLISHED_SIZES = (3, 4, 5, 6, 7, 9, 11, 13)
YOLOV8_KINDS = ("seg", "pose", "obb", "cls", "p2", "p6")
YOLOV5_SIZES = (3, 4, 5, 6, 7, 9, 13)
YOLOV7_SIZES = (5, 9)
LAST_CONV_OF_EACH_ELAN = [5, 12, 19, 26, 45, 55, 63, 71]


def configs() -> dict[str, dict]:
    """Return what to ship: the file name and the arguments of `graft`."""
    files = {f"yolov8-akconv{'' if n == 5 else n}": {"model": "yolov8.yaml", "num_param": n} for n in PUBLISHED_SIZES}
    files |= {f"yolov8-{kind}-akconv": {"model": f"yolov8-{kind}.yaml"} for kind in YOLOV8_KINDS}
    files |= {f"yolov8-akconv-shape-{x}": {"model": "yolov8.yaml", "shape": f"paper_{x}"} for x in "abcde"}
    files["yolov8-c2f-akconv"] = {"model": "yolov8.yaml", "where": "blocks"}
    files |= {f"yolov5-akconv{n}": {"model": "yolov5.yaml", "num_param": n} for n in YOLOV5_SIZES}
    for n in YOLOV7_SIZES:
        arguments = {"model": "yolov7-tiny.yaml", "num_param": n, "where": LAST_CONV_OF_EACH_ELAN}
        files[f"yolov7-tiny-akconv{n}"] = arguments
    return {f"{stem}.yaml": arguments for stem, arguments in files.items()}


def main() -> None:
    """Write every file into the folder given, by default the shipped one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=MODELS)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, arguments in configs().items():
        (folder / name).write_text(graft(**arguments), "utf-8")
        print(f"wrote {folder / name}")


if __name__ == "__main__":
    main()
