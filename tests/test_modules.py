# SPDX-License-Identifier: AGPL-3.0-or-later
import copy
import itertools

import pytest
import thop
import torch
import ultralytics.nn.tasks as tasks
from conftest import TORCH, learned, yolov8_dict
from sample_forms import GOLDEN, borders, load, paths, skip_if_off_cpu
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from ultralytics.nn.modules.conv import Conv
from ultralytics.utils.torch_utils import get_flops

from ultralytics_akconv import AKConv, LDConv, akconv2d, sampling_points
from ultralytics_akconv.functional import using_path

EXACT = {"rtol": 0, "atol": 1e-10, "check_stride": False}


def published(gold, prefix=""):
    return {prefix + key[3:]: value for key, value in gold.items() if key.startswith("sd.")}


@paths
def test_outputs_and_every_gradient_are_the_published_ones(path, device):
    skip_if_off_cpu(path, device)
    with using_path(path):
        for file in GOLDEN:
            compare_with_published(load(file, device))


def compare_with_published(gold):
    layer = AKConv(3, 4, gold["num_param"], gold["stride"]).to(gold["x"])
    # The golden module is a bare torch BatchNorm; the host sets its own eps and momentum on whole models only.
    layer.load_state_dict(published(gold), strict=True)
    torch.testing.assert_close(layer.eval()(gold["x"]), gold["out_eval"], **EXACT)
    x = gold["x"].requires_grad_()
    out = layer.train()(x)
    torch.testing.assert_close(out, gold["out_train"], **EXACT)
    out.backward(gold["grad_out"])
    torch.testing.assert_close(x.grad, gold["grad.x"], **EXACT)
    named = dict(layer.named_parameters())
    ours = {key.replace("conv.0.", "conv.conv.").replace("conv.1.", "conv.bn."): key for key in published(gold)}
    compared = [name for name in named if f"grad.{ours[name]}" in gold]
    assert len(compared) == len(named) == 5
    for name in compared:
        torch.testing.assert_close(named[name].grad, gold[f"grad.{ours[name]}"], **EXACT)


def test_the_positional_order_is_the_published_one_and_the_rest_is_keyword_only():
    layer = AKConv(3, 8, 5, 2)
    assert (layer.in_channels, layer.out_channels, layer.num_param, layer.stride) == (3, 8, 5, 2)
    assert AKConv(3, 8, 5).stride == 1
    with pytest.raises(TypeError, match="positional argument"):
        AKConv(3, 8, 5, 2, "cross")


def test_ldconv_is_the_same_class():
    assert LDConv is AKConv


def test_the_output_has_one_pixel_a_stride():
    for num_param, stride in itertools.product((1, 2, 5, 13), (1, 2, 3)):
        layer = learned(AKConv(3, 4, num_param, stride)).eval()
        for height, width in ((1, 1), (1, 6), (7, 1), (7, 10)):
            out = layer(torch.randn(2, 3, height, width))
            assert out.shape == (2, 4, (height - 1) // stride + 1, (width - 1) // stride + 1)
            assert out.isfinite().all(), (num_param, stride, height, width)


def test_the_module_is_the_function_with_its_weights(close):
    options = {"shape": "ring", "border": "clamp", "origin": "center"}
    layer = learned(AKConv(3, 4, 6, 2, act=False, **options)).double().eval()
    x = torch.randn(2, 3, 7, 9, dtype=torch.float64)
    points = sampling_points(6, "ring", "center")
    out = akconv2d(x, layer.offsets(x), layer.conv.conv.weight, points, stride=2, border="clamp")
    close(layer(x), layer.conv.bn(out))


def test_the_parameters_are_those_of_the_formula():
    for c1, c2, n in [(3, 8, 1), (16, 32, 5), (8, 8, 13)]:
        count = sum(p.numel() for p in AKConv(c1, c2, n, 2).parameters())
        assert count == c1 * c2 * n + 2 * c2 + c1 * 2 * n * 9 + 2 * n


def test_offsets_start_as_constants_and_stay_so_after_the_hosts_reset_weights():
    model = tasks.DetectionModel(yolov8_dict(), verbose=False)
    layers = [m for m in model.modules() if isinstance(m, AKConv)]
    for layer in layers:
        learned(layer)
    for module in model.modules():  # what `YOLO.reset_weights()` does
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    assert len(layers) == 6
    assert all(not layer.p_conv.weight.any() and layer.p_conv.bias.any() for layer in layers)


def test_yolo_reset_weights_keeps_the_zero_start(tmp_path):
    from ultralytics import YOLO

    yolo = YOLO(tmp_yaml(tmp_path))
    for layer in (m for m in yolo.model.modules() if isinstance(m, AKConv)):
        nn.init.ones_(layer.p_conv.weight)
    yolo.reset_weights()
    assert not any(m.p_conv.weight.any() for m in yolo.model.modules() if isinstance(m, AKConv))


def tmp_yaml(folder, *arguments, **options):
    import yaml

    file = folder / "yolov8n-test.yaml"
    file.write_text(yaml.safe_dump(yolov8_dict(*arguments, **options)), "utf-8")
    return file


@pytest.mark.parametrize("factor", [0.0, 0.1, 3.0])
def test_offset_lr_scales_the_gradients_of_the_offset_branch_and_nothing_else(factor):
    plain = learned(AKConv(3, 4, 5, 2)).double()
    scaled = AKConv(3, 4, 5, 2, offset_lr=factor).double()
    scaled.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 7, 9, dtype=torch.float64)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    outputs = [layer(i) for layer, i in zip((plain, scaled), inputs)]
    assert torch.equal(*outputs)
    for out in outputs:
        out.square().sum().backward()
    torch.testing.assert_close(inputs[1].grad, inputs[0].grad, rtol=0, atol=1e-12)
    for (name, p), q in zip(plain.named_parameters(), scaled.parameters()):
        expected = p.grad * factor if name.startswith("p_conv") else p.grad
        assert p.grad.any()
        torch.testing.assert_close(q.grad, expected, rtol=1e-12, atol=1e-12)


