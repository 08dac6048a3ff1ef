# SPDX-License-Identifier: AGPL-3.0-or-later
"""What comes out of a sweep: its cells as CSV and JSON, the table in the paper's form, and two pictures."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from ultralytics_akconv.benchmark.measurements import machine
from ultralytics_akconv.files import save_figure, write_whole
from ultralytics_akconv.sweep.arms import Arm
from ultralytics_akconv.sweep.plan import PLAN, Cell, Plan, read_state, write_json

SCORES = ("AP50", "AP75", "AP", "APS", "APM", "APL", "precision", "recall", "mAP50", "mAP")
_CURVE = {"epoch": "epoch", "metrics/mAP50(B)": "mAP50", "metrics/mAP50-95(B)": "mAP"}


def write_report(plan: Plan, folder: Path) -> None:
    """Write cells.csv, curves.csv, results.json, table.md, ap.png and curves.png of all that is done into `folder`."""
    states = {cell: read_state(folder, cell) for cell in plan.cells()}
    done = {cell: state["result"] for cell, state in states.items() if state["status"] == "done"}
    curves = [row for cell in states for row in _curve(folder, cell)]
    cells = [
        {**_identity(cell), "status": state["status"], "seconds": _round(state.get("seconds")), **done.get(cell, {})}
        for cell, state in states.items()
    ]
    _write_csv(folder / "cells.csv", cells)
    _write_csv(folder / "curves.csv", curves)
    about = {"plan": json.loads((folder / PLAN).read_text("utf-8")), "machine": machine(torch.device("cpu"))}
    write_json(folder / "results.json", {**about, "rows": summary(done), "cells": cells})
    write_whole(folder / "table.md", table(plan, states, done))
    if done:
        _plot_sizes(done, folder / "ap.png")
    if curves:
        _plot_curves(curves, folder / "curves.png")


def summary(done: dict[Cell, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return mean and standard deviation over the seeds of each line of the table, and its difference to the baseline.

    The difference is that of the means over the seeds which both lines have; None where there is no such seed.
    """
    rows = []
    for name, results in _rows(done).items():
        first = next(iter(results)).arm
        baseline = _rows(done).get(Arm(first.model).name, {})
        reference = {cell.seed: result for cell, result in baseline.items()}
        row: dict[str, Any] = {"row": name, "model": first.model, "N": first.num_param, "shape": first.shape}
        row |= {"seeds": len(results)} | {key: next(iter(results.values()))[key] for key in ("parameters", "gflops")}
        row["latency"] = statistics.median(result["latency"] for result in results.values())
        for score in SCORES:
            values = [result[score] for result in results.values() if result[score] is not None]
            pairs = [
                (result[score], reference[cell.seed][score])
                for cell, result in results.items()
                if cell.seed in reference and result[score] is not None
            ]
            row[score] = {
                "mean": statistics.mean(values) if values else None,
                "spread": statistics.stdev(values) if len(values) > 1 else None,
                "difference": statistics.mean(a - b for a, b in pairs) if pairs else None,
            }
        rows.append(row)
    return rows


def table(plan: Plan, states: dict[Cell, dict[str, Any]], done: dict[Cell, dict[str, Any]]) -> str:
    """Return the summary as Markdown: percent, mean ± standard deviation over the seeds, (difference to plain)."""
    header = ("model", "N", "shape", "seeds", "parameters (M)", "GFLOPs", "ms an image", *SCORES)
    settings = ", ".join(f"{key} {value}" for key, value in plan.arguments.items()) or "the host's defaults"
    lines = [
        f"{Path(plan.data).name}, split {plan.split}; {settings}. Percent, mean ± standard deviation over the seeds; "
        "in parentheses the difference to the plain model over the same seeds. AP by COCO rules, mAP the host's.\n",
        f"| {' | '.join(header)} |",
        "|---" * len(header) + "|",
    ]
    for row in summary(done):
        plain = row["N"] is None
        cells = [Path(row["model"]).stem, "-" if plain else row["N"], "-" if plain else row["shape"], row["seeds"]]
        cells += [f"{row['parameters'] / 1e6:.2f}", f"{row['gflops']:.2f}", f"{row['latency']:.1f}"]
        cells += [_score(row[score], plain) for score in SCORES]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    failed = [f"- {cell.name}: {state['error']}" for cell, state in states.items() if state["status"] == "failed"]
    missing = [cell.name for cell, state in states.items() if state["status"] in ("waiting", "running")]
    lines += ["", "Failed:", *failed] if failed else []
    lines += ["", f"Not finished: {', '.join(missing)}"] if missing else []
    return "\n".join(lines) + "\n"


