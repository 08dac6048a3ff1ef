# SPDX-License-Identifier: AGPL-3.0-or-later
"""The `akconv` command: reads arguments, calls the public functions and prints what they return."""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Sequence
from pathlib import Path

from ultralytics_akconv import SHAPES, __version__, from_published, graft, transfer, write_checkpoint
from ultralytics_akconv.functional import BORDERS
from ultralytics_akconv.graft import resolvable_models
from ultralytics_akconv.info import model_info
from ultralytics_akconv.shapes import ORIGINS
from ultralytics_akconv.transfer import check_output


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0, or 1 after an error of the user's, which is printed."""
    parser = argparse.ArgumentParser("akconv", description="AKConv (LDConv) in Ultralytics YOLO models")
    parser.add_argument("--version", action="version", version=__version__)
    subparsers = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for add in (add_graft, add_models, add_info, add_convert):
        add(subparsers)
    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except (OSError, TypeError, ValueError) as error:
        print(f"akconv: {error}", file=sys.stderr)
        return 1
    return 0


def add_graft(subparsers: argparse._SubParsersAction) -> None:
    """Add `akconv graft`."""
    parser = subparsers.add_parser("graft", help="write a model YAML with AKConv in place of chosen convolutions")
    parser.add_argument("model", help="a model YAML: a file, or a name such as yolo11s.yaml")
    parser.add_argument("--num-param", type=_numbers, default=5, metavar="N", help="5, or one a layer: 5,7,9")
    parser.add_argument("--where", type=_where, default="downsample", help=f"{_WHERE_HELP} (default downsample)")
    parser.add_argument("--shape", type=_shape, default="default", help=f"{', '.join(SHAPES)}, or [[row, col], ...]")
    parser.add_argument("--border", choices=BORDERS, default="paper")
    parser.add_argument("--origin", choices=ORIGINS, default="corner")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="the file to write; without it, print")
    parser.set_defaults(run=_run_graft)


def add_models(subparsers: argparse._SubParsersAction) -> None:
    """Add `akconv models`."""
    parser = subparsers.add_parser("models", help="list the names that `model=` takes")
    parser.set_defaults(run=_run_models)


def add_info(subparsers: argparse._SubParsersAction) -> None:
    """Add `akconv info`."""
    parser = subparsers.add_parser("info", help="show the AKConv layers and the size of a model")
    parser.add_argument("model", help="a model YAML or a checkpoint, such as yolo11s-akconv7.yaml")
    parser.add_argument("--imgsz", type=int, default=640, help="image side in pixels for GFLOPs (default 640)")
    parser.set_defaults(run=_run_info)


def add_convert(subparsers: argparse._SubParsersAction) -> None:
    """Add `akconv convert`."""
    parser = subparsers.add_parser("convert", help="turn a trained model into an AKConv model that keeps what it knows")
    parser.add_argument("source", nargs="?", help="a checkpoint of a model with ordinary convolutions")
    parser.add_argument("--model", help="the AKConv model YAML to fill, instead of the options up to --budget")
    parser.add_argument("--num-param", type=_numbers, metavar="N", help="5 (default), or one a layer: 5,7,9")
    parser.add_argument("--where", type=_where, metavar="LAYERS", help=f"{_WHERE_HELP} (default downsample)")
    parser.add_argument("--shape", type=_shape, help=f"{', '.join(SHAPES)}, or [[row, col], ...]")
    parser.add_argument("--border", choices=BORDERS, help="default zeros, as in an ordinary convolution")
    parser.add_argument("--origin", choices=ORIGINS, help="default center")
    parser.add_argument("--budget", help="choose N by layer: params=0.95 or gflops=0.95 of the source's, or error=0.1")
    parser.add_argument("--data", help="fit the weights on images: a dataset YAML, or a folder")
    parser.add_argument("--images", type=int, default=64, help="how many images to fit on at most (default 64)")
    parser.add_argument("--imgsz", type=int, help="their side in pixels (default: the size the source was trained at)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the layers' errors and taps")
    parser.add_argument("--from-published", metavar="FILE", help="a state dict of the published code, for --model")
    parser.add_argument("--nc", type=int, help="classes of the published state dict, if not the model YAML's")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", required=True, help="the checkpoint to write")
    parser.set_defaults(run=_run_convert)


_WHERE_HELP = "downsample, backbone, neck, blocks, or layer indices: 3,5,7"


def _numbers(text: str) -> int | list[int]:
    """Read 5 or 5,7,9."""
    numbers = [int(number) for number in text.split(",")]
    return numbers if len(numbers) > 1 else numbers[0]


def _where(text: str) -> str | list[int]:
    """Read a group's name or layer indices; what is neither is left to `graft`, which says what is allowed."""
    return [int(index) for index in text.split(",")] if text[:1].isdigit() else text


def _shape(text: str) -> str | list:
    """Read a shape's name or a list of points."""
    return ast.literal_eval(text) if text.startswith("[") else text


def _run_graft(options: argparse.Namespace) -> None:
    """Write or print the grafted model."""
    text = graft(options.model, options.num_param, options.where, options.shape, options.border, options.origin)
    if options.output:
        options.output.write_text(text, "utf-8")
        print(f"wrote {options.output}")
    else:
        print(text, end="")


def _run_models(options: argparse.Namespace) -> None:
    """Print the names, their scales and the host model behind them."""
    print(
        "Names for model=. A scale letter follows the version (yolo11s-akconv.yaml), and any number of sampling points"
    )
    print("-akconv where a host model is named; without it, N is 5 (yolo26n-seg-akconv7.yaml).\n")
    for name, source, scales in resolvable_models():
        print(f"{name:<32}{' '.join(scales):<12}{source or 'shipped'}")


def _run_info(options: argparse.Namespace) -> None:
    """Print the AKConv modules and the size of a model, beside its size without AKConv."""
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


def _run_convert(options: argparse.Namespace) -> None:
    """Write the converted checkpoint and print what each layer kept."""
    check_output(options.output)  # before the work
    graft_options = {
        name: value
        for name in ("num_param", "where", "shape", "border", "origin", "budget")
        if (value := getattr(options, name)) is not None
    }
    if options.from_published:
        if not options.model or options.source or graft_options or options.data:
            raise ValueError("--from-published takes --model, --nc and --output alone, no source and nothing to fit")
        write_checkpoint(from_published(options.from_published, options.model, options.nc), options.output)
    else:
        if not options.source or options.nc is not None:
            raise ValueError("give a source checkpoint; --nc belongs to --from-published")
        fit = {"data": options.data, "images": options.images, "imgsz": options.imgsz}
        result = transfer(options.source, options.model, **graft_options, **fit)
        print(result.table())
        result.save(options.output)
        if options.plot:
            print(f"wrote {result.plot(options.plot)}")
    print(f"wrote {options.output}")


if __name__ == "__main__":
    sys.exit(main())
