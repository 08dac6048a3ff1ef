# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the offsets do on an image: sampling points, the field of mean displacements, and their histograms."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import cv2
import numpy as np
from torch import Tensor

from ultralytics_akconv.plots.samples import Image, Layers, LayerSamples, Model, Samples, image_samples
from ultralytics_akconv.plots.style import ink, new_figure, style_axes, style_legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS = 3  # panels a line
_INITIAL, _LEARNED, _OUTSIDE, _ANCHOR = "#ffffff", "#2f9bff", "#ff4d4d", "#ffb000"  # on a greyed image, both styles


def plot_offsets(
    model: Model,
    image: Image,
    layers: Layers = None,
    at: tuple[float, float] | list[tuple[float, float]] | None = None,
    imgsz: int | None = None,
    dark: bool = False,
) -> Figure:
    """Draw over an image where output pixels of its AKConv layers read it: at first, and as learned.

    Args:
        model: A checkpoint, a model YAML, Ultralytics' `YOLO` or `RTDETR`, or the network itself.
        image: A file, or an array (H, W, 3) as OpenCV reads it (BGR uint8).
        layers: Indices of YAML rows or names of modules, one or several; None for every AKConv.
        at: Image pixels (x, y); of each layer the output pixel nearest to each is drawn. One pixel is shown enlarged,
            several on the whole image. None for a 5 x 5 grid.
        imgsz: Side of the network's input in pixels; None for what it was trained at.
        dark: Draw for a dark page.

    Returns:
        A figure of one panel a layer. Points are as large as the norm of their weights in the column convolution.

    Raises:
        FileNotFoundError: If the image or the model does not exist.
        ValueError: If there is no AKConv in the model or the layer, or a pixel is off the image or cropped away.

    Example:
        >>> plot_offsets("best.pt", "image.jpg", layers=[3, 5], at=(320, 240)).savefig("offsets.svg")
    """
    samples = image_samples(model, image, layers, imgsz)
    pixels = _pixels(samples, at)
    figure, panels = _layer_panels(samples, dark, bottom=0.5)
    for ax, layer in zip(panels, samples.layers):
        _show_image(ax, samples.image)
        enlarged = len(pixels) == 1
        for x, y in pixels:
            marks = _draw_output_pixel(ax, layer, *layer.output_pixel(x, y), size=1.0 if enlarged else 0.35)
        if enlarged:
            _zoom(ax, marks, 2 * layer.step / min(layer.view.gain))
        _draw_scale(ax)
    _offsets_legend(figure, dark)
    return figure


