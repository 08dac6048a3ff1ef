# SPDX-License-Identifier: AGPL-3.0-or-later
"""Converted layers that learn together from the source model on images without labels: what learns, and what stays."""

import copy
import math
import random

import numpy as np
import pytest
import torch
from conftest import layers_of
from conversions import SMALL, trained
from torch.nn.utils import parametrize
from ultralytics import YOLO
from ultralytics.nn import tasks

from ultralytics_akconv import akconv2d, transfer
from ultralytics_akconv.conversion import distances, refinement
from ultralytics_akconv.conversion.calibration import capture
from ultralytics_akconv.conversion.coordinates import Uncorrelated
from ultralytics_akconv.conversion.distances import HeadDistance, head_inputs
from ultralytics_akconv.conversion.distillation import Recipe, distill
from ultralytics_akconv.conversion.expectation import noise_pictures
from ultralytics_akconv.conversion.images import CalibrationImages, image_files
from ultralytics_akconv.conversion.pairs import find_pairs


def state_of(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def test_layers_that_were_spoilt_learn_together_what_the_source_does(source, pictures):
    result = transfer(source, num_param=9)
    for layer in layers_of(result.model):
        weight = layer.conv.conv.weight
        weight.data.mul_(1 + 0.2 * torch.randn(weight.shape))
    before, learnable = state_of(result.model), [p.requires_grad for p in result.model.parameters()]
    batches = list(CalibrationImages(image_files(pictures, "detect"), 8, 64, "detect"))
    names = [layer.name for layer in result.layers]
    distance = HeadDistance(result.source, batches)
    learned = distill(result.model, distance, names, iter(batches * 6), batches, batches, 12, torch.device("cpu"))
    assert learned.after < 0.8 * learned.before and 0 < learned.step <= learned.steps == 12
    assert [step for step, _, _ in learned.curve] == [2, 3, 5, 6, 8, 9, 11, 12]
    assert learned.after == min(error for _, _, error in learned.curve)
    assert distance.error(result.model, batches) == pytest.approx(learned.after, rel=1e-3)
    changed = {key for key, value in result.model.state_dict().items() if not torch.equal(before[key], value)}
    expected = {
        f"{name}.{key}"
        for name in names
        for key in ("conv.conv.weight", "conv.bn.bias", "p_conv.weight", "p_conv.bias")
    }
    assert changed == expected
    assert not any(parametrize.is_parametrized(module) for module in result.model.modules())
    assert not result.model.training and [p.requires_grad for p in result.model.parameters()] == learnable


def test_every_tensor_outside_the_new_layers_stays_and_nothing_lies_beside_the_images(source, pictures):
    before = {path: path.read_bytes() for path in sorted(pictures.rglob("*"))}
    result = transfer(source, num_param=3, data=pictures, distill=2, **SMALL)
    names = tuple(f"{layer.name}." for layer in result.layers)
    for key, value in source.state_dict().items():
        if not key.startswith(names):
            assert torch.equal(result.model.state_dict()[key], value), key
    assert {path: path.read_bytes() for path in sorted(pictures.rglob("*"))} == before


def test_the_error_in_the_report_is_the_one_of_the_model_it_returns(source, pictures):
    result = transfer(source, num_param=3, data=pictures, distill=8, seed=4, **SMALL)
    files, held_out = (
        CalibrationImages(each, SMALL["images"], 64, "detect")
        for each in refinement._split(image_files(pictures, "detect"), seed=4)
    )
    error = HeadDistance(result.source, [*files, *held_out]).error(result.model, held_out)
    assert error == pytest.approx(result.refined.learned.after, rel=1e-3)
    assert f"{100 * error:.1f} % after" in result.table()


def test_the_maps_compared_are_those_that_the_head_reads(source):
    images, seen = torch.rand(1, 3, 64, 64), []
    handle = source.model[-1].register_forward_pre_hook(lambda head, args: seen.extend(args[0]))
    with torch.no_grad():
        source(images)
        handle.remove()
        maps = head_inputs(source, images)
    assert [m.shape[-1] for m in maps] == [8, 4, 2]
    assert all(torch.equal(a, b) for a, b in zip(maps, seen))
    assert not source.model[-1]._forward_pre_hooks


def test_embeddings_of_words_are_no_maps():
    if "YOLOEModel" not in dir(tasks):
        pytest.skip("this host has no YOLOE")
    model = YOLO("yoloe-11s.yaml").model.eval()
    assert [maps.ndim for maps in head_inputs(model, torch.rand(1, 3, 64, 64))] == [4, 4, 4]


def test_what_the_source_is_sure_of_counts_more_and_a_few_great_differences_do_not_lead(source):
    images = torch.rand(2, 3, 64, 64)
    distance, other = HeadDistance(source, [images]), copy.deepcopy(source)
    assert distance.error(other, [images]) == 0
    deepest = other.model[source.model[-1].f[-1]].cv2.bn  # before the last map
    errors = []
    for shift in (1e-5, 2e-5, 1e4, 2e4):  # far up, its activation goes on as a straight line
        deepest.bias.data = source.model[source.model[-1].f[-1]].cv2.bn.bias + shift
        errors.append(distance.error(other, [images]))
    assert errors[1] / errors[0] == pytest.approx(2, rel=0.01)
    assert errors[3] / errors[2] == pytest.approx(2**0.5, rel=0.01)
    with torch.no_grad():
        head, maps = copy.deepcopy(source.model[-1]), head_inputs(source, images)
        for branch in head.cv3:
            branch[-1].bias.zero_()  # untrained, it is sure of nothing
        weights = distances._weights(head, maps)
        confidence = head.cv3[0](maps[0]).sigmoid().amax(1)
    assert all(float(weight.mean()) == pytest.approx(1, rel=1e-3) for weight in weights)
    assert torch.equal(weights[0].flatten().argsort(), confidence.flatten().argsort())


def test_heads_that_do_not_tell_where_objects_are_weigh_all_places_alike(source):
    maps = head_inputs(source, torch.rand(1, 3, 64, 64))
    head = copy.deepcopy(source.model[-1])
    assert all(weight.ndim == 3 for weight in distances._weights(head, maps))
    head.nc += 1  # its branches give features, not classes
    classify = trained("yolov8n-cls.yaml", nc=4).model[-1]
    for each in (head, classify):
        assert all(weight.ndim == 0 and weight == 1 for weight in distances._weights(each, maps))


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("yolo11n-seg.yaml", "downsample"),
        ("yolov8n-pose.yaml", "blocks"),
        ("yolov8n-cls.yaml", "downsample"),
    ],
)
def test_models_of_every_task_learn(name, where, pictures):
    model = trained(name, nc=4)
    result = transfer(model, num_param=3, data=pictures, distill=2, where=where, **SMALL)
    learned = result.refined.learned
    assert len(learned.curve) == 2 and all(math.isfinite(value) for row in learned.curve for value in row)
    assert learned.after <= learned.before


