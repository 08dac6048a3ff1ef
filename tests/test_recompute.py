# SPDX-License-Identifier: AGPL-3.0-or-later
"""Samples that are computed again in the backward pass: which saved tensor is replaced, how often, and by what."""

import torch

from ultralytics_akconv.functional import recomputed_in_backward


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
