# SPDX-License-Identifier: AGPL-3.0-or-later
"""Measures what a conversion keeps without data, fitted on images, and after the layers learned together.

Each number of points and seed is one row of runs.csv; the seed chooses the images that are held out, those that are
learned from, and their augmentation. Rows that are in the output folder already are not measured again.

    python scripts/distillation_comparison.py --source best.pt --data data.yaml --num-param 3 5 --steps 300 -o results
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from finetune_comparison import append, read
from ultralytics import YOLO

from ultralytics_akconv import transfer, write_checkpoint
from ultralytics_akconv.conversion.report import Transfer
from ultralytics_akconv.files import save_figure
from ultralytics_akconv.markdown import markdown_table

ARMS = ("without data", "fitted", "learned together")
RUN = ("N", "seed", "arm", "parameters", "split", "mAP50", "mAP50-95", "kept", "head error", "seconds")
CURVE = ("N", "seed", "step", "loss", "head error")


def accuracy(file: Path, options: argparse.Namespace, folder: Path) -> tuple[float, float]:
    """Return mAP50 and mAP50-95 of a checkpoint on the chosen split."""
    settings = {"data": options.data, "imgsz": options.imgsz, "split": options.split, "device": options.device}
    quiet = {"workers": 0, "plots": False, "verbose": False, "project": str(folder), "name": "val", "exist_ok": True}
    box = YOLO(file).val(**settings, **quiet).box
    return float(box.map50), float(box.map)


def converted(arm: str, num_param: int, seed: int, options: argparse.Namespace) -> Transfer:
    """Return the source converted in one of the three ways."""
    if arm == "without data":
        return transfer(options.source, num_param=num_param)
    steps = options.steps if arm == "learned together" else None
    settings = {"images": options.images, "imgsz": options.imgsz, "device": options.device, "seed": seed}
    return transfer(options.source, num_param=num_param, data=options.data, distill=steps, **settings)


def run(arm: str, num_param: int, seed: int, source: float, options: argparse.Namespace) -> tuple[dict, list[dict]]:
    """Convert and measure; return the row of the result and the curve of the learning."""
    start = time.monotonic()
    result = converted(arm, num_param, seed, options)
    seconds = time.monotonic() - start
    with tempfile.TemporaryDirectory() as folder:
        map50, score = accuracy(result.save(Path(folder) / "converted.pt"), options, Path(folder))
    row = {"N": num_param, "seed": seed, "arm": arm, "split": options.split, "seconds": f"{seconds:.1f}"}
    row["parameters"] = sum(parameter.numel() for parameter in result.model.parameters())
    row |= {"mAP50": f"{map50:.4f}", "mAP50-95": f"{score:.4f}", "kept": f"{100 * score / source:.2f}"}
    learned = result.refined.learned if result.refined else None
    if result.refined:
        row["head error"] = f"{learned.after if learned else result.refined.fitted:.4f}"
    names = ("step", "loss", "head error")
    points = [(0, "", learned.before), *learned.curve] if learned else []
    return row, [{"N": num_param, "seed": seed, **dict(zip(names, point))} for point in points]


def table(rows: list[dict]) -> str:
    """Return what each way keeps, mean and range over the seeds, as a Markdown table."""
    titles, lines = ("N", "parameters", *(f"{arm}, kept" for arm in ARMS), "seeds"), []
    for number in sorted({int(row["N"]) for row in rows}):
        mine = [row for row in rows if int(row["N"]) == number]
        cells = [str(number), f"{int(mine[0]['parameters']):,}"]
        for arm in ARMS:
            kept = [float(row["kept"]) for row in mine if row["arm"] == arm]
            spread = f" ({min(kept):.1f} to {max(kept):.1f})" if len(kept) > 1 else ""
            cells.append(f"{statistics.mean(kept):.1f} %{spread}" if kept else "")
        cells.append(str(len({row["seed"] for row in mine if row["arm"] == ARMS[-1]})))
        lines.append(cells)
    return markdown_table(titles, lines, "--:")


def plot(curves: list[dict], file: Path) -> None:
    """Draw the error on the held-out images against the steps, a line a seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    runs = sorted({(int(row["N"]), int(row["seed"])) for row in curves})
    colours = {number: f"C{i}" for i, number in enumerate(sorted({number for number, _ in runs}))}
    for number, seed in runs:
        mine = [row for row in curves if (int(row["N"]), int(row["seed"])) == (number, seed)]
        steps, errors = zip(*((int(row["step"]), 100 * float(row["head error"])) for row in mine))
        label = f"N={number}" if seed == min(s for n, s in runs if n == number) else None
        axis.plot(steps, errors, marker=".", color=colours[number], label=label)
    axis.set(xlabel="step", ylabel="error on held-out images, %", ylim=(0, None))
    axis.legend()
    save_figure(figure, file, dpi=120)


def main() -> None:
    """Measure what is missing and write the table and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", required=True, help="a trained detection checkpoint with ordinary convolutions")
    parser.add_argument("--data", required=True, help="dataset YAML: unlabelled training images, a labelled split")
    parser.add_argument("--num-param", type=int, nargs="+", default=[3, 5])
    parser.add_argument("--steps", type=int, default=300, help="of learning together (default 300)")
    parser.add_argument("--images", type=int, default=64, help="of the fit (default 64)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--split", default="test", help="labelled split on which accuracy is measured (default test)")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the results")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    curves, runs = options.output / "curves.csv", options.output / "runs.csv"
    with tempfile.TemporaryDirectory() as folder:
        source = YOLO(options.source).model
        file = write_checkpoint(source, Path(folder) / "source.pt")
        map50, score = accuracy(file, options, Path(folder))
    print(f"source: mAP50 {map50:.4f}, mAP50-95 {score:.4f}")
    if not score:
        parser.error(
            f"{options.source} has mAP50-95 0 on the split '{options.split}' of {options.data}: nothing to keep"
        )
    for seed in options.seeds:
        for number in options.num_param:
            for arm in ARMS:
                if any((row["N"], row["seed"], row["arm"]) == (str(number), str(seed), arm) for row in read(runs)):
                    continue
                row, curve = run(arm, number, seed, score, options)
                append(runs, RUN, [row])
                append(curves, CURVE, curve)
                print(", ".join(f"{key} {value}" for key, value in row.items()))
    (options.output / "table.md").write_text(f"{table(read(runs))}\n", "utf-8")
    plot(read(curves), options.output / "curves.png")
    print(table(read(runs)))


if __name__ == "__main__":
    main()
