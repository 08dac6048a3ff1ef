# SPDX-License-Identifier: AGPL-3.0-or-later
import itertools

import pytest
import reference
import torch
import torchvision
from conftest import skip_if_half_lacks
from sample_forms import BORDERS, GOLDEN, LAYOUTS, SAMPLE_FORMS, borders, case, coarser, load, sample_forms

from ultralytics_akconv import akconv2d, functional, resample, sampling_points, sampling_positions


def test_the_worked_example_of_the_module_docstring():
    x = torch.randn(1, 2, 10, 10, dtype=torch.float64)
    offset = torch.zeros(1, 2, 5, 5, dtype=torch.float64)
    offset[0, :, 3, 4] = torch.tensor([0.25, -0.5])
    points = ((0, 1),)
    assert sampling_positions(offset, points, 2)[0, :, 3, 4].tolist() == [6.25, 8.5]
    a, b, c, d = x[0, :, 6, 8], x[0, :, 6, 9], x[0, :, 7, 8], x[0, :, 7, 9]
    expected = 0.75 * (0.5 * a + 0.5 * b) + 0.25 * (0.5 * c + 0.5 * d)
    for border in BORDERS:
        torch.testing.assert_close(resample(x, offset, points, 2, border)[0, :, 3, 4], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("file", GOLDEN, ids=lambda file: file.stem)
def test_positions_samples_and_output_are_the_published_ones(file, device):
    gold = load(file, device)
    num_param, stride = gold["num_param"], gold["stride"]
    points = sampling_points(num_param)
    offset = torch.nn.functional.conv2d(
        gold["x"], gold["sd.p_conv.weight"], gold["sd.p_conv.bias"], stride=stride, padding=1
    )
    exact = {"rtol": 0, "atol": 1e-10, "check_stride": False}
    torch.testing.assert_close(sampling_positions(offset, points, stride), gold["positions"], **exact)
    for sample in SAMPLE_FORMS.values():
        torch.testing.assert_close(sample(gold["x"], offset, points, stride, "paper"), gold["resampled"], **exact)
    out = akconv2d(gold["x"], offset, gold["sd.conv.0.weight"], points, stride=stride)
    mean, var = gold["sd.conv.1.running_mean"], gold["sd.conv.1.running_var"]
    out = torch.nn.functional.batch_norm(out, mean, var, gold["sd.conv.1.weight"], gold["sd.conv.1.bias"])
    torch.testing.assert_close(torch.nn.functional.silu(out), gold["out_eval"], **exact)


def test_there_are_golden_files_and_the_oracle_agrees_with_them():
    assert len(GOLDEN) == 18
    for file in GOLDEN:
        gold = load(file)
        offset = torch.nn.functional.conv2d(
            gold["x"], gold["sd.p_conv.weight"], gold["sd.p_conv.bias"], stride=gold["stride"], padding=1
        )
        points = reference.initial_points(gold["num_param"])
        actual = reference.resample(gold["x"], offset, points, gold["stride"])
        torch.testing.assert_close(actual, gold["resampled"], rtol=0, atol=1e-10)


SIZES = [(5, 7), (4, 6), (1, 6), (6, 1), (1, 1)]


@borders
@pytest.mark.parametrize("num_param", [1, 2, 3, 5, 7, 9, 13])
def test_samples_equal_the_definition(border, num_param, close):
    for stride, size, origin in itertools.product((1, 2, 3), SIZES, ("corner", "center")):
        points = sampling_points(num_param, origin=origin)
        x, offset = case((2, 2, *size), num_param, stride)
        expected = reference.resample(x, offset, points, stride, border)
        for sample in SAMPLE_FORMS.values():
            close(sample(x, offset, points, stride, border), expected)


@borders
def test_points_between_pixels_equal_the_definition(border, close):
    for shape in ("ring", [[0.5, -0.25], [-1.75, 2], [0.1, 0.9], [3, 3], [-2.5, -2.5]]):
        points = sampling_points(5, shape)
        x, offset = case(stride=2)
        expected = reference.resample(x, offset, points, 2, border)
        for sample in SAMPLE_FORMS.values():
            close(sample(x, offset, points, 2, border), expected)


@borders
@pytest.mark.parametrize("offsets", ["zero", "whole", "half"])
def test_offsets_on_pixels_and_halves_equal_the_definition(border, offsets, close):
    points = sampling_points(9, origin="center")
    x, offset = case(num_param=9)
    offset = {"zero": offset * 0, "whole": offset.round(), "half": offset.round() + 0.5}[offsets]
    expected = reference.resample(x, offset, points, 1, border)
    for sample in SAMPLE_FORMS.values():
        close(sample(x, offset, points, 1, border), expected)


@borders
@pytest.mark.parametrize("stride", [1, 2])
def test_the_layer_equals_the_definition(border, stride, close):
    points = sampling_points(7)
    x, offset = case(num_param=7, stride=stride)
    weight, bias = torch.randn(4, 3, 7, 1, dtype=x.dtype), torch.randn(4, dtype=x.dtype)
    expected = reference.akconv2d(x, offset, weight, points, bias, stride, border)
    close(akconv2d(x, offset, weight, points, bias, stride, border), expected)


@sample_forms
@borders
def test_the_memory_layout_changes_nothing(sample, border):
    points = sampling_points(5)
    plain = [t.requires_grad_() for t in case(stride=2)]
    expected = sample(*plain, points, 2, border)
    grad = torch.randn_like(expected)
    expected.backward(grad)
    for layout in LAYOUTS.values():
        changed = [t.detach().clone().requires_grad_() for t in plain]
        actual = sample(*map(layout, changed), points, 2, border)
        actual.backward(grad)
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12, check_stride=False)
        for a, e in zip(changed, plain):
            torch.testing.assert_close(a.grad, e.grad, rtol=0, atol=1e-12, check_stride=False)