def test_fuse_leaves_no_batchnorm_and_the_same_output(close):
    model = tasks.DetectionModel(yolov8_dict(), verbose=False).eval()
    for layer in model.modules():
        if isinstance(layer, AKConv):
            learned(layer)
    x = torch.randn(1, 3, 64, 64)
    before = model(x)[0]
    model.fuse(verbose=False)
    layers = [m for m in model.modules() if isinstance(m, AKConv)]
    assert len(layers) == 6
    assert not any(isinstance(m, nn.BatchNorm2d) for layer in layers for m in layer.modules())
    torch.testing.assert_close(model(x)[0], before, rtol=1e-4, atol=1e-3)  # boxes in pixels, six fused layers deep
    layer = learned(AKConv(3, 4, 5, 2)).eval()
    fused = copy.deepcopy(layer)
    fused.conv.conv = tasks.fuse_conv_and_bn(fused.conv.conv, fused.conv.bn)
    fused.conv.forward = fused.conv.forward_fuse
    close(fused(x), layer(x))


def test_the_hosts_flop_counter_counts_both_convolutions():
    layer = AKConv(16, 32, 5, 2).eval()
    macs, params = thop.profile(layer, (torch.zeros(1, 16, 32, 32),), verbose=False)
    convolutions = 16 * 16 * (16 * 10 * 9 + 16 * 32 * 5)
    assert params == sum(p.numel() for p in layer.parameters())
    assert convolutions <= macs < 1.05 * convolutions
    ours, stock = (
        get_flops(tasks.DetectionModel(yolov8_dict(name=name), verbose=False), 640) for name in ("AKConv", None)
    )
    assert 0.94 * stock < ours < 0.98 * stock  # 8.4 of 8.7 as published


def test_a_model_of_the_published_sizes_has_the_published_parameters():
    counts = {
        num_param: sum(p.numel() for p in tasks.DetectionModel(model, verbose=False).parameters())
        for num_param, model in {5: yolov8_dict(5, 2), 6: yolov8_dict(6, 2), None: yolov8_dict(name=None)}.items()
    }
    assert (counts[5] - counts[None], counts[6] - counts[None]) == (2_940_140 - 3_157_200, 3_011_928 - 3_157_200)


