# SPDX-License-Identifier: AGPL-3.0-or-later
"""A layer takes a large batch in parts on a CPU; no number tells in how many."""

import copy
from unittest import mock

import pytest
import torch
import ultralytics.nn.tasks as tasks
from conftest import learned

from ultralytics_akconv import AKConv, modules

WHOLE = 2**40


def images(batch=5, size=(5, 7)):
    torch.manual_seed(0)
    return torch.randn(batch, 3, *size, dtype=torch.float64)  # 60 samples an image at N=5, stride 2


def fused(layer):
    """Return the layer as the host's `fuse()` leaves it."""
    conv = copy.deepcopy(layer).conv.float()  # the oldest releases fuse in float32 alone
    conv.conv = tasks.fuse_conv_and_bn(conv.conv, conv.bn)
    del conv.bn
    conv.forward = conv.forward_fuse
    layer = copy.deepcopy(layer)
    layer.conv = conv.double()
    return layer


def passed(layer, samples, x):
    """Return the output, the gradients by input and parameters, and the buffers after a pass in such parts."""
    layer, x = copy.deepcopy(layer), x.clone().requires_grad_()
    with mock.patch.object(modules, "_SAMPLES", samples):
        out = layer(x)
        out.backward(torch.linspace(-1, 1, out.numel(), dtype=out.dtype).reshape(out.shape))
    return out.detach(), x.grad, *(p.grad for p in layer.parameters() if p.requires_grad), *layer.buffers()


def norm_in_training(layer):
    """Return the layer with its BatchNorm alone in training mode, as where statistics are adapted."""
    layer.conv.bn.train()
    return layer


@pytest.mark.parametrize(
    "prepare", [lambda layer: layer.train(), lambda layer: layer.eval(), norm_in_training, fused], ids=range(4)
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_the_parts_of_a_batch_change_no_output_gradient_or_statistic(prepare, layout):
    layer = prepare(learned(AKConv(3, 4, 5, 2).double()).eval())
    x = images().to(memory_format=layout)
    whole = passed(layer, WHOLE, x)
    assert len(whole) >= 4 and whole[0].any() and whole[1].any()
    for samples in (1, 60, 120, 240):
        for actual, wanted in zip(passed(layer, samples, x), whole):
            torch.testing.assert_close(actual, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("samples", "sizes"), [(1, [1] * 5), (119, [1] * 5), (120, [2, 2, 1]), (239, [3, 2]), (299, [4, 1]), (300, [5])]
)
def test_a_part_has_as_many_images_as_there_may_be_samples_and_one_at_least(samples, sizes):
    layer = AKConv(3, 4, 5, 2).double()
    with (
        mock.patch.object(modules, "_SAMPLES", samples),
        mock.patch.object(modules, "sampler", wraps=modules.sampler) as sampler,
    ):
        layer(images())
    assert [len(call.args[0]) for call in sampler.call_args_list] == sizes


@pytest.mark.parametrize("shape", [(0, (5, 7)), (3, (1, 1)), (1, (2, 1))], ids=str)
def test_an_empty_batch_and_a_map_below_the_stride_are_parts_too(shape):
    layer = AKConv(3, 4, 5, 3).double().eval()
    assert layer(images(*shape)).shape == (shape[0], 4, 1 if shape[0] else 2, 1 if shape[0] else 3)


def test_a_trace_holds_no_parts():
    layer = learned(AKConv(3, 4, 5, 2).double()).eval()
    with mock.patch.object(modules, "_SAMPLES", 1), torch.no_grad():
        traced = torch.jit.trace(layer, images(2), check_trace=False)
        torch.testing.assert_close(traced(images(5)), layer(images(5)))