def test_a_seed_gives_the_same_model_again_and_the_programs_random_numbers_stay(source, pictures):
    numbers = random.getstate(), np.random.get_state()[1].tolist()
    first, again, other = (
        state_of(transfer(source, num_param=3, data=pictures, distill=3, seed=seed, **SMALL).model)
        for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)
    assert numbers == (random.getstate(), np.random.get_state()[1].tolist())


def test_a_state_that_is_worse_than_the_start_is_never_kept(source, pictures, said):
    result = transfer(source, num_param=5, data=pictures, **SMALL)
    before = state_of(result.model)
    batches = list(CalibrationImages(image_files(pictures, "detect"), 4, 64, "detect"))
    names = [layer.name for layer in result.layers]
    wild = Recipe(weight_lr=50.0, offset_lr=50.0)
    distance = HeadDistance(source, batches)
    learned = distill(result.model, distance, names, iter(batches * 4), batches, batches, 4, torch.device("cpu"), wild)
    assert learned.step == 0 and learned.after == learned.before
    assert all(torch.equal(before[key], value) for key, value in result.model.state_dict().items())
    assert any("no state better" in line for line in said)


def test_coordinates_of_a_weight_have_uncorrelated_inputs_and_give_the_weight_back():
    rows = torch.randn(500, 6) @ torch.randn(6, 12)  # twelve inputs of rank six: alike, as neighbouring taps
    moments = rows.T @ rows / len(rows)
    uncorrelated = Uncorrelated(moments, torch.rand(4) + 0.5)
    weight = torch.randn(4, 2, 6, 1)
    torch.testing.assert_close(uncorrelated(uncorrelated.right_inverse(weight)), weight, rtol=1e-3, atol=1e-4)
    white = uncorrelated.inverse @ moments @ uncorrelated.inverse.T
    assert (white - torch.diag(white.diagonal())).abs().max() < 0.2
    assert white.diagonal().max() <= 1.001


def test_a_source_on_another_device_and_in_half_precision_learns_too(source, pictures, device):
    moved = copy.deepcopy(source).to(device).half()
    result = transfer(moved, num_param=3, data=pictures, distill=2, images=4, imgsz=64, device=str(device))
    assert {value.device.type for value in result.model.state_dict().values()} == {"cpu"}
    assert next(moved.parameters()).device.type == device.type and next(moved.parameters()).dtype == torch.float16


def test_the_error_to_expect_is_the_one_that_the_new_layer_has_on_the_same_pictures(source):
    result = transfer(source, num_param=4)
    pairs, _ = find_pairs(result.model, result.source)
    pictures = noise_pictures(3)
    assert pictures.min() >= 0 and pictures.max() <= 1 and torch.equal(pictures, noise_pictures(3))
    for pair, layer in zip(pairs[:2], result.layers):
        ((x, wanted),) = capture(result.source, [pair.conv.conv], pictures)
        akconv = pair.akconv
        with torch.no_grad():
            offsets = akconv.offsets(x)
            got = akconv2d(x, offsets, akconv.conv.conv.weight, akconv.points, None, akconv.stride, akconv.border)
        gain = pair.gain.float()[:, None, None]
        lost, whole = ((gain * each).var((0, 2, 3)).sum() for each in (got - wanted, wanted))
        assert float((lost / whole).sqrt()) == pytest.approx(layer.expected, rel=1e-3)
