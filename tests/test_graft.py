# SPDX-License-Identifier: AGPL-3.0-or-later
"""The graft: which rows it replaces, what it leaves, what it refuses."""

import shlex

import pytest
import torch
import yaml
from networks import HOST_NAMES, host_text, model_file, parsed, replaced, rows
from ultralytics import YOLO
from ultralytics.nn import tasks

from ultralytics_akconv import AKConv, graft
from ultralytics_akconv.cli import main
from ultralytics_akconv.grafting import MADE_BY
from ultralytics_akconv.modules import BLOCKS, HOST_BLOCKS
from ultralytics_akconv_startup import YAML_NAMES


def test_the_table_and_the_yaml_of_a_model_name_the_akconv_blocks(tmp_path):
    file = model_file(tmp_path, graft("yolo11n.yaml", where=[2, 4, 5]))
    model = YOLO(file).model
    types = {layer.i: layer.type.rsplit(".", 1)[-1] for layer in model.model}
    assert [types[i] for i in (2, 4, 5, 6)] == ["C3k2_AKConv", "C3k2_AKConv", "AKConv", "C3k2"]
    assert [model.yaml["backbone"][i][2] for i in (2, 4, 6)] == ["C3k2_AKConv", "C3k2_AKConv", "C3k2"]
    assert type(model.model[2]) is BLOCKS["C3k2"]
    assert "C3k2_AKConv" not in vars(tasks)


def test_a_block_row_without_a_mapping_or_arguments_is_read_as_the_host_reads_its_own():
    text = host_text("yolov8.yaml").replace("[-1, 3, C2f, [128, True]]", "[-1, 3, C2f_AKConv, [128, True]]")
    layers, _ = parsed(text)
    assert {m.num_param for m in layers[2].modules() if isinstance(m, AKConv)} == {5}
    text = host_text("yolo11.yaml").replace("C3k2, [256, False, 0.25]", "C3k2_AKConv, [256, {num_param: 3}]")
    layers, _ = parsed(text, "m", "meta")
    assert {m.num_param for m in layers[2].modules() if isinstance(m, AKConv)} == {3}


def test_an_error_in_a_block_row_names_the_row():
    text = host_text("yolov8.yaml").replace("[-1, 3, C2f, [128, True]]", "[-1, 3, C2f_AKConv, [128, True, {nun: 3}]]")
    with pytest.raises(ValueError, match=r"layer 2 .*C2f_AKConv.* unknown option 'nun': allowed are num_param"):
        parsed(text)


@pytest.mark.skipif("yolo12.yaml" not in HOST_NAMES, reason="this host has no YOLO12")
def test_blocks_without_a_3x3_convolution_stay_as_they_are():
    assert [rows(graft("yolo12.yaml", where="blocks"))[i][2] for i in (6, 11)] == ["A2C2f", "A2C2f_AKConv"]


def test_the_start_up_module_names_every_layer_a_row_may_use():
    ours = ["AKConv", *(f"{name}_AKConv" for name in HOST_BLOCKS)]
    assert list(YAML_NAMES) == [*ours, *(name.replace("AK", "LD") for name in ours)]


@pytest.mark.parametrize(
    "name, indices",
    [
        ("yolov8.yaml", [1, 3, 5, 7, 16, 19]),
        ("yolov8-cls.yaml", [1, 3, 5, 7]),
        ("yolov5.yaml", [1, 3, 5, 7, 18, 21]),
        ("yolov3.yaml", [1, 3, 5, 7, 9]),
        ("yolov9c.yaml", [1]),
        ("yolov9e.yaml", [2, 17]),
        ("yolov10n.yaml", [1, 3, 17]),
        ("rtdetr-l.yaml", [22, 25]),
        ("yolov8-ghost.yaml", [1, 3, 5, 7, 16, 19]),
    ],
)
def test_by_default_every_stride_2_convolution_but_the_stem_is_replaced(name, indices):
    assert replaced(graft(name)) == indices


@pytest.mark.parametrize(
    "where, indices",
    [
        ("backbone", [1, 3, 5, 7]),
        ("neck", [16, 19]),
        ("blocks", [2, 4, 6, 8, 12, 15, 18, 21]),
        ([19, 3], [3, 19]),
        (5, [5]),
        (range(1, 4), [1, 2, 3]),
        (lambda layer: layer.module == "Conv" and layer.args[0] > 256, [5, 7, 19]),
        (lambda layer: layer.section == "head", [12, 15, 16, 18, 19, 21]),
    ],
)
def test_where_chooses_the_layers(where, indices):
    assert replaced(graft("yolov8.yaml", where=where)) == indices


