# SPDX-License-Identifier: AGPL-3.0-or-later
"""`akconv convert`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ultralytics_akconv import SHAPES, from_fork, from_published, transfer, write_checkpoint
from ultralytics_akconv.cli.arguments import CONVS_HELP, WHERE_HELP, names, numbers, positive, shape, where
from ultralytics_akconv.conversion import check_output
from ultralytics_akconv.files import check_figure
from ultralytics_akconv.functional import BORDERS
from ultralytics_akconv.shapes import ORIGINS


def add_convert(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `akconv convert`."""
    parser.add_argument("source", nargs="?", help="a checkpoint of a model with ordinary convolutions")
    parser.add_argument("--model", help="the AKConv model YAML to fill, instead of the options up to --budget")
    parser.add_argument("--num-param", type=numbers, metavar="N", help="5 (default), or one a layer: 5,7,9")
    parser.add_argument("--where", type=where, metavar="LAYERS", help=f"{WHERE_HELP} (default downsample)")
    parser.add_argument("--shape", type=shape, help=f"{', '.join(SHAPES)}, or [[row, col], ...]")
    parser.add_argument("--border", choices=BORDERS, help="default zeros, as in an ordinary convolution")
    parser.add_argument("--origin", choices=ORIGINS, help="default center")
    parser.add_argument("--convs", type=names, metavar="NAMES", help=CONVS_HELP)
    parser.add_argument("--budget", help="choose N by layer: params=0.95 or gflops=0.95 of the source's, or error=0.1")
    parser.add_argument("--data", help="fit the weights on images: a dataset YAML, or a folder")
    parser.add_argument("--images", type=positive, default=64, help="how many images to fit on at most (default 64)")
    parser.add_argument("--imgsz", type=positive, help="their side in pixels (default: what the source was trained at)")
    parser.add_argument(
        "--distill",
        type=int,
        metavar="STEPS",
        help="then let the new layers learn together from the source, unlabelled",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the choice of images to learn from (default 0)")
    parser.add_argument(
        "--device", help="where to learn and validate, as yolo takes it (default: a GPU if there is one)"
    )
    parser.add_argument("--no-val", action="store_true", help="do not validate, if --data has labels")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the layers' errors and points")
    parser.add_argument("--from-published", metavar="FILE", help="a state dict of the published code, for --model")
    parser.add_argument(
        "--from-fork", metavar="FILE", help="a checkpoint of a copy of Ultralytics with AKConv pasted into it"
    )
    parser.add_argument("--check", metavar="IMAGE", help="prove the import of a fork on this image, not on a pattern")
    parser.add_argument("--nc", type=positive, help="classes of a state dict, if not the model YAML's")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", required=True, help="the checkpoint to write")
    parser.set_defaults(run=_run_convert)


def _run_convert(options: argparse.Namespace) -> None:
    """Write the converted checkpoint and print what each layer kept."""
    check_output(options.output)  # before the work
    if options.plot:
        check_figure(options.plot)
    graft_options = {
        name: value
        for name in ("num_param", "where", "shape", "border", "origin", "convs", "budget")
        if (value := getattr(options, name)) is not None
    }
    if options.check and not options.from_fork:
        raise ValueError("--check belongs to --from-fork")
    if options.from_fork:
        if options.source or options.from_published or graft_options or options.data:
            raise ValueError(
                "--from-fork takes --model, --nc, --check and --output alone, no source and nothing to fit"
            )
        imported = from_fork(options.from_fork, options.model, options.nc, options.check)
        print(imported.table())
        imported.save(options.output)
    elif options.from_published:
        if not options.model or options.source or graft_options or options.data:
            raise ValueError("--from-published takes --model, --nc and --output alone, no source and nothing to fit")
        write_checkpoint(from_published(options.from_published, options.model, options.nc), options.output)
    else:
        if not options.source or options.nc is not None:
            raise ValueError("give a source checkpoint; --nc belongs to --from-published and --from-fork")
        fit = {name: getattr(options, name) for name in ("data", "images", "imgsz", "distill", "device", "seed")}
        result = transfer(options.source, options.model, **graft_options, **fit)
        print(result.table())
        result.save(options.output)
        if options.plot:
            print(f"wrote {result.plot(options.plot)}")
    print(f"wrote {options.output}")
    if options.data and not options.no_val:
        from ultralytics_akconv.conversion.validation import kept  # it imports the host's models

        print(kept(result, options.data, options.imgsz, options.device))
