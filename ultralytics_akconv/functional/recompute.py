# SPDX-License-Identifier: AGPL-3.0-or-later
"""Memory for time: let autograd keep the recipe of a tensor in place of the tensor."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks


def recomputed_in_backward(tensor: Tensor, compute: Callable[[], Tensor]) -> saved_tensors_hooks:
    """Return a context in which layers that save `tensor` for their backward pass save `compute` instead.

    The N samples of every output pixel are the input of the column convolution and N / stride**2 times as large as the
    map they were taken from; kept, they are the memory that AKConv costs over a plain convolution.

    Args:
        tensor: What is given to a layer inside the context.
        compute: Returns the same values again; called without gradient, once a backward pass.
    """
    place, shape = _place(tensor), tensor.shape

    def pack(saved: Tensor) -> Tensor | Callable[[], Tensor]:
        return compute if saved.shape == shape and _place(saved) == place else saved

    def unpack(kept: Tensor | Callable[[], Tensor]) -> Tensor:
        if isinstance(kept, Tensor):
            return kept
        with torch.no_grad():
            return kept()

    return saved_tensors_hooks(pack, unpack)


def _place(tensor: Tensor) -> tuple[int, int]:
    """Return which memory a tensor reads, and from where on; not its address, which a fake tensor does not have."""
    return tensor.untyped_storage()._cdata, tensor.storage_offset()
