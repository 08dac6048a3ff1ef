# SPDX-License-Identifier: AGPL-3.0-or-later
"""Conversion of trained models: the closed form, the fit on images, whole models, loading, files and bad input."""

import copy
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import ultralytics.nn.tasks as tasks
from conftest import ROOT, layers_of, yolov8_dict
from ultralytics import YOLO
from ultralytics.nn.modules.conv import Conv
from ultralytics.utils import LOGGER

import ultralytics_akconv
from ultralytics_akconv import AKConv, from_published, transfer, write_checkpoint
from ultralytics_akconv.cli import main
from ultralytics_akconv.transfer.calibration import fit
from ultralytics_akconv.transfer.closed_form import (
    covariance,
    expected_error,
    grid,
    interpolation,
    kernel_gram,
    place_taps,
    project,
)
from ultralytics_akconv.transfer.layers import Pair, converted_state, find_pairs, solve_without_data

IMAGES = ROOT / "cfg/datasets/akconv-mini/images/train"
ARGS = {"imgsz": 64, "data": "some.yaml", "seed": 3}


def trained(config, **changes):
    """Return a host model with random weights whose BatchNorm layers have statistics of their own."""
    if isinstance(config, str):
        name = config
        config = tasks.yaml_model_load(config)
        task = tasks.guess_model_task(name)
    else:
        config, task = copy.deepcopy(config), "detect"
    classes = {"classify": tasks.ClassificationModel, "segment": tasks.SegmentationModel, "pose": tasks.PoseModel}
    model = classes.get(task, {"obb": tasks.OBBModel}.get(task, tasks.DetectionModel))(config | changes, verbose=False)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.3)
            torch.nn.init.normal_(module.running_mean, std=0.3)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    model.args, model.task = dict(ARGS), task
    model.names = {i: f"kind {i}" for i in range(model.yaml["nc"])}
    return model.eval()


@pytest.fixture(scope="module")
def source():
    torch.manual_seed(0)
    return trained(yolov8_dict(name=None), nc=3)


@pytest.fixture
def checkpoint(source, tmp_path):
    """A finished checkpoint of the host: float16."""
    return write_checkpoint(copy.deepcopy(source).half(), tmp_path / "source.pt")


def pair(num_param=5, c1=4, c2=6, border="zeros", origin="center", stride=2):
    conv = Conv(c1, c2, 3, stride).eval()
    torch.nn.init.normal_(conv.conv.weight)
    torch.nn.init.normal_(conv.bn.running_mean)
    akconv = AKConv(c1, c2, num_param, stride, border=border, origin=origin).eval()
    return Pair("layer", akconv, conv)


def smooth(*size):
    """Return random images whose neighbouring pixels are alike."""
    return torch.nn.functional.avg_pool2d(torch.randn(size[0], size[1], size[2] + 4, size[3] + 4), 5, 1) * 5


def converted(layers, taps=None, weight=None):
    prior = solve_without_data(layers)
    taps = prior.taps if taps is None else taps
    layers.akconv.load_state_dict(converted_state(layers, taps, prior.weight if weight is None else weight))
    return prior


def relative(actual, wanted):
    return ((actual - wanted).norm() / wanted.norm()).item()


# The closed form


def test_the_projected_weights_are_the_regression_on_samples_of_the_prior():
    weight, taps = torch.randn(3, 2, 3, 3), torch.tensor([[-1.0, 0.5], [0.25, -0.75], [1.0, 1.0]], dtype=torch.float64)
    values = torch.linalg.cholesky(covariance()) @ torch.randn(9, 200_000, dtype=torch.float64)
    samples = interpolation(taps) @ values  # (3, draws)
    kernels = weight.double().flatten(2)
    wanted = (kernels @ values @ samples.T) @ torch.linalg.inv(samples @ samples.T)
    torch.testing.assert_close(project(weight, taps), wanted, rtol=0, atol=0.02)


def test_the_expected_error_is_the_error_on_samples_of_the_prior():
    weight, taps = torch.randn(3, 2, 3, 3), grid()[[0, 2, 4, 6, 8]]
    values = torch.linalg.cholesky(covariance()) @ torch.randn(9, 200_000, dtype=torch.float64)
    wanted = weight.double().flatten(0, 1).flatten(1) @ values  # every input channel by itself, as the prior has it
    got = project(weight, taps).flatten(0, 1) @ (interpolation(taps) @ values)
    assert relative(got, wanted) == pytest.approx(float(expected_error(kernel_gram(weight), taps, 0.9)), rel=0.01)


