# SPDX-License-Identifier: AGPL-3.0-or-later
"""The shipped model YAMLs: made by the graft, named as the host wants, as large as published, fit to train."""

import re
import runpy
import shlex
import sys

import pytest
import torch
import ultralytics
import yaml
from conftest import ROOT
from networks import host_text, parsed, run, skeleton, tensors

from ultralytics_akconv import AKConv
from ultralytics_akconv.cli import main
from ultralytics_akconv.configs import MODELS, config_names
from ultralytics_akconv.grafting import MADE_BY
from ultralytics_akconv.info import plain_model

MADE_WITH = "8.4.190"  # the host release whose YAML texts the shipped files hold; others differ in comments
BY_HAND = ["yolov7-tiny.yaml"]  # the host has no YOLOv7
GRAFTED = [name for name in config_names(MODELS) if name not in BY_HAND]


def text_of(name):
    return (MODELS / name).read_text("utf-8")


def test_the_script_ships_exactly_these_files(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["make_configs.py", str(tmp_path)])
    runpy.run_path(str(ROOT / "scripts/make_configs.py"), run_name="__main__")
    assert sorted(file.name for file in tmp_path.iterdir()) == GRAFTED
    for name in GRAFTED:
        made, text = (tmp_path / name).read_text("utf-8"), text_of(name)
        assert made.splitlines()[:2] == text.splitlines()[:2]
        same = made == text or (ultralytics.__version__ != MADE_WITH and yaml.safe_load(made) == yaml.safe_load(text))
        assert same, name


def test_the_first_line_of_a_shipped_file_makes_it_again(capsys):
    for name in GRAFTED:
        text = text_of(name)
        assert main(shlex.split(text.splitlines()[0][len(MADE_BY) :])[1:]) == 0
        made = capsys.readouterr().out
        assert made == text or (ultralytics.__version__ != MADE_WITH and yaml.safe_load(made) == yaml.safe_load(text))


@pytest.mark.parametrize("name", config_names(MODELS))
def test_a_shipped_model_trains_and_keeps_the_channels_of_its_plain_model(name):
    model = yaml.safe_load(text_of(name))
    layers, save = parsed(model)
    plain, plain_save = parsed(plain_model(model), device="meta")
    assert skeleton(layers) == skeleton(plain)
    assert save == plain_save
    loss = sum(tensor.mean() for tensor in tensors(run(layers, torch.rand(2, 3, 64, 64))[-1]))
    loss.backward()
    akconvs = [module for module in layers.modules() if isinstance(module, AKConv)]
    assert bool(akconvs) == (name not in BY_HAND)
    assert all(akconv.conv.conv.weight.grad.abs().sum() > 0 for akconv in akconvs)


def test_the_host_reads_no_wrong_scale_from_a_name():
    for name in config_names(MODELS):
        stem = name[: -len(".yaml")]
        assert re.match(r"yolov\d+", stem)
        assert not re.search(r"\d[nslmx]", stem)
        assert not stem.endswith("u")


def parameters(text):
    layers, _ = parsed(text, "n", "meta")
    return sum(parameter.numel() for parameter in layers.parameters())


def test_yolov8n_has_the_published_number_of_parameters():
    stock = parameters(host_text("yolov8.yaml"))  # 8.3.9 gives its YOLOv8 the smaller head of YOLO11
    assert stock == 3_157_200 or ultralytics.__version__ == "8.3.9"
    assert parameters(text_of("yolov8-akconv.yaml")) - stock == 2_940_140 - 3_157_200
    assert parameters(text_of("yolov8-akconv6.yaml")) - stock == 3_011_928 - 3_157_200


def test_yolov5_grows_with_n_as_published():
    # Table of the paper: 1.51, 1.65, 1.94 and 2.23 million for N = 3, 5, 9, 13; the head is another, the steps are not.
    sizes = [parameters(text_of(f"yolov5-akconv{n}.yaml")) for n in (3, 5, 9, 13)]
    steps = [round((b - a) / 1e6, 2) for a, b in zip(sizes, sizes[1:])]
    assert steps == [0.14, 0.29, 0.29]


@pytest.mark.skipif(ultralytics.__version__ != MADE_WITH, reason=f"the page tells the sizes of host {MADE_WITH}")
def test_the_page_on_models_tells_the_sizes_that_the_models_have():
    page = (ROOT / "docs/models.md").read_text("utf-8")
    table = re.findall(r"^\| `(yolov\d+)([ns]?)(.*\.yaml)` \| ([\d,]+) \|", page, re.MULTILINE)
    assert len(table) > 20
    for family, scale, rest, told in table:
        name = family + rest
        text = text_of(name) if name in config_names(MODELS) else host_text(name)
        layers, _ = parsed(text, scale, "meta")
        assert f"{sum(parameter.numel() for parameter in layers.parameters()):,}" == told, name


def test_yolov7_tiny_has_the_published_backbone_and_neck():
    layers, _ = parsed(text_of("yolov7-tiny.yaml"))
    assert isinstance(layers[0].act, torch.nn.LeakyReLU)
    assert [layer.conv.out_channels for layer in layers[74:77]] == [128, 256, 512]
    # 6.2 million published, with an anchor head: three 1x1 convolutions to 3 * 85 outputs.
    anchor_head = sum((channels + 1) * 255 for channels in (128, 256, 512))
    assert round((sum(p.numel() for p in layers[:77].parameters()) + anchor_head) / 1e6, 1) == 6.2
