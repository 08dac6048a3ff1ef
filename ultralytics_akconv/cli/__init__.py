# SPDX-License-Identifier: AGPL-3.0-or-later
"""The `akconv` command: reads arguments, calls the public functions and prints what they return. A file a command."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ultralytics_akconv import __version__
from ultralytics_akconv.cli.arguments import exit_status
from ultralytics_akconv.cli.benchmark import add_benchmark
from ultralytics_akconv.cli.convert import add_convert
from ultralytics_akconv.cli.models import add_graft, add_info, add_models
from ultralytics_akconv.cli.plot import add_plot
from ultralytics_akconv.cli.train import add_evaluate


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0, or 1 after an error of the user's, which is printed."""
    parser = argparse.ArgumentParser("akconv", description="AKConv (LDConv) in Ultralytics YOLO models")
    parser.add_argument("--version", action="version", version=__version__)
    subparsers = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for add in (add_graft, add_models, add_info, add_convert, add_plot, add_benchmark, add_evaluate):
        add(subparsers)
    options, rest = parser.parse_known_args(arguments)
    if rest and not hasattr(options, "host_arguments"):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    options.host_arguments = rest
    return exit_status("akconv", lambda: options.run(options))