def _score(score: dict[str, float | None], plain: bool) -> str:
    """Return one score as the table tells it."""
    if score["mean"] is None:
        return "-"
    spread = "" if score["spread"] is None else f" ± {100 * score['spread']:.1f}"
    difference = "" if plain or score["difference"] is None else f" ({100 * score['difference']:+.1f})"
    return f"{100 * score['mean']:.1f}{spread}{difference}"


def _rows(done: dict[Cell, dict[str, Any]]) -> dict[str, dict[Cell, dict[str, Any]]]:
    """Return the results by the line of the table they belong to."""
    rows: dict[str, dict[Cell, dict[str, Any]]] = {}
    for cell, result in done.items():
        rows.setdefault(cell.arm.name, {})[cell] = result
    return rows


def _identity(cell: Cell) -> dict[str, Any]:
    """Return what tells a cell from others."""
    arm = cell.arm
    return {"row": arm.name, "model": arm.model, "N": arm.num_param, "shape": arm.shape, "seed": cell.seed}


def _round(seconds: float | None) -> float | None:
    """Return seconds as they are worth telling."""
    return None if seconds is None else round(seconds, 1)


def _curve(folder: Path, cell: Cell) -> list[dict[str, Any]]:
    """Return the host's scores on the validation images after each epoch of a cell."""
    file = folder / cell.name / "train/results.csv"
    if not file.is_file():
        return []
    with open(file, encoding="utf-8", newline="") as stream:
        epochs = [{key.strip(): value.strip() for key, value in row.items()} for row in csv.DictReader(stream)]
    # By epoch: one whose checkpoint was lost in a kill was trained, and so told, twice.
    scores = {int(float(row["epoch"])): {ours: float(row[host]) for host, ours in _CURVE.items()} for row in epochs}
    return [{**_identity(cell), **score, "epoch": epoch} for epoch, score in scores.items()]


def _write_csv(file: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as CSV; not every row need hold every column."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(file, text.getvalue())


def _plot_sizes(done: dict[Cell, dict[str, Any]], file: Path) -> None:
    """Draw AP against parameters and GFLOPs: a dot a training, a bar at the mean of its line."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, size, label in zip(axes, ("parameters", "gflops"), ("parameters (M)", "GFLOPs")):
        for name, results in _rows(done).items():
            scores = [100 * (result["AP"] or 0.0) for result in results.values()]
            value = next(iter(results.values()))[size] / (1e6 if size == "parameters" else 1)
            dots = axis.scatter([value] * len(scores), scores, alpha=0.6, label=name)
            axis.scatter(value, statistics.mean(scores), marker="_", s=300, color=dots.get_facecolor()[0])
        axis.set(xlabel=label)
    axes[0].set(ylabel="AP (%)")
    axes[1].legend(fontsize=7)
    save_figure(figure, file, dpi=120)


def _plot_curves(curves: Iterable[dict[str, Any]], file: Path) -> None:
    """Draw the mean curve of each line of the table with the range of its seeds."""
    from matplotlib.figure import Figure

    lines: dict[str, dict[int, list[dict[str, Any]]]] = {}
    for point in curves:
        lines.setdefault(point["row"], {}).setdefault(point["epoch"], []).append(point)
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axis, score in zip(figure.subplots(1, 2), ("mAP50", "mAP")):
        for name, points in lines.items():
            values = {epoch: [100 * point[score] for point in points[epoch]] for epoch in sorted(points)}
            (drawn,) = axis.plot([*values], [statistics.mean(v) for v in values.values()], marker=".", label=name)
            ranges = ([min(v) for v in values.values()], [max(v) for v in values.values()])
            axis.fill_between([*values], *ranges, color=drawn.get_color(), alpha=0.15)
        axis.set(xlabel="epoch", ylabel=f"validation {score} (%)")
    axis.legend(fontsize=7)
    save_figure(figure, file, dpi=120)
