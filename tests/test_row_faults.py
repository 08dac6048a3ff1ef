# SPDX-License-Identifier: AGPL-3.0-or-later
"""Rows of ours in a wrong form, as people write them by hand: the error says which row, and how one is written."""

import re

import pytest
from conftest import built, yolov8_dict

from ultralytics_akconv.plugin import RowError

FORM = r"a row is \[from, repeats, layer, \[out_channels, ...\]\]"
LAYERS = {
    "bare number": ([-1, 1, "AKConv", 128], FORM),
    "mapping for a list": ([-1, 1, "AKConv", {"out_channels": 128}], FORM),
    "nothing": ([-1, 1, "AKConv", None], FORM),
    "three parts": ([-1, 1, "AKConv"], FORM),
    "without repeats": ([-1, "AKConv", [128, 5, 2]], FORM),
    "five parts": ([-1, 1, "AKConv", [128, 5, 2], "P2"], FORM),
    "from two": (
        [[-1, 0], 1, "AKConv", [128, 5, 2]],
        r"takes the output of one layer, by its index or -1, got \[",
    ),
    "from text": (["-1", 1, "AKConv", [128, 5, 2]], "takes the output of one layer.*, got '-1'"),
    "from later": ([5, 1, "AKConv", [128, 5, 2]], "there is no layer 5 before it"),
    "from before": ([-9, 1, "AKConv", [128, 5, 2]], "there is no layer -9 before it"),
    "repeats": ([-1, "1", "AKConv", [128, 5, 2]], "the repeats must be an int, got '1'"),
    "small letters": ([-1, 1, "akconv", [128, 5, 2]], "there is no layer 'akconv' here: .*AKConv, .*C2f_LDConv"),
    "of torch": ([-1, 1, "nn.AKConv", [128, 5, 2]], "there is no layer 'nn.AKConv' here: .*AKConv"),
}
MAPPING = "all options go into one mapping, behind the other arguments"
BLOCKS = {
    "mapping before": (["C2f_AKConv", [128, {"num_param": 5}, True]], MAPPING),
    "two mappings": (["C3k2_LDConv", [128, False, {"num_param": 5}, {"shape": "cross"}]], MAPPING),
    "mapping alone": (["C2f_AKConv", [{"num_param": 5}]], "the output channels are missing"),
    "no arguments": (["C2f_AKConv", []], "the output channels are missing"),
    "bare number": (["C2f_AKConv", 128], FORM),
    "other way round": (["AKConv_C2f", [128, True]], "there is no layer 'AKConv_C2f' here: .*C2f_AKConv"),
    "capitals": (["c2f_akconv", [128, True]], "there is no layer 'c2f_akconv' here"),
    "not a block of ours": (["SPPF_AKConv", [128, 5]], "there is no layer 'SPPF_AKConv' here"),
}


@pytest.mark.parametrize("bad", LAYERS)
def test_a_layer_in_a_wrong_form_is_named_with_the_right_one(bad):
    row, message = LAYERS[bad]
    model = yolov8_dict()
    model["backbone"][1] = row
    with pytest.raises(RowError, match=message) as error:
        built(model)
    assert str(error.value).startswith(f"layer 1 {row}"[:16])
    assert not re.search(r"__|NoneType|not subscriptable|unpack", str(error.value))


@pytest.mark.parametrize("bad", BLOCKS)
def test_a_block_in_a_wrong_form_is_named_with_the_right_one(bad):
    (name, arguments), message = BLOCKS[bad]
    model = yolov8_dict(name=None)
    model["backbone"][2] = [-1, 3, name, arguments]
    with pytest.raises(RowError, match=message) as error:
        built(model)
    assert str(error.value).startswith(f"layer 2 [-1, 3, '{name}', ")


def test_where_points_go_is_told_only_where_options_are_missing():
    model = yolov8_dict(name=None)
    model["backbone"][2][2:] = ["C2f_AKConv", [128, True, {"convs": ["cv9"]}]]
    with pytest.raises(RowError, match="no convolution of the block is named 'cv9'") as error:
        built(model)
    assert "num_param goes into" not in str(error.value)


def test_an_unknown_layer_of_somebody_else_stays_the_hosts_error():
    model = yolov8_dict()
    model["backbone"][1][2] = "Konv"
    with pytest.raises(KeyError):
        built(model)
