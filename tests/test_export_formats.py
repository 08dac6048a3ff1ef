# SPDX-License-Identifier: AGPL-3.0-or-later
"""Whole models through the host's exporter, in every light format and with its options, on images not traced."""

import copy
from pathlib import Path

import onnx
import pytest
import torch
from exporting import assert_equal_numbers, checkpoint, exported, images, needed, precision, raw_outputs
from sample_forms import BORDERS
from ultralytics import YOLO
from ultralytics.engine import exporter
from ultralytics.nn.modules.conv import Conv

from ultralytics_akconv import AKConv
from ultralytics_akconv.exports import choose_form
from ultralytics_akconv.functional import export_form


@pytest.mark.slow
@pytest.mark.parametrize("format_", ["torchscript", "onnx", "ncnn", "mnn"])
def test_the_hosts_export_equals_the_model_on_other_images(format_):
    assert_equal_numbers(exported(format_))


@pytest.mark.slow
@pytest.mark.parametrize("opset", [11, 20])
def test_onnx_is_right_from_old_opsets_to_new_ones(opset):
    file = exported("onnx", opset=opset)
    assert_equal_numbers(file)
    operators = {node.op_type for node in onnx.load(file).graph.node}
    assert ("DeformConv" in operators) == (opset >= 19)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("format_", "options"),
    [("onnx", {}), ("onnx", {"opset": 19}), ("ncnn", {}), ("mnn", {})],
    ids=str,
)
def test_half_precision_costs_no_more_than_the_numbers_it_has(format_, options):
    file = exported(format_, **precision(16), **options)
    x = images(1, 3, 64, 64)
    with torch.no_grad():
        expected = YOLO(checkpoint()).model.float().eval()(x)[0]
    out = raw_outputs(file, x)
    correlation = torch.corrcoef(torch.stack((out[:, 4:].flatten().float(), expected[:, 4:].flatten())))[0, 1]
    assert correlation > 0.99  # wrong positions would leave nothing of the order of the scores


@pytest.mark.slow
def test_mnn_takes_weights_of_eight_bits():
    out = raw_outputs(exported("mnn", **precision(8)), images(1, 3, 64, 64))
    assert out.isfinite().all() and out[:, 4:].std() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"simplify": False}, {"opset": 19}], ids=str)
def test_a_dynamic_onnx_takes_other_sizes_and_batches(options):
    file = exported("onnx", dynamic=True, **options)
    assert_equal_numbers(file, [(1, 3, 64, 64), (2, 3, 64, 96), (1, 3, 416, 608)])


@pytest.mark.slow
def test_a_dynamic_mnn_takes_other_sizes():
    formats = exporter.export_formats()
    if "dynamic" not in dict(zip(formats["Argument"], formats.get("Arguments", []))).get("mnn", []):
        pytest.skip("this release exports MNN for one size alone")
    assert_equal_numbers(exported("mnn", dynamic=True), [(1, 3, 64, 64), (1, 3, 64, 96), (1, 3, 416, 608)])


@pytest.mark.slow
@pytest.mark.parametrize(("format_", "options"), [("torchscript", {}), ("onnx", {"opset": 19}), ("mnn", {})], ids=str)
def test_a_batch_of_two_is_right_in_every_image(format_, options):
    assert_equal_numbers(exported(format_, batch=2, **options), [(2, 3, 64, 64)])


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"opset": 19}], ids=str)
def test_onnx_with_nms_gives_the_boxes_of_the_hosts_nms_on_the_model(options, monkeypatch):
    if not hasattr(exporter, "NMSModel"):
        pytest.skip("this release exports no NMS")
    made = []

    class Kept(exporter.NMSModel):
        def __init__(self, *args):
            super().__init__(*args)
            made.append(copy.deepcopy(self))  # as it is while it is exported

    monkeypatch.setattr(exporter, "NMSModel", Kept)
    file = exported("onnx", nms=True, conf=0.25, iou=0.5, max_det=300, **options)
    image = images(1, 3, 64, 64)
    with torch.no_grad():
        ours = made[-1](image)[0]
        candidates = YOLO(checkpoint()).model.float().eval()(image)[0][0, 4:].amax(0)
    theirs = raw_outputs(file, image)[0]
    kept = int((ours[:, 4] > 0).sum())
    assert 1 < kept < (candidates > 0.25).sum()  # some are suppressed,
    assert ours[:kept, 4].max() - ours[:kept, 4].min() > 0.1  # and what is left has an order
    torch.testing.assert_close(theirs, ours, rtol=0, atol=0.05)  # px


@pytest.mark.slow
@pytest.mark.parametrize("dynamic", [False, True])
def test_openvino_is_right_in_float32(dynamic):
    file = exported("openvino", dynamic=dynamic)
    import openvino

    compiled = openvino.Core().compile_model(
        str(next(Path(file).glob("*.xml"))), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    model = YOLO(checkpoint()).model.float().eval()
    for shape in ((1, 3, 416, 608),) if dynamic else ((1, 3, 64, 64),) * 3:
        x = images(*shape)
        with torch.no_grad():
            expected = model(x)[0]
        out = torch.as_tensor(compiled(x.numpy())[0])
        torch.testing.assert_close(out[:, :4], expected[:, :4], rtol=0, atol=0.2)  # boxes that span hundreds
        torch.testing.assert_close(out[:, 4:], expected[:, 4:], rtol=0, atol=1e-3)


class Beside(torch.nn.ModuleList):
    """Networks side by side, each with an output of its own."""

    def forward(self, x):
        return tuple(network(x) for network in self)


@pytest.mark.slow
def test_openvino_in_bfloat16_is_as_near_as_a_convolution_would_be():
    needed("openvino")
    import openvino

    networks = Beside()
    for border in BORDERS:
        layer = AKConv(8, 16, 5, 2, border=border)
        torch.nn.init.normal_(layer.p_conv.weight, std=0.05)
        torch.nn.init.normal_(layer.p_conv.bias)
        networks.append(torch.nn.Sequential(Conv(8, 8, 1), layer, Conv(16, 16, 3)))
    networks.eval()
    # Positions in bfloat16 would be 2 px apart above 256 px.
    x = torch.nn.functional.interpolate(torch.randn(1, 8, 40, 40), size=(320, 320), mode="bicubic")
    with torch.no_grad(), export_form(lambda: choose_form("openvino")):
        traced = torch.jit.trace(networks, torch.zeros_like(x), check_trace=False)
        expected = networks(x)
    model = openvino.convert_model(traced, input=list(x.shape), example_input=x)
    found = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})(x.numpy())
    for number, (border, wanted) in enumerate(zip(BORDERS, expected)):
        error = torch.as_tensor(found[number]) - wanted
        assert error.square().mean().sqrt() < 1e-2 * wanted.std(), border
