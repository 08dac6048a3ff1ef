# SPDX-License-Identifier: AGPL-3.0-or-later
"""A model YAML out of a stranger's file: what its keys may be, and that an error says what they are instead."""

import pytest

from ultralytics_akconv.forks import CheckpointError
from ultralytics_akconv.forks.host_classes import check_model

ROW = [-1, 1, "Conv", [16, 3, 2]]
MODEL = {"nc": 3, "scales": {"n": [0.33, 0.25, 1024]}, "scale": "n", "backbone": [ROW], "head": [ROW]}


def test_a_plain_model_is_let_pass():
    check_model(MODEL)


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"backbone": [], "head": []}, "has 0 rows, allowed are 1 to 1000"),
        ({"backbone": [ROW] * 1000}, "has 1001 rows, allowed are 1 to 1000"),
        ({"scales": {"n": [1]}}, r"no \[depth, width, max_channels\]: {'n': \[1\]}"),
        ({"width_multiple": 17}, "no number from 0 to 16: 17"),
        ({"scales": {"n": [0.5, "wide", 9]}}, "no number from 0 to 16: 'wide'"),
        ({"depth_multiple": 10**5000}, "no number from 0 to 16: "),
        ({"scale": ["n"]}, r"scale of its model YAML is no letter: \['n'\]"),
        ({"nc": 0}, "nc of its model YAML is no number from 1 to 65536: 0"),
        ({"ch": "three" * 1000}, "ch of its model YAML is no number from 1 to 65536: 'three.{0,40}'$"),
    ],
)
def test_what_is_not_allowed_is_told_with_what_is(keys, message):
    with pytest.raises(CheckpointError, match=message):
        check_model({**MODEL, **keys})
