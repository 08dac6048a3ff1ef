# SPDX-License-Identifier: AGPL-3.0-or-later
"""Host models built and run layer by layer, for the tests that compare a model with its plain model."""

import copy
from pathlib import Path

import torch
import ultralytics
import yaml
from torch import nn
from ultralytics.nn import tasks
from ultralytics.nn.modules.conv import Conv

from ultralytics_akconv import AKConv

HOST_FILES = sorted((Path(ultralytics.__file__).parent / "cfg/models").rglob("*.yaml"), key=lambda file: file.name)
HOST_NAMES = [file.name for file in HOST_FILES]


def host_text(name):
    return HOST_FILES[HOST_NAMES.index(name)].read_text("utf-8", errors="ignore")


def rows(text):
    model = yaml.safe_load(text)
    return model["backbone"] + model["head"]


def replaced(text):
    return [index for index, row in enumerate(rows(text)) if "AKConv" in row[2]]


def model_file(folder, text, name="mine.yaml"):
    file = folder / name
    file.write_text(text, "utf-8")
    return file


def parsed(text, scale=None, device="cpu"):
    """Return the layers and the save list that the host's parser makes of a YAML text or dictionary."""
    model = yaml.safe_load(text) if isinstance(text, str) else copy.deepcopy(text)
    scales = list(model.get("scales") or ())
    default_act = Conv.default_act
    try:
        with torch.device(device):  # "meta": no memory, no initialisation, so the largest scales cost little
            return tasks.parse_model({**model, "scale": scale or (scales[0] if scales else "")}, ch=3, verbose=False)
    finally:
        Conv.default_act = default_act  # releases before 8.4 leave a model's `activation:` there for the next one


def run(layers, x):
    """Run the layers on `x` as the host does and return what every one of them gave."""
    outputs = []
    for layer in layers:
        sources = [layer.f] if isinstance(layer.f, int) else layer.f
        inputs = [x if s == -1 and not outputs else outputs[s] for s in sources]
        outputs.append(layer(inputs[0] if isinstance(layer.f, int) else inputs))
    return outputs


def tensors(value):
    """Return all floating-point tensors inside a layer's output."""
    if isinstance(value, torch.Tensor):
        return [value] if value.is_floating_point() else []
    values = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [tensor for v in values for tensor in tensors(v)]


def skeleton(layers):
    """Return `from`, and channels, stride and groups of every convolution inside, for each layer."""
    return [(layer.f, list(_convolutions(layer))) for layer in layers]


def _convolutions(module):
    if isinstance(module, AKConv):
        yield module.in_channels, module.out_channels, module.stride, 1
    elif isinstance(module, Conv):
        yield module.conv.in_channels, module.conv.out_channels, module.conv.stride[0], module.conv.groups
    else:
        if isinstance(module, nn.Conv2d):
            yield module.in_channels, module.out_channels, module.stride[0], module.groups
        for child in module.children():
            yield from _convolutions(child)
