# SPDX-License-Identifier: AGPL-3.0-or-later
"""Settings of trainings: the paper's as presets, the host's arguments from a command line, models by N and shape."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ultralytics.cfg import check_cfg, smart_value
from ultralytics.utils import DEFAULT_CFG_DICT

from ultralytics_akconv.grafting import graft
from ultralytics_akconv.grafting.names import cached

# arXiv 2311.11587: 300 epochs of SGD from scratch at 640 px. Where it is silent, the host's defaults stand.
_PAPER = {"epochs": 300, "imgsz": 640, "optimizer": "SGD", "pretrained": False}
PRESETS: dict[str, dict[str, Any]] = {"coco": _PAPER, "voc": _PAPER, "visdrone": _PAPER}


# What every command says by an option of its own, and how.
_OPTIONS = {"data": "--data", "model": "the model's own place or --model", "mode": "the command", "cfg": "key=value"}


def host_arguments(tokens: Sequence[str]) -> dict[str, Any]:
    """Read arguments of the host from a command line: `key=value`, `--key value` or `--key=value`.

    Raises:
        ValueError: If a token is none of them, or the host has no such argument, near names are told; or a value is of
            the wrong kind, or belongs to an option of the command.
    """
    arguments: dict[str, Any] = {}
    rest = list(tokens)
    while rest:
        token = rest.pop(0)
        key, equals, value = token.removeprefix("--").partition("=")
        if not equals:
            if not token.startswith("--") or not rest:
                raise ValueError(f"{token!r} is not an argument: write key=value or --key value")
            value = rest.pop(0)
        key = key.replace("-", "_")
        if key not in DEFAULT_CFG_DICT:
            near = ", ".join(difflib.get_close_matches(key, DEFAULT_CFG_DICT)) or "see `yolo cfg`"
            raise ValueError(f"Ultralytics has no argument {key!r}; most like it: {near}")
        if key in _OPTIONS:
            raise ValueError(f"{token!r}: say it by {_OPTIONS[key]}")
        arguments[key] = smart_value(value)
    try:
        check_cfg(dict(arguments))
    except TypeError as error:  # a number that is none, in the host's words
        raise ValueError(str(error)) from error
    return arguments


def trained_on(arguments: Mapping[str, Any]) -> torch.device:
    """Return the device that the host trains on with these arguments: the first GPU, if there is one, unless told."""
    named = str(arguments.get("device", "")).lower()
    if named in ("cpu", "mps") or not torch.cuda.is_available():
        return torch.device("cpu")
    index = re.search(r"(?<!-)\d+", named)  # -1 leaves the choice to the host
    return torch.device("cuda", int(index[0]) if index else 0)


def model_file(
    model: str | Path, num_param: int | None = None, shape: str | list | None = None, **options: Any
) -> Path:
    """Return the YAML of a model, grafted with `num_param` points of a shape if a number is given.

    Args:
        model: A model YAML with ordinary convolutions.
        num_param: Number of sampling points N.
        shape: Initial sampling shape; "default" if None.
        options: More options of `graft`: where, border, origin.

    Raises:
        FileNotFoundError: If there is no such model.
        ValueError: If a shape comes without a number of points, or the model cannot be grafted.
    """
    if num_param is None:
        if shape is not None:
            raise ValueError(f"the shape {shape!r} needs a number of points (num_param)")
        return Path(model)
    text = graft(model, num_param, shape="default" if shape is None else shape, **options)
    suffix = shape if isinstance(shape, str) else "default" if shape is None else "custom"
    suffix = "-".join([suffix, *(v if isinstance(v, str) else "custom" for v in options.values())])
    return cached(f"{Path(model).stem}-akconv{num_param}-{suffix}.yaml", text)
