# SPDX-License-Identifier: AGPL-3.0-or-later
import ast
import copy
import re
from pathlib import Path

import pytest
import torch
import ultralytics
import ultralytics.nn.tasks as tasks
import yaml
from conftest import built, layers_of, yolov8_dict
from torch import nn
from ultralytics import YOLO
from ultralytics.nn.modules import block
from ultralytics.nn.modules.conv import Conv

import ultralytics_akconv
import ultralytics_akconv_startup
from ultralytics_akconv import AKConv, modules, register, unregister


@pytest.fixture(autouse=True)
def _registered():
    yield
    register()


# The parser


def test_a_stand_in_passes_for_the_hosts_conv_and_for_nothing_else():
    for name in ("AKConv", "LDConv"):
        stand_in = getattr(tasks, name)
        assert stand_in == Conv and Conv == stand_in and stand_in != nn.Conv2d
        assert stand_in in {Conv} and stand_in in frozenset({Conv}) and stand_in in (Conv,) and stand_in in {Conv: 1}
        assert stand_in not in {block.C2f, nn.Conv2d} and issubclass(stand_in, Conv)
        assert stand_in.__name__ == "AKConv" and str(stand_in) == str(AKConv)
        assert type(stand_in(3, 4, 5, 2)) is AKConv
    assert not issubclass(AKConv, Conv)
    assert type(AKConv) is type  # the metaclass is the stand-in's alone


def test_the_printed_table_shows_the_real_class(caplog):
    tasks.DetectionModel(yolov8_dict(), verbose=True)
    rows = [line for line in caplog.text.splitlines() if "ultralytics_akconv" in line]
    assert len([row for row in rows if re.search(r"ultralytics_akconv\.modules\.AKConv +\[16, 32, 5, 2\]", row)]) >= 1
    assert len(set(rows)) == 6


@pytest.mark.parametrize("name", ["AKConv", "LDConv"])
def test_a_row_becomes_the_layer_with_scaled_channels(name):
    model = built(yolov8_dict(6, 2, name=name))
    shapes = [(m.in_channels, m.out_channels, m.num_param, m.stride) for m in layers_of(model)]
    assert shapes == [
        (16, 32, 6, 2),
        (32, 64, 6, 2),
        (64, 128, 6, 2),
        (128, 256, 6, 2),
        (64, 64, 6, 2),
        (128, 128, 6, 2),
    ]
    assert all(m.type == "ultralytics_akconv.modules.AKConv" and m.np == sum(p.numel() for p in m.parameters())
               for m in layers_of(model))  # fmt: skip


def outputs(model):
    """The shape of every layer's output, from a forward pass of a 64 px image."""
    shapes = []
    handles = [
        layer.register_forward_hook(lambda _m, _i, out: shapes.append(out.shape if torch.is_tensor(out) else type(out)))
        for layer in model.model
    ]
    with torch.no_grad():
        model.train()(torch.zeros(2, 3, 64, 64))
    for handle in handles:
        handle.remove()
    return shapes


@pytest.mark.parametrize("scale", "nsmlx")
def test_channels_strides_and_save_list_of_every_layer_are_the_stock_models(scale):
    ours, stock = built(yolov8_dict(scale=scale)), built(yolov8_dict(name=None, scale=scale))
    assert len(layers_of(ours)) == 6 and not layers_of(stock)
    assert ours.save == stock.save and torch.equal(ours.stride, stock.stride)
    assert [(m.i, m.f) for m in ours.model] == [(m.i, m.f) for m in stock.model]
    assert outputs(ours) == outputs(stock)
    for a, s in zip(ours.model, stock.model):
        if isinstance(a, AKConv):
            assert (a.in_channels, a.out_channels, a.stride) == (
                s.conv.in_channels,
                s.conv.out_channels,
                s.conv.stride[0],
            )
        else:
            assert type(a) is type(s) and a.np == s.np


@pytest.mark.parametrize("stock_name", ["C2f", "C3"])
def test_a_block_row_is_parsed_like_the_hosts_block(stock_name):
    model = yolov8_dict(name=None)
    for row in model["backbone"] + model["head"]:
        if row[2] == "C2f":
            row[2] = stock_name
    ours = copy.deepcopy(model)
    for row in ours["backbone"] + ours["head"]:
        if row[2] == stock_name:
            row[2:] = [f"{stock_name}_AKConv", [*row[3], {"num_param": 3, "border": "clamp"}]]
    ours, stock = built(ours), built(model)
    assert outputs(ours) == outputs(stock)
    names = [type(m).__name__ for m in stock.model]
    assert [type(m).__name__.replace("_AKConv", "") for m in ours.model] == names and stock_name in names
    assert {(m.num_param, m.border) for m in layers_of(ours)} == {(3, "clamp")}


@pytest.mark.parametrize("scale", ["n", "m"])
def test_what_the_parser_does_for_c3k2_alone_it_does_for_c3k2_akconv(scale):
    file = Path(ultralytics.__file__).parent / "cfg/models/11/yolo11.yaml"
    stock = {**yaml.safe_load(file.read_text("utf-8")), "scale": scale}
    ours = copy.deepcopy(stock)
    for row in ours["backbone"] + ours["head"]:
        if row[2] == "C3k2":
            row[2] = "C3k2_AKConv"
    ours, stock = built(ours), built(stock)
    assert outputs(ours) == outputs(stock)
    assert ours.model[-1].np == stock.model[-1].np  # the head of a C3k2 model is not the legacy one
    for a, s in zip(ours.model, stock.model):
        assert isinstance(a, type(s))
        inner = {type(m).__name__ for m in s.modules()} - {"Conv", "Conv2d", "BatchNorm2d", "SiLU"}
        assert inner <= {type(m).__name__.replace("_AKConv", "") for m in a.modules()}  # C3k for the larger scales


