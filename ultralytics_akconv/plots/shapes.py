# SPDX-License-Identifier: AGPL-3.0-or-later
"""The picture of initial sampling shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ultralytics_akconv.plots.style import ink, new_figure
from ultralytics_akconv.shapes import Points, sampling_points

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Panels of the picture of all shapes: (shape, num_param); the families by several N, the paper's shapes by their five.
GALLERY: tuple[tuple[str, int], ...] = (
    *(("default", n) for n in range(1, 17)),
    *((name, n) for name in ("row", "column", "diagonal", "cross", "ring", "disk") for n in (5, 9)),
    *((f"paper_{letter}", 5) for letter in "abcde"),
)


def plot_shapes(
    shapes: Sequence[tuple[str | list, int]] = GALLERY, origin: str = "corner", columns: int = 9, dark: bool = False
) -> Figure:
    """Draw initial sampling shapes as a grid of panels.

    Args:
        shapes: Pairs of shape (a name, or a list of `[row, col]` points) and number of points.
        origin: "corner" or "center", as in `AKConv`.
        columns: Panels a line.
        dark: Draw for a dark page.

    Returns:
        A figure of one panel a shape: pixels as squares, the output pixel's anchor with a thick frame, points as dots.

    Raises:
        ValueError: If a shape is not allowed, as in `shapes.sampling_points`.

    Example:
        >>> plot_shapes([("cross", 5), ("ring", 8)]).savefig("shapes.svg")
    """
    panels = [(shape if isinstance(shape, str) else "custom", sampling_points(n, shape, origin)) for shape, n in shapes]
    lines = -(-len(panels) // columns)
    figure = new_figure(1.25 * columns, 1.5 * lines, dark)
    axes = figure.subplots(lines, columns, squeeze=False).flatten()
    for ax, (name, points) in zip(axes, panels):
        _draw_points(ax, points)
        ax.set_title(f"{name}\nN={len(points)}", fontsize=7, color=ink(dark))
    for ax in axes:
        ax.set_axis_off()
    return figure


def _draw_points(ax: Axes, points: Points) -> None:
    """Draw one shape on its pixels; rows run downwards, as in an image."""
    from matplotlib.patches import Rectangle

    rows, cols = [[*axis, 0.0] for axis in zip(*points)]  # the anchor (0, 0) is always in sight
    top, bottom = int(min(rows) // 1), int(-(-max(rows) // 1))
    left, right = int(min(cols) // 1), int(-(-max(cols) // 1))
    for row in range(top, bottom + 1):
        for col in range(left, right + 1):
            ax.add_patch(Rectangle((col - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="0.75", linewidth=0.5))
    ax.add_patch(Rectangle((-0.5, -0.5), 1, 1, fill=False, edgecolor="tab:orange", linewidth=1.5))
    span = max(bottom - top, right - left) + 1
    ax.scatter(cols[:-1], rows[:-1], s=min(30, 200 / span), color="tab:blue", zorder=3)
    ax.set_xlim((left + right - span) / 2 - 0.1, (left + right + span) / 2 + 0.1)
    ax.set_ylim((top + bottom + span) / 2 + 0.1, (top + bottom - span) / 2 - 0.1)
    ax.set_aspect("equal")
