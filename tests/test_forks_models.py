# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the model YAML of a checkpoint would have the host run: code and sizes beyond reason are refused."""

import pytest

from ultralytics_akconv.forks.host_classes import check_model, host_class
from ultralytics_akconv.forks.records import CheckpointError


def model(**changes):
    rows = {"backbone": [[-1, 1, "AKConv", [16, 5, 2]]], "head": [[[0], 1, "Detect", ["nc"]]]}
    return {"nc": 3, "scales": {"n": [1, 1, 512]}, "scale": "n", **rows, **changes}


def row(*parts):
    return {"backbone": [list(parts)]}


@pytest.mark.parametrize(
    "changes",
    [
        {"activation": "__import__('os').system('touch attacked')"},
        {"activation": "nn.SiLU(__import__('os').system('touch attacked'))"},
        {"activation": "nn.functional.relu(1)"},
        {"activation": "nn.SiLU"},
        {"activation": "nn.Module.apply(1)"},
        {"activation": ["nn.SiLU()"]},
        {"scales": {"n": [1e9, 1, 1]}},
        {"scales": {"n": [float("nan"), 1, 1]}},
        {"scales": {"n": ["1e9", 1, 1]}},
        {"scales": [1]},
        {"scale": "x"},
        {"depth_multiple": 1e9},
        {"nc": 10**9},
        {"nc": "eval('1')"},
        row(-1, 10**9, "Conv", [16, 3]),
        row(-1, 1, "Conv", [10**12, 3]),
        row(-1, 1, "Conv", ["__import__('os').system('touch attacked')"]),
        row(-1, 1, "Conv", [[["os\nsystem"]]]),
        row(-1, 1, ["Conv"], [16]),
        row("x", 1, "Conv", [16]),
        row(-1, 1, "Conv", "16"),
        row(-1, 1, "Conv"),
        {"head": None},
        {"backbone": [[-1, 1, "Conv", [16]]] * 2000},
    ],
)
def test_a_model_yaml_that_would_run_code_or_take_the_memory_is_refused(changes):
    check_model(model())
    with pytest.raises(CheckpointError):
        check_model(model(**changes))


@pytest.mark.parametrize(
    "name", ["attempt_download_asset", "torch_safe_load", "TorchVision", "nn.functional", "os", "nn.init"]
)
def test_a_row_may_name_layers_alone(name):
    assert host_class(name) is None
    assert host_class("Conv") and host_class("nn.Upsample") and host_class("Detect")
