# SPDX-License-Identifier: AGPL-3.0-or-later
"""How the offsets grew in a training, from the columns that a training added to the host's results.csv."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import TYPE_CHECKING

from ultralytics_akconv.layers import COLUMNS, OUTSIDE_COLUMN
from ultralytics_akconv.plots.style import new_figure, style_axes, style_legend

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_training(run: str | Path, dark: bool = False) -> Figure:
    """Draw the mean displacement of each layer, and the share of samples off the map, over the epochs of a training.

    Args:
        run: The run's folder, or its results.csv.
        dark: Draw for a dark page.

    Raises:
        FileNotFoundError: If there is no results.csv.
        ValueError: If it has no columns of AKConv, no epoch, or a row that is not as long as the first.

    Example:
        >>> plot_training("runs/detect/train").savefig("training.svg")
    """
    file = Path(run) / "results.csv" if Path(run).is_dir() else Path(run)
    if not file.is_file():
        raise FileNotFoundError(f"'{file}' does not exist")
    rows = _rows(file)
    names = [name for name in rows[0] if name.startswith(COLUMNS)] if rows else []
    if not names or "epoch" not in rows[0]:
        raise ValueError(f"'{file}' has no {COLUMNS}* columns: a training of a model with AKConv writes them")
    epochs = [int(row["epoch"]) for row in rows]
    figure = new_figure(8.5, 3.0, dark)
    grown, off = figure.subplots(1, 2, width_ratios=(3, 2))
    style_axes(grown, dark, "mean displacement of the samples", "epoch", "map px")
    style_axes(off, dark, "samples off the map", "epoch", "%")
    for name in names:
        values = [row[name] for row in rows]
        if name == OUTSIDE_COLUMN:
            off.plot(epochs, [100 * value for value in values], color="tab:red", marker=".")
        else:
            grown.plot(epochs, values, marker=".", label=name[len(COLUMNS) :])
    for ax in (grown, off):
        told = [value for line in ax.lines for value in line.get_ydata() if math.isfinite(value)]
        ax.set_ylim(0, 1.1 * max(told, default=0) or 1)
        ax.locator_params(axis="x", integer=True)
    style_legend(grown, dark, loc="center left", bbox_to_anchor=(1, 0.5), ncols=-(-(len(names) - 1) // 12))
    return figure


def _rows(file: Path) -> list[dict[str, float]]:
    """Return the rows of a results.csv by their columns."""
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            header, *lines = [*csv.reader(stream)] or [None]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"'{file}' is no table of a training: {error}") from error
    if header is None:
        raise ValueError(f"'{file}' is no table of a training: it is empty")
    rows = []
    for number, line in enumerate(lines, start=2):
        if len(line) != len(header):
            raise ValueError(f"line {number} of '{file}' has {len(line)} values, the header {len(header)} columns")
        try:
            rows.append({name.strip(): float(value) for name, value in zip(header, line)})
        except ValueError as error:
            raise ValueError(f"line {number} of '{file}': {error}") from error
    return rows
