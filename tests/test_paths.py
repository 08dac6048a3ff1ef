# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which path computes the samples, and that each trains alike; what the kernels are checked for: `test_trust.py`."""

import copy
import threading
from unittest import mock

import pytest
import torch
from conftest import learned, skip_if_half_lacks
from sample_forms import borders, case, needs_triton, paths, skip_if_off_cpu
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils.checkpoint import checkpoint

from ultralytics_akconv import AKConv, functional, resample, sampling_points
from ultralytics_akconv.functional import PATHS, sampling_path, using_path
from ultralytics_akconv.functional import paths as paths_module
from ultralytics_akconv.functional.kernels import KernelStatus

GPU = torch.device("cuda", 0)


def test_a_cpu_takes_the_bags_where_they_are_fast_and_the_plain_formula_else():
    expected = {torch.float32: "bags", torch.float64: "bags", torch.float16: "gather", torch.bfloat16: "gather"}
    for dtype, path in expected.items():
        assert sampling_path(*case(dtype=dtype)) == path
    assert sampling_path(*case((0, 3, 5, 7))) == "gather"
    assert sampling_path(*case(device="meta")) == "gather"
    fakes = FakeTensorMode()
    x, offset = (FakeTensor(fakes, torch.empty(1, channels, 5, 7, device="meta"), GPU) for channels in (3, 10))
    assert sampling_path(x, offset) == "gather"


class OnGPU:
    """What is asked of a tensor on a GPU before a path is chosen: this machine need not have one."""

    def __init__(self, *shape, dtype=torch.float16):
        self.shape, self.dtype, self.device = torch.Size(shape), dtype, GPU
        self.numel = self.shape.numel


@pytest.mark.parametrize(("trusted", "path"), [(True, "kernels"), (False, "grid")])
def test_a_gpu_takes_the_kernels_if_they_are_trusted_and_grid_sample_else(trusted, path, monkeypatch):
    monkeypatch.setattr(paths_module, "Tensor", OnGPU)
    monkeypatch.setattr(paths_module, "kernel_status", lambda device, dtype: KernelStatus(trusted, None))
    x, offset = OnGPU(2, 16, 640, 640), OnGPU(2, 10, 320, 320)
    assert sampling_path(x, offset) == path
    assert sampling_path(OnGPU(0, 16, 640, 640), offset) == "gather"
    assert sampling_path(x, OnGPU(2, 10, 320, 320, dtype=torch.float8_e5m2)) == "grid"
    for warn_only, expected in ((True, path), (False, path if trusted else "gather")):
        torch.use_deterministic_algorithms(True, warn_only=warn_only)  # the host's way, and the strict one
        try:
            assert sampling_path(x, offset) == expected
        finally:
            torch.use_deterministic_algorithms(False)


def test_the_kernels_are_not_given_more_than_they_can_count(monkeypatch):
    monkeypatch.setattr(paths_module, "Tensor", OnGPU)
    monkeypatch.setattr(paths_module, "kernel_status", lambda device, dtype: KernelStatus(True, None))
    few, many = 2**15, 2**16  # many * few = 2^31: of the pixels, or of the samples of an image
    for height, n, h, path in (
        (many, 1, 1, "grid"),
        (few, 1, 1, "kernels"),
        (1, 2, few, "grid"),
        (1, 1, few, "kernels"),
    ):
        x, offset = OnGPU(3, 8, height, few), OnGPU(3, 2 * n, h, few)
        assert sampling_path(x, offset) == path


def test_a_forced_path_is_taken_in_every_thread_and_left_again():
    x, offset = case()
    seen = []
    with using_path("grid"):
        with using_path("gather"):
            thread = threading.Thread(target=lambda: seen.append(sampling_path(x, offset)))
            thread.start()
            thread.join()
        assert (*seen, sampling_path(x, offset)) == ("gather", "grid")
        with mock.patch.object(paths_module, "is_traced", lambda: True):
            assert sampling_path(x, offset) == "gather"
    with pytest.raises(ZeroDivisionError), using_path("grid"):
        raise ZeroDivisionError
    assert sampling_path(x, offset) == "bags"
    with pytest.raises(ValueError, match="one of bags, kernels, grid, gather, got 'atomic'"), using_path("atomic"):
        pass


