# SPDX-License-Identifier: AGPL-3.0-or-later
"""Makes the files that docs/try.md runs in a browser: `make demo` calls it after the trainings and `npm ci`.

python scripts/make_demo.py --akconv best.pt --plain plain.pt --runtime node_modules/onnxruntime-web/dist
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ultralytics_akconv.cli.arguments import exit_status
from ultralytics_akconv.configs import DATASETS
from ultralytics_akconv.demo import build_demo

OUT = Path(__file__).resolve().parent.parent / "docs/assets/try"
IMAGES = [DATASETS / f"akconv-mini/images/val/BloodImage_{number}.jpg" for number in ("00014", "00030", "00055")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the files and say how large they are; return 0, or 1 after an error of the user's."""
    parser = argparse.ArgumentParser("make_demo.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("--akconv", type=Path, required=True, help="a detector with AKConv layers")
    parser.add_argument("--plain", type=Path, required=True, help="the plain model, trained the same way")
    parser.add_argument("--runtime", type=Path, required=True, help="folder dist of the npm package onnxruntime-web")
    parser.add_argument("--out", type=Path, default=OUT, help="folder to write")
    options = parser.parse_args(arguments)
    return exit_status(parser.prog, lambda: make(options))


def make(options: argparse.Namespace) -> None:
    """Write the files and say how large they are."""
    demo = build_demo(options.akconv, options.plain, IMAGES, options.runtime, options.out)
    for file in (demo["runtime"]["wasm"], *demo["models"].values()):
        print(f"{options.out / file['file']}: {file['bytes'] / 1e6:.1f} MB, {file['gzipped'] / 1e6:.1f} gzipped")


if __name__ == "__main__":
    sys.exit(main())
