# SPDX-License-Identifier: AGPL-3.0-or-later
"""Trains models with and without AKConv by several seeds and writes the table; the same as `akconv benchmark train`.

python scripts/benchmark.py --data voc --model yolov8n.yaml --num-param 3 5 9 --seeds 0 1 2 -o results epochs=100
"""

import sys

from ultralytics_akconv.cli import main

if __name__ == "__main__":
    sys.exit(main(["benchmark", "train", *sys.argv[1:]]))
