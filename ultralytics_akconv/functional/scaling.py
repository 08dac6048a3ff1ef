# SPDX-License-Identifier: AGPL-3.0-or-later
"""Another learning rate for some weights of a layer: their gradient, times a constant."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _ScaleGradient(torch.autograd.Function):
    """Identity whose gradient is multiplied by a constant."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.scale, None


def with_gradient_times(x: Tensor, scale: float) -> Tensor:
    """Return `x`, whose gradient will be multiplied by `scale`."""
    return _ScaleGradient.apply(x, scale)


def check_scale(name: str, value: float) -> float:
    """Return `value` as a float if it can be a factor on a gradient.

    Raises:
        TypeError: If it is no number.
        ValueError: If it is negative or not finite.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, got {value!r} ({type(value).__name__})")
    if not 0 <= value < float("inf"):
        raise ValueError(f"{name} must be finite and not negative, got {value}")
    return float(value)
