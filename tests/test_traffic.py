# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the GPU paths move, launch and keep, by count on the device "meta", so that nobody loses it unseen.

Counted are the six AKConv of YOLOv8n, N=5, 640 px, batch 16, float16: offset convolution, sampling, column convolution.
"""

import copy
import gc

import pytest
import torch
from conftest import TORCH, built, yolov8_dict

from ultralytics_akconv import AKConv
from ultralytics_akconv.functional import using_path

if TORCH < (2, 2):
    pytest.skip("torch 2.1 counts its own checks, and does not tell when a storage goes", allow_module_level=True)
from counting import Peak, Traffic

LAYERS = [(16, 32, 320), (32, 64, 160), (64, 128, 80), (128, 256, 40), (64, 64, 80), (128, 128, 40)]
BATCH = 16
ON_META = {"dtype": torch.float16, "device": "meta"}


def traffic(path):
    """Return bytes and operators of a forward and a backward pass of the six layers."""
    moved, operators = 0, []
    for c1, c2, size in LAYERS:
        layer = AKConv(c1, c2, 5, 2).to(**ON_META).to(memory_format=torch.channels_last)
        x = torch.empty(BATCH, c1, size, size, **ON_META).to(memory_format=torch.channels_last).requires_grad_()
        grad = torch.empty(BATCH, c2, size // 2, size // 2, **ON_META).to(memory_format=torch.channels_last)
        with using_path(path), Traffic() as counted:
            layer._columns(x, layer.conv.conv).backward(grad)
        assert x.grad.shape == x.shape and layer.p_conv.weight.grad is not None
        moved, operators = moved + counted.bytes, operators + counted.operators
    return moved, operators


def test_the_counter_counts_what_is_read_and_written_and_no_views():
    x = torch.empty(4, 6, dtype=torch.float32, device="meta")
    with Traffic() as counted:
        y = x.t().reshape(2, 12)[:1].expand(3, 12)  # one copy: 96 bytes read, 96 written
        z = y + 1  # an expanded tensor is read once: 48, and 144 written
        z.mul_(2)  # 144 read, 144 written
        torch.empty_like(z)
    assert counted.operators == ["clone", "add", "mul_"] and counted.bytes == 192 + 192 + 288


def test_the_kernels_move_at_most_a_thirteenth_of_the_plain_formula_in_few_launches():
    moved, operators = traffic("kernels")
    assert moved <= 3.2e9
    assert len(operators) <= 80
    plain, many = traffic("gather")
    assert plain > 40e9 and len(many) > 1000


def test_without_triton_a_gpu_moves_a_sixth_of_the_plain_formula():
    moved, operators = traffic("grid")
    assert moved <= 7e9
    assert operators.count("grid_sampler_2d") == 12 and operators.count("grid_sampler_2d_backward") == 6


def peak(model, path):
    """Return the most bytes alive in a training step of a model, its weights and input included."""
    model = copy.deepcopy(model).to(**ON_META).to(memory_format=torch.channels_last).train()
    x = torch.empty(BATCH, 3, 640, 640, **ON_META).to(memory_format=torch.channels_last)
    gc.collect()
    with using_path(path), Peak() as followed:
        for tensor in (*model.parameters(), *model.buffers(), x):
            followed.hold(tensor.untyped_storage())
        outputs = model(x)
        outputs = outputs.values() if isinstance(outputs, dict) else outputs
        sum(out.float().square().sum() for out in outputs if isinstance(out, torch.Tensor)).backward()
        del outputs
    return followed.most


def test_the_follower_sees_what_is_freed():
    with Peak() as followed:
        x = torch.empty(100, dtype=torch.uint8, device="meta")
        y = x + 1
        del y
        y = x[:50] + 1
        assert (followed.now, followed.most) == (150, 200)
        del x, y
        assert followed.now == 0


@pytest.mark.parametrize("path", ["kernels", "grid"])
def test_a_training_step_needs_the_memory_of_the_plain_model(path):
    plain = peak(built(yolov8_dict(name=None)), path)
    assert plain > 1e9
    assert peak(built(yolov8_dict()), path) <= 1.05 * plain
