# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a transfer did: the converted model and, layer by layer, what it kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from ultralytics_akconv.conversion.checkpoint import write_checkpoint
from ultralytics_akconv.files import save_figure
from ultralytics_akconv.markdown import text_table

if TYPE_CHECKING:  # it needs the host's data room, which the host may be in the middle of importing
    from ultralytics_akconv.conversion.refinement import Refined


@dataclass(frozen=True)
class LayerReport:
    """One converted layer.

    Errors are root mean squares of the difference to the source layer's output, relative to that output, both before
    the activation and without their means. `expected` is measured on pictures of noise with the spectrum of natural
    ones, without what borders do. `prior` and `fitted` are measured on the calibration images, borders included, before
    and after the least squares; None without images.
    """

    name: str
    in_channels: int
    out_channels: int
    stride: int
    num_param: int
    points: tuple[tuple[float, float], ...]  # (row, col) in input pixels from the output pixel's anchor
    expected: float
    prior: float | None = None
    fitted: float | None = None


@dataclass(frozen=True)
class Transfer:
    """The result of `transfer`.

    Attributes:
        model: The converted model, in eval mode.
        source: The source model it was made from.
        layers: A report of each converted layer, front to back.
        refined: What images did to the whole model, None without them.
    """

    model: nn.Module
    source: nn.Module
    layers: tuple[LayerReport, ...]
    refined: Refined | None = None

    def save(self, file: str | Path) -> Path:
        """Write the model as a checkpoint of Ultralytics and return its path; see `write_checkpoint`."""
        return write_checkpoint(self.model, file, self.source)

    def table(self) -> str:
        """Return the report as text, a line a layer."""
        measured = any(layer.fitted is not None for layer in self.layers)
        titles = ["layer", "in", "out", "stride", "N"] + (["without data", "fitted"] if measured else ["expected"])
        rows = []
        for layer in self.layers:
            errors = [layer.prior, layer.fitted] if measured else [layer.expected]
            numbers = [layer.in_channels, layer.out_channels, layer.stride, layer.num_param]
            rows.append([layer.name, *map(str, numbers), *(f"{100 * error:.1f} %" for error in errors)])
        lines = [text_table(titles, rows, str.rjust)]
        if self.refined is not None:
            lines.append(self.refined.line())
        before, after = (sum(p.numel() for p in model.parameters()) for model in (self.source, self.model))
        lines.append(f"parameters: {before:,} -> {after:,} ({100 * after / before:.1f} %)")
        return "\n".join(lines)

    def plot(self, file: str | Path) -> Path:
        """Draw the layers' errors and the places of their points, write the picture and return its path."""
        from matplotlib.figure import Figure  # not needed to train or predict

        count = len(self.layers)
        columns = min(count, 6)
        rows = -(-count // columns)
        figure = Figure(figsize=(2.2 * max(columns, 3), 2.6 + 2.3 * rows), layout="constrained")
        top, bottom = figure.subfigures(2, 1, height_ratios=(2.6, 2.3 * rows))
        bars = top.subplots()
        series = {"expected": [layer.expected for layer in self.layers]}
        if any(layer.fitted is not None for layer in self.layers):
            series["without data"] = [layer.prior for layer in self.layers]
            series["fitted"] = [layer.fitted for layer in self.layers]
        width = 0.8 / len(series)
        for k, (label, errors) in enumerate(series.items()):
            bars.bar([i + k * width for i in range(count)], [100 * error for error in errors], width, label=label)
        bars.set_xticks([i + 0.4 - width / 2 for i in range(count)], [layer.name for layer in self.layers], rotation=30)
        bars.set_ylabel("relative output error, %")
        bars.legend()
        for axis, layer in zip(bottom.subplots(rows, columns, squeeze=False).flat, self.layers):
            point_rows, point_cols = zip(*layer.points)
            axis.scatter([-1, 0, 1] * 3, [-1] * 3 + [0] * 3 + [1] * 3, marker="s", s=220, color="0.9")
            axis.scatter(point_cols, point_rows, color="C3")
            axis.set_title(f"{layer.name}, N={layer.num_param}", fontsize=8)
        for axis in bottom.get_axes():
            axis.set_aspect("equal")
            axis.invert_yaxis()
            axis.tick_params(labelsize=7)
        for axis in bottom.get_axes()[count:]:
            axis.set_visible(False)
        save_figure(figure, file, dpi=120)
        return Path(file)
