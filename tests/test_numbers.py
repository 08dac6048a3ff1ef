# SPDX-License-Identifier: AGPL-3.0-or-later
"""Numbers nobody chose: cases drawn by hypothesis, a soak over changing sizes, and AMP at 640 px."""

import gc
import math
import os

import psutil
import pytest
import reference
import torch
from conftest import TOLERANCES, learned, skip_if_half_lacks
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from sample_forms import BORDERS, LAYOUTS, SAMPLE_FORMS, sample_forms

from ultralytics_akconv import SHAPES, AKConv, resample, sampling_points
from ultralytics_akconv.functional import taps

DTYPES = st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16])
EXTREMES = (math.inf, -math.inf, math.nan, 1e30, -1e30, 2.0**31, -(2.0**31), 1e-40, -1e-40, 2.0**23, -0.0)
# The cases are the same at every run: a failure on one machine is a failure on all.
drawn = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@st.composite
def points(draw):
    """N points of a named shape, or anywhere."""
    num_param = draw(st.integers(1, 14))
    origin = draw(st.sampled_from(["corner", "center"]))
    coordinate = st.integers(-4, 4) | st.floats(-4, 4, width=16)
    explicit = st.lists(
        st.tuples(coordinate, coordinate),
        min_size=num_param,
        max_size=num_param,
        unique_by=lambda p: tuple(map(float, p)),
    )
    named = st.sampled_from([name for name in SHAPES if not name.startswith("paper_")])
    return sampling_points(num_param, draw(named | explicit), origin)


