# SPDX-License-Identifier: AGPL-3.0-or-later
"""`akconv graft`, `akconv models` and `akconv info`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ultralytics_akconv import SHAPES, graft
from ultralytics_akconv.cli.arguments import (
    CONVS_HELP,
    WHERE_HELP,
    names,
    numbers,
    positive,
    print_text,
    shape,
    where,
)
from ultralytics_akconv.files import write_whole
from ultralytics_akconv.functional import BORDERS
from ultralytics_akconv.grafting import resolvable_models
from ultralytics_akconv.shapes import ORIGINS


def add_graft(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `akconv graft`."""
    parser.add_argument("model", help="a model YAML: a file, or a name such as yolo11s.yaml")
    parser.add_argument("--num-param", type=numbers, default=5, metavar="N", help="5, or one a layer: 5,7,9")
    parser.add_argument("--where", type=where, default="downsample", help=f"{WHERE_HELP} (default downsample)")
    parser.add_argument("--shape", type=shape, default="default", help=f"{', '.join(SHAPES)}, or [[row, col], ...]")
    parser.add_argument("--border", choices=BORDERS, default="paper", help="default paper, as published")
    parser.add_argument("--origin", choices=ORIGINS, default="corner", help="default corner, as published")
    parser.add_argument("--convs", type=names, metavar="NAMES", help=CONVS_HELP)
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="the file to write; without it, print")
    parser.set_defaults(run=_run_graft)


def add_models(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `akconv models`."""
    parser.set_defaults(run=_run_models)


def add_info(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `akconv info`."""
    parser.add_argument("model", help="a model YAML or a checkpoint, such as yolo11s-akconv7.yaml")
    parser.add_argument("--imgsz", type=positive, default=640, help="image side in pixels for GFLOPs (default 640)")
    parser.set_defaults(run=_run_info)


def _run_graft(options: argparse.Namespace) -> None:
    """Write or print the grafted model."""
    shown = options.shape, options.border, options.origin, options.convs
    text = graft(options.model, options.num_param, options.where, *shown)
    if options.output:
        write_whole(options.output, text)
        print(f"wrote {options.output}")
    else:
        print_text(text)


def _run_models(options: argparse.Namespace) -> None:
    """Print the names, their scales and the host model behind them."""
    print("Names for model=. Append -akconv and a number of points (default 5) to the name of any Ultralytics model,")
    print("its scale letter after the version: yolo11s-akconv.yaml, yolo26n-seg-akconv7.yaml.\n")
    for name, source, scales in resolvable_models():
        print(f"{name:<32}{' '.join(scales):<12}{source or 'shipped'}")


def _run_info(options: argparse.Namespace) -> None:
    """Print the AKConv modules and the size of a model, beside its size without AKConv."""
    from ultralytics_akconv.info import model_info  # not for the commands that build nothing

    info = model_info(options.model, options.imgsz)
    print(f"{'module':<36}{'in':>5}{'out':>6}{'N':>5}{'stride':>8}{'parameters':>12}  shape, border, origin")
    for name, layer in info.akconvs.items():
        parameters = sum(p.numel() for p in layer.parameters())
        channels = f"{layer.in_channels:>5}{layer.out_channels:>6}"
        options_text = f"{layer.shape}, {layer.border}, {layer.origin}"
        print(f"{name:<36}{channels}{layer.num_param:>5}{layer.stride:>8}{parameters:>12,}  {options_text}")
    print(f"\n{'':<28}{'layers':>8}{'parameters':>14}{f'GFLOPs at {options.imgsz}':>18}")
    for title, size in (("with AKConv", info.size), ("with 3x3 Conv instead", info.plain)):
        print(f"{title:<28}{size.layers:>8}{size.parameters:>14,}{size.gflops:>18.2f}")
    more, flops = info.size.parameters - info.plain.parameters, info.size.gflops - info.plain.gflops
    print(f"{'difference':<36}{more:>+14,}{flops:>+18.2f}")
