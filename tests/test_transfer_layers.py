# SPDX-License-Identifier: AGPL-3.0-or-later
"""One layer: the closed form of its conversion, and the fit on images."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conversions import relative
from sample_forms import borders
from ultralytics.nn.modules.conv import Conv

import ultralytics_akconv
from ultralytics_akconv import AKConv
from ultralytics_akconv.conversion.calibration import fit
from ultralytics_akconv.conversion.closed_form import (
    covariance,
    expected_error,
    grid,
    interpolation,
    kernel_gram,
    place_points,
    project,
)
from ultralytics_akconv.conversion.pairs import Pair, converted_state, solve_without_data


def pair(num_param=5, c1=4, c2=6, border="zeros", origin="center", stride=2):
    conv = Conv(c1, c2, 3, stride).eval()
    torch.nn.init.normal_(conv.conv.weight)
    torch.nn.init.normal_(conv.bn.running_mean)
    akconv = AKConv(c1, c2, num_param, stride, border=border, origin=origin).eval()
    return Pair("layer", akconv, conv)


def smooth(*size):
    """Return random images whose neighbouring pixels are alike."""
    return torch.nn.functional.avg_pool2d(torch.randn(size[0], size[1], size[2] + 4, size[3] + 4), 5, 1) * 5


def converted(layers, points=None, weight=None):
    prior = solve_without_data(layers)
    points = prior.points if points is None else points
    layers.akconv.load_state_dict(converted_state(layers, points, prior.weight if weight is None else weight))
    return prior


# The closed form


def test_the_projected_weights_are_the_regression_on_samples_of_the_prior():
    weight, points = (
        torch.randn(3, 2, 3, 3),
        torch.tensor([[-1.0, 0.5], [0.25, -0.75], [1.0, 1.0]], dtype=torch.float64),
    )
    values = torch.linalg.cholesky(covariance()) @ torch.randn(9, 200_000, dtype=torch.float64)
    samples = interpolation(points) @ values  # (3, draws)
    kernels = weight.double().flatten(2)
    wanted = (kernels @ values @ samples.T) @ torch.linalg.inv(samples @ samples.T)
    torch.testing.assert_close(project(weight, points), wanted, rtol=0, atol=0.02)


def test_the_expected_error_is_the_error_on_samples_of_the_prior():
    weight, points = torch.randn(3, 2, 3, 3), grid()[[0, 2, 4, 6, 8]]
    values = torch.linalg.cholesky(covariance()) @ torch.randn(9, 200_000, dtype=torch.float64)
    wanted = weight.double().flatten(0, 1).flatten(1) @ values  # every input channel by itself, as the prior has it
    got = project(weight, points).flatten(0, 1) @ (interpolation(points) @ values)
    assert relative(got, wanted) == pytest.approx(float(expected_error(kernel_gram(weight), points, 0.9)), rel=0.01)


def test_nine_points_get_the_kernel_itself_and_further_ones_start_at_zero():
    weight = torch.randn(3, 2, 3, 3)
    for num_param in (9, 13, 40):
        points = place_points(kernel_gram(weight), num_param)
        assert len({tuple(point) for point in points.tolist()}) == num_param
        projected = project(weight, points)
        assert torch.equal(projected[..., :9], weight.double().flatten(2)) and not projected[..., 9:].any()


def test_more_points_lose_less_and_chosen_places_less_than_whole_pixels():
    gram = kernel_gram(torch.randn(8, 8, 3, 3))
    errors = [float(expected_error(gram, place_points(gram, n))) for n in range(1, 10)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 2e-3  # the points' noise alone
    cross = grid()[[1, 3, 4, 5, 7]]
    assert errors[4] < 0.9 * float(expected_error(gram, cross))
    assert place_points(gram, 5).abs().max() <= 1


def test_points_that_read_the_same_pixel_get_bounded_weights():
    points = torch.tensor([[0.0, 0.0], [0.0, 1e-9], [0.0, 0.5], [0.0, 1.0]], dtype=torch.float64)
    assert project(torch.randn(3, 2, 3, 3), points).abs().max() < 100


# The layer


@pytest.mark.parametrize("num_param", [9, 13])
@pytest.mark.parametrize(("origin", "shape"), [("center", "default"), ("corner", "default"), ("corner", "diagonal")])
def test_from_nine_points_on_a_layer_with_zeros_outside_equals_its_convolution(num_param, origin, shape, close):
    layers = pair(num_param)
    layers = Pair("layer", AKConv(4, 6, num_param, 2, border="zeros", origin=origin, shape=shape).eval(), layers.conv)
    converted(layers)
    for size in ((12, 12), (11, 7), (1, 5)):
        x = torch.randn(2, 4, *size)
        close(layers.akconv(x), layers.conv(x))


@pytest.mark.parametrize("border", ["paper", "clamp"])
@pytest.mark.parametrize("stride", [1, 2])
def test_with_other_borders_nine_points_differ_in_the_outermost_pixels_alone(border, stride):
    layers = pair(9, border=border, origin="corner", stride=stride)
    converted(layers)
    x = torch.randn(2, 4, 16, 16)
    got, wanted = layers.akconv(x), layers.conv(x)
    last = slice(1, None) if stride == 2 else slice(1, -1)  # stride 2 on an even size never leaves it below
    torch.testing.assert_close(got[..., last, last], wanted[..., last, last], rtol=0, atol=0.05 * wanted.std().item())
    assert relative(got[..., :1, :], wanted[..., :1, :]) > 0.1


@borders
@pytest.mark.parametrize("num_param", [2, 3, 4, 5, 6, 7, 8])
def test_the_closed_form_beats_dropping_points(num_param, border):
    layers = pair(num_param, c1=8, c2=16, border=border, origin="corner")
    x = smooth(2, 8, 40, 40)
    wanted = layers.conv.conv(x)

    def errors():
        akconv = layers.akconv
        samples = ultralytics_akconv.resample(x, akconv.offsets(x), akconv.points, 2, border)
        inside = slice(1, -1)
        got = akconv.conv.conv(samples)
        return relative(got[..., inside, inside], wanted[..., inside, inside]), relative(got, wanted)

    converted(layers)
    inside, whole = errors()
    kept = torch.tensor([4, 1, 3, 5, 7, 0, 2, 6][:num_param])  # the centre, then the arms of the cross
    converted(layers, grid()[kept], layers.conv.conv.weight.detach().flatten(2)[..., kept])
    dropped_inside, dropped_whole = errors()
    assert inside < 0.8 * dropped_inside
    assert whole < dropped_whole  # with "paper" the outermost pixels, counted twice, are most of it


def test_the_offset_branch_starts_at_rest_and_learns():
    layers = pair()
    prior = converted(layers)
    assert not layers.akconv.p_conv.weight.any()
    points = torch.tensor(layers.akconv.points, dtype=torch.float64)
    shift = layers.akconv.p_conv.bias.detach().double().reshape(2, 5).T
    torch.testing.assert_close(points + shift, prior.points, rtol=0, atol=1e-6)
    layers.akconv.train()(smooth(2, 4, 16, 16)).square().mean().backward()
    assert layers.akconv.p_conv.weight.grad.abs().max() > 0


# The fit on images


def fitted(layers, images):
    prior = converted(layers)
    (errors,) = fit(layers.akconv, layers.conv, [layers], [prior], [images])
    return prior, errors


def test_the_fit_finds_a_convolution_that_the_points_can_express():
    layers = pair()
    with torch.no_grad():
        layers.conv.conv.weight *= torch.tensor([[0, 1, 0], [1, 1, 1], [0, 1, 0]])
    prior = solve_without_data(layers)
    prior = replace(prior, points=grid()[[1, 3, 4, 5, 7]], weight=torch.zeros_like(prior.weight))
    layers.akconv.load_state_dict(converted_state(layers, prior.points, prior.weight))
    x = torch.randn(8, 4, 64, 64)
    ((before, after),) = fit(layers.akconv, layers.conv, [layers], [prior], [x])
    assert before == pytest.approx(1) and after < 0.01
    assert relative(layers.akconv(x), layers.conv(x)) < 0.02


def test_the_fit_lowers_the_error_on_its_images_and_on_others_like_them():
    layers = pair(3, c1=8, c2=16, border="paper")
    held_out = smooth(4, 8, 32, 32)
    converted(layers)
    before = relative(layers.akconv(held_out), layers.conv(held_out))
    _, (prior, after) = fitted(layers, smooth(8, 8, 32, 32))
    assert after < prior
    assert relative(layers.akconv(held_out), layers.conv(held_out)) < before


@pytest.mark.parametrize("images", ["constant", "zero", "tiny", "dead channels"])
def test_images_that_say_little_leave_the_data_free_weights_nearly_as_they_are(images):
    layers = pair(5, c1=8, c2=16)
    x = smooth(1, 8, 32, 32)
    if images == "constant":
        x = torch.full((2, 8, 32, 32), 0.7)
    elif images == "zero":
        x = torch.zeros(2, 8, 32, 32)
    elif images == "tiny":
        x = x[..., :2, :2]
    else:
        x[:, ::2] = 0
    prior, errors = fitted(layers, x)
    weight = layers.akconv.conv.conv.weight[..., 0].double()
    assert torch.isfinite(weight).all() and all(map(np.isfinite, errors))
    if images == "dead channels":
        torch.testing.assert_close(weight[:, ::2], prior.weight[:, ::2], rtol=0, atol=1e-4)
        assert (weight[:, 1::2] - prior.weight[:, 1::2]).abs().max() > 1e-3
    else:
        assert (weight - prior.weight).abs().max() < 3 * prior.weight.abs().max()
    held_out = smooth(2, 8, 32, 32)
    assert relative(layers.akconv(held_out), layers.conv(held_out)) < 0.7
