# SPDX-License-Identifier: AGPL-3.0-or-later
"""Times Ultralytics' own `predict` and training step, of a plain model and of the same with AKConv, taking turns.

What `akconv benchmark model` leaves out is in it: the layout and the fusing that Ultralytics chooses, its loss, its
optimizer and the average of the weights. Untrained models on the bundled images; the ratio is the median over the
rounds. The first step of every training is left out.

    python scripts/real_speed.py --models yolov8n yolov8s --rounds 12
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from ultralytics import YOLO
from ultralytics.data.utils import check_det_dataset

from ultralytics_akconv.markdown import markdown_table


def predicted(model: YOLO, options: argparse.Namespace) -> float:
    """Return the ms an image that Ultralytics reports for inference, median over the validation images."""
    images = Path(check_det_dataset("akconv-mini.yaml")["val"])
    results = model.predict(images, imgsz=640, device=options.device, verbose=False, save=False)
    return statistics.median(result.speed["inference"] for result in results)


def trained(name: str, options: argparse.Namespace, folder: Path) -> float:
    """Return the ms of a training step of eight images of 320 px: forward, loss, backward, optimizer; the median."""
    model, starts, steps = YOLO(name), [], []
    model.add_callback("on_train_batch_start", lambda trainer: starts.append(time.perf_counter()))
    model.add_callback("on_train_batch_end", lambda trainer: steps.append(time.perf_counter() - starts[-1]))
    quiet = {"verbose": False, "plots": False, "val": False, "save": False, "workers": 0}
    quiet |= {"project": str(folder), "name": "run", "exist_ok": True}
    model.train(data="akconv-mini.yaml", epochs=2, batch=8, nbs=8, imgsz=320, device=options.device, **quiet)
    return 1000 * statistics.median(steps[1:])


def compared(name: str, what: str, rounds: int, plain: Callable[[], float], akconv: Callable[[], float]) -> list[str]:
    """Measure in turn and return a row of the table."""
    pairs = []
    for _ in range(rounds):
        pairs.append((plain(), akconv()))
        print(f"{name}, {what}: {pairs[-1][0]:.1f} and {pairs[-1][1]:.1f} ms", flush=True)
    ratios = sorted(second / first for first, second in pairs)
    times = [f"{statistics.median(each):.1f}" for each in zip(*pairs)]
    return [name, what, str(rounds), *times, f"{statistics.median(ratios):.2f}", f"{ratios[0]:.2f} to {ratios[-1]:.2f}"]


def main() -> None:
    """Measure, print each round as it ends and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["yolov8n"], help="plain models (default yolov8n)")
    parser.add_argument("--rounds", type=int, default=12, help="of predictions (default 12)")
    parser.add_argument("--trainings", type=int, default=4, help="rounds of trainings, 0 for none (default 4)")
    parser.add_argument("--device", default="cpu", help='as Ultralytics takes it, "cpu" or "0" (default cpu)')
    options = parser.parse_args()
    rows = []
    for name in options.models:
        names = (f"{name}.yaml", f"{name}-akconv.yaml")
        predictions = [partial(predicted, YOLO(each), options) for each in names]
        for predict in predictions:
            predict()  # fuses, and takes the memory that it keeps
        rows.append(compared(name, "predict, 640 px", options.rounds, *predictions))
        if options.trainings:
            with tempfile.TemporaryDirectory() as folder:
                trainings = [partial(trained, each, options, Path(folder)) for each in names]
                rows.append(compared(name, "training step, 320 px", options.trainings, *trainings))
    print(f"\n{torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print(markdown_table(("model", "what", "rounds", "plain ms", "AKConv ms", "x plain", "range"), rows))


if __name__ == "__main__":
    main()
