# SPDX-License-Identifier: AGPL-3.0-or-later
"""What several commands and scripts share: arguments, and how they end."""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Callable
from typing import Any

HOST_ARGUMENTS_HELP = "Any argument of Ultralytics follows as key=value or --key value."
WHERE_HELP = "downsample, backbone, neck, blocks, or layer indices: 3,5,7"


def numbers(text: str) -> int | list[int]:
    """Read 5 or 5,7,9."""
    numbers = [int(number) for number in text.split(",")]
    return numbers if len(numbers) > 1 else numbers[0]


def where(text: str) -> str | list[int]:
    """Read a group's name or layer indices; what is neither is left to `graft`, which says what is allowed."""
    return [int(index) for index in text.split(",")] if text[:1].isdigit() else text


def shape(text: str) -> str | list:
    """Read a shape's name or a list of points."""
    return ast.literal_eval(text) if text.startswith("[") else text


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add the dataset."""
    parser.add_argument("--data", required=True, help="coco, voc, visdrone, a dataset YAML or a dataset's folder")


def script_parser(name: str, description: str) -> argparse.ArgumentParser:
    """Return the parser of a script that runs the host on a dataset, or prints what would run."""
    parser = argparse.ArgumentParser(
        name, description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add_data(parser)
    parser.add_argument("--dry-run", action="store_true", help="print what would run, run nothing")
    return parser


def host_command(mode: str, model: Any, data: str, settings: dict[str, Any]) -> str:
    """Return the host's command that does the same."""
    from ultralytics_akconv.datasets import NAMED  # here alone: it imports the host's data rooms

    return f"yolo {mode} model={model} data={NAMED.get(data, data)} {settings_text(settings)}".rstrip()


def settings_text(settings: dict[str, Any]) -> str:
    """Return arguments of the host as they are written on its command line."""
    return " ".join(f"{key}={value}" for key, value in settings.items())


def print_text(text: str) -> None:
    """Print the text of a file: in UTF-8, as the file would hold it, where the output goes to one."""
    stream = getattr(sys.stdout, "buffer", None)
    if stream is None or sys.stdout.isatty():
        print(text, end="")
    else:
        sys.stdout.flush()
        stream.write(text.encode("utf-8"))
        stream.flush()


def exit_status(command: str, run: Callable[[], None]) -> int:
    """Run a command and return its exit status: 0, or 1 after an error of the user's, which is printed."""
    try:
        run()
    except (ImportError, OSError, TypeError, ValueError) as error:
        print(f"{command}: {error}", file=sys.stderr)
        return 1
    return 0
