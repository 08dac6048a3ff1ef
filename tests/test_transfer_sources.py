# SPDX-License-Identifier: AGPL-3.0-or-later
"""Sources that are not as the host's defaults: channels, activations, heads; and those that no checkpoint can hold."""

import copy
import inspect

import numpy as np
import pytest
import torch
import yaml
from conftest import layers_of, yolov8_dict
from conversions import relative, trained
from networks import HOST_NAMES
from torch import nn
from torch.ao import quantization
from ultralytics import YOLO
from ultralytics.data.utils import check_det_dataset
from ultralytics.nn import tasks
from ultralytics.nn.modules.conv import Conv

from ultralytics_akconv import transfer, write_checkpoint
from ultralytics_akconv.benchmark import benchmark_models
from ultralytics_akconv.host import input_channels
from ultralytics_akconv.info import model_info
from ultralytics_akconv.plots import plot_field

# Older releases build models of other channels, but prepare images of three alone.
MULTISPECTRAL = "channels" in inspect.getsource(check_det_dataset)


def of_channels(channels):
    torch.manual_seed(0)
    cfg = {**yolov8_dict(name=None), "nc": 3}
    model = tasks.DetectionModel(cfg, ch=channels, verbose=False).eval()
    model.args, model.task = {"imgsz": 64}, "detect"
    return model


def given(folder, **keys):
    """Write an AKConv model YAML that says nothing of what belongs to the weights."""
    file = folder / "yolov8n-given.yaml"
    file.write_text(yaml.safe_dump({**yolov8_dict(9, 2, {"border": "zeros", "origin": "center"}), **keys}), "utf-8")
    return file


@pytest.mark.parametrize("by_yaml", [False, True])
@pytest.mark.parametrize("channels", [1, 4, 6])
def test_a_source_of_other_channels_becomes_a_model_that_says_so(channels, by_yaml, tmp_path):
    source = of_channels(channels)
    model = given(tmp_path) if by_yaml else None
    file = transfer(source, model, **({} if by_yaml else {"num_param": 9})).save(tmp_path / "converted.pt")
    converted = YOLO(file)
    assert input_channels(converted.model) == channels
    x = torch.rand(1, channels, 64, 64)
    assert relative(converted.model.eval()(x)[0], source(x)[0]) < 1e-3
    if MULTISPECTRAL:
        assert YOLO(file).predict(np.zeros((64, 64, channels), np.uint8), imgsz=64, verbose=False)
    again = tasks.DetectionModel(copy.deepcopy(converted.model.yaml), ch=input_channels(source), verbose=False)
    again.load_state_dict(converted.model.float().state_dict())  # as a trainer builds it
    info = model_info(file, 64)
    assert info.plain.parameters == sum(p.numel() for p in source.parameters())


@pytest.mark.skipif(not MULTISPECTRAL, reason="this release of Ultralytics exports models of three channels alone")
def test_a_picture_and_an_export_of_one_channel_work(tmp_path):
    file = transfer(of_channels(1), num_param=3).save(tmp_path / "grey.pt")
    assert plot_field(file, np.zeros((64, 64, 3), np.uint8), imgsz=64).axes
    exported = torch.jit.load(YOLO(file).export(format="torchscript", imgsz=64))
    x = torch.rand(1, 1, 64, 64)
    assert relative(exported(x), YOLO(file).model.float().eval().fuse()(x)[0]) < 1e-3
    row = benchmark_models(str(file), 64, 2, repeats=1, memory=False).rows[0]
    assert row["inference ms"] > 0


@pytest.mark.parametrize("by_yaml", [False, True])
def test_the_activation_of_the_yaml_is_the_converted_models(by_yaml, tmp_path):
    source = trained({**yolov8_dict(name=None), "activation": "torch.nn.ReLU()"}, nc=3)
    result = transfer(source, given(tmp_path) if by_yaml else None, **({} if by_yaml else {"num_param": 9}))
    assert {type(layer.conv.act) for layer in layers_of(result.model)} == {nn.ReLU}
    x = torch.rand(1, 3, 64, 64)
    assert relative(result.model(x)[0], source(x)[0]) < 1e-4
    assert result.model.yaml["activation"] == "torch.nn.ReLU()"


def test_an_activation_that_the_yaml_given_has_alone_is_not_taken(source, tmp_path):
    result = transfer(source, given(tmp_path, activation="nn.ReLU()"))
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert relative(result.model(x)[0], source(x)[0]) < 1e-4
    assert not result.model.yaml.get("activation")


