# SPDX-License-Identifier: AGPL-3.0-or-later
"""A checkpoint worth exporting, the host's exporter as a user calls it, and the comparison with the model itself."""

import functools
import importlib
import os
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
import ultralytics
import yaml
from conftest import (
    CONFIG_DIR,
    layers_of,
    skip_if_onnx_needs_onnxscript,
    skip_if_onnx_runtime_lacks_deform,
    yolov8_dict,
)
from torch.onnx._constants import ONNX_MAX_OPSET
from ultralytics import YOLO
from ultralytics.nn.autobackend import AutoBackend
from ultralytics.utils import DEFAULT_CFG


def images(count, channels, height, width):
    """Return smooth images, as photographs are: in noise, a position that is rounded otherwise is another value."""
    small = torch.rand(count, channels, height // 8, width // 8)
    return torch.nn.functional.interpolate(small, size=(height, width), mode="bicubic", align_corners=True)


def settled(model):
    """Give the batch norms the statistics of what flows through, without which noise fades to nothing on its way."""
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # cumulative
        norm.reset_running_stats()
    model.train()
    with torch.no_grad():
        for _ in range(4):
            model(images(4, 3, 64, 64))
    for norm in norms:
        norm.momentum = 0.03
    return model.eval()


@functools.lru_cache(maxsize=1)
def checkpoint():
    """Return a checkpoint with learned offsets, which training would need long for; one a process."""
    folder = Path(tempfile.mkdtemp(prefix="export-", dir=CONFIG_DIR))  # which conftest removes at the end
    (folder / "yolov8n-some.yaml").write_text(yaml.safe_dump({**yolov8_dict(), "nc": 3}), "utf-8")
    torch.manual_seed(0)
    yolo = YOLO(folder / "yolov8n-some.yaml")
    for layer in layers_of(yolo.model):
        torch.nn.init.normal_(layer.p_conv.weight, std=0.02)
        torch.nn.init.normal_(layer.p_conv.bias, std=3.0)  # of maps that are 2 to 32 px wide
    for branch in yolo.model.model[-1].cv3:  # classes start at a score near 0: move them where differences show
        torch.nn.init.zeros_(branch[-1].bias)
    settled(yolo.model)
    yolo.ckpt = yolo.ckpt or {}  # older hosts save a model that was built from a YAML with this alone
    yolo.save(folder / "some.pt")
    return folder / "some.pt"


# What the converter of a format needs, and what its runtime is, by the names they are imported under.
LIGHT = {"openvino": ["openvino"], "ncnn": ["ncnn", "pnnx"], "mnn": ["MNN"]}  # that `make test` demands
NEEDS = {
    **LIGHT,
    "coreml": ["coremltools"],
    "executorch": ["executorch"],
    "litert": ["litert_torch", "ai_edge_litert"],
    "paddle": ["paddle", "x2paddle"],
    "saved_model": ["tensorflow", "onnx2tf", "tf_keras"],
}
# The oldest release that was run with these; 8.3.78 looks for openvino.runtime, and for a binary of PNNX on GitHub.
OLDEST_HOST = (8, 3, 253)


def needed(format_):
    """Skip where the tools of a format are absent, but fail where `make test` demands them."""
    for name in NEEDS[format_]:
        if format_ in LIGHT and os.environ.get("AKCONV_RUNTIMES"):
            importlib.import_module(name)
        else:
            pytest.importorskip(name, reason=f"the export to {format_} needs {name}, which is not installed")


def precision(bits):
    """Return the option of a precision, which the host spells anew from 8.4 on."""
    return {"quantize": bits} if hasattr(DEFAULT_CFG, "quantize") else {"half": True} if bits == 16 else {"int8": True}


@functools.cache
def exported(format_, **options):
    """Export a copy of the checkpoint as a user would, once a process; skips where the format's tools are absent."""
    if format_ == "onnx":
        skip_if_onnx_needs_onnxscript()
        opset = options.get("opset")
        skip_if_onnx_runtime_lacks_deform(opset)
        if (opset or 0) > ONNX_MAX_OPSET:
            pytest.skip(f"torch {torch.__version__} writes ONNX up to opset {ONNX_MAX_OPSET}")
    if format_ in NEEDS:
        needed(format_)
    if format_ in LIGHT and tuple(map(int, ultralytics.__version__.split(".")[:3])) < OLDEST_HOST:
        pytest.skip(f"Ultralytics {ultralytics.__version__} calls {format_} as it was in its time")
    folder = Path(tempfile.mkdtemp(dir=checkpoint().parent))
    shutil.copy(checkpoint(), folder)
    return YOLO(folder / checkpoint().name).export(format=format_, **{"imgsz": 64, "verbose": False, **options})


def raw_outputs(file, x):
    """Return what the host's own runtime of the format makes of images."""
    out = AutoBackend(file, device=torch.device("cpu"), verbose=False)(x)
    return torch.as_tensor(out[0] if isinstance(out, (tuple, list)) else out)


def assert_equal_numbers(file, shapes=((1, 3, 64, 64),) * 3, tolerance=1e-3):
    """Compare raw outputs on images that were not traced, relative to what boxes and scores span."""
    model = YOLO(checkpoint()).model.float().eval()
    for shape in shapes:
        x = images(*shape)
        with torch.no_grad():
            expected = model(x)[0]
        out = raw_outputs(file, x)
        assert out.shape == expected.shape
        for part in (slice(0, 4), slice(4, None)):
            span = expected[:, part].max() - expected[:, part].min()
            assert span > 1e-2  # the comparison means something
            assert (out[:, part] - expected[:, part]).abs().max() < tolerance * span
