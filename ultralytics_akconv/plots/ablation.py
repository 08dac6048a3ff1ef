# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the offsets are worth, and what they consist of: the picture of `ablation.ablate_offsets`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ultralytics_akconv.plots.style import ink, new_figure, style_axes, style_legend

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ultralytics_akconv.ablation import Ablation

_FIRST = ("AP", "mask_mAP", "pose_mAP", "mAP", "top1")  # the score drawn: the first of these that the task has


def plot_ablation(ablation: Ablation, score: str | None = None, dark: bool = False) -> Figure:
    """Draw the score with offsets as learned, at their mean and without them, and how far each layer's offsets go.

    Args:
        ablation: What `ablate_offsets` returned.
        score: Name of the score; None for AP by COCO rules, or the mAP or accuracy of the task.
        dark: Draw for a dark page.

    Raises:
        ValueError: If the evaluations have no such score.

    Example:
        >>> plot_ablation(ablate_offsets("best.pt", "coco.yaml")).savefig("ablation.png")
    """
    from ultralytics_akconv.evaluation import SIZES  # for which `ablation` has been imported already

    evaluations = {"as learned": ablation.learned, "their mean": ablation.mean, "none": ablation.rest}
    figures = [evaluation.figures() for evaluation in evaluations.values()]
    if score is None:
        score = next(name for name in _FIRST if figures[0].get(name) is not None)
    values = [figure.get(score) for figure in figures]
    if score in SIZES or None in values:
        known = [name for name, value in figures[0].items() if name not in SIZES and isinstance(value, float)]
        raise ValueError(f"the evaluations have no score {score!r}: they have {', '.join(known)}")
    figure = new_figure(8.5, 3.0, dark)
    left, right = figure.subplots(1, 2, width_ratios=(2, 3))
    style_axes(left, dark, "what is left without the deformation", "offsets", f"{score} (%)")
    bars = left.bar(list(evaluations), [100 * value for value in values], color=["tab:blue", "tab:orange", "0.6"])
    left.bar_label(bars, fmt="%.1f", fontsize=7, color=ink(dark))
    below = "layer, and the share of its samples off the map"
    style_axes(right, dark, "what the offsets consist of", below, "root mean square, map px")
    places = range(len(ablation.layers))
    parts = (("mean", "mean: a shape that was learned", "tab:orange", -0.2),
             ("deviation", "deviation: deformation by the image", "tab:blue", 0.2))  # fmt: skip
    for part, label, color, shift in parts:
        heights = [getattr(layer, part) for layer in ablation.layers]
        right.bar([place + shift for place in places], heights, 0.4, color=color, label=label)
    names = [f"{layer.name}\n{layer.outside:.0%}" for layer in ablation.layers]
    right.set_xticks(list(places), names, fontsize=6, rotation=0 if len(names) <= 6 else 90)
    left.margins(y=0.1)
    right.margins(y=0.3)  # room for the legend
    style_legend(right, dark)
    return figure
