# SPDX-License-Identifier: AGPL-3.0-or-later
"""Rules for what X2Paddle, the host's converter to Paddle, cannot translate of an AKConv.

It lacks `floor` of a tensor, and `embedding` whose table is computed. A rule translates one node of a traced graph: it
adds layers to a Paddle graph and returns the names of what they read and of what they write.
"""

from __future__ import annotations

from typing import Any


def teach_x2paddle() -> None:
    """Give X2Paddle the rules that it lacks. Needs x2paddle to be installed."""
    from x2paddle.op_mapper.pytorch2paddle import aten  # it finds the rule of an operator by name in this module

    own_embedding, own_floor = aten.aten_embedding, aten.aten_floor
    if own_floor.__module__ == __name__:
        return

    def embedding(mapper: Any, graph: Any, node: Any) -> tuple[list[str], list[str]]:
        known = mapper._get_inputs_name(node)[0][0] in mapper.pytorch_params
        return (own_embedding if known else _embedding)(mapper, graph, node)

    def floor(mapper: Any, graph: Any, node: Any) -> tuple[list[str], list[str]]:
        known = node.output().type().kind() != "TensorType"
        return (own_floor if known else _floor)(mapper, graph, node)

    aten.aten_embedding, aten.aten_floor = embedding, floor


def _embedding(mapper: Any, graph: Any, node: Any) -> tuple[list[str], list[str]]:
    """Translate a look-up of rows: table, indices."""
    (table, indices), outputs, scope = _names(mapper, graph, node, 2)
    inputs = {"x": indices, "weight": table}
    graph.add_layer("paddle.nn.functional.embedding", inputs=inputs, outputs=outputs[:1], scope_name=scope)
    return [table, indices], outputs


def _floor(mapper: Any, graph: Any, node: Any) -> tuple[list[str], list[str]]:
    """Translate a floor, as the negative of a ceiling.

    With oneDNN, Paddle 3.2 takes the floor in place in memory that the tensor it is taken of shares, which AKConv still
    needs: every fraction became 0. A negative is a tensor of its own.
    """
    (x,), outputs, scope = _names(mapper, graph, node, 1)
    negative, ceiling = f"{outputs[0]}_negative", f"{outputs[0]}_ceiling"
    graph.add_layer("paddle.scale", inputs={"x": x}, outputs=[negative], scope_name=scope, scale=-1.0)
    graph.add_layer("paddle.ceil", inputs={"x": negative}, outputs=[ceiling], scope_name=scope)
    graph.add_layer("paddle.scale", inputs={"x": ceiling}, outputs=outputs[:1], scope_name=scope, scale=-1.0)
    return [x], outputs


def _names(mapper: Any, graph: Any, node: Any, count: int) -> tuple[list[str], list[str], str]:
    """Return the names of a node's first inputs, of its output with the parameters among the inputs, and its scope."""
    names, producers = (found[:count] for found in mapper._get_inputs_name(node))
    scope, outputs = mapper.normalize_scope_name(node), mapper._get_outputs_name(node)
    for producer, name in zip(producers, names):
        mapper._check_input(graph, producer, name, outputs, scope)
    return names, outputs, scope