@sample_forms
def test_an_expanded_input_is_read_right(sample, close):
    points = sampling_points(5)
    x, offset = case()
    expanded = x[:1].expand(2, -1, -1, -1)
    close(sample(expanded, offset, points, 1, "paper"), reference.resample(expanded, offset, points))


@sample_forms
@borders
def test_an_empty_batch_gives_an_empty_result(sample, border):
    x, offset = case((0, 3, 5, 7), stride=2)
    x.requires_grad_()
    out = sample(x, offset, sampling_points(5), 2, border)
    assert out.shape == (0, 3, 15, 4)
    out.sum().backward()
    assert x.grad.shape == x.shape


@sample_forms
@pytest.mark.parametrize(("border", "stride"), zip(BORDERS, (1, 2, 3)))
def test_the_gradients_are_those_of_the_function(sample, border, stride):
    points = sampling_points(3, [[0, 0], [1, -1], [0.5, 2]])
    x = torch.randn(2, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    size = (-(-4 // stride), -(-5 // stride))
    # Multiples of 1/2 plus a quarter: off the integers, where the function has kinks, for whole and half points alike.
    offset = (torch.randint(-5, 6, (2, 6, *size)) / 2 + 0.25 + 0.1 * torch.rand(2, 6, *size)).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda *tensors: sample(*tensors, points, stride, border), (x, offset))


@sample_forms
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_the_zeros_border_equals_torchvisions_deform_conv2d(sample, stride, close):
    points = sampling_points(5, "ring")
    x, offset = case((2, 3, 7, 9), stride=stride, spread=3.0)
    positions = sampling_positions(offset, points, stride)
    h, w = offset.shape[2:]
    grid = torch.stack(torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")) * stride  # (2, h, w)
    identity = torch.eye(3, dtype=x.dtype)[:, :, None, None]
    for n in range(5):
        move = positions[:, [n, 5 + n]] - grid
        expected = torchvision.ops.deform_conv2d(x, move, identity, stride=stride)
        close(sample(x, offset, points, stride, "zeros")[:, :, n::5], expected)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("size", [(6, 9), (1, 5), (1, 1)], ids=str)
def test_nine_centred_points_at_rest_are_a_3x3_convolution(stride, size, dtype, device, close):
    skip_if_half_lacks("convolution", dtype, device)
    x, offset = case((2, 3, *size), 9, stride, dtype=dtype, device=device)
    weight = torch.randn(4, 3, 3, 3).to(device, dtype) / 5
    expected = torch.nn.functional.conv2d(x, weight, stride=stride, padding=1)
    points = sampling_points(9, origin="center")
    close(akconv2d(x, offset * 0, weight.reshape(4, 3, 9, 1), points, stride=stride, border="zeros"), expected)


@sample_forms
def test_the_paper_border_doubles_an_axis_that_clamps_to_one_pixel(sample):
    x = torch.ones(1, 1, 3, 3, dtype=torch.float64)
    out = sample(x, torch.zeros(1, 2, 3, 3, dtype=torch.float64), ((0, 0),), 1, "paper")
    assert out[0, 0].tolist() == [[1, 1, 2], [1, 1, 2], [2, 2, 4]]
    for border in ("clamp", "zeros"):
        out = sample(x, torch.zeros(1, 2, 3, 3, dtype=torch.float64), ((0, 0),), 1, border)
        torch.testing.assert_close(out, x, rtol=0, atol=1e-12, check_stride=False)


def gradients(sample, x, offset, grad_out, border="paper", needed=(True, True)):
    x, offset = (t.clone().requires_grad_(need) for t, need in zip((x, offset), needed))
    sample(x, offset, sampling_points(5), 2, border).backward(grad_out)
    return x.grad, offset.grad


@borders
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)  # halves are summed in halves, as Conv's are
@pytest.mark.parametrize("offsets", [0.0, 1.0, 0.5])
def test_all_forms_have_the_same_gradients_on_whole_pixels_too(border, offsets, dtype, close):
    x, offset = case((3, 4, 6, 7), stride=2, dtype=dtype)
    offset = torch.full_like(offset, offsets)
    grad_out = torch.randn(3, 4, 15, 4).to(dtype)
    expected = gradients(SAMPLE_FORMS["exported"], x.double(), offset.double(), grad_out.double(), border)
    for name, sample in SAMPLE_FORMS.items():
        for actual, wanted in zip(gradients(sample, x, offset, grad_out, border), expected):
            assert actual.dtype == dtype
            close(actual.double(), wanted, dtype, times=coarser(name, dtype, side=7))


@sample_forms
def test_a_gradient_is_made_for_what_needs_one_alone(sample):
    x, offset = case(stride=2)
    grad_out = torch.randn(2, 3, 15, 4, dtype=x.dtype)
    both = gradients(sample, x, offset, grad_out)
    for needed in ((True, False), (False, True)):
        for one, alone, need in zip(both, gradients(sample, x, offset, grad_out, needed=needed), needed):
            assert torch.equal(one, alone) if need else alone is None


@sample_forms
def test_backward_takes_expanded_gradients_runs_twice_and_is_deterministic(sample):
    x, offset = (t.requires_grad_() for t in case(stride=2))
    out = sample(x, offset, sampling_points(5), 2, "paper")
    torch.use_deterministic_algorithms(True)
    try:
        out.sum().backward(retain_graph=True)  # an expanded gradient
        once = x.grad.clone(), offset.grad.clone()
        out.backward(torch.ones_like(out))
    finally:
        torch.use_deterministic_algorithms(False)
    for total, single in zip((x.grad, offset.grad), once):
        torch.testing.assert_close(total, 2 * single, rtol=0, atol=1e-12)


@sample_forms
def test_repeated_calls_with_changing_sizes_do_not_mix_up_what_is_kept(sample, close):
    for size, num_param, stride in [((5, 7), 5, 1), ((7, 5), 5, 1), ((5, 7), 3, 1), ((5, 7), 5, 2), ((5, 7), 5, 1)] * 2:
        points = sampling_points(num_param)
        x, offset = case((1, 2, *size), num_param, stride)
        close(sample(x, offset, points, stride, "paper"), reference.resample(x, offset, points, stride))
        close(
            sample(x.float(), offset.float(), points, stride, "paper").double(),
            reference.resample(x, offset, points, stride),
            torch.float32,
        )


def test_what_was_made_in_inference_mode_can_be_trained_on_afterwards():
    x, offset = case((2, 3, 6, 11))  # a size of this test alone: nothing of it may be kept from another
    points = sampling_points(5, "ring")
    with torch.inference_mode():
        resample(x, offset, points)
    x.requires_grad_()
    offset.requires_grad_()
    resample(x, offset, points).sum().backward()
    assert x.grad.any() and offset.grad.any()


def test_a_stride_of_one_and_the_papers_border_are_taken_unless_told(close):
    points = sampling_points(5)
    x, offset = case()
    weight = torch.randn(4, 3, 5, 1, dtype=x.dtype)
    assert torch.equal(sampling_positions(offset, points), sampling_positions(offset, points, 1))
    close(resample(x, offset, points), reference.resample(x, offset, points, 1, "paper"))
    close(akconv2d(x, offset, weight, points), reference.akconv2d(x, offset, weight, points, None, 1, "paper"))


def test_bad_tensors_are_refused_with_what_is_allowed():
    x, offset = case()
    points = sampling_points(5)
    with pytest.raises(ValueError, match="border must be one of paper, clamp, zeros, got 'reflect'"):
        resample(x, offset, points, border="reflect")
    with pytest.raises(ValueError, match=r"offset must be \(B, 10, h, w\) for 5 points, got \(2, 9, 5, 7\)"):
        resample(x, offset[:, :9], points)
    with pytest.raises(ValueError, match=r"offset must be \(B, 10, h, w\)"):
        sampling_positions(offset[0], points)
    with pytest.raises(ValueError, match=r"x must be \(B, C, H, W\).*\(3, 5, 7\)"):
        resample(x[0], offset, points)
    with pytest.raises(ValueError, match="with the offset's B"):
        resample(x[:1], offset, points)
    for weight in (torch.zeros(4, 3, 3, 1), torch.zeros(4, 3, 1, 5), torch.zeros(4, 15)):
        with pytest.raises(ValueError, match=r"weight must be \(C2, C1, 5, 1\) for 5 points, got \(4, "):
            akconv2d(x, offset, weight.double(), points)


def test_the_borders_have_one_list():
    assert functional.BORDERS == BORDERS
