# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the backward pass is left with: which tensors are kept, which are computed again, and in how large parts."""

import math
from unittest import mock

import pytest
import torch
from sample_forms import borders, case
from torch.autograd.graph import saved_tensors_hooks

from ultralytics_akconv import functional, resample, sampling_points
from ultralytics_akconv.functional import bags
from ultralytics_akconv.functional.recompute import recomputed_in_backward


class Recipe:
    """Returns a tensor again and counts how often it was asked to."""

    def __init__(self, tensor):
        self.tensor, self.calls = tensor, 0

    def __call__(self):
        assert not torch.is_grad_enabled()
        self.calls += 1
        return self.tensor.detach().clone()


def test_the_tensor_alone_is_computed_again_once_a_backward_pass_and_the_gradients_stay():
    samples, weight = (torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    expected = torch.autograd.grad((samples * weight).sum(), (samples, weight))
    recipe = Recipe(samples)
    with recomputed_in_backward(samples, recipe):
        out = (samples * weight).sum()  # saves both, and they are of one shape
    assert recipe.calls == 0
    for passes in (1, 2):
        got = torch.autograd.grad(out, (samples, weight), retain_graph=True)
        assert recipe.calls == passes
        assert all(map(torch.equal, got, expected))


def test_a_part_of_the_tensor_that_begins_where_it_does_is_kept_as_it_is():
    samples, weight = torch.randn(3, 4), torch.randn(1, 4, requires_grad=True)
    recipe = Recipe(samples)
    with recomputed_in_backward(samples, recipe):
        out = (samples[:1] * weight).sum()
    out.backward()
    assert recipe.calls == 0 and torch.equal(weight.grad, samples[:1])


def test_what_is_saved_outside_the_context_is_kept():
    samples, weight = torch.randn(3, 4), torch.randn(3, 4, requires_grad=True)
    recipe = Recipe(samples)
    with recomputed_in_backward(samples, recipe):
        pass
    (samples * weight).sum().backward()
    assert recipe.calls == 0 and torch.equal(weight.grad, samples)


@pytest.mark.parametrize("needed", [(True, True), (True, False), (False, True)], ids=str)
def test_sampling_keeps_the_input_and_the_offsets_alone_for_the_backward_pass(needed, dtype, device):
    tensors = [tensor.requires_grad_(need) for tensor, need in zip(case(stride=2, dtype=dtype, device=device), needed)]
    kept = []
    with saved_tensors_hooks(lambda saved: kept.append(saved) or saved, lambda saved: saved):
        out = resample(*tensors, sampling_points(5), 2)
    held = {saved.data_ptr() for saved in kept if saved.numel()}  # checkpoints of older torch save an empty one too
    assert held <= {tensor.data_ptr() for tensor in tensors}
    wanted = [tensor for tensor in tensors if tensor.requires_grad]
    for gradient, tensor in zip(torch.autograd.grad(out.sum(), wanted), wanted):
        assert (gradient.dtype, gradient.shape) == (dtype, tensor.shape) and gradient.any()


def test_nothing_is_made_ready_to_be_computed_again_where_no_gradient_is_wanted():
    x, offset = case(dtype=torch.float16)
    with mock.patch.object(functional, "checkpoint") as checkpoint:
        resample(x, offset, sampling_points(5))
        with torch.no_grad():
            resample(x.requires_grad_(), offset, sampling_points(5))
    checkpoint.assert_not_called()


def in_steps(cached, x, offset, border):
    """Return the samples and both gradients, computed in steps of so many samples."""
    x, offset = x.clone().requires_grad_(), offset.clone().requires_grad_()
    with mock.patch.object(bags, "_CACHED", cached):
        out = resample(x, offset, sampling_points(5), 2, border)
        out.backward(torch.linspace(-1, 1, out.numel(), dtype=out.dtype).reshape(out.shape))
    return out.detach(), x.grad, offset.grad


@borders
@pytest.mark.parametrize("cached", [7, 16, 59, 60, 61, 299, 300])  # 60 samples an image, 300 in all
def test_the_steps_that_are_taken_at_a_time_change_no_number(cached, border):
    x, offset = case((5, 3, 5, 7), stride=2)
    for actual, whole in zip(in_steps(cached, x, offset, border), in_steps(2**14, x, offset, border)):
        torch.testing.assert_close(actual, whole, rtol=0, atol=1e-12)


def test_no_step_over_several_tensors_takes_more_samples_than_stay_in_the_cache():
    x, offset = case((5, 3, 5, 7), stride=2)
    with mock.patch.object(bags, "embedding_bag", wraps=bags.embedding_bag) as bag:
        in_steps(16, x, offset, "paper")
    *gradient, samples = sorted(len(call.args[0]) for call in bag.call_args_list if call.args[0].ndim == 2)
    assert samples == 300  # read from one tensor, at once
    assert max(gradient) <= 16 and sum(gradient) == 2 * 300  # of the offsets, by axis
    assert len(gradient) <= 2 * math.ceil(300 / 16)  # and in no more steps than that takes


def test_low_and_high_of_both_axes_are_combined_once_a_sample_in_steps_that_stay_in_the_cache():
    samples, steps = torch.arange(100.0).view(1, 4, 5, 5), []

    def combine(rows, cols):
        steps.append(rows.shape[-1])
        return rows * 1000 + cols

    with mock.patch.object(bags, "_CACHED", 16):
        combined = bags._four((samples, samples + 0.25), (samples, samples + 0.5), combine)
    assert steps == [*[16] * 6, 4]
    corners = [0, 0.5, 250, 250.5]  # low and high of the columns in the low row, then in the high row
    assert torch.equal(combined, samples.flatten()[:, None] * 1001 + torch.tensor(corners))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_bags_are_summed_from_rows_without_gaps_which_are_the_fast_ones(layout):
    x, offset = (tensor.to(memory_format=layout).requires_grad_() for tensor in case((1, 3, 5, 7)))
    with mock.patch.object(bags, "embedding_bag", wraps=bags.embedding_bag) as bag:
        samples = resample(x, offset, sampling_points(5))
        samples.backward(torch.randn(1, 3, 25, 7, dtype=samples.dtype).to(memory_format=layout))
    assert all(call.args[1].is_contiguous() for call in bag.call_args_list)
    assert len(bag.call_args_list) == 4  # the samples, the offset gradient by axis, the input gradient
