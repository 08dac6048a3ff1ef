# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a model with AKConv consists of, and how much it differs from the same model without."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn
from ultralytics.utils.torch_utils import get_flops

from ultralytics_akconv.host import built_like
from ultralytics_akconv.layers import akconvs
from ultralytics_akconv.modules import BLOCKS, AKConv
from ultralytics_akconv.opening import host_model
from ultralytics_akconv_startup import later_name


class Size(NamedTuple):
    """How large a model is."""

    layers: int  # rows of the YAML
    parameters: int
    gflops: float  # of one image, by the host's count


class ModelInfo(NamedTuple):
    """What `model_info` returns: sizes with AKConv and with ordinary convolutions, and the AKConv modules by name."""

    size: Size
    plain: Size
    akconvs: dict[str, AKConv]


def model_info(model: str | Path, imgsz: int = 640) -> ModelInfo:
    """Build a model and return its size, its AKConv modules, and the size it has without AKConv.

    Args:
        model: A model YAML or a checkpoint: whatever Ultralytics' `YOLO(...)` takes.
        imgsz: Image side in pixels at which GFLOPs are counted.
    """
    network = host_model(model, exported=False).model
    plain = built_like(network, plain_model(network.yaml))
    return ModelInfo(_size(network, imgsz), _size(plain, imgsz), akconvs(network))


def plain_model(model: dict[str, Any]) -> dict[str, Any]:
    """Return a model dictionary with a 3x3 Conv in place of each AKConv, and with the host's own blocks."""
    plain = copy.deepcopy(model)
    for section in ("backbone", "head"):
        plain[section] = [_plain_row(row) for row in plain[section]]
    return plain


def _plain_row(row: list) -> list:
    """Return a row of a model YAML without AKConv in it."""
    source, repeats, module, args = row
    *own, options = args if args and isinstance(args[-1], dict) else [*args, {}]
    if module in ("AKConv", "LDConv"):
        act = [None, 1, 1, False] if options.get("act") is False else []  # behind padding, groups and dilation
        stride = own[2] if len(own) > 2 else options.get("stride", 1)
        return [source, repeats, "Conv", [own[0], 3, stride, *act]]
    for host_name, block in BLOCKS.items():
        if module in (block.__name__, later_name(block.__name__)):
            return [source, repeats, host_name, own]
    return row


def _size(network: nn.Module, imgsz: int) -> Size:
    """Return the size of a network at an image size."""
    return Size(len(network.model), sum(p.numel() for p in network.parameters()), get_flops(network, imgsz))
