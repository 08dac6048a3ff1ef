# SPDX-License-Identifier: AGPL-3.0-or-later
"""The `akconv` command: reads arguments, calls the public functions and prints what they return. A file a command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ultralytics_akconv import __version__
from ultralytics_akconv.cli.benchmark import add_benchmark
from ultralytics_akconv.cli.convert import add_convert
from ultralytics_akconv.cli.models import add_graft, add_info, add_models
from ultralytics_akconv.cli.plot import add_plot


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0, or 1 after an error of the user's, which is printed."""
    parser = argparse.ArgumentParser("akconv", description="AKConv (LDConv) in Ultralytics YOLO models")
    parser.add_argument("--version", action="version", version=__version__)
    subparsers = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for add in (add_graft, add_models, add_info, add_convert, add_plot, add_benchmark):
        add(subparsers)
    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except (OSError, TypeError, ValueError) as error:
        print(f"akconv: {error}", file=sys.stderr)
        return 1
    return 0
