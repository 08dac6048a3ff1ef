# SPDX-License-Identifier: AGPL-3.0-or-later
"""Who is looking on while a layer runs: nobody, a compiler or an exporter."""

from __future__ import annotations

import torch


def is_traced() -> bool:
    """Return whether a compiler or an exporter is looking on, which wants one plain expression without a cache."""
    return torch.jit.is_tracing() or _compiler_says("is_compiling")


def is_exported() -> bool:
    """Return whether it is an exporter that is looking on; one that this torch cannot tell from a compiler is not."""
    return torch.jit.is_tracing() or _compiler_says("is_exporting")


def _compiler_says(state: str) -> bool:
    """Return a state of `torch.compiler`, False where this torch does not know it."""
    ask = getattr(torch.compiler, state, None)
    return ask is not None and ask()