@st.composite
def cases(draw, extremes=EXTREMES, batch=(0, 1, 2)):
    """The arguments of `resample`: input, offsets with `extremes` in some places, points, stride, border."""
    shape = [draw(st.sampled_from(batch)), draw(st.integers(1, 5)), draw(st.integers(1, 7)), draw(st.integers(1, 7))]
    stride, dtype, moved = draw(st.integers(1, 4)), draw(DTYPES), draw(points())
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    x = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    size = [(side - 1) // stride + 1 for side in shape[2:]]
    offset = torch.randn(shape[0], 2 * len(moved), *size, generator=generator, dtype=torch.float64)
    offset = (offset * draw(st.sampled_from([0.0, 1.0, 20.0]))).to(dtype)
    if offset.numel() and extremes:
        places = draw(st.lists(st.tuples(st.integers(0, offset.numel() - 1), st.sampled_from(extremes)), max_size=6))
        for place, value in places:
            offset.view(-1)[place] = torch.tensor(value, dtype=torch.float64)  # inf where the dtype does not reach
    layout = LAYOUTS[draw(st.sampled_from(sorted(LAYOUTS)))]
    return layout(x), layout(offset), moved, stride, draw(st.sampled_from(BORDERS))


def of_points(offset, num_param):
    """Return which samples have a NaN offset, in the order of the samples, (B, 1, h*N, w)."""
    row, col = offset.isnan().unflatten(1, (2, num_param)).unbind(1)  # (B, N, h, w)
    return (row | col).transpose(1, 2).flatten(1, 2)[:, None]


@sample_forms
@drawn
@given(case=cases())
def test_any_samples_equal_the_definition_and_nan_comes_from_nan_alone(sample, case):
    x, offset, moved, _, border = case
    # The definition adds an offset to its pixel, which takes a position a hair below the last pixel onto it, from where
    # "paper" counts it twice; split into whole pixels and fractions, the position stays below.
    assume(border != "paper" or not ((offset < 0) & (offset > -1e-15)).any())
    out = sample(*case)
    expected = reference.resample(x.double(), offset, *case[2:])
    tolerance = TOLERANCES[x.dtype]
    torch.testing.assert_close(
        out.double(), expected, rtol=tolerance, atol=tolerance, check_stride=False, equal_nan=True
    )
    assert out.dtype == x.dtype
    assert torch.equal(out.isnan(), of_points(offset, len(moved)).expand_as(out))


@sample_forms
@drawn
@given(case=cases(extremes=tuple(value for value in EXTREMES if not math.isnan(value))))
def test_any_gradients_are_finite_and_equal_those_of_the_traced_expression_in_float64(sample, case):
    x, offset, *rest = case
    inputs = [t.clone().requires_grad_() for t in (x, offset)]
    out = sample(*inputs, *rest)
    grad = torch.linspace(-1, 1, out.numel()).reshape(out.shape).to(out.dtype)
    out.backward(grad)
    exact = [t.double().requires_grad_() for t in (x, offset)]
    SAMPLE_FORMS["exported"](*exact, *rest).backward(grad.double())
    for actual, wanted in zip(inputs, exact):
        assert actual.grad.dtype == x.dtype and actual.grad.isfinite().all()
        tolerance = TOLERANCES[x.dtype] * (1 + float(wanted.grad.abs().max()) if wanted.grad.numel() else 1)
        torch.testing.assert_close(actual.grad.double(), wanted.grad, rtol=0, atol=tolerance, check_stride=False)


@sample_forms
@drawn
@given(case=cases(batch=(2,)))
def test_any_image_of_a_batch_is_sampled_as_if_it_were_alone(sample, case):
    x, offset, *rest = case
    alone = [sample(x[i : i + 1], offset[i : i + 1], *rest) for i in range(2)]
    # Not bit for bit: how a sum of four is rounded depends on where the sample lies in PyTorch's vectorised loop.
    tolerance = TOLERANCES[x.dtype]
    torch.testing.assert_close(
        sample(x, offset, *rest), torch.cat(alone), rtol=tolerance, atol=tolerance, equal_nan=True, check_stride=False
    )


@drawn
@given(case=cases(), border=st.sampled_from(BORDERS))
@example(case=(torch.ones(1, 1, 1, 1), torch.full((1, 2, 1, 1), math.nan), ((0.0, 0.0),), 1, "paper"), border="paper")
def test_any_tap_lies_on_the_map(case, border):
    x, offset, moved, stride, _ = case
    base = taps.base_positions(moved, stride, *offset.shape[2:], taps.position_dtype(offset.dtype), offset.device)
    for traced in (False, True):
        for axis, size in zip(taps.sampling_taps(offset, base, x.shape[2:], border, traced), x.shape[2:]):
            for index in (axis.low, axis.high):
                assert ((index >= 0) & (index < size)).all()


@drawn
@given(
    num_param=st.integers(1, 6),
    stride=st.integers(1, 3),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    border=st.sampled_from(BORDERS),
    value=st.sampled_from([0.0, 1e30, -1e30, 1e-40]),
)
def test_any_layer_trains_on_any_map_with_any_finite_numbers(num_param, stride, size, border, value):
    layer = learned(AKConv(2, 3, num_param, stride, border=border))
    torch.nn.init.constant_(layer.p_conv.bias, value)
    x = torch.randn(2, 2, *size, requires_grad=True)
    if size[0] <= stride and size[1] <= stride:
        layer.eval()  # one value a channel and image: nothing BatchNorm could learn from
    out = layer(x)
    out.sum().backward()
    assert out.shape == (2, 3, *((side - 1) // stride + 1 for side in size))
    for tensor in (out, x.grad, *(parameter.grad for parameter in layer.parameters())):
        assert tensor.isfinite().all()


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_at_640_px_stays_within_the_tolerance_of_its_dtype(half):
    skip_if_half_lacks("autocast", half)
    layer = AKConv(3, 8, 5, 2).eval()  # offsets at their start: only the bias, which autocast rounds as it does Conv's
    torch.nn.init.constant_(layer.p_conv.bias, 0.3125)  # exact in both; published positions would be 0.25 px coarse
    x = torch.rand(1, 3, 640, 640)
    with torch.no_grad():
        expected = layer(x)
        with torch.autocast("cpu", half):
            actual = layer(x)
    assert actual.dtype == half
    torch.testing.assert_close(actual.float(), expected, rtol=TOLERANCES[half], atol=TOLERANCES[half])


def resident():
    """Return the resident memory in MiB."""
    return psutil.Process().memory_info().rss / 2**20


def soak(passes):
    """Run `passes` samplings over changing sizes and return the growth of the memory since the first tenth, in MiB."""
    moved = {n: sampling_points(n, "disk") for n in range(1, 10)}
    start = None
    for i in range(passes):
        n, height, width, stride = 1 + i % 9, 1 + i % 31, 1 + (i * 7) % 37, 1 + i % 3
        x = torch.randn(1, 4, height, width)
        offset = torch.randn(1, 2 * n, (height - 1) // stride + 1, (width - 1) // stride + 1)
        resample(x, offset, moved[n], stride)
        if i == passes // 10:
            gc.collect()
            start = resident()
    gc.collect()
    return resident() - start


def test_a_soak_over_changing_sizes_keeps_the_memory_flat_and_the_caches_bounded():
    passes = int(os.environ.get("AKCONV_SOAK", "4000"))
    grown = soak(passes)
    print(f"{passes} passes: {grown:+.1f} MiB")
    assert grown < 16
    for cache in (taps.cached_base_positions, taps._last):
        info = cache.cache_info()
        assert info.currsize <= info.maxsize == 128
