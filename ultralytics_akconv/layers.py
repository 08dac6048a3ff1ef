# SPDX-License-Identifier: AGPL-3.0-or-later
"""The AKConv layers of a network: which there are, what reaches them in a pass, and their columns in results.csv."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from torch import Tensor, nn

from ultralytics_akconv.modules import AKConv

COLUMNS = "akconv/"  # how ours begin in results.csv: the mean displacement of a layer by its name, in map pixels, and
OUTSIDE_COLUMN = "akconv/outside"  # the share of all samples that lie off their map


class _AllSeenError(Exception):
    """Ends a forward pass once every wanted module has been seen."""


def akconvs(network: nn.Module) -> dict[str, AKConv]:
    """Return every AKConv of a network by its name, front to back."""
    return {name: module for name, module in network.named_modules() if isinstance(module, AKConv)}


def off_map(rows: Tensor, cols: Tensor, size: tuple[int, int]) -> Tensor:
    """Return which positions lie off a map of a height and a width, beyond the centres of its border pixels."""
    height, width = size
    return (rows < 0) | (rows > height - 1) | (cols < 0) | (cols > width - 1)


def seen_in_pass(
    network: nn.Module,
    images: Tensor,
    modules: Collection[nn.Module],
    look: Callable[[Any, Any, Any], Any],
    before: bool = False,
) -> dict[nn.Module, Any]:
    """Return what `look` keeps of modules in a forward pass, which is cut short after the last of them.

    Args:
        network: The network, in the mode it is to run in.
        images: Its input (B, C, H, W).
        modules: Modules inside it. One that the pass does not come to is not in the result.
        look: Called with a module, its input and its output.
        before: Look before a module runs: its output is None, and the last module is not run.
    """
    seen: dict[nn.Module, Any] = {}

    def hook(module: nn.Module, args: tuple, output: Any = None) -> None:
        seen[module] = look(module, args[0], output)
        if len(seen) == len(modules):
            raise _AllSeenError

    handles = [
        module.register_forward_pre_hook(hook) if before else module.register_forward_hook(hook) for module in modules
    ]
    try:
        network(images)
    except _AllSeenError:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return seen
