# SPDX-License-Identifier: AGPL-3.0-or-later
"""Tools that look at layers: hooks, fake tensors and other modes, symbolic traces, pruning."""

import copy
import re
from unittest import mock

import pytest
import torch
from conftest import ROOT, TORCH, built, layers_of, learned, yolov8_dict
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from ultralytics.nn.modules.conv import Conv

from ultralytics_akconv import AKConv, modules, resample, sampling_points
from ultralytics_akconv.conversion import closed_form
from ultralytics_akconv.conversion.pairs import Pair, converted_state, solve_without_data
from ultralytics_akconv.functional import taps

BETWEEN = [[0, 0], [0.5, 1], [1, 1], [2, 2], [3, 0.25]]  # of which a fraction is remembered, too
CACHES = (taps.cached_base_positions, taps._last, closed_form.grid, closed_form.covariance)


@pytest.fixture(autouse=True)
def _forgotten():
    for cache in CACHES:
        cache.cache_clear()


# Hooks


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("kind", ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"])
@pytest.mark.parametrize("name", ["conv", "conv.conv", "conv.bn", "conv.act", "p_conv"])
def test_a_hook_below_a_layer_runs_once_a_call_on_the_whole_batch(name, kind, training):
    layer = learned(AKConv(3, 4, 5, 2, act=nn.SiLU())).train(training)
    x = torch.randn(6, 3, 9, 9, requires_grad=True)
    with mock.patch.object(modules, "_SAMPLES", 125):
        assert len(layer._parts(x)) == 6
        expected = copy.deepcopy(layer)(x)
        seen = []
        getattr(layer.get_submodule(name), kind)(lambda module, *args: seen.append(len(args[0][0])))
        out = layer(x)
        out.sum().backward()
    assert seen == [6]
    torch.testing.assert_close(out, expected)


def test_a_hook_on_all_modules_sees_the_whole_batch_too():
    layer, seen = AKConv(3, 4, 5, 2).eval(), []
    handle = nn.modules.module.register_module_forward_hook(lambda module, args, out: seen.append(len(out)))
    try:
        with mock.patch.object(modules, "_SAMPLES", 125):
            layer(torch.randn(6, 3, 9, 9))
    finally:
        handle.remove()
    assert set(seen) == {6}
    with mock.patch.object(modules, "_SAMPLES", 125):
        assert len(layer._parts(torch.randn(6, 3, 9, 9))) == 6


# Modes


class _Looks(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        return function(*arguments, **(options or {}))


def train_step(layer):
    x = torch.randn(2, 3, 16, 16, requires_grad=True)
    layer(x).sum().backward()


def under_fake_tensors():
    with FakeTensorMode():
        train_step(AKConv(3, 4, 5, 2, shape=BETWEEN))
        closed_form.covariance()


def under_inference_mode():
    with torch.inference_mode():
        AKConv(3, 4, 5, 2, shape=BETWEEN)(torch.randn(2, 3, 16, 16))
        closed_form.covariance()


def under_torch_func():
    layer = AKConv(3, 4, 5, 2, shape=BETWEEN).eval()
    torch.func.grad(lambda x: layer(x).sum())(torch.randn(2, 3, 16, 16))
    torch.func.vmap(lambda x: layer(x[None])[0])(torch.randn(2, 3, 16, 16))
    torch.func.functionalize(layer)(torch.randn(2, 3, 16, 16))


def under_another_default_device():
    with torch.device("meta"):
        train_step(AKConv(3, 4, 5, 2, shape=BETWEEN))
        closed_form.covariance()


def under_an_export():
    if TORCH >= (2, 5):
        torch.export.export(AKConv(3, 4, 5, 2, shape=BETWEEN).eval(), (torch.randn(2, 3, 16, 16),), strict=False)


def under_a_mode_that_only_looks():
    with _Looks():
        train_step(AKConv(3, 4, 5, 2, shape=BETWEEN))


MODES = [under_fake_tensors, under_inference_mode, under_torch_func, under_another_default_device, under_an_export,
         under_a_mode_that_only_looks]  # fmt: skip


@pytest.mark.filterwarnings("error:Accessing the data pointer")
@pytest.mark.parametrize("use", MODES, ids=lambda use: use.__name__)
@pytest.mark.parametrize("before", [True, False], ids=["after a real call", "first"])
def test_nothing_made_under_a_mode_reaches_a_real_call_nor_the_other_way_round(use, before):
    x, offset = torch.randn(2, 3, 16, 16), torch.randn(2, 10, 8, 8)
    points = sampling_points(5, BETWEEN)

    def real():
        a, b = x.clone().requires_grad_(), offset.clone().requires_grad_()
        out = resample(a, b, points, 2)
        out.square().sum().backward()
        return out.detach(), a.grad, b.grad, closed_form.grid().clone(), closed_form.covariance().clone()

    expected = real()
    if not before:
        for cache in CACHES:
            cache.cache_clear()
    use()
    for got, wanted in zip(real(), expected):
        assert type(got) is torch.Tensor
        assert torch.equal(got, wanted)


def test_a_conversion_runs_on_the_cpu_whatever_the_default_device_is(source):
    model = built(yolov8_dict())
    pair = Pair("1", layers_of(model)[0], source.model[1])
    prior = solve_without_data(pair)
    with torch.device("meta"):
        again = solve_without_data(pair)
        state = converted_state(pair, again.points, again.weight)
    assert torch.equal(again.points, prior.points) and torch.equal(again.weight, prior.weight)
    assert {value.device.type for value in state.values()} == {"cpu"}


# Devices other than a CPU and CUDA


class _NoFloat64(TorchDispatchMode):
    """Refuses float64 on a device, as Apple's GPU does, and 64-bit indices where they are many."""

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        for tensor in result if isinstance(result, (list, tuple)) else [result]:
            if isinstance(tensor, torch.Tensor) and tensor.device.type == "meta":
                assert tensor.dtype != torch.float64, function
                assert tensor.dtype != torch.int64 or not tensor.ndim, function  # BatchNorm counts its batches so
        return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("border", taps.BORDERS)
def test_a_layer_on_another_device_makes_no_float64_there_and_asks_nothing_of_cuda(border, dtype):
    layer = AKConv(3, 4, 5, 2, shape=BETWEEN, border=border, offset_lr=0.5).to("meta", dtype)
    x = torch.empty(2, 3, 16, 16, device="meta", dtype=dtype, requires_grad=True)
    layer(x)
    with mock.patch.object(torch.cuda, "is_available", side_effect=AssertionError), _NoFloat64():
        layer(x).sum().backward()
    assert x.grad.device.type == "meta"


class _OnApple(torch.Tensor):
    """A tensor that behaves as on a device without float64 until it is brought to the CPU."""

    @classmethod
    def __torch_function__(cls, function, types, arguments=(), options=None):
        result = super().__torch_function__(function, types, arguments, options or {})
        if function is torch.Tensor.cpu:
            return result.as_subclass(torch.Tensor)
        if isinstance(result, cls) and result.dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64")
        return result


def test_weights_that_lie_on_a_device_without_float64_are_converted(source):
    model, there = built(yolov8_dict()), copy.deepcopy(source)
    pair = Pair("1", layers_of(model)[0], there.model[1])
    expected = solve_without_data(pair)
    for module in (there.model[1].conv, there.model[1].bn):
        for name, parameter in list(module.named_parameters()):
            delattr(module, name)
            setattr(module, name, parameter.detach().as_subclass(_OnApple))
    there.model[1].bn.running_var = there.model[1].bn.running_var.as_subclass(_OnApple)
    with pytest.raises(TypeError, match="MPS"):
        there.model[1].conv.weight.double()
    got = solve_without_data(pair)
    assert torch.equal(got.points, expected.points) and torch.equal(got.weight, expected.weight)


# Transforms


@pytest.mark.parametrize("batch", [1, 6])
def test_gradients_and_batches_of_torch_func_are_those_of_autograd(batch):
    layer, x = learned(AKConv(3, 4, 5, 2, shape=BETWEEN)).double().eval(), torch.randn(batch, 3, 9, 9).double()
    weights = dict(layer.named_parameters())

    def loss(weights, x):
        return torch.func.functional_call(layer, weights, (x,)).square().sum()

    with mock.patch.object(modules, "_SAMPLES", 125):
        gradients = torch.func.grad(loss)(weights, x)
        layer(x).square().sum().backward()
        each = torch.func.vmap(torch.func.grad(loss), (None, 0))(weights, x[:, None])
        torch.testing.assert_close(torch.func.vmap(layer)(x[:, None])[:, 0], layer(x))
    for name, parameter in layer.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad)
        torch.testing.assert_close(each[name].sum(0), parameter.grad)


# Symbolic traces


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("offset_lr", [1.0, 0.5])
def test_a_layer_is_traced_by_fx_and_takes_other_sizes_then(offset_lr, training):
    layer = nn.Sequential(nn.Conv2d(3, 3, 1), learned(AKConv(3, 4, 5, 2, offset_lr=offset_lr))).train(training)
    eager = copy.deepcopy(layer)
    traced = torch.fx.symbolic_trace(layer)
    assert [node.target.__name__ for node in traced.graph.nodes if node.op == "call_function"].count("resample") == 1
    for size in (9, 16):
        x = torch.randn(2, 3, size, size)
        out, expected = traced(x), eager(x)
        torch.testing.assert_close(out, expected)
        out.sum().backward()
        expected.sum().backward()
    for ours, theirs in zip(traced.parameters(), eager.parameters()):
        torch.testing.assert_close(ours.grad, theirs.grad)


# Pruning


def test_the_pruner_of_the_manual_cuts_channels_of_the_map_and_none_of_the_offsets():
    pruning = pytest.importorskip("torch_pruning")
    recipe = re.search(r"```py\n(.*?)```", (ROOT / "docs/tools.md").read_text("utf-8"), re.DOTALL)[1]
    names = {}
    exec(recipe, names)
    model = nn.Sequential(Conv(3, 16, 3, 2), AKConv(16, 32, 5, 2), Conv(32, 32, 1), AKConv(32, 32, 3), Conv(32, 8, 1))
    x = torch.randn(2, 3, 32, 32)
    importance = pruning.importance.MagnitudeImportance()
    options = {"importance": importance, "pruning_ratio": 0.5, "ignored_layers": [model[-1]], **names["options"]}
    pruning.pruner.MagnitudePruner(model, x, **options).step()
    sizes = [(m.in_channels, m.out_channels, m.num_param) for m in model.modules() if isinstance(m, AKConv)]
    assert sizes == [(8, 16, 5), (16, 16, 3)]
    for layer in (model[1], model[3]):
        assert tuple(layer.p_conv.weight.shape[:2]) == (2 * layer.num_param, layer.in_channels)
        assert tuple(layer.conv.conv.weight.shape[:2]) == (layer.out_channels, layer.in_channels)
    model(x).sum().backward()