def test_each_path_runs_what_it_is_named_for():
    named = {"bags": "BagSamples", "kernels": "kernel_samples", "grid": "grid_sampler", "gather": "gather_samples"}
    assert set(named) == set(PATHS)
    for path, name in named.items():
        with mock.patch.object(functional, name) as used, using_path(path):
            resample(*case(), sampling_points(5))
        assert used.call_count + used.apply.call_count == 1


def step(layer, x):
    """Return the output and all gradients of a training step."""
    x = x.clone().requires_grad_()
    out = layer(x)
    out.float().square().sum().backward()
    gradients = [parameter.grad for parameter in layer.parameters()]
    layer.zero_grad(set_to_none=True)
    return [out.detach(), x.grad, *gradients]


def a_layer():
    layer = learned(AKConv(3, 4, 3, 2).double())
    layer.conv.bn.momentum = 0.0  # a step leaves no trace
    return layer.train(), torch.randn(2, 3, 5, 6, dtype=torch.float64)


@paths
def test_a_step_is_the_same_under_checkpointing_in_a_copy_and_after_inference(path):
    layer, x = a_layer()
    expected = step(layer, x)
    with using_path(path):
        with torch.inference_mode():
            layer.eval()(x)
        twin = copy.deepcopy(layer.train())
        checkpointed = step(lambda_module(layer), x)
        for found in (step(twin, x), checkpointed):
            for actual, wanted in zip(found, expected):
                torch.testing.assert_close(actual, wanted, rtol=1e-9, atol=1e-9, check_stride=False)


def lambda_module(layer):
    """Return the layer with its activations computed again in the backward pass."""

    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return checkpoint(self.layer, x, use_reentrant=False)

    return Checkpointed()


@paths
def test_a_step_is_the_same_in_a_data_parallel_process(path, tmp_path):
    layer, x = a_layer()
    expected = step(layer, x)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        with using_path(path):
            found = step(nn.parallel.DistributedDataParallel(layer), x)
    finally:
        torch.distributed.destroy_process_group()
    for actual, wanted in zip(found, expected):
        torch.testing.assert_close(actual, wanted, rtol=1e-9, atol=1e-9, check_stride=False)


@paths
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=str)
def test_autocast_trains_a_layer_by_every_path(path, half):
    skip_if_half_lacks("autocast", half)
    layer, x = a_layer()
    layer, x = layer.float(), x.float()
    wanted = step(layer, x)
    with using_path(path), torch.autocast("cpu", half):
        found = step(layer, x)
    assert found[0].dtype == half
    for actual, expected in zip(found, wanted):
        assert (actual - expected).norm() <= 0.1 * expected.norm()  # the convolutions round, sampling does not


@borders
@pytest.mark.parametrize(
    ("path", "dtype"),
    [
        ("bags", torch.float32),
        ("gather", torch.float16),
        ("grid", torch.float16),
        pytest.param("kernels", torch.float32, marks=needs_triton),
        pytest.param("kernels", torch.float16, marks=needs_triton),
    ],
    ids=str,
)
def test_a_nan_offset_has_no_gradient_of_its_own_and_spoils_that_of_its_twin(path, dtype, border, device):
    skip_if_off_cpu(path, device)
    x, offset = case(stride=2, dtype=dtype, device=device)
    offset[0, 1, 1, 1] = offset[1, 7, 0, 2] = offset[1, 3, 2, 0] = offset[1, 8, 2, 0] = float("nan")
    offset.requires_grad_()
    with using_path(path):
        resample(x.requires_grad_(), offset, sampling_points(5), 2, border).sum().backward()
    spoiled = torch.zeros_like(offset, dtype=torch.bool)
    spoiled[0, 6, 1, 1] = spoiled[1, 2, 0, 2] = True
    assert torch.equal(offset.grad.isnan(), spoiled)
    assert not offset.grad[offset.isnan()].any()
    assert x.grad.isnan().any() == ((path, border) != ("grid", "zeros"))  # there it reads no pixel
