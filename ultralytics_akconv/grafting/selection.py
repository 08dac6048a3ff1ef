# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which rows of a host model YAML can become AKConv rows, and which of them are chosen."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Union

import torch
from torch import nn
from ultralytics.nn.modules import block as host_blocks
from ultralytics.nn.modules import conv as host_convs

from ultralytics_akconv.modules import BLOCKS

WHERE = ("downsample", "backbone", "neck", "blocks")
# Rows that are one convolution over all channels. ADown, AConv and SCDown are blocks, DWConv is depthwise.
CONVS = ("Conv", "GhostConv")
_REPEATS = 32  # the host's deepest block has 9


class Layer(NamedTuple):
    """A row of a model YAML with its place; what a predicate given as `where` is asked about."""

    index: int
    section: str  # "backbone" or "head"
    source: int | list  # the row's `from`
    repeats: int
    module: str
    args: list


Where = Union[str, int, Iterable[int], Callable[[Layer], bool]]


def model_layers(model: Any) -> list[Layer]:
    """Return the rows of a model dictionary as layers.

    Raises:
        ValueError: If it is no model dictionary, or a row is not `[from, repeats, module, [arguments]]`.
    """
    sections = ("backbone", "head")
    if not isinstance(model, dict) or not all(isinstance(model.get(name), list) for name in sections):
        raise ValueError("a model YAML must hold a list of rows under backbone and another under head")
    rows = [(section, row) for section in sections for row in model[section]]
    for index, (_, row) in enumerate(rows):
        if not (isinstance(row, list) and len(row) == 4 and isinstance(row[2], str) and isinstance(row[3], list)):
            raise ValueError(f"layer {index} must be [from, repeats, module, [arguments]], got {row!r}")
    return [Layer(index, section, *row) for index, (section, row) in enumerate(rows)]


def stem_indices(layers: Sequence[Layer]) -> set[int]:
    """Return the layers that read the image itself, directly or through `nn.Identity`."""
    images, stems = {-1}, set()  # -1: what layer 0 calls the layer before it
    for layer in layers:
        sources = layer.source if isinstance(layer.source, list) else [layer.source]
        if any((layer.index + source if source < 0 else source) in images for source in sources):
            (images if layer.module == "nn.Identity" else stems).add(layer.index)
    return stems


def conv_arguments(layer: Layer) -> dict[str, Any]:
    """Return what a row of `CONVS` gives the host's class, by its parameter names and with its defaults.

    Raises:
        ValueError: If the row does not fit the class.
    """
    try:
        bound = inspect.signature(getattr(host_convs, layer.module)).bind(0, *layer.args)  # the row leaves out c1
    except TypeError as error:
        raise ValueError(f"layer {layer.index}: {layer.module} {layer.args}: {error}") from error
    bound.apply_defaults()
    return {name: None if value == "None" else value for name, value in bound.arguments.items()}


def why_not(layer: Layer, stems: set[int]) -> str | None:
    """Return why a layer cannot be replaced, as the end of a sentence about it; None if it can."""
    if layer.index in stems:
        return "it is the stem, which reads the image: the published models keep it"
    if layer.module in BLOCKS:
        return None if _holds_conv(layer) else "none of the convolutions inside is an ordinary 3x3 Conv"
    if layer.module == "DWConv":
        return "it is depthwise, AKConv mixes all channels"
    if layer.module not in CONVS:
        return f"it is not a convolution ({', '.join(CONVS)}) nor one of the blocks {', '.join(BLOCKS)}"
    arguments = conv_arguments(layer)
    kernel = arguments["k"]
    if kernel in (1, [1, 1]):
        return "it is a 1x1 convolution: there is no neighbourhood to sample"
    if arguments["g"] != 1:
        return f"it is grouped (groups={arguments['g']}), AKConv mixes all channels"
    if arguments.get("d", 1) != 1:
        return f"it is dilated (dilation={arguments['d']})"
    if kernel not in (3, [3, 3]) or arguments.get("p") not in (None, 1):
        return f"it is not a 3x3 convolution with padding 1 (kernel {kernel}, padding {arguments.get('p')})"
    return None


def small_block(layer: Layer, **options: Any) -> nn.Module:
    """Return the block of a row as X_AKConv, small, to see what is inside.

    Raises:
        ValueError: If it holds no 3x3 Conv, or an option is not allowed.
    """
    takes_repeats = list(inspect.signature(getattr(host_blocks, layer.module)).parameters)[2] == "n"
    repeats = min(layer.repeats, _REPEATS) if options else 1  # a name may be that of the last
    with torch.random.fork_rng(devices=[]):  # looking must not move the random numbers of a training
        return BLOCKS[layer.module](64, 64, *[repeats] * takes_repeats, *layer.args[1:], **options)


def _holds_conv(layer: Layer) -> bool:
    """Return whether a block with the arguments of this row holds a 3x3 Conv."""
    try:
        small_block(layer)
    except ValueError:
        return False
    return True


def chosen_layers(layers: Sequence[Layer], where: Where) -> list[Layer]:
    """Return the layers that `where` chooses, in the order of the model; see `graft`.

    Raises:
        TypeError: If `where` is of the wrong kind.
        ValueError: If it names nothing known, an index out of range or a layer that cannot be replaced, or if no layer
            is left to replace.
    """
    stems = stem_indices(layers)
    if isinstance(where, str):
        chosen = [layer for layer in layers if _in_group(layer, where) and why_not(layer, stems) is None]
    elif callable(where):
        chosen = [layer for layer in layers if why_not(layer, stems) is None and where(layer)]
    else:
        chosen = _by_index(layers, where, stems)
    if not chosen:
        able = [layer.index for layer in layers if why_not(layer, stems) is None]
        raise ValueError(
            f"no layer matches {f'where={where!r}' if isinstance(where, str) else 'the function given as where'}"
            f"; layers that can be named by index: {', '.join(map(str, able)) or 'none'}"
        )
    return chosen


def _in_group(layer: Layer, where: str) -> bool:
    """Return whether a layer, if it can be replaced, belongs to one of the groups of `WHERE`."""
    if where not in WHERE:
        raise ValueError(f"where must be one of {', '.join(WHERE)}, layer indices or a function, got {where!r}")
    if where == "blocks":
        return layer.module in BLOCKS
    sections = {"backbone": ("backbone",), "neck": ("head",)}.get(where, ("backbone", "head"))
    return layer.section in sections and layer.module in CONVS and conv_arguments(layer)["s"] == 2


def _by_index(layers: Sequence[Layer], where: int | Iterable[int], stems: set[int]) -> list[Layer]:
    """Return the layers of explicit indices, after checking that each can be replaced."""
    indices = [where] if isinstance(where, int) else where
    if isinstance(where, bool) or not isinstance(indices, Iterable):
        raise TypeError(f"where must be a name, layer indices or a function, got {where!r} ({type(where).__name__})")
    indices = list(indices)
    for index in indices:
        if isinstance(index, bool) or not isinstance(index, int):
            raise TypeError(f"a layer index must be an int, got {index!r} ({type(index).__name__})")
        if not 0 <= index < len(layers):
            raise ValueError(f"layer {index} does not exist: the model has layers 0 to {len(layers) - 1}")
        reason = why_not(layers[index], stems)
        if reason:
            raise ValueError(f"layer {index} {[*layers[index][2:]]} cannot become AKConv: {reason}")
    if len(set(indices)) < len(indices):
        raise ValueError(f"every layer index may be given once, got {indices}")
    if not indices:
        raise ValueError("where must name at least one layer index, got none")
    return [layers[index] for index in sorted(indices)]
