# SPDX-License-Identifier: AGPL-3.0-or-later
"""Conversion of whole trained models: outputs, what stays, budgets, the published layout and the command."""

import copy
import shutil
import sys

import cv2
import numpy as np
import pytest
import torch
from conftest import layers_of, yolov8_dict
from conversions import IMAGES, relative, trained
from ultralytics import YOLO

from ultralytics_akconv import AKConv, transfer
from ultralytics_akconv.cli import main


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("yolov8n.yaml", "downsample"),
        ("yolov8n.yaml", "blocks"),
        ("yolo11n-seg.yaml", "backbone"),
        ("yolov8n-pose.yaml", "neck"),
        ("yolo11n-obb.yaml", "downsample"),
        ("yolov8n-cls.yaml", "downsample"),
    ],
)
def test_nine_points_leave_the_outputs_of_a_model_as_they_are(name, where):
    model = trained(name, nc=4)
    result = transfer(model, num_param=9, where=where)
    assert len(layers_of(result.model)) == len(result.layers) > 0
    assert result.model.model[-1].f == model.model[-1].f
    x, seen = torch.rand(1, 3, 64, 64), []
    for each in (model, result.model):
        each.model[-1].register_forward_pre_hook(lambda head, args: seen.append(args[0]))
        with torch.no_grad():
            each(x)
    maps = zip(*[value if isinstance(value, list) else [value] for value in seen])  # what the head reads
    for wanted, got in maps:
        assert wanted.std() > 0.01
        assert relative(got, wanted) < 1e-4


def test_a_source_trained_on_for_more_classes_keeps_the_head_that_its_yaml_does_not_tell():
    model = trained("yolov8n.yaml", nc=3)
    for branch in model.model[-1].cv3:  # as the host leaves it: the new classes in the last convolutions alone
        branch[-1] = torch.nn.Conv2d(branch[-1].in_channels, 80, 1)
    model.model[-1].nc = model.nc = model.yaml["nc"] = 80
    model.model[-1].no = 80 + 4 * model.model[-1].reg_max
    model.names = {i: f"kind {i}" for i in range(80)}
    result = transfer(model, num_param=9)
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        wanted, got = model(x)[0], result.model(x)[0]
    assert got.shape[1] == 84 and relative(got, wanted) < 1e-4
    widths = [[p.shape for p in each.model[-1].cv3.parameters()] for each in (model, result.model)]
    assert widths[0] == widths[1]


def test_every_other_tensor_and_all_that_is_known_about_the_model_stay(source, checkpoint):
    result = transfer(checkpoint, num_param=[3, 4, 5, 6, 7, 8])
    assert [layer.num_param for layer in result.layers] == [3, 4, 5, 6, 7, 8]
    file = result.save(checkpoint.with_name("converted.pt"))
    wrapped = YOLO(file)
    model = wrapped.model
    half, state = copy.deepcopy(source).half().state_dict(), model.state_dict()
    replaced = {layer.name for layer in result.layers}
    for key, value in half.items():
        if key.rsplit(".", 2)[0] not in replaced:
            assert torch.equal(state[key], value.to(state[key].dtype)), key
    stored = torch.load(file, weights_only=False)["model"]
    assert all(value.dtype != torch.float32 for value in stored.state_dict().values())
    assert model.names == source.names and model.task == "detect" and model.args["imgsz"] == 64
    assert torch.equal(model.stride, source.stride) and model.yaml["nc"] == 3
    assert [m.num_param for m in layers_of(model)] == [3, 4, 5, 6, 7, 8]
    assert len(wrapped.predict(np.zeros((64, 64, 3), np.uint8), imgsz=64, verbose=False)) == 1


def test_a_float32_source_is_stored_without_loss(source, tmp_path):
    state = YOLO(transfer(source).save(tmp_path / "converted.pt")).model.state_dict()
    assert torch.equal(state["model.0.conv.weight"], source.state_dict()["model.0.conv.weight"])


def test_a_model_yaml_takes_the_sources_classes_and_scale(source):
    result = transfer(source, "yolov8-akconv7.yaml")
    assert result.model.yaml["nc"] == 3 and all(m.num_param == 7 for m in layers_of(result.model))
    assert {m.border for m in layers_of(result.model)} == {"paper"}


def test_images_lower_the_layers_errors_and_the_report_shows_it(checkpoint, mini_dataset, tmp_path, monkeypatch):
    result = transfer(checkpoint, num_param=4, data=mini_dataset, images=4, imgsz=64)
    assert all(0 < layer.fitted < layer.prior for layer in result.layers)
    folder = mini_dataset.parent / "akconv-mini/images/train"
    by_folder = transfer(checkpoint, num_param=4, data=folder, images=4, imgsz=64)
    assert [layer.fitted for layer in by_folder.layers] == [layer.fitted for layer in result.layers]
    table = result.table()
    assert "fitted" in table and all(layer.name in table for layer in result.layers)
    parameters = sum(p.numel() for p in result.model.parameters())
    assert f"{parameters:,}" in table
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # whose figures belong to all threads
    picture = cv2.imread(str(result.plot(tmp_path / "report.png")))
    assert picture.std() > 10


