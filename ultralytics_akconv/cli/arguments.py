# SPDX-License-Identifier: AGPL-3.0-or-later
"""What several commands and scripts share: arguments, and how they end."""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Callable
from typing import Any

from ultralytics_akconv.shapes import sampling_points

HOST_ARGUMENTS_HELP = "Any argument of Ultralytics follows as key=value or --key value."
CONVS_HELP = "which convolutions inside blocks, by their names there: cv2 or m.0.cv1,m.0.cv2 (default all)"
WHERE_HELP = "downsample, backbone, neck, blocks, or layer indices: 3,5,7"


def integers(text: str, example: str) -> list[int]:
    """Read whole numbers with commas between them; an error shows the example."""
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"invalid value {text!r}: write whole numbers as in {example}") from None


def positive(text: str) -> int:
    """Read a whole number of at least 1."""
    number = integers(text, "5")
    if len(number) > 1 or number[0] < 1:
        raise argparse.ArgumentTypeError(f"invalid value {text!r}: it must be one whole number, at least 1")
    return number[0]


def numbers(text: str) -> int | list[int]:
    """Read 5 or 5,7,9."""
    numbers = integers(text, "5 or, one a layer, 5,7,9")
    return numbers if len(numbers) > 1 else numbers[0]


def where(text: str) -> str | list[int]:
    """Read a group's name or layer indices; what is neither is left to `graft`, which says what is allowed."""
    return integers(text, "3,5,7") if text[:1].isdigit() else text


def shape(text: str) -> str | list:
    """Read a shape's name or a list of points, which is checked here: a name's points depend on more."""
    if not text.strip().startswith("["):
        return text
    try:
        points = ast.literal_eval(text.strip())
    except (MemoryError, RecursionError, SyntaxError, TypeError, ValueError) as error:  # or more than numbers and lists
        example = "write points as in [[0, 0], [0, 1], [1, 0]]"
        raise argparse.ArgumentTypeError(f"invalid shape {text!r}: {example}") from error
    try:
        sampling_points(len(points), points)
    except (TypeError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"invalid shape {text!r}: {error}") from error
    return points


def names(text: str) -> list[str]:
    """Read cv1,cv2 or 3,model.5."""
    return text.split(",")


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
    """Run a command and return its exit status: 0, or 1 after an error of the user's or the host's, which is printed.

    An error of the user's is an ImportError, an OSError or a ValueError. Of other kinds are those that the host raises
    for its arguments and data, and faults of ours, which are not caught.
    """
    try:
        run()
    except (ImportError, OSError, ValueError) as error:
        return _failed(command, str(error))
    except KeyboardInterrupt:
        print(f"{command}: stopped", file=sys.stderr)
        return 130  # as a shell has it
    except Exception as error:
        from ultralytics_akconv.opening import raised_by_host  # which imports the host

        if not raised_by_host(error):
            raise  # a fault of ours, of which the traceback tells more than a line
        return _failed(command, f"Ultralytics: {type(error).__name__}: {error}")
    return 0


def _failed(command: str, message: str) -> int:
    """Print an error on one line, however many it was written in, and return the exit status."""
    print(f"{command}: {' '.join(message.split())}", file=sys.stderr)
    return 1
