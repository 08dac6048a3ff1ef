# SPDX-License-Identifier: AGPL-3.0-or-later
"""`akconv plot`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ultralytics_akconv.cli.arguments import shape
from ultralytics_akconv.plots import GALLERY, plot_shapes
from ultralytics_akconv.shapes import ORIGINS, SHAPES


def add_plot(subparsers: argparse._SubParsersAction) -> None:
    """Add `akconv plot` and its own commands."""
    parser = subparsers.add_parser("plot", help="draw pictures")
    pictures = parser.add_subparsers(title="pictures", required=True, metavar="WHAT")
    shapes = pictures.add_parser("shapes", help="initial sampling shapes")
    shapes.add_argument(
        "shape", nargs="?", type=shape, help=f"{', '.join(SHAPES)}, or [[row, col], ...] (default: all)"
    )
    shapes.add_argument("--num-param", type=int, default=5, metavar="N", help="points of a named shape (default 5)")
    shapes.add_argument("--origin", choices=ORIGINS, default="corner")
    shapes.add_argument("-o", "--output", type=Path, default=Path("shapes.png"), help="PNG, SVG or PDF by its ending")
    shapes.set_defaults(run=_run_shapes)


def _run_shapes(options: argparse.Namespace) -> None:
    """Draw the shapes and say where."""
    if options.shape is None:
        figure = plot_shapes(GALLERY, options.origin)
    else:
        n = options.num_param if isinstance(options.shape, str) else len(options.shape)
        figure = plot_shapes([(options.shape, n)], options.origin, columns=1)
    figure.savefig(options.output, dpi=200)
    print(f"wrote {options.output}")
