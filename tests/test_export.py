# SPDX-License-Identifier: AGPL-3.0-or-later
"""TorchScript and ONNX: the layer alone, and whole models through the host's exporter, on images not traced."""

import io
import shutil
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import yaml
from conftest import layers_of, learned, skip_if_onnx_needs_onnxscript, yolov8_dict
from networks import tensors
from ultralytics import YOLO
from ultralytics.nn.autobackend import AutoBackend
from ultralytics.nn.modules.conv import Conv

from ultralytics_akconv import AKConv
from ultralytics_akconv.exports import choose_form
from ultralytics_akconv.functional import export_form

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


def test_the_form_follows_the_format_the_opset_and_the_precision():
    assert choose_form("onnx") == "gather"
    assert choose_form("onnx", opset=19) == "deform"
    assert choose_form("onnx", opset=19, half=True) == "gather"
    assert choose_form("openvino") == "deform"
    assert choose_form("mnn", opset=12) == "gather"
    assert {choose_form(name) for name in ("mnn", "ncnn", "paddle", "torchscript")} == {"grid"}
    assert {choose_form(name) for name in ("engine", "litert", "saved_model", "executorch", "coreml")} == {"gather"}


def settled(model):
    """Give the batch norms the statistics of what flows through, without which noise fades to nothing on its way."""
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # cumulative
        norm.reset_running_stats()
    model.train()
    with torch.no_grad():
        for _ in range(4):
            model(torch.rand(4, 3, 64, 64))
    for norm in norms:
        norm.momentum = 0.03
    return model.eval()


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    """A checkpoint with learned offsets, which training would need long for."""
    folder = tmp_path_factory.mktemp("export")
    (folder / "yolov8n-some.yaml").write_text(yaml.safe_dump({**yolov8_dict(), "nc": 3}), "utf-8")
    torch.manual_seed(0)
    yolo = YOLO(folder / "yolov8n-some.yaml")
    for layer in layers_of(yolo.model):
        torch.nn.init.normal_(layer.p_conv.weight, std=0.05)
        torch.nn.init.normal_(layer.p_conv.bias, std=3.0)  # of maps that are 2 to 32 px wide
    for branch in yolo.model.model[-1].cv3:  # classes start at a score near 0: move them where differences show
        torch.nn.init.zeros_(branch[-1].bias)
    settled(yolo.model)
    yolo.ckpt = yolo.ckpt or {}  # older hosts save a model that was built from a YAML with this alone
    yolo.save(folder / "some.pt")
    return folder / "some.pt"


# What the converter of a format needs, and what its runtime is, by the names they are imported under.
NEEDS = {"openvino": ["openvino"], "ncnn": ["ncnn", "pnnx"], "mnn": ["MNN"]}


def exported(model_file, format_, **options):
    """Export a copy of the checkpoint as a user would; skips where the format's tools are absent."""
    if format_ == "onnx":
        skip_if_onnx_needs_onnxscript()
    for name in NEEDS.get(format_, ()):
        pytest.importorskip(name, reason=f"the export to {format_} needs {name}, which is not installed")
    folder = Path(tempfile.mkdtemp(dir=model_file.parent))
    shutil.copy(model_file, folder)
    return YOLO(folder / model_file.name).export(format=format_, **{"imgsz": 64, "verbose": False, **options})


def raw_outputs(file, x):
    """Return what the host's own runtime of the format makes of images."""
    out = AutoBackend(file, device=torch.device("cpu"), verbose=False)(x)
    return torch.as_tensor(out[0] if isinstance(out, (tuple, list)) else out)


def assert_equal_numbers(file, model_file, shapes=((1, 3, 64, 64),) * 3, tolerance=1e-3):
    """Compare raw outputs on images that were not traced, relative to what boxes and scores span."""
    model = YOLO(model_file).model.float().eval()
    for shape in shapes:
        x = torch.rand(shape)
        with torch.no_grad():
            expected = model(x)[0]
        out = raw_outputs(file, x)
        assert out.shape == expected.shape
        for part in (slice(0, 4), slice(4, None)):
            span = expected[:, part].max() - expected[:, part].min()
            assert span > 1e-2  # the comparison means something
            assert (out[:, part] - expected[:, part]).abs().max() < tolerance * span


@pytest.mark.slow
@pytest.mark.parametrize("format_", ["torchscript", "onnx", "ncnn", "mnn"])
def test_the_hosts_export_equals_the_model_on_other_images(model_file, format_):
    assert_equal_numbers(exported(model_file, format_), model_file)


@pytest.mark.slow
@pytest.mark.parametrize("opset", [12, 19, 20])
def test_onnx_is_right_from_old_opsets_to_new_ones(model_file, opset):
    file = exported(model_file, "onnx", opset=opset)
    assert_equal_numbers(file, model_file)
    operators = {node.op_type for node in onnx.load(file).graph.node}
    assert ("DeformConv" in operators) == (opset >= 19)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"opset": 19, "simplify": False}], ids=str)
def test_a_dynamic_onnx_takes_other_sizes_and_batches(model_file, options):
    file = exported(model_file, "onnx", dynamic=True, **options)
    assert_equal_numbers(file, model_file, [(1, 3, 64, 64), (2, 3, 64, 96), (1, 3, 416, 608)])


