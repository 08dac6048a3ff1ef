# SPDX-License-Identifier: AGPL-3.0-or-later
"""Who is looking on while a layer runs: nobody, a compiler, an exporter or somebody's hooks."""

from __future__ import annotations

import torch
from torch import nn
from torch.autograd import forward_ad


def is_traced() -> bool:
    """Return whether a compiler or an exporter is looking on, which wants the plain formula without a cache."""
    return torch.jit.is_tracing() or _compiler_says("is_compiling")


def is_exported() -> bool:
    """Return whether it is an exporter that is looking on; one that this torch cannot tell from a compiler is not."""
    return torch.jit.is_tracing() or _compiler_says("is_exporting")


def is_transformed() -> bool:
    """Return whether a transform of `torch.func` or forward-mode differentiation is.

    They take neither our autograd function nor our hooks.
    """
    return torch._C._are_functorch_transforms_active() or getattr(forward_ad, "_current_level", -1) >= 0


def _compiler_says(state: str) -> bool:
    """Return a state of `torch.compiler`, False where this torch does not know it."""
    ask = getattr(torch.compiler, state, None)
    return ask is not None and ask()


def has_hooks(module: nn.Module) -> bool:
    """Return whether a hook looks on at a module below this one, or at all modules there are."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    hooks = (getattr(part, kind, None) for child in module.children() for part in child.modules() for kind in kinds)
    return any(hooks) or any(getattr(nn.modules.module, f"_global{kind}", None) for kind in kinds)
