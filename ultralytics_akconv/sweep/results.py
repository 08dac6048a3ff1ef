# SPDX-License-Identifier: AGPL-3.0-or-later
"""What comes out of a sweep: its cells and differences as CSV and JSON, the tables, and the pictures."""

from __future__ import annotations

import csv
import io
import json
import re
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ultralytics_akconv.benchmark.measurements import machine
from ultralytics_akconv.evaluation import SIZES, score_name
from ultralytics_akconv.files import write_whole
from ultralytics_akconv.markdown import markdown_table
from ultralytics_akconv.sweep.arms import Arm
from ultralytics_akconv.sweep.differences import paired_difference
from ultralytics_akconv.sweep.pictures import plot_curves, plot_differences, plot_sizes
from ultralytics_akconv.sweep.plan import PLAN, Cell, Plan, read_state, write_json
from ultralytics_akconv.sweep.settings import trained_on

MAIN = ("AP", "AP50", "APS")  # the scores whose differences the table and the picture tell, where there are boxes
_NAMED = 12  # trainings not finished that the table names
_METRIC = "metrics/"  # of the host's columns, two or four a task's part; the last two are drawn


def write_report(plan: Plan, folder: Path) -> None:
    """Write all tables and pictures of what is done into `folder`: see docs/datasets.md for the files."""
    states = {cell: read_state(folder, cell) for cell in plan.cells()}
    done = {cell: state["result"] for cell, state in states.items() if state["status"] == "done"}
    curves = [row for cell in states for row in _curve(plan, folder, cell)]
    compared = differences(done)
    cells = [
        {
            **_identity(cell),
            "status": state["status"],
            "seconds": _round(state.get("seconds")),
            "epoch_seconds": _epoch_seconds(folder, cell),
            **done.get(cell, {}),
        }
        for cell, state in states.items()
    ]
    _write_csv(folder / "cells.csv", cells)
    _write_csv(folder / "curves.csv", curves)
    _write_csv(folder / "differences.csv", compared)
    about = {"plan": json.loads((folder / PLAN).read_text("utf-8")), "machine": machine(trained_on(plan.arguments))}
    write_json(folder / "results.json", {**about, "rows": summary(done), "differences": compared, "cells": cells})
    write_whole(folder / "table.md", table(plan, states, done))
    if done:
        rows = {name: list(results.values()) for name, results in _rows(done).items()}
        plot_sizes(rows, main_scores(done)[0], folder / "ap.png")
    if curves:
        plot_curves(curves, folder / "curves.png")
    drawn = [row for row in compared if row["score"] in main_scores(done) and row["low"] is not None]
    if drawn:
        plot_differences(drawn, folder / "differences.png")


def score_names(done: dict[Cell, dict[str, Any]]) -> list[str]:
    """Return the names of the scores in the results, whatever the task."""
    result = next(iter(done.values()), {})
    return [key for key, value in result.items() if key not in SIZES and not isinstance(value, str)]


def main_scores(done: dict[Cell, dict[str, Any]]) -> list[str]:
    """Return the scores that are looked at first: COCO's of boxes, otherwise the host's mAP or accuracies."""
    names = score_names(done)
    first = [name for name in MAIN if name in names] or [name for name in names if re.search(r"mAP$|^top", name)]
    return first or names