@pytest.mark.slow
@pytest.mark.parametrize(("format_", "options"), [("torchscript", {}), ("onnx", {"opset": 19})], ids=str)
def test_a_batch_of_two_is_right_in_every_image(model_file, format_, options):
    assert_equal_numbers(exported(model_file, format_, batch=2, **options), model_file, [(2, 3, 64, 64)])


@pytest.mark.slow
def test_onnx_with_nms_gives_the_boxes_of_the_model(model_file):
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    arguments = {"imgsz": 64, "conf": 0.25, "iou": 0.5, "max_det": 5, "verbose": False}
    ours = YOLO(model_file).predict(image, **arguments)[0].boxes
    file = exported(model_file, "onnx", nms=True, opset=19, conf=0.25, iou=0.5, max_det=5)
    theirs = YOLO(file, task="detect").predict(image, **arguments)[0].boxes
    assert len(ours) == len(theirs) > 0
    torch.testing.assert_close(theirs.conf, ours.conf, rtol=0, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("dynamic", [False, True])
def test_openvino_is_right_in_float32(model_file, dynamic):
    file = exported(model_file, "openvino", dynamic=dynamic)
    import openvino

    compiled = openvino.Core().compile_model(
        str(next(Path(file).glob("*.xml"))), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    model = YOLO(model_file).model.float().eval()
    for shape in ((1, 3, 416, 608),) if dynamic else ((1, 3, 64, 64),) * 3:
        x = torch.rand(shape)
        with torch.no_grad():
            expected = model(x)[0]
        out = torch.as_tensor(compiled(x.numpy())[0])
        torch.testing.assert_close(out[:, :4], expected[:, :4], rtol=0, atol=0.2)  # boxes that span hundreds
        torch.testing.assert_close(out[:, 4:], expected[:, 4:], rtol=0, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("border", BORDERS)
def test_openvino_in_bfloat16_is_as_near_as_a_convolution_would_be(border):
    openvino = pytest.importorskip("openvino", reason="openvino is not installed")
    layer = AKConv(8, 16, 5, 2, border=border).eval()
    torch.nn.init.normal_(layer.p_conv.weight, std=0.05)
    torch.nn.init.normal_(layer.p_conv.bias)
    network = torch.nn.Sequential(Conv(8, 8, 1), layer, Conv(16, 16, 3)).eval()
    # Positions in bfloat16 would be 2 px apart above 256 px.
    x = torch.nn.functional.interpolate(torch.randn(1, 8, 40, 40), size=(320, 320), mode="bicubic")
    with torch.no_grad(), export_form(lambda: choose_form("openvino")):
        traced = torch.jit.trace(network, torch.zeros_like(x), check_trace=False)
        expected = network(x)
    model = openvino.convert_model(traced, input=list(x.shape), example_input=x)
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})
    error = torch.as_tensor(compiled(x.numpy())[0]) - expected
    assert error.square().mean().sqrt() < 1e-2 * expected.std()


@pytest.mark.slow
def test_an_export_leaves_a_model_that_trains_on(model_file):
    yolo = YOLO(model_file)
    folder = Path(tempfile.mkdtemp(dir=model_file.parent))
    before = {key: value.clone() for key, value in yolo.model.state_dict().items()}
    yolo.ckpt_path = yolo.model.pt_path = str(folder / "some.pt")
    yolo.export(format="torchscript", imgsz=64, verbose=False)
    assert all(torch.equal(value, before[key]) for key, value in yolo.model.state_dict().items())
    model = yolo.model.float().train()
    for parameter in model.parameters():
        parameter.requires_grad = True
    sum(out.square().mean() for out in tensors(model(torch.rand(2, 3, 64, 64)))).backward()
    assert all(layer.p_conv.weight.grad.abs().sum() > 0 for layer in layers_of(model))


@pytest.mark.slow
def test_onnx_predicts_in_a_process_without_the_package(model_file, fresh):
    file = exported(model_file, "onnx", opset=19)
    code = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0].startswith("ultralytics_akconv"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import numpy as np
from ultralytics import YOLO
image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
print("boxes", len(YOLO({file!r}, task="detect").predict(image, imgsz=64, conf=0.0, iou=1.0, max_det=5)[0].boxes))
assert not [name for name in sys.modules if name.startswith("ultralytics_akconv.")]
"""
    done = fresh(code, ULTRALYTICS_AKCONV="0")
    assert "boxes 5" in done.stdout, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("format_", ["torchscript", "onnx"])
def test_an_exported_model_predicts_through_the_host(model_file, format_):
    file = exported(model_file, format_)
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    arguments = {"imgsz": 64, "conf": 0.0, "iou": 1.0, "max_det": 5, "verbose": False}
    ours = YOLO(model_file).predict(image, **arguments)[0].boxes.data
    theirs = YOLO(file, task="detect").predict(image, **arguments)[0].boxes.data
    assert len(ours) == 5
    torch.testing.assert_close(theirs[:, 4], ours[:, 4], rtol=0, atol=1e-4)