def test_rows_hold_only_the_options_that_differ_from_the_default():
    text = graft("yolov8.yaml", [3, 4, 5, 6, 7, 9], border="clamp", origin="center")
    options = {"border": "clamp", "origin": "center"}
    assert [rows(text)[i][3] for i in (1, 19)] == [[128, 3, 2, options], [512, 9, 2, options]]
    assert rows(graft("yolov8.yaml"))[1] == [-1, 1, "AKConv", [128, 5, 2]]
    assert rows(graft("yolov8.yaml", where=2))[2] == [-1, 3, "C2f_AKConv", [128, True, {"num_param": 5}]]


def test_a_convolution_without_activation_stays_without(tmp_path):
    text = host_text("yolov8.yaml").replace("Conv, [128, 3, 2]", "Conv, [128, 3, 2, None, 1, 1, False]")
    grafted = graft(model_file(tmp_path, text))
    assert rows(grafted)[1][3] == [128, 5, 2, {"act": False}]
    assert isinstance(parsed(grafted)[0][1].conv.act, torch.nn.Identity)


def test_comments_and_every_other_row_stay_but_sizes_of_the_stock_model_go():
    before, after = host_text("yolov8.yaml").splitlines(), graft("yolov8.yaml").splitlines()[2:]
    changed = [(old, new) for old, new in zip(before, after) if old != new]
    assert len(before) == len(after)
    assert len(changed) == 5 + 6  # the five scales, the six rows
    assert "  - [-1, 1, AKConv, [256, 5, 2]] # 3-P3/8" in after
    assert not any("summary" in line for line in after)


def test_the_scale_that_was_asked_for_comes_first(tmp_path):
    text = graft("yolo11s.yaml")
    assert list(yaml.safe_load(text)["scales"]) == ["s", "n", "m", "l", "x"]
    assert YOLO(model_file(tmp_path, text)).model.model[0].conv.out_channels == 32
    assert list(yaml.safe_load(graft("yolo11.yaml"))["scales"]) == list("nsmlx")


def test_a_file_in_block_style_is_written_anew_with_the_same_content(tmp_path):
    model = yaml.safe_load(host_text("yolov8.yaml"))
    file = model_file(tmp_path, yaml.safe_dump(model, sort_keys=False))
    text = graft(file, 7)
    assert yaml.safe_load(text) == yaml.safe_load(graft("yolov8.yaml", 7))
    assert "  - [-1, 1, AKConv, [128, 7, 2]]\n" in text