def summary(done: dict[Cell, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return mean and standard deviation over the seeds of each line of the table, and its difference to the baseline.

    The difference is that of the means over the seeds which both lines have; None where there is no such seed.
    """
    rows = []
    by_arm = {next(iter(results)).arm: results for results in _rows(done).values()}
    for arm, results in by_arm.items():
        row: dict[str, Any] = {"row": arm.name, **_options(arm), "seeds": len(results)}
        row |= {key: next(iter(results.values()))[key] for key in ("parameters", "gflops")}
        row["latency"] = statistics.median(result["latency"] for result in results.values())
        for score in score_names(done):
            values = _by_seed(results, score)
            against = paired_difference(values, _by_seed(by_arm.get(Arm(arm.model), {}), score))
            row[score] = {
                "mean": statistics.mean(values.values()) if values else None,
                "spread": statistics.stdev(values.values()) if len(values) > 1 else None,
                "difference": against and against.mean,
            }
        rows.append(row)
    return rows


def differences(done: dict[Cell, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the paired difference of each arm to each of its baselines over common seeds, score by score."""
    by_arm = {next(iter(results)).arm: results for results in _rows(done).values()}
    rows = []
    for arm, results in by_arm.items():
        for baseline in arm.baselines():
            for score in score_names(done):
                pair = paired_difference(_by_seed(results, score), _by_seed(by_arm.get(baseline, {}), score))
                if pair:
                    of = {"arm": arm.name, "baseline": baseline.name, "score": score}
                    rows.append({**of, **asdict(pair), "verdict": pair.verdict})
    return rows


def table(plan: Plan, states: dict[Cell, dict[str, Any]], done: dict[Cell, dict[str, Any]]) -> str:
    """Return the summary as Markdown: percent, mean ± standard deviation over the seeds, (difference to plain)."""
    scores = score_names(done)
    header = ("model", "N", "shape", "options", "seeds", "parameters (M)", "GFLOPs", "ms an image", *scores)
    settings = ", ".join(f"{key} {value}" for key, value in plan.arguments.items()) or "Ultralytics' defaults"
    rows = []
    for row in summary(done):
        plain = row["N"] is None
        cells = [Path(row["model"]).stem, "-" if plain else row["N"], row["shape"] or "-", row["options"] or "-"]
        cells += [row["seeds"], f"{row['parameters'] / 1e6:.2f}", f"{row['gflops']:.2f}", f"{row['latency']:.1f}"]
        rows.append([*cells, *(_score(row[score], plain) for score in scores)])
    lines = [
        f"{Path(plan.data).name}, split {plan.split}; {settings}. Percent, mean ± standard deviation over the seeds; "
        "in parentheses the difference to the plain model over the same seeds. AP by COCO rules, mAP Ultralytics'.\n",
        markdown_table(header, rows),
    ]
    lines += _differences_table([row for row in differences(done) if row["score"] in main_scores(done)])
    failed = [f"- {cell.name}: {state['error']}" for cell, state in states.items() if state["status"] == "failed"]
    missing = [cell.name for cell, state in states.items() if state["status"] in ("waiting", "running")]
    lines += ["", "Failed:", *failed] if failed else []
    more = f", and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
    lines += ["", f"Not finished: {', '.join(missing[:_NAMED])}{more}"] if missing else []
    return "\n".join(lines) + "\n"


def _differences_table(rows: list[dict[str, Any]]) -> list[str]:
    """Return the lines that tell differences with their intervals, in points."""
    if not rows:
        return []
    header = ("arm", "minus", "score", "seeds", "difference", "95 % interval", "seeds for 1 point", "in words")
    told = []
    for row in rows:
        known = row["low"] is not None
        interval = f"{100 * row['low']:+.1f} to {100 * row['high']:+.1f}" if known else "-"
        cells = [row["arm"], row["baseline"], row["score"], row["seeds"], f"{100 * row['mean']:+.1f}", interval]
        told.append([*cells, row["needed"] or "-", row["verdict"]])
    return [
        "",
        "Paired differences over common seeds in points, with Student's interval of their mean. Each interval stands "
        "by itself: of twenty comparisons without any difference, one is expected to leave out 0. Seeds for 1 point: "
        "how many show a true difference of one point in four of five repetitions, at the spread seen.\n",
        markdown_table(header, told),
    ]


def _by_seed(results: dict[Cell, dict[str, Any]], score: str) -> dict[int, float]:
    """Return a score by seed, without those that have none."""
    return {cell.seed: result[score] for cell, result in results.items() if result[score] is not None}


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
    return {"row": cell.arm.name, **_options(cell.arm), "seed": cell.seed}


def _options(arm: Arm) -> dict[str, Any]:
    """Return what an arm consists of; what is not in a column of its own, as text."""
    options = " ".join(f"{key}={value}" for key, value in {**arm.options, **dict(arm.arguments)}.items())
    return {"model": arm.model, "N": arm.num_param, "shape": arm.shape, "options": options}


def _round(seconds: float | None) -> float | None:
    """Return seconds as they are worth telling."""
    return None if seconds is None else round(seconds, 1)


def _epochs(folder: Path, cell: Cell) -> list[dict[str, str]]:
    """Return the host's rows of the epochs of a cell."""
    file = folder / cell.name / "train/results.csv"
    if not file.is_file():
        return []
    with open(file, encoding="utf-8", newline="") as stream:
        return [{key.strip(): value.strip() for key, value in row.items()} for row in csv.DictReader(stream)]


def _epoch_seconds(folder: Path, cell: Cell) -> float | None:
    """Return the median duration of an epoch after the first, which also warms up."""
    times = [float(row["time"]) for row in _epochs(folder, cell)]
    steps = [after - before for before, after in zip(times, times[1:]) if after > before]  # a resumed one begins anew
    return _round(statistics.median(steps)) if steps else None


def _curve(plan: Plan, folder: Path, cell: Cell) -> list[dict[str, Any]]:
    """Return the last two of the host's scores on the validation images, after each epoch of a cell that has them."""
    rows = _epochs(folder, cell)
    if not plan.arguments.get("val", True):  # the host writes 0 where it has not validated
        rows = rows[-1:]
    # By epoch: one whose checkpoint was lost in a kill was trained, and so told, twice.
    epochs = {int(float(row["epoch"])): row for row in rows}
    columns = [column for column in (rows[0] if rows else ()) if column.startswith(_METRIC)][-2:]
    names = {column: score_name(column) for column in columns}
    return [
        {**_identity(cell), **{name: float(row[column]) for column, name in names.items()}, "epoch": epoch}
        for epoch, row in epochs.items()
    ]


def _write_csv(file: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as CSV; not every row need hold every column."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(file, text.getvalue())
