# SPDX-License-Identifier: AGPL-3.0-or-later
"""TorchScript and ONNX: the layer alone, and whole models through the host's exporter, on images not traced."""

import io
import tempfile
import types
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import layers_of, learned, skip_if_onnx_needs_onnxscript, traced_to_onnx
from exporting import checkpoint, exported, precision
from networks import tensors
from sample_forms import BORDERS
from ultralytics import YOLO

from ultralytics_akconv import AKConv, exports
from ultralytics_akconv.exports import check_export, choose_form
from ultralytics_akconv.functional import export_form
from ultralytics_akconv.movable import movable_traces

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
    session = onnx_session(traced_to_onnx(layer, torch.randn(1, 3, 9, 11), 17))
    for scale in (1, 10):
        x = torch.randn(1, 3, 9, 11) * scale
        (out,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        torch.testing.assert_close(torch.from_numpy(out), layer(x), rtol=1e-4, atol=1e-4)


def test_a_traced_layer_takes_other_sizes_or_the_batch_it_was_not_traced_with(close):
    layer = learned(AKConv(3, 4, 5, 2)).eval()
    axes = {"x": {0: "batch", 2: "height", 3: "width"}}
    file = traced_to_onnx(layer, torch.randn(2, 3, 8, 10), 17, input_names=["x"], dynamic_axes=axes)
    session = onnx_session(file)
    for shape in ((2, 3, 8, 10), (1, 3, 8, 10), (3, 3, 12, 6), (1, 3, 7, 9)):
        x = torch.randn(shape)
        (out,) = session.run(None, {"x": x.numpy()})
        torch.testing.assert_close(torch.from_numpy(out), layer(x), rtol=1e-4, atol=1e-4)


def test_the_form_follows_the_format_the_opset_and_the_precision():
    assert choose_form("onnx") == "outer"
    assert choose_form("onnx", bits=8) == "gather"
    assert choose_form("onnx", opset=19) == choose_form("onnx", opset=19, bits=8) == "deform"
    assert choose_form("onnx", opset=19, bits=16) == "gather"
    assert choose_form("openvino") == "deform"
    assert choose_form("mnn", opset=12) == "gather"
    assert {choose_form(name) for name in ("mnn", "ncnn")} == {"grid"}
    assert choose_form("paddle") == "outer-fixed"
    assert choose_form("torchscript") == "bag"
    assert choose_form("torchscript", device="cuda") == "grid"
    assert choose_form("torchscript", bits=16, device="cuda") == "gather"
    assert {choose_form(name) for name in ("edgetpu", "pb", "saved_model", "tflite")} == {"flat"}
    assert choose_form("executorch") == choose_form("litert") == "lookup"
    assert choose_form("litert", bits=8) == choose_form("litert", bits=16) == "gather"
    assert {choose_form(name) for name in ("engine", "coreai", "coreml")} == {"gather"}


@pytest.mark.parametrize(
    ("option", "bits"),
    [
        ({}, 32),
        ({"quantize": None}, 32),
        ({"quantize": 8}, 8),
        ({"half": True}, 16),
        ({"half": False, "int8": True}, 8),
        ({"quantize": "w8a16"}, 16),
        ({"quantize": "w8a32"}, 32),
    ],
    ids=str,
)
def test_the_precision_is_that_of_what_flows_between_the_layers(option, bits):
    settings = types.SimpleNamespace(format="LiteRT", opset=None, **option)
    assert exports._asked_for(settings) == ("litert", None, bits)


def test_an_opset_without_an_operator_is_refused_before_the_export_starts(tmp_path):
    yolo = YOLO("yolov8n-akconv.yaml")
    yolo.model.pt_path = str(tmp_path / "model.pt")
    with pytest.raises(ValueError, match="operator Range, which opset 10 does not have: export with opset=11"):
        yolo.export(format="onnx", opset=10, imgsz=32)
    with pytest.raises(ValueError, match="clips integers, which opset 11 cannot: export with opset=12 or above"):
        yolo.export(format="onnx", opset=11, imgsz=32, dynamic=True)
    assert not list(tmp_path.iterdir())


def test_a_batch_that_ncnn_would_crash_on_is_refused_before_the_export_starts(tmp_path):
    yolo = YOLO("yolov8n-akconv.yaml")
    yolo.model.pt_path = str(tmp_path / "model.pt")
    with pytest.raises(ValueError, match="exported for a batch of 2: export with batch=1"):
        yolo.export(format="ncnn", batch=2, imgsz=32)
    assert not list(tmp_path.iterdir())
    check_export("mnn", batch=2)


def test_an_onnx_runtime_without_deformable_convolutions_is_named_with_what_to_do(monkeypatch):
    monkeypatch.setattr(exports.metadata, "version", lambda name: "1.25.0")
    check_export("onnx", 19)
    monkeypatch.setattr(exports.metadata, "version", lambda name: "1.24.4")
    with pytest.raises(ValueError, match=r"DeformConv, which ONNX Runtime 1.24.4 .* opset=18, or install .*>=1.25"):
        check_export("onnx", 19)
    check_export("onnx", 18)  # gathers
    check_export("onnx", 19, bits=16)  # the same
    check_export("openvino")


@pytest.mark.slow
def test_an_onnx_runtime_without_deformable_convolutions_is_named_where_the_host_drops_half_precision(
    monkeypatch, tmp_path
):
    yolo = YOLO(checkpoint())
    yolo.ckpt_path = yolo.model.pt_path = str(tmp_path / "some.pt")
    options = {"format": "onnx", "opset": 19, "imgsz": 64, "verbose": False, **precision(16)}
    skip_if_onnx_needs_onnxscript()
    monkeypatch.setattr(exports, "_onnx_runtime", lambda: "1.24.4")
    traced = mock.Mock(wraps=exports.choose_form)
    monkeypatch.setattr(exports, "choose_form", traced)
    try:
        operators = {node.op_type for node in onnx.load(yolo.export(**options)).graph.node}
    except ValueError as error:
        assert "which ONNX Runtime 1.24.4 does not have" in str(error)
        assert traced.call_args.args[2] == 32  # the host dropped it
    else:
        assert "DeformConv" not in operators and "Gather" in operators


@pytest.mark.slow
def test_an_export_leaves_a_model_that_trains_on():
    yolo = YOLO(checkpoint())
    folder = Path(tempfile.mkdtemp(dir=checkpoint().parent))
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
def test_onnx_predicts_in_a_process_without_the_package(fresh):
    file = exported("onnx", opset=19)
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
def test_an_exported_model_predicts_through_the_host(format_):
    file = exported(format_)
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    arguments = {"imgsz": 64, "conf": 0.0, "iou": 1.0, "max_det": 5, "verbose": False}
    ours = YOLO(checkpoint()).predict(image, **arguments)[0].boxes.data
    theirs = YOLO(file, task="detect").predict(image, **arguments)[0].boxes.data
    assert len(ours) == 5
    torch.testing.assert_close(theirs[:, 4], ours[:, 4], rtol=0, atol=1e-4)


# Files that are moved to another device


def reloaded(traced):
    """Return a traced module as it is read from a file; in memory it still knows where it was traced."""
    buffer = io.BytesIO()
    torch.jit.save(traced, buffer)
    buffer.seek(0)
    return torch.jit.load(buffer, map_location="cpu")


def devices_in(module):
    """Return how many devices a traced module has written down."""
    graph = module.inlined_graph  # which its nodes do not keep
    nodes = graph.findAllNodes("prim::Constant", recurse=True)
    return sum(node.output().type().kind() == "DeviceObjType" for node in nodes)


@pytest.mark.parametrize("form", ["bag", "grid", "gather"])
def test_a_trace_for_torchscript_makes_its_tensors_where_its_input_is(form, close):
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1), learned(AKConv(3, 4, 5, 2, shape="ring"))).eval()
    with export_form(lambda: form):
        pinned = reloaded(torch.jit.trace(model, torch.randn(1, 3, 9, 11)))
        with movable_traces():
            loaded = reloaded(torch.jit.trace(model, torch.randn(1, 3, 9, 11)))
    assert devices_in(pinned) and not devices_in(loaded)
    assert "prim::device" in str(loaded.inlined_graph)
    for scale in (1, 10):
        x = torch.randn(1, 3, 9, 11) * scale
        close(loaded(x), model(x))


def test_a_torchscript_file_of_the_hosts_exporter_names_no_device_and_other_formats_are_traced_as_ever():
    trace = torch.jit.trace
    assert not devices_in(torch.jit.load(exported("torchscript")))
    assert torch.jit.trace is trace