def test_classification_models_are_fitted_on_images_as_their_predictor_prepares_them(tmp_path):
    model = trained("yolov8n-cls.yaml", nc=2)
    for split in ("train", "val"):
        for kind, files in zip("ab", (sorted(IMAGES.iterdir())[:2], sorted(IMAGES.iterdir())[2:4])):
            (tmp_path / split / kind).mkdir(parents=True)
            for file in files:
                shutil.copy(file, tmp_path / split / kind)
    result = transfer(model, data=tmp_path, images=2, imgsz=64)
    assert all(layer.fitted < layer.prior for layer in result.layers)


# Budgets


def test_a_budget_of_parameters_is_kept_and_leaves_layers_that_save_little(source):
    result = transfer(source, budget="params=0.93")
    before, after = (sum(p.numel() for p in m.parameters()) for m in (source, result.model))
    assert 0.85 * before < after <= 0.93 * before
    assert len({layer.num_param for layer in result.layers}) > 1 or len(result.layers) < 6


def test_a_budget_of_operations_is_kept_as_the_host_counts_them(source):
    from ultralytics.utils.torch_utils import get_flops

    result = transfer(source, budget="gflops=0.97")
    assert 0.9 * get_flops(source) < get_flops(result.model) <= 0.971 * get_flops(source)


def test_a_bound_on_the_error_holds_for_every_layer(source):
    loose, tight = (transfer(source, budget=f"error={bound}") for bound in (0.2, 0.1))
    assert all(layer.expected <= 0.2 for layer in loose.layers) and all(layer.expected <= 0.1 for layer in tight.layers)
    assert sum(p.numel() for p in loose.model.parameters()) < sum(p.numel() for p in tight.model.parameters())


def test_a_budget_counts_all_convolutions_inside_a_block(source):
    result = transfer(source, budget="error=0.25", where="blocks")
    rows = {}
    for layer in result.layers:
        rows.setdefault(layer.name.split(".")[1], set()).add(layer.num_param)
    assert rows and all(len(numbers) == 1 for numbers in rows.values())


@pytest.mark.parametrize("budget", ["0.9", "params", "params=", "params=2", "params=nan", "speed=0.5", "error=0"])
def test_a_budget_that_is_none_is_refused(source, budget):
    with pytest.raises(ValueError, match="params=FRACTION or gflops=FRACTION"):
        transfer(source, budget=budget)


def test_a_budget_out_of_reach_says_what_can_be_reached(source):
    with pytest.raises(ValueError, match=r"params=0\.1 cannot be reached; the least is 0\.[6-9]"):
        transfer(source, budget="params=0.1")
    with pytest.raises(ValueError, match=r"the least error is 0\.[01]"):
        transfer(source, budget="error=1e-6", where="backbone")


# The published layout, and the command


def published_state(model):
    """Return a whole model's state dict as the published code names it."""
    state = model.state_dict()
    for name, layer in model.named_modules():
        if isinstance(layer, AKConv):
            for key in [key for key in state if key.startswith(f"{name}.")]:
                del state[key]
            state.update({f"{name}.{key}": value for key, value in layer.published_state_dict().items()})
            state[f"{name}.p_n"] = torch.tensor(layer.points).T.reshape(1, -1, 1, 1)
    return state


def test_a_published_state_dict_becomes_a_checkpoint_with_the_same_outputs(tmp_path):
    model = trained(yolov8_dict(5, 2), nc=3)
    torch.save({"state_dict": published_state(model)}, tmp_path / "state.pt")
    arguments = ["--from-published", str(tmp_path / "state.pt"), "--model", "yolov8n-akconv.yaml", "--nc", "3"]
    assert main(["convert", *arguments, "-o", str(tmp_path / "out.pt")]) == 0
    loaded = YOLO(tmp_path / "out.pt").model.eval()
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(loaded(x)[0], model(x)[0])
    assert loaded.task == "detect" and loaded.yaml["nc"] == 3


def test_the_command_writes_a_checkpoint_and_prints_the_report(checkpoint, tmp_path, capsys):
    output = tmp_path / "out.pt"
    assert main(["convert", str(checkpoint), "--num-param", "3", "--where", "3,5", "-o", str(output)]) == 0
    printed = capsys.readouterr().out
    assert "model.3" in printed and "parameters:" in printed
    assert [m.num_param for m in layers_of(YOLO(output).model)] == [3, 3]


def test_the_named_convolutions_of_blocks_are_converted(source):
    result = transfer(source, num_param=9, where="blocks", convs=["cv2"])
    assert {layer.name.rpartition(".")[2] for layer in result.layers} == {"cv2"} and len(result.layers) == 10
    x = torch.randn(1, 3, 64, 64)
    assert relative(result.model(x)[0], source(x)[0]) < 1e-4
