# SPDX-License-Identifier: AGPL-3.0-or-later
"""The host's `BaseModel.load`, made to convert where the pretrained model has a Conv and the new one an AKConv."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import nn
from ultralytics.utils import LOGGER

from ultralytics_akconv.conversion.pairs import converted_tensors


def converting_load(host_load: Callable) -> Callable:
    """Return the host's `BaseModel.load` with a data-free conversion in front of it.

    The host takes from the source's state dict what fits by name and shape, and counts it. So for the time of the call
    the source's state dict also holds what its convolutions give to the AKConv layers; whatever else the host does
    (class-name remapping, its "Transferred x/y items") is left to it. Where nothing is converted, nothing is done.
    """

    @functools.wraps(host_load)
    def load(self: nn.Module, weights: Any, verbose: bool = True) -> Any:
        source = (weights.get("ema") or weights.get("model")) if isinstance(weights, dict) else weights
        tensors, pairs = converted_tensors(self, source) if isinstance(source, nn.Module) else ({}, [])
        if not pairs:
            return host_load(self, weights, verbose)
        handle = source._register_state_dict_hook(lambda module, state, prefix, metadata: state.update(tensors))
        try:
            result = host_load(self, weights, verbose)
        finally:
            handle.remove()
        if verbose:
            counted = f"{len(pairs)} Conv layers to AKConv (N={_numbers(pairs)})"
            LOGGER.info(f"Transferred {counted}, points placed by the offset bias")
            if any(pair.akconv.num_param < 9 for pair in pairs):  # from nine points on nothing is lost
                LOGGER.info(
                    "This start is made from the weights alone; images, labelled or not, can bring it nearer to "
                    "the source: akconv convert SOURCE.pt --model MODEL.yaml --data DATA.yaml --distill 300 -o START.pt"
                )
        return result

    return load


def _numbers(pairs: list) -> str:
    """Return the numbers of points of converted layers, each once."""
    return ", ".join(map(str, sorted({pair.akconv.num_param for pair in pairs})))
