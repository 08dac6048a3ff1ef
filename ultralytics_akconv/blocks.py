# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which convolutions inside a host block can become AKConv, and which of them a list of names means."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from ultralytics.nn.modules.conv import Conv


def block_convs(module: nn.Module) -> dict[str, bool]:
    """Return the names of the ordinary convolutions (`Conv`) below a module, in its order, and whether each is 3x3.

    Grouped and dilated ones and those of other kernels than 3x3 and 1x1 are left out.
    """
    convs = {name: child.conv for name, child in module.named_modules() if type(child) is Conv}
    plain = {name: conv for name, conv in convs.items() if conv.groups == conv.dilation[0] == 1}
    return {name: conv.kernel_size == (3, 3) for name, conv in plain.items() if conv.kernel_size in ((3, 3), (1, 1))}


def chosen_convs(convs: dict[str, bool], names: Sequence[str] | None) -> list[str]:
    """Return the convolutions that `names` means, see `modules.AKConvBlock`.

    Args:
        convs: The convolutions of a block, as `block_convs` returns them.
        names: Whole names, or their ends from a dot on; one that 3x3 convolutions have means these alone. None: all
            that are 3x3.

    Raises:
        TypeError: If it is no list of names.
        ValueError: If no convolution has such a name.
    """
    if names is None:
        return [name for name, is_3x3 in convs.items() if is_3x3]
    if not isinstance(names, (list, tuple)) or not names or not all(isinstance(name, str) for name in names):
        raise TypeError(f"convs must be a list of names of convolutions, got {names!r} ({type(names).__name__})")
    meant: set[str] = set()
    for wanted in names:
        able = [name for name in convs if f".{name}".endswith(f".{wanted}")]
        if not able:
            raise ValueError(f"no convolution of the block is named {wanted!r}: allowed are {', '.join(convs)}")
        exact = [wanted] if wanted in convs and "." in wanted else []
        meant.update(exact or [name for name in able if convs[name]] or able)
    return [name for name in convs if name in meant]
