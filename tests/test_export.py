# SPDX-License-Identifier: AGPL-3.0-or-later
"""TorchScript and ONNX: the layer alone, and whole models through the host's exporter, on images not traced."""

import copy
import io

import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from conftest import layers_of, learned, yolov8_dict
from ultralytics import YOLO

from ultralytics_akconv import AKConv

BORDERS = ("paper", "clamp", "zeros")
layers = pytest.mark.parametrize(
    ("num_param", "stride", "options"),
    [
        *((5, 2, {"border": border}) for border in BORDERS),
        (1, 1, {}),
        (9, 3, {"origin": "center"}),
        (6, 2, {"shape": "ring", "border": "clamp"}),
    ],
    ids=str,
)


def onnx_session(file):
    return onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])


@layers
def test_a_traced_layer_equals_the_layer_on_another_input(num_param, stride, options, close):
    layer = learned(AKConv(3, 4, num_param, stride, **options)).eval()
    traced = torch.jit.trace(layer, torch.randn(1, 3, 9, 11))
    buffer = io.BytesIO()
    torch.jit.save(traced, buffer)
    buffer.seek(0)
    loaded = torch.jit.load(buffer)
    for scale in (1, 10):
        x = torch.randn(1, 3, 9, 11) * scale  # ten times the input: offsets leave the map
        close(loaded(x), layer(x))


@layers
def test_an_onnx_layer_equals_the_layer_on_another_input(num_param, stride, options):
    layer = learned(AKConv(3, 4, num_param, stride, **options)).eval()
    buffer = io.BytesIO()
    torch.onnx.export(layer, (torch.randn(1, 3, 9, 11),), buffer, opset_version=17, dynamo=False)
    session = onnx_session(buffer.getvalue())
    for scale in (1, 10):
        x = torch.randn(1, 3, 9, 11) * scale
        (out,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        torch.testing.assert_close(torch.from_numpy(out), layer(x), rtol=1e-4, atol=1e-4)


def test_a_traced_layer_takes_other_sizes_or_the_batch_it_was_not_traced_with(close):
    layer = learned(AKConv(3, 4, 5, 2)).eval()
    buffer = io.BytesIO()
    axes = {"x": {0: "batch", 2: "height", 3: "width"}}
    torch.onnx.export(
        layer, (torch.randn(2, 3, 8, 10),), buffer, opset_version=17, dynamo=False, input_names=["x"], dynamic_axes=axes
    )
    session = onnx_session(buffer.getvalue())
    for shape in ((2, 3, 8, 10), (1, 3, 8, 10), (3, 3, 12, 6), (1, 3, 7, 9)):
        x = torch.randn(shape)
        (out,) = session.run(None, {"x": x.numpy()})
        torch.testing.assert_close(torch.from_numpy(out), layer(x), rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    """A checkpoint with learned offsets, which training would need long for."""
    folder = tmp_path_factory.mktemp("export")
    (folder / "yolov8n-some.yaml").write_text(yaml.safe_dump({**yolov8_dict(), "nc": 3}), "utf-8")
    torch.manual_seed(0)
    yolo = YOLO(folder / "yolov8n-some.yaml")
    for layer in layers_of(yolo.model):
        torch.nn.init.normal_(layer.p_conv.weight, std=0.05)
        torch.nn.init.normal_(layer.p_conv.bias)
    yolo.save(folder / "some.pt")
    return folder / "some.pt"


@pytest.mark.slow
@pytest.mark.parametrize("format_", ["torchscript", "onnx"])
def test_the_hosts_export_equals_the_model_on_another_image(model_file, format_):
    file = YOLO(model_file).export(format=format_, imgsz=64, verbose=False)
    model = copy.deepcopy(YOLO(model_file).model).float().eval()
    for _ in range(3):
        x = torch.rand(1, 3, 64, 64)
        with torch.no_grad():
            expected = model(x)[0]
            if format_ == "torchscript":
                out = torch.jit.load(file)(x)
                out = out[0] if isinstance(out, (tuple, list)) else out
            else:
                session = onnx_session(file)
                out = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])
        assert out.shape == expected.shape
        torch.testing.assert_close(out[:, :4], expected[:, :4], rtol=0, atol=5e-3)  # boxes, pixels of 64
        torch.testing.assert_close(out[:, 4:], expected[:, 4:], rtol=0, atol=5e-5)  # class scores


@pytest.mark.slow
@pytest.mark.parametrize("format_", ["torchscript", "onnx"])
def test_an_exported_model_predicts_through_the_host(model_file, format_):
    file = YOLO(model_file).export(format=format_, imgsz=64, verbose=False)
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    arguments = {"imgsz": 64, "conf": 0.0, "iou": 1.0, "max_det": 5, "verbose": False}
    ours = YOLO(model_file).predict(image, **arguments)[0].boxes.data
    theirs = YOLO(file, task="detect").predict(image, **arguments)[0].boxes.data
    assert len(ours) == 5
    torch.testing.assert_close(theirs[:, 4], ours[:, 4], rtol=0, atol=1e-4)
