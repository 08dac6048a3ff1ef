# SPDX-License-Identifier: AGPL-3.0-or-later
"""Fine-tunes a trained model in four ways, several seeds each, and writes curves, a table and a picture.

plain: the model as it is. converted: `transfer` to AKConv, then training. partial: the AKConv model with what the host
loads by itself, the replaced layers starting at random. scratch: the AKConv model from random weights. Runs that are in
the output folder already are not repeated, so an interrupted comparison goes on.

    python scripts/finetune_comparison.py --source best.pt --data data.yaml --epochs 8 --seeds 0 1 2 -o results
"""

from __future__ import annotations

import argparse
import csv
import statistics
import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch
from ultralytics import YOLO
from ultralytics.utils.torch_utils import get_flops

from ultralytics_akconv import transfer, write_checkpoint
from ultralytics_akconv.files import save_figure
from ultralytics_akconv.markdown import markdown_table

ARMS = ("plain", "converted", "partial", "scratch")
CURVE = ("arm", "seed", "epoch", "mAP50", "mAP50-95")
RUN = ("arm", "seed", "parameters", "GFLOPs", "val mAP50", "val mAP50-95", "test mAP50", "test mAP50-95")


def starting_point(arm: str, options: argparse.Namespace, seed: int, folder: Path) -> str | Path:
    """Return the checkpoint, or for `scratch` the model YAML as a checkpoint of random weights, an arm starts from."""
    if arm == "plain":
        return options.source
    converted = transfer(options.source, num_param=options.num_param)
    if arm == "converted":
        return converted.save(folder / "converted.pt")
    torch.manual_seed(seed)
    model = type(converted.model)(converted.model.yaml, verbose=False)
    model.args, model.task, model.names = converted.model.args, converted.model.task, converted.model.names
    if arm == "partial":
        model, random = converted.model, model.get_submodule
        for layer in converted.layers:  # the host's own load leaves out these alone
            model.get_submodule(layer.name).load_state_dict(random(layer.name).state_dict())
    return write_checkpoint(model, folder / f"{arm}.pt")


def run(arm: str, seed: int, options: argparse.Namespace, folder: Path) -> tuple[list[dict], dict]:
    """Train one arm with one seed; return its curve on the validation images and the row of its result."""
    model = YOLO(starting_point(arm, options, seed, folder))
    settings = {"data": options.data, "imgsz": options.imgsz, "workers": 0, "device": options.device, "plots": False}
    settings |= {"project": str(folder), "exist_ok": True, "verbose": False}
    training = {"epochs": options.epochs, "batch": 8, "nbs": 8, "close_mosaic": 2, "seed": seed, "name": f"{arm}{seed}"}
    model.train(**settings, **training)
    with open(folder / f"{arm}{seed}" / "results.csv", encoding="utf-8") as file:
        epochs = [{key.strip(): value.strip() for key, value in row.items()} for row in csv.DictReader(file)]
    scores = {"mAP50": "metrics/mAP50(B)", "mAP50-95": "metrics/mAP50-95(B)"}
    curve = [
        {"arm": arm, "seed": seed, "epoch": row["epoch"], **{name: row[column] for name, column in scores.items()}}
        for row in epochs
    ]
    best = YOLO(folder / f"{arm}{seed}" / "weights" / "best.pt")
    parameters = sum(parameter.numel() for parameter in best.model.parameters())
    result = {"arm": arm, "seed": seed, "parameters": parameters, "GFLOPs": f"{get_flops(best.model):.2f}"}
    for split in options.splits:
        box = best.val(split=split, batch=8, name="val", **settings).box
        result |= {f"{split} mAP50": f"{box.map50:.4f}", f"{split} mAP50-95": f"{box.map:.4f}"}
    return curve, result


def append(file: Path, columns: Iterable[str], rows: list[dict]) -> None:
    """Append rows to a CSV file, after its titles if it is new."""
    new = not file.exists()
    with open(file, "a", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows(rows)


def read(file: Path) -> list[dict]:
    """Return the rows of a CSV file, none if there is no such file."""
    if not file.exists():
        return []
    with open(file, encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def table(results: list[dict]) -> str:
    """Return the mean and the standard deviation of each arm over its seeds, as a Markdown table."""
    lines = []
    for arm in ARMS:
        rows = [row for row in results if row["arm"] == arm]
        if not rows:
            continue
        cells = [arm, str(len(rows)), f"{int(rows[0]['parameters']):,}", rows[0]["GFLOPs"]]
        for column in RUN[4:]:
            values = [float(row[column]) for row in rows if row[column]]
            spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.4f}{spread}" if values else "")
        lines.append(cells)
    return markdown_table(("arm", "seeds", *RUN[2:]), lines)


def plot(curves: list[dict], file: Path) -> None:
    """Draw every arm's mean curve with the range of its seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    for axis, score in zip(figure.subplots(1, 2), CURVE[3:]):
        for arm in ARMS:
            by_epoch: dict[int, list[float]] = {}
            for row in curves:
                if row["arm"] == arm:
                    by_epoch.setdefault(int(row["epoch"]), []).append(float(row[score]))
            epochs = sorted(by_epoch)
            (line,) = axis.plot(epochs, [statistics.mean(by_epoch[epoch]) for epoch in epochs], marker=".", label=arm)
            low, high = ([pick(by_epoch[epoch]) for epoch in epochs] for pick in (min, max))
            axis.fill_between(epochs, low, high, color=line.get_color(), alpha=0.15)
        axis.set(xlabel="epoch", ylabel=f"validation {score}")
        axis.legend()
    save_figure(figure, file, dpi=120)


def main() -> None:
    """Run what is missing and write the table and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", required=True, help="a trained checkpoint with ordinary convolutions")
    parser.add_argument("--data", required=True, help="dataset YAML")
    parser.add_argument("--num-param", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--splits", nargs="+", default=["val", "test"], help="splits on which the best epoch is measured"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the results")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    curves, results = options.output / "curves.csv", options.output / "runs.csv"
    for seed in options.seeds:
        for arm in ARMS:
            if any((row["arm"], row["seed"]) == (arm, str(seed)) for row in read(results)):
                continue
            with tempfile.TemporaryDirectory() as folder:
                curve, result = run(arm, seed, options, Path(folder))
            append(curves, CURVE, curve)
            append(results, RUN, [result])
    (options.output / "table.md").write_text(f"{table(read(results))}\n", "utf-8")
    plot(read(curves), options.output / "curves.png")
    print(table(read(results)))


if __name__ == "__main__":
    main()