def test_nine_taps_get_the_kernel_itself_and_further_ones_start_at_zero():
    weight = torch.randn(3, 2, 3, 3)
    for num_param in (9, 13, 40):
        taps = place_taps(kernel_gram(weight), num_param)
        assert len({tuple(tap) for tap in taps.tolist()}) == num_param
        projected = project(weight, taps)
        assert torch.equal(projected[..., :9], weight.double().flatten(2)) and not projected[..., 9:].any()


def test_more_taps_lose_less_and_chosen_places_less_than_whole_pixels():
    gram = kernel_gram(torch.randn(8, 8, 3, 3))
    errors = [float(expected_error(gram, place_taps(gram, n))) for n in range(1, 10)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 2e-3  # the taps' noise alone
    cross = grid()[[1, 3, 4, 5, 7]]
    assert errors[4] < 0.9 * float(expected_error(gram, cross))
    assert place_taps(gram, 5).abs().max() <= 1


def test_taps_that_read_the_same_pixel_get_bounded_weights():
    taps = torch.tensor([[0.0, 0.0], [0.0, 1e-9], [0.0, 0.5], [0.0, 1.0]], dtype=torch.float64)
    assert project(torch.randn(3, 2, 3, 3), taps).abs().max() < 100


# One layer


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


@pytest.mark.parametrize("border", ["paper", "clamp", "zeros"])
@pytest.mark.parametrize("num_param", [2, 3, 4, 5, 6, 7, 8])
def test_the_closed_form_beats_dropping_taps(num_param, border):
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
    torch.testing.assert_close(points + shift, prior.taps, rtol=0, atol=1e-6)
    layers.akconv.train()(smooth(2, 4, 16, 16)).square().mean().backward()
    assert layers.akconv.p_conv.weight.grad.abs().max() > 0


# The fit on images


def fitted(layers, images):
    prior = converted(layers)
    (errors,) = fit(layers.akconv, layers.conv, [layers], [prior], [images])
    return prior, errors


def test_the_fit_finds_a_convolution_that_the_taps_can_express():
    layers = pair()
    with torch.no_grad():
        layers.conv.conv.weight *= torch.tensor([[0, 1, 0], [1, 1, 1], [0, 1, 0]])
    prior = solve_without_data(layers)
    prior = replace(prior, taps=grid()[[1, 3, 4, 5, 7]], weight=torch.zeros_like(prior.weight))
    layers.akconv.load_state_dict(converted_state(layers, prior.taps, prior.weight))
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


# Whole models


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("yolov8n.yaml", "downsample"),
        ("yolov8n.yaml", "blocks"),
        ("yolo11n-seg.yaml", "backbone"),
        ("yolov8n-pose.yaml", "neck"),
        ("yolo11n-obb.yaml", "downsample"),
        ("yolov8n-cls.yaml", "downsample"),
    ],
)
def test_nine_points_leave_the_outputs_of_a_model_as_they_are(name, where):
    model = trained(name, nc=4)
    result = transfer(model, num_param=9, where=where)
    assert len(layers_of(result.model)) == len(result.layers) > 0
    assert result.model.model[-1].f == model.model[-1].f
    x, seen = torch.rand(1, 3, 64, 64), []
    for each in (model, result.model):
        each.model[-1].register_forward_pre_hook(lambda head, args: seen.append(args[0]))
        with torch.no_grad():
            each(x)
    maps = zip(*[value if isinstance(value, list) else [value] for value in seen])  # what the head reads
    for wanted, got in maps:
        assert wanted.std() > 0.01
        assert relative(got, wanted) < 1e-4


def test_every_other_tensor_and_all_that_is_known_about_the_model_stay(source, checkpoint):
    result = transfer(checkpoint, num_param=[3, 4, 5, 6, 7, 8])
    assert [layer.num_param for layer in result.layers] == [3, 4, 5, 6, 7, 8]
    file = result.save(checkpoint.with_name("converted.pt"))
    wrapped = YOLO(file)
    model = wrapped.model
    half, state = copy.deepcopy(source).half().state_dict(), model.state_dict()
    replaced = {layer.name for layer in result.layers}
    for key, value in half.items():
        if key.rsplit(".", 2)[0] not in replaced:
            assert torch.equal(state[key], value.to(state[key].dtype)), key
    stored = torch.load(file, weights_only=False)["model"]
    assert all(value.dtype != torch.float32 for value in stored.state_dict().values())
    assert model.names == source.names and model.task == "detect" and model.args["imgsz"] == 64
    assert torch.equal(model.stride, source.stride) and model.yaml["nc"] == 3
    assert [m.num_param for m in layers_of(model)] == [3, 4, 5, 6, 7, 8]
    assert len(wrapped.predict(np.zeros((64, 64, 3), np.uint8), imgsz=64, verbose=False)) == 1