@borders
def test_training_moves_every_parameter_and_lowers_the_loss(border):
    layer = AKConv(3, 4, 5, 2, border=border)
    x, target = torch.randn(4, 3, 8, 8), torch.rand(4, 4, 4, 4)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    start = [p.detach().clone() for p in layer.parameters()]
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = (layer(x) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert not any(torch.equal(p, s) for p, s in zip(layer.parameters(), start))


def test_the_hosts_activation_key_reaches_the_layer(monkeypatch):
    monkeypatch.setattr(Conv, "default_act", Conv.default_act)  # older releases leave the key's value there
    model = tasks.DetectionModel({**yolov8_dict(), "activation": "torch.nn.ReLU()"}, verbose=False)
    assert all(isinstance(m.conv.act, nn.ReLU) for m in model.modules() if isinstance(m, AKConv))
    monkeypatch.undo()
    assert isinstance(AKConv(3, 4, 5).conv.act, nn.SiLU)
    assert isinstance(AKConv(3, 4, 5, act=False).conv.act, nn.Identity)


one_graph = pytest.mark.skipif(TORCH < (2, 3), reason="torch before 2.3 does not tell a model that it is compiled")


@one_graph
@pytest.mark.slow
def test_torch_compile_makes_one_graph_of_a_layer_with_equal_output(close):
    layer = learned(AKConv(3, 4, 5, 2)).eval()
    x = torch.randn(2, 3, 9, 11)
    with torch.no_grad():
        close(torch.compile(layer, fullgraph=True)(x), layer(x))


@one_graph
def test_a_compiled_layer_takes_other_sizes_in_the_same_graph(close):
    layer = learned(AKConv(3, 4, 5, 2)).eval()
    graphs = CompileCounterWithBackend("aot_eager")  # no code is generated
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend=graphs)
    with torch.no_grad():
        compiled(torch.randn(2, 3, 9, 11))
        made = graphs.frame_count
        for shape in ((2, 3, 9, 11), (3, 3, 32, 7), (4, 3, 8, 20)):
            x = torch.randn(shape)
            close(compiled(x), layer(x))
    assert graphs.frame_count == made > 0


@one_graph
def test_torch_compile_traces_a_training_step_in_one_graph(close):
    layer = learned(AKConv(3, 4, 5, 2, offset_lr=0.5))
    compiled = torch.compile(copy.deepcopy(layer), fullgraph=True, backend="aot_eager")  # no code is generated
    x = torch.randn(2, 3, 9, 11)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    outputs = [f(i) for f, i in zip((layer, compiled), inputs)]
    close(outputs[1], outputs[0])
    for out in outputs:
        out.square().sum().backward()
    torch.testing.assert_close(inputs[1].grad, inputs[0].grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((3, 4, 0), {}, ValueError, "num_param must be from 1 to 1024, got 0"),
        ((3, 4, 10**9), {}, ValueError, "num_param must be from 1 to 1024, got 1000000000"),
        ((3, 4, 2.5), {}, TypeError, r"num_param must be an int, got 2.5 \(float\)"),
        ((3, 4, 5, 0), {}, ValueError, "stride must be at least 1, got 0"),
        ((3, 4, 5, "2"), {}, TypeError, r"stride must be an int, got '2' \(str\)"),
        ((3, 4, 5, (2, 2)), {}, TypeError, "stride must be an int"),
        ((0, 4, 5), {}, ValueError, "in_channels must be at least 1, got 0"),
        ((3, -1, 5), {}, ValueError, "out_channels must be at least 1, got -1"),
        ((3, True, 5), {}, TypeError, "out_channels must be an int, got True"),
        ((3, 4, 5), {"shape": "star"}, ValueError, "unknown shape 'star': use one of default"),
        ((3, 4, 5), {"shape": [[0, 0]]}, ValueError, "num_param=5"),
        ((3, 4, 5), {"border": "reflect"}, ValueError, "border must be one of paper, clamp, zeros, got 'reflect'"),
        ((3, 4, 5), {"origin": "top"}, ValueError, "origin must be one of corner, center, got 'top'"),
        ((3, 4, 5), {"offset_lr": -1}, ValueError, "offset_lr must be finite and not negative, got -1"),
        ((3, 4, 5), {"offset_lr": float("nan")}, ValueError, "offset_lr must be finite"),
        ((3, 4, 5), {"offset_lr": float("inf")}, ValueError, "offset_lr must be finite"),
        ((3, 4, 5), {"offset_lr": "0.1"}, TypeError, r"offset_lr must be a number, got '0.1' \(str\)"),
        ((3, 4, 5), {"act": "relu"}, TypeError, r"act must be a bool or a module, got 'relu' \(str\)"),
        ((3, 4, 5), {"padding": 1}, TypeError, "padding"),
        ((3, 4), {}, TypeError, "num_param"),
    ],
)
def test_bad_arguments_are_refused_with_what_is_allowed(arguments, options, error, message):
    with pytest.raises(error, match=message):
        AKConv(*arguments, **options)
