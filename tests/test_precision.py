# SPDX-License-Identifier: AGPL-3.0-or-later
"""Offsets beyond reason, and dtypes: nothing crashes, leaves the map or loses a part of a pixel."""

import math
from unittest import mock

import pytest
import reference
import torch
from conftest import TOLERANCES, skip_if_half_lacks
from sample_forms import SAMPLE_FORMS, borders, case, coarser, sample_forms
from torch.utils._python_dispatch import TorchDispatchMode

from ultralytics_akconv import resample, sampling_points, sampling_positions
from ultralytics_akconv.functional import bags, taps

EXTREMES = [sign * value for value in (math.inf, 1e30, 3.4e38, 2.0**31, 2.0**24, 1e6) for sign in (1, -1)]


@borders
def test_an_offset_far_off_the_map_samples_the_border_and_is_finite(border, dtype, device, close):
    points = sampling_points(5, origin="center")
    x, offset = case((2, 3, 5, 12), dtype=dtype, device=device)
    far = torch.tensor(EXTREMES, dtype=torch.float64)
    offset[0, 3, 1] = far  # row offsets, one an output pixel; they become inf where the dtype does not reach so far
    offset[1, 8, 4] = far  # column offsets of the last row
    expected = reference.resample(x.cpu().double(), offset.cpu(), points, 1, border)
    for name, sample in SAMPLE_FORMS.items():
        inputs = [t.clone().requires_grad_() for t in (x, offset)]
        out = sample(*inputs, points, 1, border)
        close(out.detach().cpu(), expected, dtype, times=coarser(name, dtype, side=12))
        out.float().sum().backward()
        assert out.isfinite().all() and all(t.grad.isfinite().all() for t in inputs)
        assert not inputs[1].grad[0, 3, 1].any()  # off the map nothing changes with the offset


@borders
def test_a_nan_offset_spoils_its_own_point_and_nothing_else(border, dtype, device):
    points = sampling_points(5, origin="center")
    x, offset = case(dtype=dtype, device=device)
    spoiled = offset.clone()
    spoiled[1, 7, 4, 6] = math.nan  # the column offset of point 2 at output pixel (4, 6)
    for sample in SAMPLE_FORMS.values():
        expected = sample(x, offset, points, 1, border)
        out = sample(x, spoiled, points, 1, border)
        hit = torch.zeros_like(out, dtype=torch.bool)
        hit[1, :, 4 * 5 + 2, 6] = True
        assert torch.equal(out.isnan(), hit)
        assert torch.equal(out[~hit], expected[~hit])


@sample_forms
@borders
def test_offsets_full_of_nan_do_not_crash(sample, border):
    x, offset = case(stride=2)
    x.requires_grad_()
    out = sample(x, offset * math.nan, sampling_points(5), 2, border)
    out.sum().backward()
    assert out.isnan().all()


@sample_forms
def test_denormal_offsets_are_zero_offsets(sample, close):
    x, offset = case(dtype=torch.float32)
    points = sampling_points(5)
    for tiny in (1e-40, -1e-40):
        close(sample(x, torch.full_like(offset, tiny), points, 1, "clamp"), sample(x, offset * 0, points, 1, "clamp"))


@borders
def test_samples_come_out_in_the_dtype_of_the_input(border, dtype, device, close):
    points = sampling_points(5)
    x, offset = case(stride=2, dtype=dtype, device=device)
    expected = reference.resample(x.cpu().double(), offset.cpu(), points, 2, border)
    for sample in SAMPLE_FORMS.values():
        out = sample(x, offset, points, 2, border)
        assert out.dtype == dtype
        close(out.cpu().double(), expected, dtype)


