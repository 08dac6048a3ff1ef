# SPDX-License-Identifier: AGPL-3.0-or-later
"""`akconv plot shapes`, `offsets` and `training`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ultralytics_akconv.cli.arguments import names, positive, shape
from ultralytics_akconv.files import check_figure, save_figure
from ultralytics_akconv.plots import GALLERY, plot_field, plot_histogram, plot_offsets, plot_shapes, plot_training
from ultralytics_akconv.shapes import ORIGINS, SHAPES


def add_shapes(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `akconv plot shapes`."""
    parser.add_argument(
        "shape", nargs="?", type=shape, help=f"{', '.join(SHAPES)}, or [[row, col], ...] (default: all)"
    )
    parser.add_argument(
        "--num-param", type=positive, default=5, metavar="N", help="points of a named shape (default 5)"
    )
    parser.add_argument("--origin", choices=ORIGINS, default="corner", help="default corner, as published")
    add_output(parser, "shapes.png", _run_shapes)


def add_offsets(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `akconv plot offsets`."""
    parser.add_argument("model", help="a checkpoint, or a model YAML for an untrained one")
    parser.add_argument("image", type=Path, help="an image file")
    parser.add_argument(
        "--layer", type=names, metavar="LAYERS", help="YAML rows or module names: 3 or 3,model.5 (default: all)"
    )
    parser.add_argument(
        "--at", type=_pixel, action="append", metavar="X,Y",
        help="draw the output pixels nearest to this image pixel; one is enlarged; may be repeated (default: a grid)",
    )  # fmt: skip
    parser.add_argument(
        "--view", choices=("points", "field", "histogram"), default="points",
        help="sampling points (default), the field of mean displacements, or histograms of their lengths",
    )  # fmt: skip
    parser.add_argument("--imgsz", type=positive, help="side of the network's input (default: what it was trained at)")
    add_output(parser, "offsets.png", _run_offsets)


def add_training(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `akconv plot training`."""
    parser.add_argument("folder", type=Path, metavar="run", help="the run's folder, or its results.csv")
    add_output(parser, "training.png", _run_training)


def add_output(parser: argparse.ArgumentParser, output: str, run: object) -> None:
    """Add the options that all pictures have."""
    parser.add_argument("--dark", action="store_true", help="draw for a dark page")
    parser.add_argument("-o", "--output", type=Path, default=Path(output), help="PNG, SVG or PDF by its ending")
    parser.set_defaults(run=run)


def _pixel(text: str) -> tuple[float, float]:
    """Read 320,240."""
    try:
        x, y = (float(number) for number in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"invalid pixel {text!r}: write X,Y as in 320,240") from None
    return x, y


def _run_shapes(options: argparse.Namespace) -> None:
    """Draw the shapes and say where."""
    check_figure(options.output)
    if options.shape is None:
        figure = plot_shapes(GALLERY, options.origin, dark=options.dark)
    else:
        n = options.num_param if isinstance(options.shape, str) else len(options.shape)
        figure = plot_shapes([(options.shape, n)], options.origin, columns=1, dark=options.dark)
    save(figure, options.output)


def _run_offsets(options: argparse.Namespace) -> None:
    """Draw a view of the offsets and say where."""
    check_figure(options.output)
    common = {"layers": options.layer, "imgsz": options.imgsz, "dark": options.dark}
    if options.view == "points":
        figure = plot_offsets(options.model, options.image, at=options.at, **common)
    elif options.at:
        raise ValueError("--at belongs to the view of points")
    else:
        figure = {"field": plot_field, "histogram": plot_histogram}[options.view](
            options.model, options.image, **common
        )
    save(figure, options.output)


def _run_training(options: argparse.Namespace) -> None:
    """Draw a training and say where."""
    check_figure(options.output)
    save(plot_training(options.folder, options.dark), options.output)


def save(figure: object, output: Path) -> None:
    """Write a figure and say where."""
    save_figure(figure, output, dpi=200)
    print(f"wrote {output}")
