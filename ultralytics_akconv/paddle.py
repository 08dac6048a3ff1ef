# SPDX-License-Identifier: AGPL-3.0-or-later
"""Rules for what X2Paddle, the host's converter to Paddle, cannot translate of an AKConv.

It lacks `grid_sample`, `floor` of a tensor, and the bias of a convolution whose weight is computed (here reshaped). A
rule translates one node of a traced graph: it adds a layer to a Paddle graph and returns the names of what the layer
reads and of what it writes.
"""

from __future__ import annotations

from typing import Any

_MODES = ("bilinear", "nearest")  # by torch's number, as in a traced graph
_PADDINGS = ("zeros", "border", "reflection")


def teach_x2paddle() -> None:
    """Give X2Paddle the rules that it lacks. Needs x2paddle to be installed."""
    from x2paddle.op_mapper.pytorch2paddle import aten  # it finds the rule of an operator by name in this module

    if hasattr(aten, "aten_grid_sampler"):
        return
    own_convolution, own_floor = aten.aten__convolution, aten.aten_floor

    def convolution(mapper: Any, graph: Any, node: Any) -> tuple[list[str], list[str]]:
        names, _ = mapper._get_inputs_name(node)
        known = names[1] in mapper.pytorch_params or names[2] not in mapper.pytorch_params
        return own_convolution(mapper, graph, node) if known else _convolution(mapper, graph, node)

    def floor(mapper: Any, graph: Any, node: Any) -> tuple[list[str], list[str]]:
        known = node.output().type().kind() != "TensorType"
        return own_floor(mapper, graph, node) if known else _add(mapper, graph, node, "paddle.floor", ("x",), {})

    aten.aten__convolution, aten.aten_floor, aten.aten_grid_sampler = convolution, floor, _grid_sampler


def _grid_sampler(mapper: Any, graph: Any, node: Any) -> tuple[list[str], list[str]]:
    """Translate a grid sampler: x, grid, mode, padding, align_corners."""
    mode, padding, align_corners = _constants(mapper, node, 2, 3, 4)
    # An attribute is written into a program as it stands, hence the quotes.
    attributes = {"mode": repr(_MODES[mode]), "padding_mode": repr(_PADDINGS[padding]), "align_corners": align_corners}
    return _add(mapper, graph, node, "paddle.nn.functional.grid_sample", ("x", "grid"), attributes)


def _convolution(mapper: Any, graph: Any, node: Any) -> tuple[list[str], list[str]]:
    """Translate a convolution: x, weight, bias, stride, padding, dilation, transposed, output padding, groups."""
    stride, padding, dilation, groups = _constants(mapper, node, 3, 4, 5, 8)
    attributes = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    return _add(mapper, graph, node, "paddle.nn.functional.conv2d", ("x", "weight", "bias"), attributes)


def _constants(mapper: Any, node: Any, *positions: int) -> list[Any]:
    """Return the inputs of a node that are no tensors."""
    names, _ = mapper._get_inputs_name(node)
    return [mapper.attrs[names[position]] for position in positions]


def _add(
    mapper: Any, graph: Any, node: Any, kernel: str, tensors: tuple[str, ...], attributes: dict[str, Any]
) -> tuple[list[str], list[str]]:
    """Add a layer that calls the function `kernel` of Paddle; `tensors` are its names of the node's first inputs."""
    scope, outputs = mapper.normalize_scope_name(node), mapper._get_outputs_name(node)[:1]
    written = list(outputs)  # by this layer and by those that are added for parameters it reads
    names, producers = mapper._get_inputs_name(node)
    inputs = dict(zip(tensors, names))
    for producer, name in zip(producers, inputs.values()):
        mapper._check_input(graph, producer, name, written, scope)
    graph.add_layer(kernel, inputs=inputs, outputs=outputs, scope_name=scope, **attributes)
    return list(inputs.values()), written
