# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which form of AKConv each export format gets, by the arguments of the host's own exporter."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torchvision  # noqa: F401 - its operator `deform_conv2d` must be known to torch before a trace uses it

from ultralytics_akconv.functional import export_form
from ultralytics_akconv.paddle import teach_x2paddle

# Format -> form, where "gather", which every other format gets, is not the fastest that is right; see docs/export.md.
FORMS = {"mnn": "grid", "ncnn": "grid", "openvino": "deform", "paddle": "grid", "torchscript": "grid"}
ONNX_DEFORM_OPSET = 19  # the first with the operator DeformConv
ONNX_GRID_OPSET = 16  # the first with the operator GridSample


def choose_form(format_: str, opset: int | None = None, half: bool = False) -> str:
    """Return the form of an export: "gather", "grid" or "deform".

    Args:
        format_: The host's name of the format, as in `yolo export format=...`.
        opset: The ONNX opset asked for, None for the host's choice (which lies between 16 and 18).
        half: Whether the runtime computes in float16; then only "gather" keeps its positions exact.
    """
    if half and format_ in ("onnx", "torchscript"):
        return "gather"
    if format_ == "onnx":
        return "deform" if (opset or 0) >= ONNX_DEFORM_OPSET else "gather"
    if format_ == "mnn" and (opset or ONNX_GRID_OPSET) < ONNX_GRID_OPSET:
        return "gather"  # MNN is made from ONNX
    return FORMS.get(format_, "gather")


def choosing_call(host_call: Callable) -> Callable:
    """Return the host's `Exporter.__call__` within which AKConv layers are traced in the form of its format."""

    @functools.wraps(host_call)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        def choose() -> str:
            settings = self.args  # `half` became `quantize=16` in 8.4
            half = getattr(settings, "half", False) is True or getattr(settings, "quantize", None) == 16
            format_ = str(settings.format).lower()
            if format_ == "paddle":
                teach_x2paddle()  # here, since the host has installed its converter by the time it traces
            return choose_form(format_, settings.opset, half)

        with export_form(choose):
            return host_call(self, *args, **kwargs)

    return call
