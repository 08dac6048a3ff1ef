# SPDX-License-Identifier: AGPL-3.0-or-later
"""From a host model's YAML text to the text of the same model with AKConv in it."""

from __future__ import annotations

import copy
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from ultralytics_akconv.grafting.names import find_model, scale_of
from ultralytics_akconv.grafting.selection import Layer, Where, chosen_layers, conv_arguments, model_layers, small_block
from ultralytics_akconv.modules import BLOCKS, AKConv

_MOST_VALUES = 100_000  # the host's largest model has some 500
MADE_BY = "# made by: "
_DEFAULTS = {"shape": "default", "border": "paper", "origin": "corner"}
# The host notes the size of each scale's stock model; in a grafted model that would be wrong.
_STALE_COMMENT = re.compile(r"[ \t]*#.*\bsummary\b.*\bparameters\b.*$", re.MULTILINE)


def graft(
    model: str | Path,
    num_param: int | Sequence[int] = 5,
    where: Where = "downsample",
    shape: str | Sequence[Sequence[float]] = "default",
    border: str = "paper",
    origin: str = "corner",
    convs: Sequence[str] | None = None,
) -> str:
    """Return the YAML text of a model with chosen convolutions as AKConv.

    Every other row, the layer indices, the `from` references and the comments stay. The first line holds the command
    that makes the text again.

    Args:
        model: A YAML file, or a name Ultralytics or this package knows. Of `yolo11s.yaml`, scale s becomes the first
            one, which is what Ultralytics builds from a file whose name tells no scale.
        num_param: Number of sampling points N: one for all, or one for each replaced layer in the order of the model.
        where: "downsample": every stride-2 3x3 convolution but the stem, as published; "backbone" or "neck": those of
            them there; "blocks": the 3x3 convolutions inside C2f, C3k2 and their like, whose rows become `X_AKConv`;
            layer indices; or a function that is asked about every replaceable `Layer`, convolutions and blocks.
        shape: Initial sampling shape, see `shapes.sampling_points`.
        border: "paper", "clamp" or "zeros", see `AKConv`.
        origin: "corner" or "center", see `AKConv`.
        convs: Which convolutions inside blocks become AKConv, by their names there, see `AKConvBlock`.

    Raises:
        FileNotFoundError: If there is no such model; the message lists near names.
        TypeError: If an argument is of the wrong kind.
        ValueError: If a value is not allowed, no layer matches, or a named layer cannot be replaced.

    Example:
        >>> text = graft("yolo11n.yaml", num_param=7, where="backbone")
    """
    file = find_model(model)
    text = file.read_text("utf-8", errors="ignore")  # as the host reads it
    try:
        root = yaml.compose(text, yaml.SafeLoader)
        _check_size(root)
        # As `safe_load` would, without reading again.
        source = yaml.SafeLoader("").construct_document(root) if root else None
        layers = model_layers(source)
        chosen = chosen_layers(layers, where)
        numbers = _numbers(num_param, len(chosen))
        options = {"shape": shape, "border": border, "origin": origin}
        options = {name: value for name, value in options.items() if value != _DEFAULTS[name]}
        inside = _inside(chosen, convs)
        rows = {layer.index: _row(layer, n, options, inside) for layer, n in zip(chosen, numbers)}
    except yaml.YAMLError as error:
        raise ValueError(f"{model} is not YAML: {error}") from error
    except RecursionError as error:
        raise ValueError(f"{model} is nested too deeply for a model YAML") from error
    except (TypeError, ValueError) as error:
        raise type(error)(f"{model}: {error}") from error
    scale = scale_of(model) if file.name != Path(model).name else None
    body = _edited(text, root, _target(source, rows, scale), rows, scale)
    return f"{_header(model, num_param, where, {**options, **inside}, chosen)}{body}"


def _check_size(root: yaml.Node | None) -> None:
    """Raise a ValueError if the YAML holds too many values, counted as if each alias were written out.

    A few lines of aliases to aliases stand for billions of values, which are compared and written below.
    """
    sizes: dict[int, int] = {}

    def size(node: yaml.Node) -> int:
        if id(node) not in sizes:
            sizes[id(node)] = _MOST_VALUES + 1  # what holds itself is endless
            below = node.value if isinstance(node, yaml.SequenceNode) else ()
            if isinstance(node, yaml.MappingNode):
                below = [part for pair in node.value for part in pair]
            sizes[id(node)] = 1 + sum(map(size, below))
        return sizes[id(node)]

    if root is not None and size(root) > _MOST_VALUES:
        raise ValueError(f"a model YAML may hold at most {_MOST_VALUES} values, with every alias written out")


def _numbers(num_param: int | Sequence[int], count: int) -> list[int]:
    """Return one `num_param` for each replaced layer."""
    if not isinstance(num_param, (list, tuple)):
        return [num_param] * count
    if len(num_param) != count:
        raise ValueError(f"num_param must be one number or {count} (one for each replaced layer), got {num_param}")
    return list(num_param)


