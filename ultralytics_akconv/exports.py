# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which form of AKConv each export format gets, by the arguments of the host's own exporter."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from importlib import metadata
from typing import Any

from torch import nn

from ultralytics_akconv.functional import export_form
from ultralytics_akconv.modules import AKConv
from ultralytics_akconv.movable import movable_traces
from ultralytics_akconv.paddle import teach_x2paddle

# Format -> form, where "gather", which every other format gets, is not the fastest that is right; measured in
# docs/results/export.md.
FORM_OF = {"mnn": "grid", "ncnn": "grid", "openvino": "deform", "paddle": "outer-fixed", "torchscript": "grid"}
FORM_OF.update(dict.fromkeys(("executorch", "litert"), "lookup"))
FORM_OF.update(dict.fromkeys(("edgetpu", "pb", "saved_model", "tfjs", "tflite"), "flat"))  # what onnx2tf converts
ONNX_DEFORM_OPSET = 19  # the first with the operator DeformConv
ONNX_GRID_OPSET = 16  # the first with the operator GridSample
ONNX_LOWEST_OPSET = 11  # the first with the operator Range, which the gathers count pixels with
_NOT_OF_ONNX = ("coreml", "executorch", "litert", "ncnn", "openvino", "paddle", "torchscript")  # take no opset
ONNX_DYNAMIC_OPSET = 12  # the first that clips integers, as pixels are where the size of the map is not known
ORT_DEFORM = (1, 25)  # the first ONNX Runtime that has DeformConv
ORT_PACKAGES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino")


def choose_form(format_: str, opset: int | None = None, bits: int = 32, device: str = "cpu") -> str:
    """Return the form of an export: a name of `functional.forms.FORMS`.

    Args:
        format_: The host's name of the format, as in `yolo export format=...`.
        opset: The ONNX opset asked for, None for the host's choice (which lies between 16 and 18).
        bits: Of the numbers that the runtime computes with. In float16, 16, only "gather" keeps its positions exact.
        device: Type of the device that the model is traced on. A TorchScript file may be moved from CPU to GPU, and is
            fastest where it was made.
    """
    if bits == 16 and format_ in ("onnx", "torchscript"):
        return "gather"
    if bits != 32 and format_ == "litert":
        return "gather"  # a quantizer rounds all that is float32, as pixels are in "lookup"
    if format_ == "onnx" and (opset or 0) >= ONNX_DEFORM_OPSET:
        return "deform"
    if format_ == "onnx":
        return "gather" if bits == 8 else "outer"  # where a quantizer would round the weights in its matrix product
    if format_ == "mnn" and (opset or ONNX_GRID_OPSET) < ONNX_GRID_OPSET:
        return "gather"  # MNN is made from ONNX
    if format_ == "torchscript" and device == "cpu":
        return "bag"  # the fast form of PyTorch itself, on a CPU
    return FORM_OF.get(format_, "gather")


def check_export(format_: str, opset: int | None = None, bits: int = 32, dynamic: bool = False, batch: int = 1) -> None:
    """Raise before an export starts that could not end well, with what to do instead.

    Args:
        format_: The host's name of the format.
        opset: The ONNX opset asked for, None for the host's choice.
        bits: Of the numbers that the runtime computes with.
        dynamic: Whether the sizes of images stay open.
        batch: Images that the exported model takes at once.

    Raises:
        ValueError: If an operator that AKConv needs is missing in the opset, or in the ONNX Runtime installed here, or
            if the runtime takes no batches.
    """
    if format_ == "ncnn" and batch > 1:
        raise ValueError(
            f"ncnn takes one image at a time, and crashes in a model that was exported for a batch of {batch}: "
            "export with batch=1; Ultralytics hands it the images of a batch one after the other"
        )
    if format_ in _NOT_OF_ONNX:
        return  # whether such a format takes an opset is the host's to say
    if opset is not None and opset < ONNX_LOWEST_OPSET:
        raise ValueError(
            f"AKConv needs the ONNX operator Range, which opset {opset} does not have: "
            f"export with opset={ONNX_LOWEST_OPSET} or above"
        )
    if opset is not None and dynamic and opset < ONNX_DYNAMIC_OPSET:
        raise ValueError(
            f"AKConv with dynamic=True clips integers, which opset {opset} cannot: "
            f"export with opset={ONNX_DYNAMIC_OPSET} or above, or without dynamic"
        )
    if format_ == "onnx" and choose_form(format_, opset, bits) == "deform":
        version = _onnx_runtime()
        if version and tuple(int(part) for part in version.split(".")[:2]) < ORT_DEFORM:
            raise ValueError(
                f"from opset {ONNX_DEFORM_OPSET} on AKConv is exported as the operator DeformConv, which ONNX Runtime "
                f"{version} does not have: export with opset={ONNX_DEFORM_OPSET - 1}, or install "
                f"onnxruntime>={'.'.join(map(str, ORT_DEFORM))}"
            )


def _onnx_runtime() -> str | None:
    """Return the version of the ONNX Runtime that is installed, None if there is none."""
    for name in ORT_PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            return metadata.version(name)
    return None


def _asked_for(settings: Any) -> tuple[str, int | None, int]:
    """Return the format, the opset and the bits of the numbers that are asked for, of the exporter's arguments."""
    bits = getattr(settings, "quantize", None)  # which took the place of `half` and `int8` in 8.4
    if getattr(settings, "half", False) is True:
        bits = 16
    elif getattr(settings, "int8", False) is True:
        bits = 8
    elif bits == "w8a16":
        bits = 16  # of what flows between the layers; their weights have 8
    return str(settings.format).lower(), settings.opset, bits if bits in (8, 16) else 32


def choosing_call(host_call: Callable) -> Callable:
    """Return the host's `Exporter.__call__` within which AKConv layers are traced in the form of its format."""

    @functools.wraps(host_call)
    def call(self: Any, model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        def choose() -> str:
            settled = _asked_for(self.args)  # asked for anew: old hosts drop half precision on a CPU on their way
            check_export(*settled, self.args.dynamic, self.args.batch)
            if settled[0] == "paddle":
                teach_x2paddle()  # here, since the host has installed its converter by the time it traces
            return choose_form(*settled, self.device.type)

        if any(isinstance(layer, AKConv) for layer in model.modules()):
            check_export(*_asked_for(self.args), self.args.dynamic, self.args.batch)
        movable = str(self.args.format).lower() == "torchscript"
        with export_form(choose), movable_traces() if movable else contextlib.nullcontext():
            return host_call(self, model, *args, **kwargs)

    return call