def test_a_float32_source_is_stored_without_loss(source, tmp_path):
    state = YOLO(transfer(source).save(tmp_path / "converted.pt")).model.state_dict()
    assert torch.equal(state["model.0.conv.weight"], source.state_dict()["model.0.conv.weight"])


def test_a_model_yaml_takes_the_sources_classes_and_scale(source):
    result = transfer(source, "yolov8-akconv7.yaml")
    assert result.model.yaml["nc"] == 3 and all(m.num_param == 7 for m in layers_of(result.model))
    assert {m.border for m in layers_of(result.model)} == {"paper"}


def test_images_lower_the_layers_errors_and_the_report_shows_it(checkpoint, mini_dataset, tmp_path):
    result = transfer(checkpoint, num_param=4, data=mini_dataset, images=4, imgsz=64)
    assert all(0 < layer.fitted < layer.prior for layer in result.layers)
    by_folder = transfer(checkpoint, num_param=4, data=IMAGES, images=4, imgsz=64)
    assert [layer.fitted for layer in by_folder.layers] == [layer.fitted for layer in result.layers]
    table = result.table()
    assert "fitted" in table and all(layer.name in table for layer in result.layers)
    parameters = sum(p.numel() for p in result.model.parameters())
    assert f"{parameters:,}" in table
    picture = cv2.imread(str(result.plot(tmp_path / "report.png")))
    assert picture.std() > 10


def test_classification_models_are_fitted_on_images_as_their_predictor_prepares_them(tmp_path):
    model = trained("yolov8n-cls.yaml", nc=2)
    for split in ("train", "val"):
        for kind, files in zip("ab", (sorted(IMAGES.iterdir())[:2], sorted(IMAGES.iterdir())[2:4])):
            (tmp_path / split / kind).mkdir(parents=True)
            for file in files:
                shutil.copy(file, tmp_path / split / kind)
    result = transfer(model, data=tmp_path, images=2, imgsz=64)
    assert all(layer.fitted < layer.prior for layer in result.layers)


# Budgets


def test_a_budget_of_parameters_is_kept_and_leaves_layers_that_save_little(source):
    result = transfer(source, budget="params=0.93")
    before, after = (sum(p.numel() for p in m.parameters()) for m in (source, result.model))
    assert 0.85 * before < after <= 0.93 * before
    assert len({layer.num_param for layer in result.layers}) > 1 or len(result.layers) < 6


def test_a_budget_of_operations_is_kept_as_the_host_counts_them(source):
    from ultralytics.utils.torch_utils import get_flops

    result = transfer(source, budget="gflops=0.97")
    assert 0.9 * get_flops(source) < get_flops(result.model) <= 0.971 * get_flops(source)


def test_a_bound_on_the_error_holds_for_every_layer(source):
    loose, tight = (transfer(source, budget=f"error={bound}") for bound in (0.2, 0.1))
    assert all(layer.expected <= 0.2 for layer in loose.layers) and all(layer.expected <= 0.1 for layer in tight.layers)
    assert sum(p.numel() for p in loose.model.parameters()) < sum(p.numel() for p in tight.model.parameters())


def test_a_budget_counts_all_convolutions_inside_a_block(source):
    result = transfer(source, budget="error=0.25", where="blocks")
    rows = {}
    for layer in result.layers:
        rows.setdefault(layer.name.split(".")[1], set()).add(layer.num_param)
    assert rows and all(len(numbers) == 1 for numbers in rows.values())


@pytest.mark.parametrize("budget", ["0.9", "params", "params=", "params=2", "params=nan", "speed=0.5", "error=0"])
def test_a_budget_that_is_none_is_refused(source, budget):
    with pytest.raises(ValueError, match="params=FRACTION or gflops=FRACTION"):
        transfer(source, budget=budget)


