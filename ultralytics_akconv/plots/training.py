# SPDX-License-Identifier: AGPL-3.0-or-later
"""How the offsets grew in a training, from the columns that `callbacks` added to the host's results.csv."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

from ultralytics_akconv.plots.style import new_figure, style_axes, style_legend

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PREFIX = "akconv/"  # of our columns: the mean displacement of a layer by its name, in map pixels, and
OUTSIDE = "akconv/outside"  # the share of all samples that lie off their map


def plot_training(run: str | Path, dark: bool = False) -> Figure:
    """Draw the mean displacement of each layer, and the share of samples off the map, over the epochs of a training.

    Args:
        run: The run's folder, or its results.csv.
        dark: Draw for a dark page.

    Raises:
        FileNotFoundError: If there is no results.csv.
        ValueError: If it has no columns of AKConv, or no epoch.

    Example:
        >>> plot_training("runs/detect/train").savefig("training.svg")
    """
    file = Path(run) / "results.csv" if Path(run).is_dir() else Path(run)
    if not file.is_file():
        raise FileNotFoundError(f"'{file}' does not exist")
    with file.open(encoding="utf-8", newline="") as stream:
        rows = [{key.strip(): value for key, value in row.items()} for row in csv.DictReader(stream)]
    names = [name for name in rows[0] if name.startswith(PREFIX)] if rows else []
    if not names:
        raise ValueError(f"'{file}' has no {PREFIX}* columns: a training of a model with AKConv writes them")
    epochs = [int(row["epoch"]) for row in rows]
    figure = new_figure(8.5, 3.0, dark)
    grown, off = figure.subplots(1, 2, width_ratios=(3, 2))
    style_axes(grown, dark, "mean displacement of the samples", "epoch", "map px")
    style_axes(off, dark, "samples off the map", "epoch", "%")
    for name in names:
        values = [float(row[name]) for row in rows]
        if name == OUTSIDE:
            off.plot(epochs, [100 * value for value in values], color="tab:red", marker=".")
        else:
            grown.plot(epochs, values, marker=".", label=name[len(PREFIX) :])
    for ax in (grown, off):
        highest = max(max(line.get_ydata()) for line in ax.lines)
        ax.set_ylim(0, 1.1 * highest or 1)
        ax.locator_params(axis="x", integer=True)
    style_legend(grown, dark, loc="center left", bbox_to_anchor=(1, 0.5), ncols=-(-(len(names) - 1) // 12))
    return figure
