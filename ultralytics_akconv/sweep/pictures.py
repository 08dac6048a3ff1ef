# SPDX-License-Identifier: AGPL-3.0-or-later
"""Pictures of a sweep: scores against size, curves over the epochs, and the intervals of the differences."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from ultralytics_akconv.files import save_figure


def plot_sizes(rows: dict[str, list[dict[str, Any]]], score: str, file: Path) -> None:
    """Draw a score against parameters and GFLOPs: a dot a training, a bar at the mean of its line.

    Args:
        rows: The results of each line of the table.
        score: The name of the score.
        file: The picture.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, size, label in zip(axes, ("parameters", "gflops"), ("parameters (M)", "GFLOPs")):
        for name, results in rows.items():
            scores = [100 * (result[score] or 0.0) for result in results]
            value = results[0][size] / (1e6 if size == "parameters" else 1)
            dots = axis.scatter([value] * len(scores), scores, alpha=0.6, label=name)
            axis.scatter(value, statistics.mean(scores), marker="_", s=300, color=dots.get_facecolor()[0])
        axis.set(xlabel=label)
    axes[0].set(ylabel=f"{score} (%)")
    axes[1].legend(fontsize=7)
    save_figure(figure, file, dpi=120)


def plot_curves(curves: list[dict[str, Any]], file: Path) -> None:
    """Draw the mean curve of each line of the table with the range of its seeds, of the scores before the epoch."""
    from matplotlib.figure import Figure

    scores = list(curves[0])[-3:-1]
    lines: dict[str, dict[int, list[dict[str, Any]]]] = {}
    for point in curves:
        lines.setdefault(point["row"], {}).setdefault(point["epoch"], []).append(point)
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axis, score in zip(figure.subplots(1, len(scores)), scores):
        for name, points in lines.items():
            values = {epoch: [100 * point[score] for point in points[epoch]] for epoch in sorted(points)}
            (drawn,) = axis.plot([*values], [statistics.mean(v) for v in values.values()], marker=".", label=name)
            ranges = ([min(v) for v in values.values()], [max(v) for v in values.values()])
            axis.fill_between([*values], *ranges, color=drawn.get_color(), alpha=0.15)
        axis.set(xlabel="epoch", ylabel=f"validation {score} (%)")
    axis.legend(fontsize=7)
    save_figure(figure, file, dpi=120)


def plot_differences(rows: list[dict[str, Any]], file: Path) -> None:
    """Draw the interval of each difference, a panel a score; those that hold 0 are hollow and grey.

    Args:
        rows: Rows of `differences` with an interval.
        file: The picture.
    """
    from matplotlib.figure import Figure

    scores = list(dict.fromkeys(row["score"] for row in rows))
    labels = list(dict.fromkeys(_label(row) for row in rows))
    figure = Figure(figsize=(3 + 3 * len(scores), 1 + 0.35 * len(labels)), layout="constrained")
    for axis, score in zip(figure.subplots(1, len(scores), sharey=True, squeeze=False)[0], scores):
        axis.axvline(0, color="0.6", linewidth=0.8)
        for row in (row for row in rows if row["score"] == score):
            low, mean, high = (100 * row[key] for key in ("low", "mean", "high"))
            shown = not low <= 0 <= high
            style = {"color": "tab:blue" if shown else "0.45", "mfc": None if shown else "white"}
            axis.errorbar(
                mean, labels.index(_label(row)), xerr=[[mean - low], [high - mean]], fmt="o", capsize=3, **style
            )
        axis.set(xlabel=f"difference in {score} (points)", ylim=(len(labels) - 0.5, -0.5))
        axis.set_yticks(range(len(labels)), labels, fontsize=8)
    save_figure(figure, file, dpi=120)


def _label(row: dict[str, Any]) -> str:
    """Return how a comparison is called."""
    return f"{row['arm']}\nminus {row['baseline']}"
