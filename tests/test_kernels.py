# SPDX-License-Identifier: AGPL-3.0-or-later
"""The Triton kernels in Triton's interpreter, held to the plain formula; it is slow, so the cases are small and few."""

import math
from unittest import mock

import pytest
import torch
from conftest import TOLERANCES
from sample_forms import BORDERS, LAYOUTS, borders, case, needs_triton, passed

from ultralytics_akconv import sampling_points
from ultralytics_akconv.functional.kernels import samples

pytestmark = needs_triton
BETWEEN = ((0.5, -0.25), (-1.75, 2.0), (0.1, 0.9), (3.0, 3.0), (-2.5, -2.5))


def compare(x, offset, points, stride, border):
    """Hold the kernels to the plain formula in float64, of the same numbers."""
    h, w = offset.shape[2:]
    grad = torch.randn(len(x), x.shape[1], h * len(points), w, dtype=torch.float64).to(x.dtype)
    found = passed("kernels", x, offset, points, stride, border, grad)
    wanted = passed("gather", x.double(), offset.double(), points, stride, border, grad.double())
    coarser = max(TOLERANCES[x.dtype], TOLERANCES[offset.dtype])
    for actual, expected, tolerance in zip(found, wanted, (TOLERANCES[x.dtype], TOLERANCES[x.dtype], coarser)):
        torch.testing.assert_close(
            actual.double(), expected, rtol=tolerance, atol=tolerance, equal_nan=True, check_stride=False
        )
    return found


@borders
def test_samples_and_gradients_are_those_of_the_plain_formula(border, dtype):
    x, offset = case((2, 16, 9, 7), stride=2, dtype=dtype)
    compare(x, offset, sampling_points(5), 2, border)


@borders
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_they_are_so_on_maps_of_one_pixel_or_one_row_and_for_points_between_pixels(border, stride):
    for size in ((1, 1), (1, 6), (5, 1)):
        x, offset = case((2, 3, *size), 3, stride, dtype=torch.float32)
        compare(x, offset, BETWEEN[:3], stride, border)


@pytest.mark.parametrize(("num_param", "channels"), [(1, 1), (2, 130), (7, 3), (13, 1)])
def test_they_are_so_for_any_number_of_points_and_channels(num_param, channels):
    x, offset = case((1, channels, 4, 5), num_param, 2, dtype=torch.float32)
    compare(x, offset, sampling_points(num_param, origin="center"), 2, "clamp")


@pytest.mark.parametrize(
    ("x_dtype", "offset_dtype"),
    [(torch.float16, torch.float32), (torch.float32, torch.bfloat16), (torch.float32, torch.float64)],
    ids=str,
)
def test_input_and_offsets_may_differ_in_dtype(x_dtype, offset_dtype):
    x, offset = case((2, 3, 5, 4), stride=2)
    compare(x.to(x_dtype), offset.to(offset_dtype), BETWEEN, 2, "paper")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_memory_layout_changes_no_bit(layout):
    points = sampling_points(5)
    x, offset = case((2, 3, 5, 4), stride=2)
    grad = torch.randn(2, 3, 15, 2, dtype=x.dtype)
    expected = passed("kernels", x, offset, points, 2, "paper", grad)
    change = LAYOUTS[layout]
    for actual, wanted in zip(passed("kernels", *map(change, (x, offset)), points, 2, "paper", change(grad)), expected):
        assert torch.equal(actual, wanted)


def test_expanded_inputs_offsets_and_gradients_are_read_right():
    x, offset = case((1, 3, 5, 4), stride=2)
    x, offset = x.expand(2, -1, -1, -1), offset[..., :1].expand(2, -1, -1, 2)
    found = passed(
        "kernels", x, offset, sampling_points(5), 2, "paper", torch.ones((), dtype=x.dtype).expand(2, 3, 15, 2)
    )
    for actual, wanted in zip(found, passed("gather", x, offset, sampling_points(5), 2, "paper")):
        torch.testing.assert_close(actual, wanted, rtol=1e-9, atol=1e-9, check_stride=False)


def test_gradients_of_half_precision_are_summed_for_an_input_of_float32():
    x, offset = case((2, 3, 5, 4), stride=2, dtype=torch.float32)
    x = x.to(memory_format=torch.channels_last)
    grad = torch.randn(2, 3, 15, 2).half().to(memory_format=torch.channels_last)
    points = [number for point in sampling_points(5) for number in point]
    half, single = (
        torch.ops.ultralytics_akconv.sample_gradient(g, x, offset, points, 2, "paper", True, True)
        for g in (grad, grad.float())
    )
    assert all(map(torch.equal, half, single)) and half[0].dtype == torch.float32


@borders
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_offsets_beyond_reason_give_what_the_plain_formula_gives(border, dtype):
    x, offset = case((2, 3, 6, 5), stride=2, dtype=dtype)
    for place, value in enumerate((math.inf, -math.inf, 3e38, 6e4, math.nan)):
        offset[0, place, 0, place % 3] = value  # row offsets
        offset[1, 9 - place, 1, place % 2] = value  # column offsets
    offset[1, 2, 2, 2] = offset[1, 7, 2, 2] = math.nan  # of one sample
    _, grad_x, grad_offset = compare(x, offset, sampling_points(5), 2, border)
    assert grad_x.isnan().any() and grad_offset.isnan().any() and not grad_offset[offset.isnan()].any()


@borders
def test_offsets_all_off_one_side_give_what_the_plain_formula_gives_and_no_cell_sums_alone(border):
    x, offset = case((2, 17, 4, 5), stride=1, dtype=torch.float32)
    offset = offset.abs() * 1e4
    offset[0] = offset[0].neg()
    with mock.patch.object(samples, "_LONG", 7):
        compare(x, offset, sampling_points(5), 1, border)


def test_a_sample_of_nothing_belongs_to_no_cell():
    x, offset = case((2, 3, 4, 5), stride=2, dtype=torch.float32)
    offset[0] = 1e4
    points = [number for point in sampling_points(5) for number in point]
    for border in BORDERS:
        grad = torch.randn(2, 3, 10, 3).to(memory_format=torch.channels_last)
        _, cells, weights = samples._sample_gradient(grad, x, offset, points, 2, border, True, False)
        assert (cells < 2 * 4 * 5).all() == (border != "zeros") and (cells >= 0).all()
        assert torch.equal(cells == 2 * 4 * 5, (weights == 0).all(1))
        assert (cells[: len(cells) // 2] == (40 if border == "zeros" else 19)).all()
