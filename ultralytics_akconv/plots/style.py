# SPDX-License-Identifier: AGPL-3.0-or-later
"""Light and dark figures without a display."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLORS = {False: ("white", "0.15", "0.85"), True: ("#16181d", "0.9", "0.3")}  # paper, ink, grid


def new_figure(width: float, height: float, dark: bool) -> Figure:
    """Return an empty figure, sizes in inches; it belongs to no window and need not be closed."""
    from matplotlib.figure import Figure  # not needed to train or predict

    return Figure(figsize=(width, height), layout="constrained", facecolor=_COLORS[dark][0])


def ink(dark: bool) -> str:
    """Return the colour of text and lines."""
    return _COLORS[dark][1]


def style_axes(ax: Axes, dark: bool, title: str = "", xlabel: str = "", ylabel: str = "") -> None:
    """Colour a panel and write on it."""
    paper, text, grid = _COLORS[dark]
    ax.set_facecolor(paper)
    ax.set_title(title, fontsize=8, color=text)
    ax.set_xlabel(xlabel, fontsize=8, color=text)
    ax.set_ylabel(ylabel, fontsize=8, color=text)
    ax.tick_params(colors=text, labelsize=7)
    ax.grid(color=grid, linewidth=0.5)
    ax.set_axisbelow(True)
    for spine in ax.spines.values():
        spine.set_color(grid)


def style_legend(owner: Axes | Figure, dark: bool, **options: object) -> None:
    """Draw the legend of a panel or a figure in its colours."""
    options = {"fontsize": 7, "labelcolor": ink(dark), "frameon": False, **options}
    owner.legend(**options)