def test_the_names_of_rows_are_those_that_exist():
    blocks = {f"{name}_AKConv" for name in modules.BLOCKS}
    assert blocks | {"AKConv", "LDConv"} <= set(ultralytics_akconv_startup.YAML_NAMES)
    for name in ("AKConv", "LDConv", *blocks):
        assert name == "LDConv" or getattr(modules, name).__name__ == name


def test_the_authors_style_of_yaml_builds(tmp_path):
    stock = yolov8_dict(name=None)
    lines = ["nc: 80", "depth_multiple: 0.33", "width_multiple: 0.25"]
    for section in ("backbone", "head"):
        lines.append(f"{section}:")
        for source, number, name, arguments in yolov8_dict(6, 2)[section]:
            row_name = "LDConv" if name == "AKConv" and section == "head" else name
            lines.append(f"  - [{source}, {number}, {row_name}, {arguments}]".replace("'", ""))
    file = tmp_path / "yolov8-authors.yaml"
    file.write_text("\n".join(lines), "utf-8")
    assert "AKConv, [128, 6, 2]" in file.read_text("utf-8") and "LDConv, [256, 6, 2]" in file.read_text("utf-8")
    model = YOLO(file).model
    # Without `scales` there is no cap on the channels: n is below it anyway.
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in built(yolov8_dict(6, 2)).parameters())
    assert outputs(model) == outputs(built(stock))


# Options in rows

OPTIONS = {"shape": "cross", "border": "clamp", "origin": "center", "offset_lr": 0.5}
EXPLICIT = {"shape": [[0, 0], [0.5, -1], [2, 2], [3, 0], [1, 1]], "border": "zeros"}


@pytest.mark.parametrize("options", [OPTIONS, EXPLICIT, {}], ids=["names", "points", "empty"])
def test_options_of_a_row_survive_rebuild_deepcopy_and_checkpoint(tmp_path, options):
    model = built(yolov8_dict(5, 2, options))
    rebuilt = tasks.DetectionModel(model.yaml, nc=3, verbose=False)  # what the trainer does
    again = tasks.DetectionModel(copy.deepcopy(rebuilt).yaml, verbose=False)
    torch.save({"model": copy.deepcopy(again).half()}, tmp_path / "last.pt")
    loaded = torch.load(tmp_path / "last.pt", weights_only=False)["model"]
    expected = AKConv(3, 4, 5, 2, **options)
    for some in (model, rebuilt, again, loaded, tasks.DetectionModel(loaded.yaml, verbose=False)):
        assert len(layers_of(some)) == 6
        for layer in layers_of(some):
            for name in ("points", "border", "origin", "offset_lr", "shape"):
                assert getattr(layer, name) == getattr(expected, name)


def test_options_are_read_from_a_yaml_file(tmp_path):
    file = tmp_path / "yolov8n-options.yaml"
    text = yaml.safe_dump(yolov8_dict(5, 2, {"shape": "cross", "border": "clamp"}), default_flow_style=None)
    assert "border: clamp" in text
    file.write_text(text, "utf-8")
    assert {(m.shape, m.border) for m in layers_of(YOLO(file).model)} == {("cross", "clamp")}


def test_num_param_and_stride_may_stand_in_the_mapping():
    layers = layers_of(built(yolov8_dict({"num_param": 3, "stride": 2})))
    assert {(m.num_param, m.stride) for m in layers} == {(3, 2)}


def test_no_shape_name_is_taken_for_something_else_by_the_parser():
    names = tasks.parse_model.__wrapped__.__code__.co_varnames
    assert not set(ultralytics_akconv.SHAPES) & set(names)
    for shape in ultralytics_akconv.SHAPES:
        with pytest.raises(ValueError, match="malformed"):
            ast.literal_eval(shape)


# Undo


def test_unregister_puts_everything_back_and_both_may_be_called_again():
    import ultralytics.data.utils as data
    from ultralytics.utils import checks

    ours = tasks.parse_model, tasks.check_yaml, data.check_file
    register()
    assert (tasks.parse_model, tasks.check_yaml, data.check_file) == ours
    unregister()
    unregister()
    assert tasks.check_yaml is checks.check_yaml and data.check_file is checks.check_file
    assert tasks.parse_model is ours[0].__wrapped__
    for name in ultralytics_akconv_startup.YAML_NAMES:
        assert not hasattr(tasks, name)
    with pytest.raises(KeyError, match="AKConv"):
        built(yolov8_dict())
    register()
    assert len(layers_of(built(yolov8_dict()))) == 6


def test_what_the_host_took_of_ours_by_name_works_again_after_the_next_register():
    """Its `engine.model` imports `yaml_model_load`, and may do so after us."""
    unregister()
    register()
    with pytest.raises(FileNotFoundError, match=r"Try 'yolov8s-akconv7\.yaml'"):
        YOLO("yolov8-akconv7s.yaml")


def test_layers_go_on_working_after_unregister():
    model = built(yolov8_dict()).eval()
    unregister()
    assert model(torch.zeros(1, 3, 64, 64))[0].isfinite().all()


def test_a_registration_that_fails_leaves_the_host_as_it_was(monkeypatch):
    unregister()
    before = dict(vars(tasks))
    monkeypatch.delattr(tasks, "check_yaml")
    with pytest.raises(AttributeError, match="check_yaml"):
        register()
    monkeypatch.undo()
    assert vars(tasks) == before
    register()
    assert len(layers_of(built(yolov8_dict()))) == 6
