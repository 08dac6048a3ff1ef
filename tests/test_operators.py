# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a user may give to the public operators: points as lists, and one clear error for everything else."""

import pytest
import torch
from torch.autograd import forward_ad

from ultralytics_akconv import AKConv, akconv2d, resample, sampling_points, sampling_positions

POINTS = sampling_points(5)
X, OFFSET, WEIGHT = torch.rand(1, 4, 8, 8), torch.rand(1, 10, 4, 4), torch.rand(6, 4, 5, 1)
OPERATORS = {
    "resample": lambda points, stride: resample(X, OFFSET, points, stride),
    "akconv2d": lambda points, stride: akconv2d(X, OFFSET, WEIGHT, points, stride=stride),
    "sampling_positions": lambda points, stride: sampling_positions(OFFSET, points, stride),
}
each_operator = pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)


@each_operator
@pytest.mark.parametrize("points", [[list(p) for p in POINTS], [*POINTS], tuple([*p] for p in POINTS)])
def test_points_may_be_lists(operator, points):
    assert torch.equal(operator(points, 2), operator(POINTS, 2))


@each_operator
@pytest.mark.parametrize(
    "points, stride, kind, message",
    [
        (POINTS, 0, ValueError, "stride must be at least 1, got 0"),
        (POINTS, -2, ValueError, "stride must be at least 1, got -2"),
        (POINTS, 1.5, TypeError, r"stride must be an int, got 1.5 \(float\)"),
        (POINTS, True, TypeError, "stride must be an int, got True"),
        ((), 2, ValueError, "points must hold at least one"),
        (5, 2, TypeError, r"points must be a list of \(row, col\) pairs, got 5"),
        ("cross", 2, TypeError, "points must be a list"),
        (torch.tensor(POINTS), 2, TypeError, "points must be a list"),
        ([1, 2, 3, 4, 5], 2, ValueError, "must be a .row, col. pair, got 1"),
        (((0, 1, 2),) * 5, 2, ValueError, "must be a .row, col. pair"),
        (((0, "a"),) * 5, 2, TypeError, "must be numbers"),
        ([[0, float("nan")]] * 5, 2, ValueError, "must be finite"),
        (((0, 0),) * 5, 2, ValueError, "must differ"),
    ],
)
def test_a_wrong_point_or_stride_is_refused_with_what_is_allowed(operator, points, stride, kind, message):
    with pytest.raises(kind, match=message):
        operator(points, stride)


def test_an_input_of_whole_numbers_is_refused():
    with pytest.raises(TypeError, match=r"x must be of floating point, got torch\.int64"):
        resample(torch.ones(1, 4, 8, 8, dtype=torch.int64), OFFSET, POINTS, 2)


@pytest.mark.parametrize(
    "call, kind, message",
    [
        (lambda: resample([1.0], OFFSET, POINTS, 2), TypeError, "x must be a Tensor, got list"),
        (lambda: resample(X, None, POINTS, 2), TypeError, "offset must be a Tensor, got NoneType"),
        (lambda: akconv2d(X, OFFSET, None, POINTS, stride=2), TypeError, "weight must be a Tensor, got NoneType"),
        (lambda: sampling_positions(5, POINTS), TypeError, "offset must be a Tensor, got int"),
        # Memory that nobody has written would be read: the path for a CPU asks the input alone where it is.
        (lambda: resample(X, OFFSET.to("meta"), POINTS, 2), ValueError, "must be on one device, got cpu and meta"),
    ],
)
def test_what_is_no_tensor_or_elsewhere_is_refused_by_name(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


@pytest.mark.parametrize(
    "x, offset, weight, stride, message",
    [
        (X, OFFSET, WEIGHT[:, :3], 2, r"weight must be \(C2, 4, N, 1\) for the channels of x \(1, 4, 8, 8\), got"),
        (X, OFFSET, WEIGHT, 1, r"offset must be \(B, 2N, 8, 8\) for x \(1, 4, 8, 8\) and stride 1, got \(1, 10"),
        (X, OFFSET, WEIGHT, 3, r"offset must be \(B, 2N, 3, 3\)"),
        (X[..., :6], OFFSET, WEIGHT, 2, r"offset must be \(B, 2N, 4, 3\)"),
        (X[0], OFFSET, WEIGHT, 2, r"x must be \(B, C, H, W\)"),
        (X, OFFSET[:, :8], WEIGHT, 2, r"offset must be \(B, 10, h, w\)"),
    ],
)
def test_sizes_that_do_not_fit_together_are_refused_with_what_would(x, offset, weight, stride, message):
    with pytest.raises(ValueError, match=message):
        akconv2d(x, offset, weight, POINTS, stride=stride)


def test_tensors_without_memory_are_taken_and_checked_too():
    x, offset, weight = (tensor.to("meta") for tensor in (X, OFFSET, WEIGHT))
    assert akconv2d(x, offset, weight, POINTS, stride=2).shape == (1, 6, 4, 4)
    with pytest.raises(ValueError, match="and stride 1, got"):
        akconv2d(x, offset, weight, POINTS)


def test_a_compiled_operator_takes_lists_too():
    points = [list(p) for p in POINTS]
    compiled = torch.compile(lambda x, offset: resample(x, offset, points, 2), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(X, OFFSET), resample(X, OFFSET, POINTS, 2))


@pytest.mark.parametrize("batch", [1, 40])  # in one part, and in several
def test_forward_mode_differentiation_goes_through_the_layer(batch):
    layer = AKConv(4, 6, 5).eval()
    torch.nn.init.normal_(layer.p_conv.weight, std=0.1)
    x, tangent = torch.rand(2, batch, 4, 32, 32)
    with forward_ad.dual_level():
        found = forward_ad.unpack_dual(layer(forward_ad.make_dual(x, tangent))).tangent
    _, expected = torch.func.jvp(layer, (x,), (tangent,))
    torch.testing.assert_close(found, expected)