@pytest.mark.parametrize("where", ["downsample", "blocks"])
def test_activations_and_norms_that_no_yaml_tells_are_kept(where):
    source = trained("yolov8n.yaml", nc=3)
    for module in source.modules():
        if isinstance(module, Conv) and isinstance(module.act, nn.SiLU):
            module.act = nn.LeakyReLU(0.1)
        if isinstance(module, nn.BatchNorm2d):
            module.eps, module.momentum = 0.1, 0.2
    result = transfer(source, num_param=9, where=where)
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert relative(result.model(x)[0], source(x)[0]) < 1e-4
    assert {(m.eps, m.momentum) for m in result.model.modules() if isinstance(m, nn.BatchNorm2d)} == {(0.1, 0.2)}


@pytest.mark.parametrize("by_yaml", [False, True])
def test_keypoints_given_in_python_and_a_narrow_box_branch_are_kept(by_yaml, tmp_path):
    pose = trained("yolov8n-pose.yaml", nc=2, kpt_shape=(5, 2))
    assert transfer(pose, num_param=9).model.yaml["kpt_shape"] in ([5, 2], (5, 2))
    narrow = trained({**yolov8_dict(name=None), "reg_max": 4}, nc=3)
    result = transfer(narrow, given(tmp_path) if by_yaml else None, **({} if by_yaml else {"num_param": 9}))
    assert result.model.model[-1].reg_max == narrow.model[-1].reg_max
    x = torch.rand(1, 3, 64, 64)
    assert relative(result.model(x)[0], narrow(x)[0]) < 1e-4


@pytest.mark.skipif("yolo26.yaml" not in HOST_NAMES, reason="the host has no end-to-end YAML key yet")
@pytest.mark.parametrize("model", [None, "yolo26n-akconv9.yaml"])
@pytest.mark.parametrize("end2end", [True, False])
def test_the_heads_of_the_source_and_its_choice_between_them_are_kept(end2end, model):
    source = trained("yolo26n.yaml", nc=3)
    if getattr(type(source).end2end, "fset", None) is None:
        pytest.skip("this release of Ultralytics leaves no choice between the heads")
    source.end2end = end2end
    result = transfer(source, model, **({} if model else {"num_param": 9}))
    assert result.model.end2end == source.end2end == end2end
    single = trained("yolo26n.yaml", nc=3, end2end=False)
    heads = {key for key in transfer(single, model, **({} if model else {"num_param": 9})).model.state_dict()}
    assert not [key for key in heads if "one2one" in key]
    assert [key for key in result.model.state_dict() if "one2one" in key]


def by_modelopt(model):
    model.model[0].conv.input_quantizer = type("TensorQuantizer", (nn.Module,), {})()  # of a class that no pickle finds
    return model


def in_training(model):
    model.qconfig = quantization.get_default_qat_qconfig("fbgemm")
    return quantization.prepare_qat(model.train(), inplace=True)


def watched(model):
    model.model[0].qconfig = quantization.default_qconfig
    return quantization.prepare(model, inplace=True)


def rounded(model):
    return quantization.convert(watched(model), inplace=True)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # torch.ao is about to move
@pytest.mark.parametrize("change", [by_modelopt, in_training, watched, rounded])
def test_a_model_in_training_for_quantization_or_after_it_is_refused_before_the_work(
    change, source, tmp_path, monkeypatch
):
    quantized = change(copy.deepcopy(source))
    monkeypatch.setattr(tasks, "parse_model", None)  # nothing is built
    with pytest.raises(ValueError, match=r"source is quantized or in training for it \(QAT\): it holds a \w+, which"):
        transfer(quantized, num_param=3)
    with pytest.raises(ValueError, match=r"model is quantized or in training for it \(QAT\)"):
        write_checkpoint(quantized, tmp_path / "out.pt")
    assert not list(tmp_path.iterdir())


def test_a_yolo_is_written_as_the_model_in_it_and_what_is_none_is_refused(source, tmp_path):
    yolo = YOLO(transfer(source, num_param=3).save(tmp_path / "converted.pt"))
    file = write_checkpoint(yolo, tmp_path / "again.pt", source)
    again, first = (YOLO(f).model.state_dict() for f in (file, tmp_path / "converted.pt"))
    assert again.keys() == first.keys() and all(torch.equal(again[key], first[key]) for key in first)
    for what, name in ((nn.Conv2d(1, 1, 1), "Conv2d"), ("model.pt", "str"), ({}, "dict")):
        with pytest.raises(TypeError, match=f"model must be a YOLO or a model that Ultralytics built, got a {name}"):
            write_checkpoint(what, tmp_path / "other.pt")
    with pytest.raises(TypeError, match="source must be a YOLO"):
        write_checkpoint(yolo, tmp_path / "other.pt", "source.pt")
    assert {f.name for f in tmp_path.iterdir()} == {"converted.pt", "again.pt"}
