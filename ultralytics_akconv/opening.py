# SPDX-License-Identifier: AGPL-3.0-or-later
"""Opens models as the host does, and tells whose an error is: the user's, the host's, or a fault of ours."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ultralytics
from torch import nn
from ultralytics import RTDETR, YOLO
from ultralytics.nn import tasks

_OURS = Path(__file__).resolve().parent
_HOST = Path(ultralytics.__file__).resolve().parent


def wrapper_class(name: str) -> type[YOLO | RTDETR]:
    """Return the host's class of a model by its name, or that of its network: only RT-DETR has one of its own."""
    return RTDETR if "rtdetr" in name.lower() else YOLO


def host_model(model: str | Path, exported: bool = True) -> YOLO | RTDETR:
    """Return the host's object of a model YAML or a checkpoint.

    Args:
        model: What the host's `YOLO(...)` takes.
        exported: Whether it may be a file of another runtime, which the host only opens to run it.

    Raises:
        OSError: If there is no such file.
        ValueError: If there is one of which the host makes no model, whatever it raises; or it is an exported one.
    """
    with _named(model):
        opened = wrapper_class(Path(model).stem)(model)
    if not exported and not isinstance(opened.model, nn.Module):
        raise ValueError(f"'{model}' is no model in PyTorch: give a checkpoint (.pt) or a model YAML")
    return opened


def model_task(model: str | Path) -> str:
    """Return the task of a model YAML, which is not built for it, or of a checkpoint.

    Raises:
        OSError, ValueError: If there is no such model, or the host makes none of it.
    """
    if Path(model).suffix in (".yaml", ".yml"):
        with _named(model):
            return tasks.guess_model_task(tasks.yaml_model_load(model))
    return host_model(model).task


@contextmanager
def _named(model: str | Path) -> Iterator[None]:
    """Turn what the host raises for a file into a ValueError that names it."""
    try:
        yield
    except (ImportError, OSError, ValueError):
        raise
    except Exception as error:  # a broken pickle or a wrong row raise anything at all
        if not raised_by_host(error):
            raise
        raise ValueError(f"Ultralytics cannot load '{model}': {type(error).__name__}: {error}") from error


def raised_by_host(error: BaseException) -> bool:
    """Return whether an error comes from the host, or from what it called, and not from code of ours."""
    for frame, _ in reversed([*traceback.walk_tb(error.__traceback__)]):
        folders = Path(frame.f_code.co_filename).resolve().parents
        if _HOST in folders or _OURS in folders:
            return _OURS not in folders
    return False
