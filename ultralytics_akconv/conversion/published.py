# SPDX-License-Identifier: AGPL-3.0-or-later
"""State dicts of models that were trained with the published AKConv code, as checkpoints of the host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ultralytics_akconv.host import built_like
from ultralytics_akconv.layers import akconvs

_WRAPPERS = ("state_dict", "model_state_dict", "model", "ema")  # under which training scripts keep the tensors


def from_published(state: str | Path | dict[str, Any], model: str | Path, nc: int | None = None) -> nn.Module:
    """Return a model with the weights of a state dict in the published layout (`conv.0`, `conv.1`, `p_conv`, `p_n`).

    Args:
        state: The state dict of the whole model, or a file of it; it is read without unpickling any code.
        model: The YAML of the model, as Ultralytics finds it.
        nc: Number of classes, if it is not the YAML's.

    Returns:
        The model in eval mode.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file holds no state dict, or it does not fit the model.
    """
    from ultralytics_akconv.opening import host_model  # not at the top: the host is being imported at that time

    tensors = _tensors(state)
    whole = host_model(str(model), exported=False)
    built = whole.model
    if not akconvs(built):
        raise ValueError(f"the model '{model}' holds no AKConv")
    if nc is not None and nc != built.yaml["nc"]:
        args, task = built.args, built.task
        built = built_like(built, {**built.yaml, "nc": nc})
        built.args, built.task = args, task
    try:
        built.load_state_dict(tensors)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"the state dict does not fit '{model}' with {built.yaml['nc']} classes: {error}") from error
    return built.float().eval()


def inner_state(value: Any) -> Any:
    """Return the dictionary that one of a training script holds under a usual name, or what was given."""
    for name in _WRAPPERS:
        if isinstance(value, dict) and isinstance(value.get(name), dict):
            value = value[name]
    return value


def _tensors(state: str | Path | dict[str, Any]) -> dict[str, Tensor]:
    """Return the tensors of a state dict, a file of one, or a dictionary that holds one under a usual name."""
    if not isinstance(state, dict):
        file = Path(state)
        if not file.is_file():
            raise FileNotFoundError(f"'{state}' does not exist")
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # what a broken pickle raises is anything at all
            raise ValueError(
                f"'{file}' is no state dict ({type(error).__name__}): it must hold tensors alone, as "
                "torch.save(model.state_dict(), file) writes them in the code it was trained with"
            ) from error
    state = inner_state(state)
    if not isinstance(state, dict) or not state:
        raise ValueError(f"a state dict must map names to tensors, got {type(state).__name__} {state!r:.20}")
    for name, value in state.items():
        if not isinstance(value, Tensor):
            kind = type(value).__name__
            raise ValueError(f"a state dict must map names to tensors, this one maps {name!r:.60} to {kind}")
    return dict(state)