def test_a_row_shared_by_an_anchor_changes_only_where_it_was_chosen(tmp_path):
    text = host_text("yolov8.yaml").replace("[256, 3, 2]] # 3-P3/8", "&down [256, 3, 2]] # 3-P3/8")
    text = text.replace("- [-1, 1, Conv, [256, 3, 2]]\n", "- [-1, 1, Conv, *down]\n")
    grafted = rows(graft(model_file(tmp_path, text), where=3))
    assert (grafted[3], grafted[16]) == ([-1, 1, "AKConv", [256, 5, 2]], [-1, 1, "Conv", [256, 3, 2]])


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"num_param": [3, 4, 5, 6, 7, 9], "border": "zeros"},
        {"where": "blocks", "shape": "cross", "origin": "center"},
        {"where": "blocks", "convs": ["m.0.cv1", "cv2"]},
        {"where": lambda layer: layer.index < 6, "num_param": 2, "shape": [[0, 0], [0.5, -1]]},
    ],
)
@pytest.mark.parametrize("name", ["yolov8.yaml", "yolo11s-seg.yaml", "folder with space/mine.yaml"])
def test_the_first_line_makes_the_text_again(name, arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder with space").mkdir()
    model_file(tmp_path, host_text("yolov8.yaml"), "folder with space/mine.yaml")
    text = graft(name, **arguments)
    first = text.splitlines()[0]
    assert first.startswith(f"{MADE_BY}akconv graft ")
    assert main(shlex.split(first[len(MADE_BY) :])[1:]) == 0
    assert capsys.readouterr().out == text


def test_a_grafted_model_can_be_grafted_again(tmp_path):
    once = model_file(tmp_path, graft("yolov8.yaml"))
    assert replaced(graft(once, where="blocks")) == sorted([1, 3, 5, 7, 16, 19, 2, 4, 6, 8, 12, 15, 18, 21])


@pytest.mark.parametrize(
    "name, where, message",
    [
        ("yolov8.yaml", 0, r"layer 0 .* it is the stem"),
        ("yolov9e.yaml", 15, r"layer 15 .* it is the stem"),
        ("yolov8.yaml", 99, "layer 99 does not exist: the model has layers 0 to 22"),
        ("yolov8.yaml", -1, "layer -1 does not exist"),
        (
            "yolov8.yaml",
            9,
            r"layer 9 .*SPPF.* it is not a convolution \(Conv, GhostConv\) nor one of the blocks C2, C2f",
        ),
        ("yolov5.yaml", 10, "layer 10 .* it is a 1x1 convolution"),
        ("rtdetr-l.yaml", 2, "layer 2 .* it is depthwise"),
        ("yolov10n.yaml", 5, "layer 5 .*SCDown.* it is not a convolution"),
        ("yolov10x.yaml", 8, "layer 8 .*C2fCIB.* it is not a convolution"),
        ("yolov8.yaml", [1, 1], r"every layer index may be given once, got \[1, 1\]"),
        ("yolov8.yaml", [], "where must name at least one layer index"),
        ("yolov8.yaml", "stem", "where must be one of downsample, backbone, neck, blocks, .* got 'stem'"),
        ("yolov3-tiny.yaml", "downsample", r"yolov3-tiny.yaml: no layer matches where='downsample'; .*index: 2, 4, 6"),
        ("yolov8.yaml", lambda layer: False, "no layer matches the function given as where; layers that"),
    ],
)
def test_a_layer_that_cannot_be_replaced_is_refused_with_the_reason(name, where, message):
    with pytest.raises(ValueError, match=message):
        graft(name, where=where)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([256, 3, 2, None, 4], r"it is grouped \(groups=4\)"),
        ([256, 3, 2, None, 1, 2], r"it is dilated \(dilation=2\)"),
        ([256, 3, 2, 0], r"not a 3x3 convolution with padding 1 \(kernel 3, padding 0\)"),
        ([256, 5, 2], r"not a 3x3 convolution with padding 1 \(kernel 5"),
        ([256, 3, 2, None, 1, 1, True, 8], "layer 3: Conv .* too many positional arguments"),
    ],
)
def test_a_convolution_that_akconv_cannot_stand_for_is_refused_with_the_reason(arguments, message, tmp_path):
    model = yaml.safe_load(host_text("yolov8.yaml"))
    model["backbone"][3][3] = arguments
    with pytest.raises(ValueError, match=message):
        graft(model_file(tmp_path, yaml.safe_dump(model)), where=3)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"num_param": 0}, ValueError, "num_param must be from 1 to 1024, got 0"),
        ({"num_param": [5, 7]}, ValueError, r"one number or 6 \(one for each replaced layer\), got \[5, 7\]"),
        ({"num_param": "5"}, TypeError, "num_param must be an int, got '5'"),
        ({"shape": "star"}, ValueError, "unknown shape 'star'"),
        ({"shape": "paper_a", "num_param": 4}, ValueError, "has 5 points, num_param is 4"),
        ({"border": "reflect"}, ValueError, "border must be one of paper, clamp, zeros"),
        ({"origin": "middle"}, ValueError, "origin must be one of corner, center"),
        ({"where": 1.5}, TypeError, "where must be a name, layer indices or a function, got 1.5"),
        ({"where": [1, "3"]}, TypeError, "a layer index must be an int, got '3'"),
        ({"model": 8}, TypeError, "model must be the name or path of a YAML file, got 8"),
        (
            {"model": "yolov8z.yaml"},
            FileNotFoundError,
            "'yolov8z.yaml' does not exist. Models most like it: .*yolov8.yaml",
        ),
    ],
)
def test_a_wrong_argument_is_refused_by_name(arguments, error, message):
    with pytest.raises(error, match=message):
        graft(**{"model": "yolov8.yaml", **arguments})


@pytest.mark.parametrize(
    "text, message",
    [
        ("just text", "must hold a list of rows under backbone"),
        ("backbone: [[-1, 1, Conv]]\nhead: []", r"layer 0 must be \[from, repeats, module, \[arguments\]\]"),
        ("a: [", "mine.yaml is not YAML"),
    ],
)
def test_a_file_that_is_no_model_is_refused(text, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        graft(model_file(tmp_path, text))


def test_grafting_leaves_the_random_numbers_alone():
    state = torch.get_rng_state()
    graft("yolo11.yaml", where="blocks")
    assert torch.equal(torch.get_rng_state(), state)


def test_blocks_are_grafted_at_the_convolutions_that_are_named():
    text = graft("yolo11n.yaml", 3, "blocks", convs=["cv2"])
    assert text.startswith("# made by: akconv graft yolo11n.yaml --num-param 3 --where blocks --convs cv2\n")
    assert rows(text)[2][2:] == ["C3k2_AKConv", [256, False, 0.25, {"num_param": 3, "convs": ["cv2"]}]]
    names = {n for n, m in parsed(text)[0].named_modules() if isinstance(m, AKConv)}
    assert names and {name.rpartition(".")[2] for name in names} == {"cv2"}
    with pytest.raises(ValueError, match=r"yolo11n\.yaml: no convolution of the block is named 'cv7'"):
        graft("yolo11n.yaml", 3, "blocks", convs=["cv7"])
    with pytest.raises(ValueError, match="convs chooses inside blocks, and none is chosen"):
        graft("yolo11n.yaml", 3, convs=["cv2"])
