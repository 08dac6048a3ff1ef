# SPDX-License-Identifier: AGPL-3.0-or-later
"""The `akconv` command: reads arguments, calls the public functions and prints what they return.

A command's file is imported when its arguments are read: `akconv --help` and every other command do without it.
"""

from __future__ import annotations

import argparse
import importlib
import io
import sys
from collections.abc import Sequence
from typing import Any

from ultralytics_akconv import __version__
from ultralytics_akconv.cli.arguments import exit_status

# Command -> what it does and the function, in a file beside this one, that adds its arguments. Groups are in GROUPS.
COMMANDS = {
    "check": ("tell whether everything works here, for a bug report too", "check:add_check"),
    "graft": ("write a model YAML with AKConv in place of chosen convolutions", "models:add_graft"),
    "models": ("list the names that `model=` takes", "models:add_models"),
    "info": ("show the AKConv layers and the size of a model", "models:add_info"),
    "convert": ("turn a trained model into an AKConv model that keeps what it knows", "convert:add_convert"),
    "plot": ("draw pictures", "pictures"),
    "benchmark": ("measure what AKConv costs on this machine", "benchmarks"),
    "evaluate": ("AP by COCO rules and Ultralytics' metrics of a trained model", "train:add_evaluate"),
}
GROUPS = {
    "pictures": {
        "shapes": ("initial sampling shapes", "plot:add_shapes"),
        "offsets": ("where a model's AKConv layers read an image", "plot:add_offsets"),
        "training": ("how the offsets grew in a training", "plot:add_training"),
        "ablation": ("what the offsets of a trained model are worth", "ablation:add_ablation"),
    },
    "benchmarks": {
        "op": ("one layer against a 3x3 Conv and against its peers", "benchmark:add_op"),
        "model": ("a whole model against the same model with 3x3 Conv", "benchmark:add_model"),
        "export": ("export formats: works, difference from PyTorch, cost", "benchmark:add_export"),
        "train": ("train with and without AKConv, several seeds each, and compare", "train:add_train"),
    },
}


class _Command(argparse.ArgumentParser):
    """The parser of a command, which gets its arguments when it comes to read some."""

    def __init__(self, *args: Any, adds: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.adds = adds

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        """Add the arguments, then read them."""
        file, _, function = self.adds.partition(":")
        self.adds = ""
        if function:
            getattr(importlib.import_module(f"{__name__}.{file}"), function)(self)
        elif file:
            _add_commands(self, file, "WHAT", GROUPS[file])
        return super().parse_known_args(args, namespace)


def _add_commands(
    parser: argparse.ArgumentParser, title: str, metavar: str, commands: dict[str, tuple[str, str]]
) -> None:
    """Add a table of commands to a parser."""
    subparsers = parser.add_subparsers(title=title, required=True, metavar=metavar, parser_class=_Command)
    for name, (what, adds) in commands.items():
        subparsers.add_parser(name, help=what, adds=adds)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0, or 1 after an error of the user's, which is printed."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a console may lack a character; no command ends for it
    parser = argparse.ArgumentParser("akconv", description="AKConv (LDConv) in Ultralytics YOLO models")
    parser.add_argument("--version", action="version", version=__version__)
    _add_commands(parser, "commands", "COMMAND", COMMANDS)

    def run() -> None:
        options, rest = parser.parse_known_args(arguments)  # here, since a command may lack a library
        if rest and not hasattr(options, "host_arguments"):
            parser.error(f"unrecognized arguments: {' '.join(rest)}")
        options.host_arguments = rest
        options.run(options)

    return exit_status("akconv", run)
