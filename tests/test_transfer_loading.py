# SPDX-License-Identifier: AGPL-3.0-or-later
"""Conversion by itself, where the host loads pretrained weights into a model with AKConv."""

import copy
import sys
from pathlib import Path

import pytest
import torch
import ultralytics.nn.tasks as tasks
from conftest import yolov8_dict
from conversions import trained
from ultralytics import YOLO
from ultralytics.cfg import entrypoint
from ultralytics.utils import LOGGER

import ultralytics_akconv
from ultralytics_akconv import transfer


def test_load_converts_replaced_layers_and_says_so_as_the_host_does(checkpoint, monkeypatch):
    lines = []
    monkeypatch.setattr(LOGGER, "info", lines.append)
    target = tasks.DetectionModel(yolov8_dict(5, 2), nc=3, verbose=False)
    target.load(YOLO(checkpoint).model)
    items = len(target.state_dict())
    assert f"Transferred {items}/{items} items from pretrained weights" in lines
    assert any("Transferred 6 Conv layers to AKConv (N=5)" in line for line in lines)
    assert any("akconv convert" in line and "--distill" in line for line in lines)
    expected = transfer(checkpoint, target)
    for key, value in expected.model.state_dict().items():
        assert torch.equal(target.state_dict()[key], value), key


def test_load_by_name_of_yaml_and_checkpoint_converts_too(checkpoint):
    model = YOLO("yolov8n-akconv.yaml").load(str(checkpoint))
    weights = YOLO(checkpoint).model
    layer, conv = model.model.model[1], weights.model[1]
    assert torch.equal(layer.conv.bn.running_mean, conv.bn.running_mean)
    assert not layer.p_conv.weight.any()


@pytest.mark.parametrize("wrap", [lambda model: model, lambda model: {"model": model}])
def test_loads_between_equal_architectures_are_the_hosts_own(source, wrap):
    for config in (yolov8_dict(name=None), yolov8_dict(5, 2)):
        weights = trained(config, nc=3)
        ours, hosts = (tasks.DetectionModel(copy.deepcopy(config), nc=3, verbose=False) for _ in range(2))
        hosts.load_state_dict(ours.state_dict())
        ours.load(wrap(weights), verbose=False)
        tasks.BaseModel.load.__wrapped__(hosts, wrap(weights), verbose=False)
        for key, value in hosts.state_dict().items():
            assert torch.equal(ours.state_dict()[key], value), key
            assert torch.equal(ours.state_dict()[key], weights.state_dict()[key]), key


def test_load_leaves_the_source_as_it_was(source):
    weights = copy.deepcopy(source)
    keys = list(weights.state_dict())
    tasks.DetectionModel(yolov8_dict(5, 2), nc=3, verbose=False).load(weights, verbose=False)
    assert list(weights.state_dict()) == keys


def test_load_of_another_width_stays_the_hosts_partial_one():
    small, other = trained(yolov8_dict(name=None, scale="s"), nc=3), yolov8_dict(5, 2)
    target = tasks.DetectionModel(other, nc=3, verbose=False)
    before = copy.deepcopy(target.state_dict())
    target.load(small, verbose=False)
    key = "model.1.conv.conv.weight"
    assert torch.equal(target.state_dict()[key], before[key])


def test_load_keeps_the_hosts_change_of_the_number_of_classes(source):
    target = tasks.DetectionModel(yolov8_dict(5, 2), nc=7, verbose=False)
    target.load(source, verbose=False)
    assert target.model[-1].nc == 7 and not target.model[1].p_conv.weight.any()


@pytest.mark.skipif(not hasattr(tasks.BaseModel, "_remap_cls_by_names"), reason="releases before 8.4.100 do not remap")
def test_load_keeps_the_hosts_remapping_of_classes_by_name(source):
    target = tasks.DetectionModel(yolov8_dict(5, 2), nc=3, verbose=False)
    target.names = {0: "kind 2", 1: "kind 0", 2: "kind 1"}
    target.load(source, verbose=False)
    rows = "model.22.cv3.0.2.weight"
    assert torch.equal(target.state_dict()[rows], source.state_dict()[rows][[2, 0, 1]])
    assert not target.model[1].p_conv.weight.any()


def test_a_half_precision_source_loads_as_its_float32_copy_does(source):
    half = copy.deepcopy(source).half()
    states = []
    for weights in (half, copy.deepcopy(half).float()):
        target = tasks.DetectionModel(yolov8_dict(5, 2), nc=3, verbose=False)
        target.load(weights, verbose=False)
        states.append(target.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_unregister_gives_load_back_to_the_host():
    ours = tasks.BaseModel.load
    ultralytics_akconv.unregister()
    try:
        assert tasks.BaseModel.load is ours.__wrapped__
    finally:
        ultralytics_akconv.register()
    assert tasks.BaseModel.load.__wrapped__ is ours.__wrapped__


@pytest.mark.slow
def test_training_from_pretrained_weights_starts_from_the_converted_model(fresh, source, checkpoint, mini_dataset):
    still = {"optimizer": "SGD", "lr0": 0, "lrf": 0, "warmup_epochs": 0}  # it ends with what it began with
    options = {"epochs": 1, "imgsz": 64, "batch": 8, "workers": 0, "device": "cpu", "plots": False, "val": False}
    options |= still | {"pretrained": str(checkpoint), "data": str(mini_dataset), "project": str(mini_dataset.parent)}
    options |= {"seed": 1}  # with 0, the source's, random weights of a plain model would be the source's

    def started(model):
        """Return the parameters that a training started from."""
        return dict(YOLO(mini_dataset.parent / model / "weights/last.pt").model.named_parameters())

    def differing(parameters, model):
        wanted = dict(model.named_parameters())
        assert parameters.keys() == wanted.keys()
        return {name for name in wanted if not torch.allclose(parameters[name].float(), wanted[name], 2e-3, 1e-3)}

    name = "yolov8n-akconv"
    words = [f"{key}={value}" for key, value in {**options, "model": f"{name}.yaml", "name": name}.items()]
    run = fresh([Path(sys.executable).with_name("yolo"), "train", *words])
    assert run.returncode == 0, run.stderr
    assert "Transferred 6 Conv layers to AKConv (N=5)" in run.stdout + run.stderr
    entrypoint(" ".join(["yolo", "train", *words]).replace(name, "yolov8n"))  # in this process: it is the host's alone
    # Older hosts load into the YAML's 80 classes first, and so leave the class branches of every model out.
    left_out = differing(started("yolov8n"), source)
    assert all(".cv3." in name for name in left_out)
    assert differing(started(name), transfer(checkpoint, "yolov8n-akconv.yaml").model) == left_out