def plot_field(
    model: Model, image: Image, layers: Layers = None, imgsz: int | None = None, dark: bool = False
) -> Figure:
    """Draw the mean displacement of every output pixel's samples over an image: length as colour, way as arrows.

    Arguments and errors are those of `plot_offsets`; lengths are in pixels of the map that the layer reads.

    Example:
        >>> plot_field("best.pt", "image.jpg", dark=True).savefig("field.png", dpi=200)
    """
    samples = image_samples(model, image, layers, imgsz)
    figure, panels = _layer_panels(samples, dark, bottom=0.1)
    for ax, layer in zip(panels, samples.layers):
        _show_image(ax, samples.image)
        down, right = layer.row_offsets.mean(0).numpy(), layer.col_offsets.mean(0).numpy()  # (h, w)
        rows, cols = _anchors(layer)
        half = layer.step * layer.stride / 2  # an output pixel covers its own share of the input around its anchor
        centres_y, centres_x = (axis.numpy() for axis in layer.to_image(rows, cols))
        half_y, half_x = half / layer.view.gain[0], half / layer.view.gain[1]
        extent = (centres_x[0] - half_x, centres_x[-1] + half_x, centres_y[-1] + half_y, centres_y[0] - half_y)
        length = layer.displacement.mean(0).numpy()
        shown = ax.imshow(length, cmap="viridis", alpha=0.6, extent=[float(edge) for edge in extent], vmin=0)
        every = -(-max(length.shape) // 16)  # at most 16 arrows an axis
        y, x = centres_y[every // 2 :: every], centres_x[every // 2 :: every]
        part = (slice(every // 2, None, every),) * 2
        ax.quiver(x, y, right[part], down[part], color="white", angles="xy", width=0.006)
        height, width = samples.image.shape[:2]
        ax.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
        bar = figure.colorbar(shown, ax=ax, shrink=0.8)
        bar.ax.tick_params(colors=ink(dark), labelsize=6)
        bar.set_label("displacement, map px", color=ink(dark), fontsize=7)
    return figure


def plot_histogram(
    model: Model, image: Image, layers: Layers = None, imgsz: int | None = None, dark: bool = False
) -> Figure:
    """Draw how far the samples of each layer lie from their initial places, and how many of them off the map.

    Arguments and errors are those of `plot_offsets`; lengths are in pixels of the map that the layer reads.

    Example:
        >>> plot_histogram("best.pt", "image.jpg").savefig("histogram.svg")
    """
    samples = image_samples(model, image, layers, imgsz)
    figure, panels = _panels(len(samples.layers), 2.2, dark)
    for ax, layer in zip(panels, samples.layers):
        lengths = layer.displacement.flatten().numpy()
        share = f"{layer.outside.float().mean():.1%} of samples off the map"
        style_axes(ax, dark, f"{_title(layer)}\n{share}", "displacement, map px", "share of samples")
        weights = np.full(lengths.shape, 1 / lengths.size)
        ax.hist(lengths, bins=40, weights=weights, color=_LEARNED)
        ax.axvline(lengths.mean(), color=_ANCHOR, linewidth=1.5, label=f"mean {lengths.mean():.2f} px")
        style_legend(ax, dark, loc="upper right")
    return figure


def _pixels(samples: Samples, at: tuple[float, float] | list[tuple[float, float]] | None) -> list[tuple[float, float]]:
    """Return the image pixels (x, y) to draw, or raise the error that says which lies off the image."""
    left, top, right, bottom = samples.seen
    if at is None:
        shares = [(i + 0.5) / 5 for i in range(5)]
        return [(left + a * (right - left), top + b * (bottom - top)) for b in shares for a in shares]
    pixels = [at] if isinstance(at[0], (int, float)) else list(at)
    height, width = samples.image.shape[:2]
    for x, y in pixels:
        if not (0 <= x < width and 0 <= y < height):
            raise ValueError(f"pixel ({x:g}, {y:g}) is off the image, which is {width} wide and {height} high")
        if not (left - 0.5 <= x <= right and top - 0.5 <= y <= bottom):
            raise ValueError(
                f"pixel ({x:g}, {y:g}) is cropped away: the model sees x {left:.0f} to {right:.0f}, "
                f"y {top:.0f} to {bottom:.0f}"
            )
    return pixels


def _panels(count: int, height: float, dark: bool, bottom: float = 0.0) -> tuple[Figure, list[Axes]]:
    """Return a figure and a panel for each layer; `height` of a panel, and `bottom` for a legend, in inches."""
    columns = min(count, _COLUMNS)
    lines = -(-count // columns)
    figure = new_figure(2.9 * columns + 0.3, height * lines + bottom, dark)
    axes = list(figure.subplots(lines, columns, squeeze=False).flat)
    for ax in axes[count:]:
        ax.set_axis_off()
    return figure, axes


def _layer_panels(samples: Samples, dark: bool, bottom: float) -> tuple[Figure, list[Axes]]:
    """Return a figure and a titled panel for each layer, of the image's proportions."""
    height, width = samples.image.shape[:2]
    figure, axes = _panels(len(samples.layers), 2.7 * min(max(height / width, 0.4), 2) + 0.45, dark, bottom)
    for ax, layer in zip(axes, samples.layers):
        ax.set_axis_off()
        ax.set_title(_title(layer), fontsize=8, color=ink(dark))
    return figure, axes


def _title(layer: LayerSamples) -> str:
    """Return what a panel says of its layer."""
    return f"{layer.name}, N={len(layer.norms)}, map px = {layer.step} input px"


def _show_image(ax: Axes, image: np.ndarray) -> None:
    """Show an image in pale grey, for coloured marks to stand out."""
    ax.imshow(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) * 0.75, cmap="gray", vmin=0, vmax=255)
    height, width = image.shape[:2]  # the limits stay, with room for samples beside the image
    margin = 0.06 * max(height, width)
    ax.set(xlim=(-margin, width + margin), ylim=(height + margin, -margin), autoscale_on=False)


def _anchors(layer: LayerSamples) -> tuple[Tensor, Tensor]:
    """Return the map rows and the map columns that the output pixels lie on."""
    rows, cols = layer.rows - layer.row_offsets, layer.cols - layer.col_offsets
    return rows[0, :, 0] - rows[0, 0, 0], cols[0, 0, :] - cols[0, 0, 0]


def _draw_output_pixel(ax: Axes, layer: LayerSamples, i: int, j: int, size: float) -> np.ndarray:
    """Draw the samples of one output pixel, at `size` times the usual; return all that was drawn as (2, marks) x, y."""
    rows, cols = layer.rows[:, i, j], layer.cols[:, i, j]
    start_y, start_x = layer.to_image(rows - layer.row_offsets[:, i, j], cols - layer.col_offsets[:, i, j])
    y, x = layer.to_image(rows, cols)
    anchor_y, anchor_x = (float(v) for v in layer.to_image(*(a[k] for a, k in zip(_anchors(layer), (i, j)))))
    sizes = size * (8 + 32 * (layer.norms / layer.norms.max()) ** 2)
    ax.plot(np.stack([start_x, x]), np.stack([start_y, y]), color=_LEARNED, linewidth=0.7, alpha=0.8)
    ax.scatter(start_x, start_y, s=9 * size, facecolors="none", edgecolors=_INITIAL, linewidths=0.7, zorder=3)
    colors = [_OUTSIDE if outside else _LEARNED for outside in layer.outside[:, i, j]]
    ax.scatter(x, y, s=sizes, c=colors, edgecolors="black", linewidths=0.3, zorder=4)
    ax.scatter([anchor_x], [anchor_y], marker="+", s=30 * size, color=_ANCHOR, linewidths=1, zorder=5)
    return np.stack([[*x, *start_x, anchor_x], [*y, *start_y, anchor_y]])


def _zoom(ax: Axes, marks: np.ndarray, least: float) -> None:
    """Show the surroundings of marks (2, n), and at least so many image pixels to each side of their middle."""
    low, high = marks.min(axis=1), marks.max(axis=1)
    x, y = (low + high) / 2
    half = max(0.65 * (high - low).max(), least)
    ax.set(xlim=(x - half, x + half), ylim=(y + half, y - half))


def _draw_scale(ax: Axes) -> None:
    """Draw a bar of a round number of image pixels into the lower left corner."""
    left, right = ax.get_xlim()
    bottom, top = ax.get_ylim()
    width, height = right - left, bottom - top
    length = next(n for n in _round_numbers() if n >= 0.12 * width)
    x, y = left + 0.09 * width, bottom - 0.1 * height
    for color, thickness in (("black", 4), ("white", 2)):
        ax.plot([x, x + length], [y, y], color=color, linewidth=thickness, solid_capstyle="butt", zorder=6)
    text = ax.text(x, y - 0.03 * height, f"{length:g} px", color="white", fontsize=7, va="bottom", zorder=6)
    text.set_bbox({"facecolor": "black", "alpha": 0.5, "pad": 1, "linewidth": 0})


def _round_numbers() -> Iterable[float]:
    """Yield 1, 2, 5, 10, 20, 50, ..."""
    power = 1
    while True:
        yield from (power, 2 * power, 5 * power)
        power *= 10


def _offsets_legend(figure: Figure, dark: bool) -> None:
    """Say below the panels what the marks are; sizes are those of the panels' largest points."""
    from matplotlib.lines import Line2D

    def dot(color: str, label: str, **options: object) -> Line2D:
        return Line2D([], [], linestyle="none", label=label, **{"marker": "o", "color": color, **options})

    handles = [
        dot(_ANCHOR, "output pixel", marker="+", markersize=6),
        dot("0.6", "initial point", fillstyle="none", markersize=4),
        dot(_LEARNED, "learned, size by weight norm", markersize=6),
        dot(_OUTSIDE, "learned, off the map", markersize=6),
    ]
    style_legend(figure, dark, handles=handles, loc="outside lower center", ncols=2 if len(figure.axes) < 3 else 4)
