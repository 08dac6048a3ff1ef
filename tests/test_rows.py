# SPDX-License-Identifier: AGPL-3.0-or-later
"""Rows and names that are wrong: every error names the row or the name, and what is allowed."""

import copy
import re

import pytest
import ultralytics.nn.tasks as tasks
import yaml
from conftest import built, layers_of, yolov8_dict
from ultralytics import YOLO

from ultralytics_akconv.plugin import RowError

ROW = r"layer 1 \[-1, 1, '{name}', \[.*\]\] of .*: "
BAD_ROWS = {
    "num_param 0": ([128, 0, 2], "num_param must be from 1 to 1024, got 0"),
    "num_param 1e9": ([128, 10**9, 2], "num_param must be from 1 to 1024, got 1000000000"),
    "num_param float": ([128, 2.5, 2], r"num_param must be an int, got 2.5 \(float\)"),
    "num_param word": ([128, "five", 2], r"num_param must be an int, got 'five' \(str\)"),
    "num_param none": ([128, None, 2], "num_param must be an int, got None"),
    "num_param missing": ([128], r"num_param is missing: a row is \[out_channels, num_param, stride"),
    "num_param nowhere": ([128, {}], "num_param is missing"),
    "stride 0": ([128, 5, 0], "stride must be at least 1, got 0"),
    "stride word": ([128, 5, "two"], r"stride must be an int, got 'two' \(str\)"),
    "stride list": ([128, 5, [2, 2]], "stride must be an int"),
    "too many": (
        [128, 5, 2, 1, 1],
        r"too many arguments .*a row is \[out_channels, num_param, stride, {option: value}",
    ),
    "channels word": (["many", 5, 2], "out_channels must be an int"),
    "no arguments": ([], "out_channels must be an int"),
    "unknown option": ([128, 5, 2, {"shap": "cross"}], "unknown option 'shap': allowed are .*shape, border, origin"),
    "option number": ([128, 5, 2, {7: 1}], "unknown option 7: allowed are"),
    "options twice": ([128, 5, 2, {"stride": 1}], "stride is given twice: 2 by its place, 1 by its name"),
    "number twice": ([128, 5, 2, {"num_param": 7}], "num_param is given twice: 5 by its place, 7 by its name"),
    "mapping first": ([128, {"shape": "cross"}, 5, 2], "all options go into one mapping, behind the other arguments"),
    "mapping alone": ([{"num_param": 5}], r"the output channels are missing: a row is \[from, repeats, layer, "),
    "unknown shape": ([128, 5, 2, {"shape": "crss"}], "unknown shape 'crss': use one of default, row, column"),
    "wrong length": ([128, 5, 2, {"shape": [[0, 0]]}], r"num_param=5 \[row, col\] points, got 1"),
    "same point": ([128, 2, 2, {"shape": [[0, 0], [0, 0]]}], "must differ"),
    "shape of words": ([128, 1, 2, {"shape": [["a", "b"]]}], "coordinates of a shape must be numbers"),
    "unknown border": ([128, 5, 2, {"border": "wrap"}], "border must be one of paper, clamp, zeros, got 'wrap'"),
    "unknown origin": ([128, 5, 2, {"origin": 1}], "origin must be one of corner, center, got 1"),
    "offset_lr word": ([128, 5, 2, {"offset_lr": "low"}], "offset_lr must be a number, got 'low'"),
    "act by name": ([128, 5, 2, {"act": "nn.ReLU()"}], "act must be a bool or a module, got"),
    "callable": ([128, 5, 2, {"shape": "os.system"}], "unknown shape 'os.system'"),
}


@pytest.mark.parametrize("name", ["AKConv", "LDConv"])
@pytest.mark.parametrize("bad", BAD_ROWS)
def test_a_bad_row_is_named_with_what_is_allowed(name, bad):
    arguments, message = BAD_ROWS[bad]
    model = yolov8_dict(name=name)
    model["backbone"][1][3] = copy.deepcopy(arguments)
    with pytest.raises(RowError) as error:
        built(model)
    assert re.match(ROW.format(name=name), str(error.value).replace(" (out_channels must be an int)", ""))
    assert re.search(message, str(error.value))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([128, True, {"num_param": 0}], "num_param must be from 1 to 1024, got 0"),
        ([128, True, {"convs": ["cv7"]}], r"no convolution of the block is named 'cv7': allowed are cv1, cv2, m\.0"),
        ([128, True, {"convs": "cv2"}], "convs must be a list of names of convolutions, got 'cv2'"),
        (
            [128, True, {"stride": 2}],
            "unknown option 'stride': allowed are num_param, shape, border, origin, offset_lr",
        ),
        ([128, True, {"shape": "crss"}], "unknown shape 'crss'"),
        (
            [128, True, 1, 0.5, 7, 7, 7],
            r"C2f takes n, shortcut, g, e after the channels, got \[1, True, 1, 0.5, 7, 7, 7\]",
        ),
    ],
)
def test_a_bad_block_row_is_named_with_what_is_allowed(arguments, message):
    model = yolov8_dict(name=None)
    model["backbone"][2][2:] = ["C2f_AKConv", arguments]
    with pytest.raises(RowError) as error:
        built(model)
    assert re.match(r"layer 2 \[-1, 3, 'C2f_AKConv', \[.*\]\] of ", str(error.value))
    assert re.search(message, str(error.value))


