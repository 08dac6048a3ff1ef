# SPDX-License-Identifier: AGPL-3.0-or-later
"""Constants that are tensors, remembered from call to call, but for those that a mode has had a hand in."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any

import torch

from ultralytics_akconv.functional.tracing import is_transformed


def under_a_mode() -> bool:
    """Return whether what PyTorch makes now may be other than it seems.

    A mode of torch (fake tensors, an exporter's, a default device, ...) or a transform of `torch.func` gets between a
    call and its result: the tensor may hold nothing, or end with the mode.
    """
    return torch._C._len_torch_dispatch_stack() > 0 or torch._C._len_torch_function_stack() > 0 or is_transformed()


def remembered(maxsize: int) -> Callable[[Callable], Callable]:
    """Return a decorator as `functools.lru_cache`, for functions that make tensors of numbers.

    Under a mode they are called anew and nothing is kept, nor is anything handed out that was made outside it.
    Inference mode is left for the time of a call: a training step could not use its tensors later.
    """

    def decorate(make: Callable) -> Callable:
        make = torch.inference_mode(False)(make)
        kept = lru_cache(maxsize)(make)

        @wraps(make)
        def get(*args: Any, **kwargs: Any) -> Any:
            return make(*args, **kwargs) if under_a_mode() else kept(*args, **kwargs)

        get.cache_info, get.cache_clear = kept.cache_info, kept.cache_clear
        return get

    return decorate