def _inside(chosen: Sequence[Layer], convs: Sequence[str] | None) -> dict[str, Any]:
    """Return the option that blocks alone take, if it is given."""
    if convs is None:
        return {}
    if not any(layer.module in BLOCKS for layer in chosen):
        raise ValueError("convs chooses inside blocks, and none is chosen: where='blocks' chooses them")
    return {"convs": list(convs) if isinstance(convs, (list, tuple)) else convs}


def _row(layer: Layer, num_param: int, options: dict[str, Any], inside: dict[str, Any]) -> tuple[str, list]:
    """Return the module name and arguments that replace a layer's, after checking the options."""
    with torch.random.fork_rng(devices=[]):  # looking must not move the random numbers of a training
        AKConv(1, 1, num_param, **options)  # its errors say what is allowed
    if layer.module in BLOCKS:
        if inside:
            small_block(layer, **inside)  # its errors too
        return BLOCKS[layer.module].__name__, [*layer.args, {"num_param": num_param, **options, **inside}]
    arguments = conv_arguments(layer)
    options = {**options, "act": False} if arguments["act"] is False else options
    return "AKConv", [arguments["c2"], num_param, arguments["s"], *([options] if options else [])]


def _target(source: dict, rows: dict[int, tuple[str, list]], scale: str | None) -> dict:
    """Return the model dictionary that the text to be made must hold."""
    target = copy.deepcopy(source)
    for index, row in rows.items():
        in_backbone = index < len(source["backbone"])
        section = target["backbone"] if in_backbone else target["head"]
        section[index if in_backbone else index - len(source["backbone"])][2:] = row
    scales = target.get("scales")
    if scale and isinstance(scales, dict) and scale in scales:
        target["scales"] = {scale: scales[scale], **scales}
    return target


def _edited(text: str, root: yaml.Node, target: dict, rows: dict[int, tuple[str, list]], scale: str | None) -> str:
    """Return the text with the rows replaced in place; written anew where its style does not allow that."""
    nodes = {key.value: value for key, value in root.value}
    row_nodes = [*nodes["backbone"].value, *nodes["head"].value]
    edits = [*_to_front(text, nodes.get("scales"), scale)]
    for index, (module, args) in rows.items():
        for node, new in zip(row_nodes[index].value[2:], (module, _flow(args))):
            edits.append((node.start_mark.index, node.end_mark.index, new))
    for start, end, new in sorted(edits, key=lambda edit: -edit[0]):  # from the end: places stay right
        text = text[:start] + new + text[end:]
    text = _STALE_COMMENT.sub("", text)
    return text if _same(text, target) else _written(target)


def _to_front(text: str, scales: yaml.Node | None, scale: str | None) -> Iterator[tuple[int, int, str]]:
    """Yield the edits that put the line of a scale before the lines of the others; none where there is no such line."""
    pairs = scales.value if isinstance(scales, yaml.MappingNode) else []
    begins = {key.value: text.rfind("\n", 0, key.start_mark.index) + 1 for key, _ in pairs}
    if scale in begins:
        begin, first = begins[scale], min(begins.values())
        line = text[begin:].partition("\n")[0] + "\n"
        yield begin, begin + len(line), ""
        yield first, first, line


def _same(text: str, target: dict) -> bool:
    """Return whether the text holds the dictionary, keys in the same order."""
    try:
        return repr(yaml.safe_load(text)) == repr(target)
    except yaml.YAMLError:
        return False


def _flow(value: Any) -> str:
    """Return a value as YAML on one line."""
    return yaml.safe_dump(value, default_flow_style=True, width=float("inf"), sort_keys=False).strip()


def _written(model: dict) -> str:
    """Return a model dictionary as YAML in the host's style, a row a line."""
    parts = []
    for key, value in model.items():
        if key in ("backbone", "head"):
            parts += [f"\n{key}:", *(f"  - {_flow(row)}" for row in value)]
        elif isinstance(value, dict):
            parts += [f"{key}:", *(f"  {_flow({name: item})[1:-1]}" for name, item in value.items())]
        else:
            parts.append(_flow({key: value})[1:-1])
    return "\n".join(parts) + "\n"


def _header(
    model: str | Path, num_param: int | Sequence[int], where: Where, options: dict[str, Any], chosen: Sequence[Layer]
) -> str:
    """Return the comment that says what made the text, and from which command it can be made again."""
    indices = [layer.index for layer in chosen]
    command = ["akconv", "graft", Path(model).as_posix(), "--num-param", _listed(num_param)]
    if where != "downsample":
        command += ["--where", where if isinstance(where, str) else _listed(indices)]
    for name, value in options.items():
        listed = ",".join(value) if name == "convs" else _flow(value)
        command += [f"--{name}", value if isinstance(value, str) else listed]
    note = f"# AKConv at layers {', '.join(map(str, indices))}: [out_channels, num_param, stride, {{option: value}}]"
    if all(layer.module in BLOCKS for layer in chosen):
        note = f"# AKConv inside layers {', '.join(map(str, indices))}"
    return f"{MADE_BY}{shlex.join(command)}\n{note}\n"


def _listed(numbers: int | Sequence[int]) -> str:
    """Return numbers as the command line takes them: 5 or 5,7,9."""
    return ",".join(map(str, numbers)) if isinstance(numbers, (list, tuple)) else str(numbers)
