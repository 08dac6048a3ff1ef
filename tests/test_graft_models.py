# SPDX-License-Identifier: AGPL-3.0-or-later
"""What grafted models do: they run like their plain models, in every family and scale, and AKConv in them learns."""

import pytest
import torch
import yaml
from networks import HOST_NAMES, host_text, parsed, replaced, run, skeleton, tensors
from ultralytics import YOLO

from ultralytics_akconv import AKConv, graft

# Their text branch needs an encoder or is not a row's output: these run as whole models.
WITH_TEXT = [name for name in HOST_NAMES if "world" in name or "yoloe" in name]
# Downsampled by pooling, or one ResNet: nothing there is a 3x3 Conv with stride 2.
NOTHING_TO_REPLACE = {"yolov3-tiny.yaml", "yolov8-cls-resnet50.yaml", "yolov8-cls-resnet101.yaml"} | {
    "yolo11-cls-resnet18.yaml"
}
GRAFTABLE = [name for name in HOST_NAMES if name not in NOTHING_TO_REPLACE]
MAIN = [name for name in ("yolov5", "yolov6", "yolov8", "yolo11", "yolo12", "yolo26") if f"{name}.yaml" in HOST_NAMES]


@pytest.mark.parametrize("name", [name for name in GRAFTABLE if name not in WITH_TEXT])
def test_a_host_model_with_akconv_runs_like_its_plain_model(name):
    stock, save = parsed(host_text(name))
    layers, grafted_save = parsed(graft(name))
    x = torch.rand(2, 3, 64, 64)  # two images: BatchNorm wants more than the one pixel of the smallest map
    if "rtdetr" in name:
        reason = "the RT-DETR of this host needs scipy"
        pytest.importorskip("ultralytics.models.utils.ops", reason=reason, exc_type=ModuleNotFoundError)
        x = torch.rand(1, 3, 160, 160)  # its decoder picks 300 positions,
        stock[-1].eval(), layers[-1].eval()  # and in training wants labels
    with torch.no_grad():  # on "meta", where nothing is computed, a pass takes ten times as long
        expected = [[tensor.shape for tensor in tensors(output)] for output in run(stock, x)]
    outputs = run(layers, x)
    assert [[tensor.shape for tensor in tensors(output)] for output in outputs] == expected
    assert grafted_save == save
    sum(tensor.mean() for tensor in tensors(outputs[-1])).backward()
    akconvs = [layer for layer in layers if isinstance(layer, AKConv)]
    assert akconvs
    for akconv in akconvs:
        assert akconv.conv.conv.weight.grad.isfinite().all()
        assert akconv.conv.conv.weight.grad.abs().sum() > 0
        assert akconv.p_conv.weight.grad.isfinite().all()


@pytest.mark.parametrize("name", WITH_TEXT)
def test_a_host_model_with_a_text_branch_runs_with_akconv(name):
    model = YOLO(name.replace(".yaml", "-akconv.yaml")).model
    stock = YOLO(name).model
    assert skeleton(model.model) == skeleton(stock.model)
    assert model.save == stock.save
    assert model.stride.tolist() == stock.stride.tolist()
    sum(tensor.mean() for tensor in tensors(model.train()(torch.rand(2, 3, 64, 64)))).backward()
    akconvs = [layer for layer in model.model if isinstance(layer, AKConv)]
    assert akconvs
    assert all(akconv.conv.conv.weight.grad.isfinite().all() for akconv in akconvs)


@pytest.mark.parametrize("where", ["downsample", "blocks"])
@pytest.mark.parametrize("name", MAIN)
def test_channels_and_save_list_equal_stock_in_every_scale(name, where):
    if name == "yolov6" and where == "blocks":
        pytest.skip("yolov6 has no blocks, only convolutions")
    text = graft(f"{name}.yaml", where=where)
    stock_model, model, rows = yaml.safe_load(host_text(f"{name}.yaml")), yaml.safe_load(text), replaced(text)
    for scale in "nsmlx":
        stock, save = parsed(stock_model, scale, "meta")
        layers, grafted_save = parsed(model, scale, "meta")
        assert skeleton(layers) == skeleton(stock), scale
        assert grafted_save == save
        assert getattr(layers[-1], "legacy", None) == getattr(stock[-1], "legacy", None)
        assert [layer.i for layer, plain in zip(layers, stock) if layer.type != plain.type] == rows


@pytest.mark.parametrize("name", ["yolov10n", "yolov10x", "yolov9t", "yolov9c", "yolov3", "yolov8-p6", "yolov8-world"])
def test_blocks_of_other_families_keep_channels_too(name):
    stock, save = parsed(host_text(f"{name}.yaml"), device="meta")
    layers, grafted_save = parsed(graft(f"{name}.yaml", where="blocks"), device="meta")
    assert skeleton(layers) == skeleton(stock)
    assert grafted_save == save


def test_a_model_with_akconv_inside_its_blocks_learns():
    layers, _ = parsed(graft("yolo11n.yaml", where="blocks"))
    outputs = run(layers, torch.rand(2, 3, 64, 64))
    sum(tensor.mean() for tensor in tensors(outputs[-1])).backward()
    akconvs = [module for module in layers.modules() if isinstance(module, AKConv)]
    assert len(akconvs) > 8
    assert all(akconv.conv.conv.weight.grad.isfinite().all() for akconv in akconvs)
