# SPDX-License-Identifier: AGPL-3.0-or-later
"""`akconv benchmark op`, `model` and `export`; `akconv benchmark train` is in a file of its own."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from ultralytics_akconv.benchmark import (
    FORMATS,
    YOLOV8N_LAYERS,
    LayerSize,
    Report,
    benchmark_exports,
    benchmark_layers,
    benchmark_models,
)
from ultralytics_akconv.benchmark.operator import LAYOUTS
from ultralytics_akconv.benchmark.timing import find_device
from ultralytics_akconv.cli.arguments import integers, positive
from ultralytics_akconv.files import check_folder

_DTYPES = {"float32": torch.float32, "float64": torch.float64, "float16": torch.float16, "bfloat16": torch.bfloat16}


def add_op(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `akconv benchmark op`."""
    parser.add_argument("--size", type=_size, nargs="+", default=YOLOV8N_LAYERS, metavar="IN,OUT,SIDE",
                        help="channels and input side of a stride-2 layer (default: the six of YOLOv8n)")  # fmt: skip
    parser.add_argument("--num-param", type=positive, nargs="+", default=[5], metavar="N",
                        help="numbers of sampling points (default 5)")  # fmt: skip
    parser.add_argument("--batch", type=positive, default=1, help="images of a batch (default 1)")
    parser.add_argument("--dtype", choices=_DTYPES, default="float32", help="default float32")
    parser.add_argument("--memory", action="store_true", help="measure peak memory too (five processes a peer)")
    _add_common(parser, repeats=30)
    parser.set_defaults(run=_run_op)


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `akconv benchmark model`."""
    parser.add_argument("model", nargs="?", default="yolov8n-akconv.yaml", help="default yolov8n-akconv.yaml")
    parser.add_argument("--imgsz", type=positive, default=640, help="image side in pixels (default 640)")
    parser.add_argument("--batch", type=positive, default=4, help="images of a training step (default 4)")
    parser.add_argument("--compile", action="store_true", help="time inference under torch.compile too")
    parser.add_argument("--no-memory", action="store_true", help="leave out peak memory (five processes a peer)")
    _add_common(parser, repeats=15)
    parser.set_defaults(run=_run_model)


def add_export(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `akconv benchmark export`."""
    parser.add_argument("model", nargs="?", default="yolov8n-akconv.yaml", help="default yolov8n-akconv.yaml")
    parser.add_argument("--format", type=_format, nargs="+", default=FORMATS, metavar="FORMAT",
                        help=f"names, an ONNX opset after a colon (default {' '.join(FORMATS)})")  # fmt: skip
    parser.add_argument("--imgsz", type=positive, default=320, help="image side in pixels (default 320)")
    parser.add_argument("--device", type=_device, default="cpu", help="where to export and run, as of `op`")
    parser.add_argument("--half", action="store_true", help="export in half precision")
    parser.add_argument("--repeats", type=positive, default=30, help="counted rounds (default 30)")
    _add_files(parser)
    parser.set_defaults(run=_run_export)


def _add_common(parser: argparse.ArgumentParser, repeats: int) -> None:
    """Add the options that both commands have."""
    parser.add_argument("--device", type=_device, default="cpu", help="cpu (default), cuda, or a GPU by its number")
    parser.add_argument(
        "--layout", choices=LAYOUTS, default="channels_last", help="of the memory (default channels_last)"
    )
    parser.add_argument("--threads", type=positive, help="CPU threads (default: PyTorch's)")
    parser.add_argument("--repeats", type=positive, default=repeats, help=f"counted rounds (default {repeats})")
    _add_files(parser)


def _add_files(parser: argparse.ArgumentParser) -> None:
    """Add the files a report can be written to."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything as JSON")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the rows as CSV")


def _size(text: str) -> LayerSize:
    """Read 16,32,320."""
    sizes = integers(text, "16,32,320")
    if len(sizes) != 3 or min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"invalid value {text!r}: write in channels, out channels and side: 16,32,320")
    return LayerSize(*sizes)


def _format(text: str) -> str:
    """Read onnx or, with an opset, onnx:19."""
    from ultralytics.engine.exporter import export_formats  # which imports what no other command needs

    known = [name for name in export_formats()["Argument"] if name != "-"]  # "-" is PyTorch's own
    name, colon, opset = text.partition(":")
    if name not in known or (colon and not opset.isdecimal()):
        known = ", ".join(known)
        raise argparse.ArgumentTypeError(f"invalid format {text!r}: write onnx:19 for an opset, or one of {known}")
    return text


def _device(text: str) -> str:
    """Read a device that this machine has."""
    try:
        find_device(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def _run_op(options: argparse.Namespace) -> None:
    """Measure layers and print the table."""
    _prepare(options)
    report = benchmark_layers(
        options.size,
        options.num_param,
        options.batch,
        options.device,
        _DTYPES[options.dtype],
        options.layout,
        options.repeats,
        options.memory,
    )
    _write(report, options)


def _run_model(options: argparse.Namespace) -> None:
    """Measure models and print the table."""
    _prepare(options)
    report = benchmark_models(
        options.model,
        options.imgsz,
        options.batch,
        options.device,
        options.layout,
        options.repeats,
        options.compile,
        not options.no_memory,
    )
    _write(report, options)


def _run_export(options: argparse.Namespace) -> None:
    """Measure export formats and print the table."""
    _prepare(options)
    settings = (options.format, options.model, options.imgsz, options.repeats, options.device, options.half)
    _write(benchmark_exports(*settings), options)


def _prepare(options: argparse.Namespace) -> None:
    """Refuse files that cannot be written, before the work, and use as many CPU threads as asked for.

    The host sets its own number of threads when it is imported, so this comes after.
    """
    for file in filter(None, (options.json, options.csv)):
        check_folder(file)
    if getattr(options, "threads", None):
        torch.set_num_threads(options.threads)


def _write(report: Report, options: argparse.Namespace) -> None:
    """Print the table and write the files asked for."""
    print(report.table())
    if options.json:
        report.to_json(options.json)
        print(f"wrote {options.json}")
    if options.csv:
        report.to_csv(options.csv)
        print(f"wrote {options.csv}")