@sample_forms
@pytest.mark.parametrize(
    ("x_dtype", "offset_dtype"),
    [
        (torch.float32, torch.bfloat16),
        (torch.float16, torch.float32),
        (torch.float64, torch.float32),
        (torch.float32, torch.float64),
    ],
    ids=str,
)
def test_input_and_offsets_may_differ_in_dtype(sample, x_dtype, offset_dtype, close):
    x, offset = case()
    x, offset, points = x.to(x_dtype), offset.to(offset_dtype), sampling_points(5)
    out = sample(x, offset, points, 1, "paper")
    assert out.dtype == x_dtype
    coarser = max(x_dtype, offset_dtype, key=TOLERANCES.get)
    coarser = torch.float32 if coarser == torch.bfloat16 else coarser  # bfloat16 offsets are read exactly
    close(out.double(), reference.resample(x.double(), offset, points), coarser)


def test_positions_are_never_below_float32():
    expected = {torch.float16: torch.float32, torch.bfloat16: torch.float32, torch.float32: torch.float32}
    for dtype, positions in {**expected, torch.float64: torch.float64}.items():
        assert sampling_positions(torch.zeros(1, 2, 3, 3, dtype=dtype), ((0, 0),)).dtype == positions


@sample_forms
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_loses_no_part_of_a_pixel_at_640(sample, half):
    stripes = (torch.arange(640) % 2).to(half).expand(1, 1, 2, 640)  # column c holds c % 2: a sample is its fraction
    offset = torch.zeros(1, 2, 2, 640, dtype=half)
    offset[:, 1] = 0.3125  # exact in both; the step of a float16 position is 0.25 px above 256 and 0.5 above 512
    even = sample(stripes, offset, ((0, 0),), 1, "clamp")[0, 0, 0, 0:638:2]
    assert torch.equal(even, torch.full_like(even, 0.3125))
    quantised = (torch.arange(0, 638, 2).to(half) + offset[0, 1, 0, 0]).double() % 2  # what the published code does
    assert (quantised - 0.3125).abs().max() > 0.18


@sample_forms
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=str)
def test_autocast_leaves_the_positions_alone(sample, half):
    skip_if_half_lacks("autocast", half)
    if sample is SAMPLE_FORMS["widened"]:
        pytest.skip("an exporter traces without autocast, which would round the weights in the matrix product")
    points = sampling_points(5)
    x, offset = case((1, 2, 40, 300), dtype=torch.float32)
    expected = sample(x, offset, points, 1, "paper")
    with torch.autocast("cpu", half):
        assert torch.equal(sample(x, offset, points, 1, "paper"), expected)
        assert torch.equal(sampling_positions(offset, points), sampling_positions(offset.clone(), points).float())


class WideIntegers(TorchDispatchMode):
    """Collects the operators that make an int64 tensor."""

    def __init__(self):
        super().__init__()
        self.makers = set()

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        if isinstance(result, torch.Tensor) and result.dtype == torch.int64:
            self.makers.add(str(function))
        return result


@sample_forms
@borders
def test_no_index_of_a_sample_takes_eight_bytes(sample, border):
    x, offset = case(stride=2)
    taps.cached_base_positions.cache_clear()
    with WideIntegers() as wide:
        sample(x, offset, sampling_points(5, "ring"), 2, border)
    assert not wide.makers


def test_the_bags_of_both_passes_are_told_in_int32():
    x, offset = (tensor.requires_grad_() for tensor in case(stride=2))
    with mock.patch.object(bags, "embedding_bag", wraps=bags.embedding_bag) as bag:
        resample(x, offset, sampling_points(5), 2).sum().backward()
    integers = [t for call in bag.call_args_list for t in call.args if not t.is_floating_point()]
    assert len(integers) == 5  # the samples, the offset gradient by axis, the input gradient: its samples and pixels
    assert {tensor.dtype for tensor in integers} == {torch.int32}


def test_points_on_pixels_leave_nothing_to_add_to_an_offset():
    def fraction(points):
        return taps.base_positions(points, 2, 3, 4, torch.float64, torch.device("cpu")).fraction

    assert fraction(((0.0, -1.0), (2.0, 3.0))) is None
    assert fraction(((0.0, -1.0), (2.0, -3.25))).tolist() == [[0, 0], [0, 0.75]]