def test_a_budget_out_of_reach_says_what_can_be_reached(source):
    with pytest.raises(ValueError, match=r"params=0\.1 cannot be reached; the least is 0\.[6-9]"):
        transfer(source, budget="params=0.1")
    with pytest.raises(ValueError, match=r"the least error is 0\.[01]"):
        transfer(source, budget="error=1e-6", where="backbone")


# Loading by itself


def test_load_converts_replaced_layers_and_says_so_as_the_host_does(checkpoint, monkeypatch):
    lines = []
    monkeypatch.setattr(LOGGER, "info", lines.append)
    target = tasks.DetectionModel(yolov8_dict(5, 2), nc=3, verbose=False)
    target.load(YOLO(checkpoint).model)
    items = len(target.state_dict())
    assert f"Transferred {items}/{items} items from pretrained weights" in lines
    assert any("Transferred 6 Conv layers to AKConv (N=5)" in line for line in lines)
    expected = transfer(checkpoint, target)
    for key, value in expected.model.state_dict().items():
        assert torch.equal(target.state_dict()[key], value), key


def test_load_by_name_of_yaml_and_checkpoint_converts_too(checkpoint):
    model = YOLO("yolov8n-akconv.yaml").load(str(checkpoint))
    weights = YOLO(checkpoint).model
    layer, conv = model.model.model[1], weights.model[1]
    assert torch.equal(layer.conv.bn.running_mean, conv.bn.running_mean)
    assert not layer.p_conv.weight.any()


@pytest.mark.parametrize("wrap", [lambda model: model, lambda model: {"model": model}])
def test_loads_between_equal_architectures_are_the_hosts_own(source, wrap):
    for config in (yolov8_dict(name=None), yolov8_dict(5, 2)):
        weights = trained(config, nc=3)
        ours, hosts = (tasks.DetectionModel(copy.deepcopy(config), nc=3, verbose=False) for _ in range(2))
        hosts.load_state_dict(ours.state_dict())
        ours.load(wrap(weights), verbose=False)
        tasks.BaseModel.load.__wrapped__(hosts, wrap(weights), verbose=False)
        for key, value in hosts.state_dict().items():
            assert torch.equal(ours.state_dict()[key], value), key
            assert torch.equal(ours.state_dict()[key], weights.state_dict()[key]), key


def test_load_leaves_the_source_as_it_was(source):
    weights = copy.deepcopy(source)
    keys = list(weights.state_dict())
    tasks.DetectionModel(yolov8_dict(5, 2), nc=3, verbose=False).load(weights, verbose=False)
    assert list(weights.state_dict()) == keys


def test_load_of_another_width_stays_the_hosts_partial_one():
    small, other = trained(yolov8_dict(name=None, scale="s"), nc=3), yolov8_dict(5, 2)
    target = tasks.DetectionModel(other, nc=3, verbose=False)
    before = copy.deepcopy(target.state_dict())
    target.load(small, verbose=False)
    key = "model.1.conv.conv.weight"
    assert torch.equal(target.state_dict()[key], before[key])


def test_load_keeps_the_hosts_change_of_the_number_of_classes(source):
    target = tasks.DetectionModel(yolov8_dict(5, 2), nc=7, verbose=False)
    target.load(source, verbose=False)
    assert target.model[-1].nc == 7 and not target.model[1].p_conv.weight.any()


@pytest.mark.skipif(not hasattr(tasks.BaseModel, "_remap_cls_by_names"), reason="releases before 8.4.100 do not remap")
def test_load_keeps_the_hosts_remapping_of_classes_by_name(source):
    target = tasks.DetectionModel(yolov8_dict(5, 2), nc=3, verbose=False)
    target.names = {0: "kind 2", 1: "kind 0", 2: "kind 1"}
    target.load(source, verbose=False)
    rows = "model.22.cv3.0.2.weight"
    assert torch.equal(target.state_dict()[rows], source.state_dict()[rows][[2, 0, 1]])
    assert not target.model[1].p_conv.weight.any()


