# SPDX-License-Identifier: AGPL-3.0-or-later
"""Reads a source model from whatever the user has, and writes a checkpoint as the host's trainer does."""

from __future__ import annotations

import io
from copy import deepcopy
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
import ultralytics
from torch import nn
from ultralytics.nn import tasks

from ultralytics_akconv.files import check_folder, write_whole

# Modules that round numbers, watch them for that, or hold rounded ones: of ModelOpt, which the host uses, and of torch.
_QUANTIZERS = ("FakeQuantize", "FusedMovingAvgObsFakeQuantize", "TensorQuantizer")
_QUANTIZED = (
    "torch.ao.quantization.",
    "torch.ao.nn.",
    "torch.quantization.",
    "torch.nn.quantized.",
    "torch.nn.qat.",
    "torchao.",
)


def unwrapped(model: Any) -> Any:
    """Return the model inside a `YOLO` or `RTDETR`, anything else as it is.

    They are told by what they hold: their classes cannot be imported here, the host being in the middle of importing
    them when it loads the plug-in.
    """
    inside = getattr(model, "model", None)
    return inside if isinstance(inside, tasks.BaseModel) and not isinstance(model, tasks.BaseModel) else model


def read_source(source: str | Path | nn.Module) -> nn.Module:
    """Return a copy of a source model, or the model of its checkpoint, in float32, in eval mode and on the CPU.

    Raises:
        FileNotFoundError: If there is no such file.
        TypeError: If the source is nothing that holds a model.
        ValueError: If the file is no checkpoint of the host, or holds no model.
    """
    source = _read_file(source) if isinstance(source, (str, Path)) else unwrapped(source)
    if not isinstance(source, nn.Module):
        raise TypeError(
            f"source must be a checkpoint file, a YOLO or a module, got {source!r} ({type(source).__name__})"
        )
    if not isinstance(source, tasks.BaseModel) or not isinstance(getattr(source, "yaml", None), dict):
        raise ValueError(f"source must be a model that Ultralytics built from a YAML, got a {type(source).__name__}")
    _check_unquantized("source", source)
    return deepcopy(source).cpu().float().eval()


def _read_file(file: str | Path) -> nn.Module:
    """Return the model of a checkpoint file."""
    if Path(file).suffix != ".pt":
        raise ValueError(f"source must be a .pt checkpoint, got '{file}'")
    # The host renamed its reader; both return the model and the checkpoint.
    read = getattr(tasks, "load_checkpoint", None) or tasks.attempt_load_one_weight
    try:
        return read(str(file))[0]
    except Exception as error:  # what a broken pickle or a failed download raises is anything at all
        if not Path(file).is_file():
            raise FileNotFoundError(f"'{file}' does not exist") from error
        raise ValueError(f"'{file}' is no checkpoint of Ultralytics: {type(error).__name__}: {error}") from error


def check_output(file: str | Path) -> Path:
    """Return the path of a checkpoint to write, before any work is done for it.

    Raises:
        FileNotFoundError: If its folder does not exist.
        ValueError: If it does not end in `.pt`, by which the host knows checkpoints.
    """
    path = Path(file)
    if path.suffix != ".pt":
        raise ValueError(f"a checkpoint's name must end in .pt, got '{file}'")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"the folder of '{file}' does not exist")
    return check_folder(path)


def _check_unquantized(name: str, model: nn.Module) -> None:
    """Refuse a model in training for quantization, or after it: no pickle holds its layers, or no layer its weights.

    Raises:
        ValueError: If it is one.
    """
    for module in model.modules():
        kind = type(module)
        if kind.__name__ in _QUANTIZERS or f"{kind.__module__}.".startswith(_QUANTIZED):
            raise ValueError(
                f"{name} is quantized or in training for it (QAT): it holds a {kind.__name__}, which AKConv layers "
                "know nothing of. Take the checkpoint from before, convert it, and quantize that"
            )


def _is_half(model: nn.Module) -> bool:
    """Return whether every number of a model is one of float16, as in the host's finished checkpoints."""
    floats = (tensor for tensor in model.state_dict().values() if tensor.is_floating_point())
    return all(torch.equal(tensor, tensor.half().to(tensor.dtype)) for tensor in floats)


def write_checkpoint(model: Any, file: str | Path, source: Any = None) -> Path:
    """Write a model as a finished checkpoint of Ultralytics: all of it, or nothing.

    Args:
        model: The model, or a `YOLO` that holds it; its `args` become the checkpoint's `train_args`.
        file: Where to write it.
        source: The model it was made from. If that is all float16 numbers, the checkpoint is stored in float16 too;
            otherwise in float32, so that no tensor changes.

    Returns:
        The path of the file.

    Raises:
        FileNotFoundError: If the folder does not exist.
        TypeError: If it is no model of Ultralytics: nothing else can be read again.
        ValueError: If the name does not end in `.pt`.
    """
    path = check_output(file)
    model, source = _host_model("model", model), None if source is None else _host_model("source", source)
    stored = deepcopy(model).cpu()
    if source is not None and _is_half(source):
        stored = stored.half()
    args = getattr(model, "args", {})
    content: dict[str, Any] = {
        "epoch": -1,  # finished: nothing to resume
        "best_fitness": None,
        "model": stored,
        "ema": None,
        "updates": None,
        "optimizer": None,
        "train_args": dict(args if isinstance(args, dict) else vars(args)),
        "date": datetime.now().astimezone().isoformat(),
        "version": ultralytics.__version__,
        "license": "AGPL-3.0 (https://ultralytics.com/license)",
        "docs": "https://docs.ultralytics.com",
    }
    buffer = io.BytesIO()  # into a full disk torch would say that a position was not expected
    torch.save(content, buffer)
    write_whole(path, buffer.getvalue())
    return path


def _host_model(name: str, model: Any) -> nn.Module:
    """Return a model of the host, also out of a `YOLO` or `RTDETR`."""
    inside = unwrapped(model)
    if not isinstance(inside, tasks.BaseModel):
        raise TypeError(f"{name} must be a YOLO or a model that Ultralytics built, got a {type(inside).__name__}")
    _check_unquantized(name, inside)
    return inside
