# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which records of a checkpoint are an AKConv, and what each tells of its points."""

import pytest
import torch
from fork_layers import initial

from ultralytics_akconv.forks.recognition import found
from ultralytics_akconv.forks.records import ClassPath, Record, Storage, TensorRecord


def module(kind, state=None, parameters=(), buffers=(), **children):
    """Return the record of a module."""
    inside = {"_modules": children, "_parameters": dict(parameters), "_buffers": dict(buffers)}
    return Record(ClassPath("somewhere", kind), state={**inside, **(state or {})})


def tensor(values):
    values = torch.as_tensor(values, dtype=torch.float32).contiguous()
    flat = values.reshape(-1)
    return TensorRecord(Storage(flat.dtype, len(flat), lambda: flat), 0, tuple(values.shape), values.stride())


def pasted(n=5, p_n=None, **settings):
    """Return the record of an AKConv whose p_conv has these settings."""
    settings = {"stride": (2, 2), "padding": (1, 1), **settings}
    offset = module("Conv2d", settings, {"weight": tensor(torch.zeros(2 * n, 3, 3, 3))})
    column = module("Conv2d", {"stride": (n, 1)}, {"weight": tensor(torch.zeros(4, 3, n, 1))})
    norm = module("BatchNorm2d", buffers={"running_mean": tensor(torch.zeros(4))})
    sequence = module("Sequential", **{"0": column, "1": norm, "2": module("SiLU")})
    state = {} if p_n is None else {"p_n": tensor(p_n)}
    return module("Anything", state, p_conv=offset, conv=sequence)


POINTS = [[0, 0], [0, 2], [1, 1], [2, 0], [2, 2]]
FLAT = [0, 0, 1, 2, 2, 0, 2, 1, 0, 2]


@pytest.mark.parametrize("p_n", [FLAT, torch.tensor(FLAT).view(1, 10, 1, 1), torch.tensor(POINTS).T, POINTS])
def test_the_initial_shape_is_read_from_every_layout(p_n):
    told = found(pasted(p_n=p_n))
    assert (told.num_param, told.stride, told.reason) == (5, 2, None)
    assert told.options == {"shape": POINTS}
    assert found(pasted(p_n=initial(5))).options == found(pasted()).options == {}


@pytest.mark.parametrize(
    "record, reason",
    [
        (pasted(p_n=[0, 0, 1]), "p_n has 3 numbers, 5 points have 10"),
        (pasted(p_n=[float("nan")] * 10), "p_n is no initial shape"),
        (pasted(n=2, p_n=[[0, 1], [0, 1]]), "does not tell rows from points"),
        (pasted(stride=(2, 1)), "stride is"),
        (pasted(padding=(0, 0)), "p_conv has padding"),
        (pasted(dilation=(2, 2)), "p_conv has dilation"),
    ],
)
def test_an_akconv_that_is_none_of_ours_says_why(record, reason):
    assert reason in found(record).reason


def test_what_only_looks_like_an_akconv_is_none():
    assert found(module("AKConv", p_conv=module("Conv2d"))) is None
    assert found(module("AKConv")) is None
    wrong = pasted()
    wrong.state["_modules"]["p_conv"] = module("Conv2d", {}, {"weight": tensor(torch.zeros(8, 3, 3, 3))})
    assert found(wrong) is None