def test_a_half_precision_source_loads_as_its_float32_copy_does(source):
    half = copy.deepcopy(source).half()
    states = []
    for weights in (half, copy.deepcopy(half).float()):
        target = tasks.DetectionModel(yolov8_dict(5, 2), nc=3, verbose=False)
        target.load(weights, verbose=False)
        states.append(target.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_unregister_gives_load_back_to_the_host():
    ours = tasks.BaseModel.load
    ultralytics_akconv.unregister()
    try:
        assert tasks.BaseModel.load is ours.__wrapped__
    finally:
        ultralytics_akconv.register()
    assert tasks.BaseModel.load.__wrapped__ is ours.__wrapped__


@pytest.mark.slow
def test_training_from_pretrained_weights_starts_from_the_converted_model(fresh, checkpoint, mini_dataset):
    options = ["epochs=1", "imgsz=64", "batch=8", "workers=0", "device=cpu", "plots=False", "val=False", "name=run"]

    def train(model):
        """Train and return what was printed, and how many items of the model were not in the weights."""
        weights = [f"model={model}", f"pretrained={checkpoint}", f"data={mini_dataset}"]
        run = fresh([Path(sys.executable).with_name("yolo"), "train", *weights, *options])
        assert run.returncode == 0, run.stderr
        counts = re.findall(r"Transferred (\d+)/(\d+) items from pretrained weights", run.stdout + run.stderr)
        return run.stdout + run.stderr, min(int(items) - int(taken) for taken, items in counts)

    printed, missing = train("yolov8n-akconv.yaml")
    assert "Transferred 6 Conv layers to AKConv (N=5)" in printed
    # Older hosts load into the YAML's 80 classes first, and so leave the class branches out, of every model.
    assert not missing or missing == train("yolov8n.yaml")[1]


# Files and bad input


def test_a_write_that_fails_leaves_the_old_file_and_no_other(source, tmp_path, monkeypatch):
    file = tmp_path / "model.pt"
    file.write_bytes(b"old")

    def fail(content, path):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        write_checkpoint(source, file)
    assert file.read_bytes() == b"old" and [path.name for path in tmp_path.iterdir()] == ["model.pt"]


def test_a_name_the_host_would_not_take_or_a_missing_folder_is_refused(source, tmp_path):
    with pytest.raises(ValueError, match=r"must end in \.pt"):
        write_checkpoint(source, tmp_path / "model.pth")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        write_checkpoint(source, tmp_path / "missing/model.pt")


def test_a_source_that_is_no_trained_host_model_is_refused(source, tmp_path):
    text, state = tmp_path / "text.pt", tmp_path / "state.pt"
    text.write_text("no checkpoint")
    torch.save(source.state_dict(), state)
    for file in (text, state):
        with pytest.raises(ValueError, match="is no checkpoint of the host"):
            transfer(file)
    with pytest.raises(FileNotFoundError):
        transfer(tmp_path / "missing.pt")
    with pytest.raises(ValueError, match=r"must be a \.pt checkpoint"):
        transfer(tmp_path / "model.onnx")
    with pytest.raises(ValueError, match="that the host built from a YAML, got a Linear"):
        transfer(torch.nn.Linear(2, 2))
    with pytest.raises(TypeError, match="source must be a checkpoint file"):
        transfer(3)


def test_a_model_that_is_converted_already_or_fused_is_refused(source):
    with pytest.raises(ValueError, match="holds AKConv already"):
        transfer(transfer(source).model)
    with pytest.raises(ValueError, match="fused"):
        transfer(copy.deepcopy(source).fuse(verbose=False))


def test_a_model_that_differs_in_more_than_akconv_is_refused(source):
    other_classes = tasks.DetectionModel(yolov8_dict(5, 2), nc=4, verbose=False)
    with pytest.raises(ValueError, match=r"differ in more than AKConv.*number of classes"):
        transfer(source, other_classes)
    with pytest.raises(ValueError, match=r"model\.1 cannot be converted"):
        transfer(source, "yolov8s-akconv.yaml")
    with pytest.raises(ValueError, match=r"cannot be converted|differ in more"):
        transfer(source, "yolo11n-akconv.yaml")
    with pytest.raises(ValueError, match="ClassificationModel"):
        transfer(trained("yolov8n-cls.yaml"), other_classes)
    with pytest.raises(ValueError, match="holds no AKConv"):
        transfer(source, "yolov8n.yaml")
    with pytest.raises(ValueError, match="must be a YAML file"):
        transfer(source, "model.pt")
    with pytest.raises(TypeError, match="model must be"):
        transfer(source, 5)


def test_arguments_that_exclude_each_other_or_do_not_exist_are_refused(source):
    with pytest.raises(ValueError, match="num_param would choose another"):
        transfer(source, "yolov8n-akconv.yaml", num_param=5)
    with pytest.raises(ValueError, match="budget chooses num_param"):
        transfer(source, num_param=5, budget="error=0.1")
    with pytest.raises(TypeError, match="unknown option stride"):
        transfer(source, stride=2)
    with pytest.raises(ValueError, match=r"layer 0 .* cannot become AKConv: it is the stem"):
        transfer(source, where=[0])


def test_missing_or_unreadable_images_are_refused(source, tmp_path):
    with pytest.raises(FileNotFoundError, match="no calibration images"):
        transfer(source, data=tmp_path / "missing.yaml")
    with pytest.raises(FileNotFoundError, match="holds none"):
        transfer(source, data=tmp_path)
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(FileNotFoundError, match="can be read"):
        transfer(source, data=tmp_path)
    with pytest.raises(ValueError, match="images must be at least 1"):
        transfer(source, data=IMAGES, images=0)


# The published layout


def published_state(model):
    """Return a whole model's state dict as the published code names it."""
    state = model.state_dict()
    for name, layer in model.named_modules():
        if isinstance(layer, AKConv):
            for key in [key for key in state if key.startswith(f"{name}.")]:
                del state[key]
            state.update({f"{name}.{key}": value for key, value in layer.published_state_dict().items()})
            state[f"{name}.p_n"] = torch.tensor(layer.points).T.reshape(1, -1, 1, 1)
    return state


def test_a_published_state_dict_becomes_a_checkpoint_with_the_same_outputs(tmp_path):
    model = trained(yolov8_dict(5, 2), nc=3)
    torch.save({"state_dict": published_state(model)}, tmp_path / "state.pt")
    arguments = ["--from-published", str(tmp_path / "state.pt"), "--model", "yolov8n-akconv.yaml", "--nc", "3"]
    assert main(["convert", *arguments, "-o", str(tmp_path / "out.pt")]) == 0
    loaded = YOLO(tmp_path / "out.pt").model.eval()
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(loaded(x)[0], model(x)[0])
    assert loaded.task == "detect" and loaded.yaml["nc"] == 3


def test_what_is_no_published_state_dict_is_refused(source, checkpoint, tmp_path):
    with pytest.raises(ValueError, match="is no state dict"):
        from_published(checkpoint, "yolov8n-akconv.yaml")
    with pytest.raises(FileNotFoundError):
        from_published(tmp_path / "missing.pt", "yolov8n-akconv.yaml")
    with pytest.raises(ValueError, match="map names to tensors"):
        from_published({"epoch": 3}, "yolov8n-akconv.yaml")
    with pytest.raises(ValueError, match=r"does not fit 'yolov8n-akconv\.yaml' with 80 classes"):
        from_published(source.state_dict(), "yolov8n-akconv.yaml")
    with pytest.raises(ValueError, match="holds no AKConv"):
        from_published(source.state_dict(), "yolov8n.yaml")


# The command


def test_the_command_writes_a_checkpoint_and_prints_the_report(checkpoint, tmp_path, capsys):
    output = tmp_path / "out.pt"
    assert main(["convert", str(checkpoint), "--num-param", "3", "--where", "3,5", "-o", str(output)]) == 0
    printed = capsys.readouterr().out
    assert "model.3" in printed and "parameters:" in printed
    assert [m.num_param for m in layers_of(YOLO(output).model)] == [3, 3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.pt"], "missing.pt"),
        ([], "give a source checkpoint"),
        (["--from-published", "state.pt"], "takes --model"),
        (["{source}", "--budget", "much"], "params=FRACTION"),
    ],
)
def test_the_command_says_what_is_wrong_and_writes_nothing(arguments, message, checkpoint, tmp_path, capsys):
    output = tmp_path / "out.pt"
    arguments = [argument.format(source=checkpoint) for argument in arguments]
    assert main(["convert", *arguments, "-o", str(output)]) == 1
    assert message in capsys.readouterr().err and not output.exists()


def test_a_layer_without_a_counterpart_is_told_by_name_and_reason(source):
    model = tasks.DetectionModel(yolov8_dict(5, 2), nc=3, verbose=False)
    pairs, reasons = find_pairs(model, source)
    assert [found.name for found in pairs] == [f"model.{i}" for i in (1, 3, 5, 7, 16, 19)] and not reasons
    _, reasons = find_pairs(model, torch.nn.Sequential())
    assert reasons["model.1"] == "the source model has no such layer"