WHERE = "num_param goes into a mapping behind the block's own arguments, as in [128, True, {num_param: 5}]"


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("C2f", [128, True, 5], "5 stands where C2f has g"),
        ("C2f", [128, 5], "5 stands where C2f has shortcut"),  # would be a true shortcut, and N=5 whatever is written
        ("C2f", [128, 7, {"shape": "cross"}], "7 stands where C2f has shortcut"),
        ("C2f", [128, True, 1], "1 stands where C2f has g"),
        ("C3", [128, True, 4], "4 stands where C3 has g"),
        ("C3k2", [128, False, 5], "5 stands where C3k2 has e"),  # would be a block five times as wide
        ("C3k2", [128, False, 0.25, 5], "5 stands where C3k2 has "),
        ("Bottleneck", [128, True, 5], "5 stands where Bottleneck has g"),
        ("RepNCSPELAN4", [128, True, 5], "empty()"),
        ("RepNCSPELAN4", [128, 64, 32, 1, 5], "RepNCSPELAN4 takes c3, c4, n after the channels"),
        ("ELAN1", [128, 64, 32, 5], "ELAN1 takes c3, c4 after the channels"),
    ],
)
def test_a_block_row_with_the_number_of_points_by_its_place_says_where_it_goes(name, arguments, message, later):
    model = yolov8_dict(name=None)
    model["backbone"][2][2:] = [f"{name}_{'LD' if later else 'AK'}Conv", copy.deepcopy(arguments)]
    with pytest.raises(RowError, match=re.escape(WHERE)) as error:
        built(model)
    assert re.match(rf"layer 2 \[-1, 3, '{name}_", str(error.value))
    assert message in str(error.value)


def test_a_block_with_its_number_of_points_in_the_mapping_takes_the_rest_by_place():
    model = yolov8_dict(name=None)
    model["backbone"][2][2:] = ["C2f_AKConv", [128, True, 2, {"num_param": 3}]]  # groups of two in the second of a pair
    assert [m.num_param for m in layers_of(built(model))] == [3]


def test_the_error_names_the_file(tmp_path):
    model = yolov8_dict()
    model["backbone"][3][3] = [256, 0, 2]
    file = tmp_path / "yolov8n-bad.yaml"
    file.write_text(yaml.safe_dump(model), "utf-8")
    with pytest.raises(RowError, match=r"layer 3 .*yolov8n-bad.yaml: num_param"):
        YOLO(file)


def test_an_error_in_a_row_of_the_host_stays_the_hosts():
    model = yolov8_dict()
    model["backbone"][0][3] = ["many", 3, 2]
    with pytest.raises(TypeError) as error:
        built(model)
    assert not isinstance(error.value, RowError)


# Names of YAML files


def test_a_model_yaml_that_exists_nowhere_is_refused_with_names_that_do():
    with pytest.raises(
        FileNotFoundError,
        match=r"'yolov8n?-akconv-segm.yaml' does not exist.* yolov8-akconv9.yaml",
    ) as error:
        YOLO("yolov8n-akconv-segm.yaml")
    names = re.findall(r"[\w-]+\.yaml", str(error.value).split("most like it:")[1])
    assert len(names) == len(set(names)) == 5


def test_a_data_yaml_that_exists_nowhere_is_refused_with_names_that_do():
    from ultralytics.data.utils import check_det_dataset

    with pytest.raises(FileNotFoundError, match=r"'akconv-mimi.yaml' does not exist.*akconv-mini.yaml"):
        check_det_dataset("akconv-mimi.yaml")


def test_a_file_in_the_working_directory_wins_over_ours(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "yolov8-akconv.yaml").write_text(yaml.safe_dump(yolov8_dict(9, 2)), "utf-8")
    assert {m.num_param for m in layers_of(YOLO("yolov8n-akconv.yaml").model)} == {9}


def test_names_without_ours_in_them_go_to_the_host_alone():
    assert str(tasks.check_yaml("yolov8.yaml")).endswith("yolov8.yaml")
    with pytest.raises(FileNotFoundError, match=r"'nowhere.yaml' does not exist$"):
        tasks.check_yaml("nowhere.yaml")
    assert not tasks.check_yaml("nowhere-akconv.yaml", hard=False)


def test_whether_a_name_must_be_found_may_be_said_by_place():
    from ultralytics.data import utils

    assert not tasks.check_yaml("nowhere-akconv.yaml", ".yaml", False)
    assert tasks.check_yaml("yolov8-akconv.yaml", ".yaml", False)
    with pytest.raises(FileNotFoundError, match="Names most like it"):
        tasks.check_yaml("nowhere-akconv.yaml", ".yaml", True)
    assert not utils.check_file("akconv-mimi.yaml", "", True, ".", False)
