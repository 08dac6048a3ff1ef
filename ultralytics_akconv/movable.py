# SPDX-License-Identifier: AGPL-3.0-or-later
"""Traces that may be moved to another device.

A trace notes for every tensor that is made in it on which device that was. The tensors that an AKConv makes (the pixels
at which its samples begin) belong where its input is, wherever the file is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def movable_traces() -> Iterator[None]:
    """Let what `torch.jit.trace` returns within the context make an AKConv's tensors on the device of its input.

    The host calls it by that name, so it is replaced there for the time of an export, in all threads of the process: a
    trace of another one gets the same, which changes nothing but AKConv layers.
    """
    host_trace = torch.jit.trace

    def trace(*args: Any, **kwargs: Any) -> Any:
        traced = host_trace(*args, **kwargs)
        for module in traced.modules():
            if getattr(module, "original_name", None) == "AKConv":
                _follow_input(module.graph)
        return traced

    torch.jit.trace = trace
    try:
        yield
    finally:
        torch.jit.trace = host_trace


def _follow_input(graph: torch._C.Graph) -> None:
    """Put the device of the first tensor that the graph takes in the place of every device that is written in it."""
    x = next(value for value in graph.inputs() if value.type().kind() == "TensorType")
    for node in list(graph.nodes()):
        if node.kind() == "prim::Constant" and node.output().type().kind() == "DeviceObjType":
            device = graph.create("prim::device", [x])
            device.insertBefore(node)
            device.output().setType(node.output().type())
            node.output().replaceAllUsesWith(device.output())
            node.destroy()
