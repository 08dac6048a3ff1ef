# SPDX-License-Identifier: AGPL-3.0-or-later
"""What offsets are worth: means and parts of known offsets, the three models, the picture, and how errors are told."""

import copy
import math

import pytest
import torch
from conftest import built, learned, yolov8_dict
from ultralytics.nn import tasks

from ultralytics_akconv import ablation, write_checkpoint
from ultralytics_akconv.ablation import Ablation, LayerOffsets, ablate_offsets, offset_statistics, with_offsets
from ultralytics_akconv.cli import main
from ultralytics_akconv.evaluation import Evaluation, TaskEvaluation
from ultralytics_akconv.plots import plot_ablation

SIX = [f"model.{index}" for index in (1, 3, 5, 7, 16, 19)]


@pytest.fixture
def network():
    torch.manual_seed(0)
    return built(yolov8_dict()).eval()


def test_known_offsets_have_a_mean_and_no_deviation(network):
    offset = torch.tensor([3.0] * 5 + [4.0] * 5)  # down 3, right 4: length 5
    means, layers = offset_statistics(with_offsets(network, dict.fromkeys(SIX, offset)), [torch.rand(2, 3, 64, 64)])
    assert list(means) == SIX == [layer.name for layer in layers]
    assert all(torch.equal(mean, offset) for mean in means.values())
    for layer in layers:
        assert (layer.displacement, layer.mean) == pytest.approx((5.0, 5.0))
        assert layer.deviation == pytest.approx(0.0, abs=1e-6)
        assert layer.longest == pytest.approx(5.0, abs=0.02)
    # Layer 1 reads a map of 32 x 32 with stride 2: point (r, c) of anchor (i, j) lies at (2i + r + 3, 2j + c + 4).
    points = network.get_submodule("model.1").points
    inside = sum(2 * i + r + 3 <= 31 and 2 * j + c + 4 <= 31 for i in range(16) for j in range(16) for r, c in points)
    assert layers[0].outside == pytest.approx(1 - inside / (16 * 16 * 5))


def test_mean_and_deviation_make_up_the_whole_length_over_all_batches(network):
    layer = learned(network.get_submodule("model.3"))
    seen = []
    layer.register_forward_pre_hook(lambda module, args: seen.append(module.offsets(args[0])))
    batches = [torch.rand(2, 3, 64, 64), torch.rand(1, 3, 64, 96)]
    with torch.no_grad():
        means, layers = offset_statistics(network, batches)
    offsets = torch.cat([offset.movedim(1, 3).reshape(-1, 10) for offset in seen])  # (places, 2N)
    torch.testing.assert_close(means["model.3"], offsets.mean(0))
    lengths = torch.hypot(offsets[:, :5], offsets[:, 5:])
    (found,) = (layer for layer in layers if layer.name == "model.3")
    assert found.displacement == pytest.approx(float(lengths.mean()), rel=1e-4)
    assert math.hypot(found.mean, found.deviation) == pytest.approx(float(lengths.square().mean().sqrt()), rel=1e-4)
    assert found.deviation > 0.01
    assert found.longest == pytest.approx(float(lengths.flatten().quantile(0.99)), abs=0.03)


def test_a_network_with_offsets_set_is_another_and_sees_the_image_no_longer(network):
    learned(network.get_submodule("model.3"))
    before = copy.deepcopy(network.state_dict())
    fixed = with_offsets(network, {"model.3": 0.5})
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    offset = fixed.get_submodule("model.3").offsets(torch.rand(1, 32, 8, 8))
    assert torch.equal(offset, torch.full_like(offset, 0.5))


def scores(**other):
    fields = {name: 0.0 for name in Evaluation.__annotations__}
    return Evaluation(**{**fields, "ground_truth": "labels", **other})


def test_the_picture_shows_the_three_scores_and_both_parts_of_each_layer():
    layers = (LayerOffsets("model.1", 1.0, 2.0, 0.25, 0.3, 0.4), LayerOffsets("model.3", 1.0, 2.0, 0.0, 0.1, 0.2))
    result = Ablation(layers, scores(AP=0.5, mAP=0.6), scores(AP=0.4), scores(AP=0.1), images=3)
    left, right = plot_ablation(result).axes
    assert [bar.get_height() for bar in left.patches] == [50.0, 40.0, 10.0]
    assert [bar.get_height() for bar in right.patches] == [0.3, 0.1, 0.4, 0.2]
    assert [label.get_text() for label in right.get_xticklabels()] == [
        "model.1\n25%",
        "model.3\n0%",
    ]
    assert plot_ablation(result, "mAP").axes[0].patches[0].get_height() == 60.0
    for score in ("AP99", "latency"):
        with pytest.raises(ValueError, match=f"have no score '{score}': they have AP50, .* recall, mAP50, mAP$"):
            plot_ablation(result, score)
    assert result.table().splitlines()[2].startswith("| as learned | 0.0000 |")
    tasks = [TaskEvaluation({"mAP": 0.9, "mask_mAP": value}, 3, 8.0, 2.0, 8) for value in (0.7, 0.6, 0.2)]
    masks = plot_ablation(Ablation(layers, *tasks, images=3)).axes[0]
    assert [bar.get_height() for bar in masks.patches] == [70.0, 60.0, 20.0]
    assert masks.get_ylabel() == "mask_mAP (%)"


def test_the_three_models_differ_in_their_offsets_alone(network, mini_dataset, tmp_path, monkeypatch):
    learned(network.get_submodule("model.3"))
    network.task, network.args = "detect", {"imgsz": 64}
    file = write_checkpoint(network, tmp_path / "best.pt")
    evaluated = []

    def evaluate(model, data, split, imgsz, **arguments):
        evaluated.append(torch.load(model, weights_only=False)["model"].state_dict())
        assert (split, imgsz, arguments) == ("val", 64, {"batch": 4})
        return scores(AP=1.0 / len(evaluated))

    monkeypatch.setattr(ablation, "evaluate", evaluate)
    monkeypatch.setattr(ablation, "check_evaluation", lambda *_: None)  # it asks for the library of COCO rules
    result = ablate_offsets(file, mini_dataset, imgsz=64, images=2, batch=4)
    assert (1.0, 0.5, pytest.approx(1 / 3)) == (result.learned.AP, result.mean.AP, result.rest.AP)
    assert result.images == 2
    as_learned, mean, rest = evaluated
    for name in as_learned:
        if ".p_conv." not in name:
            assert torch.equal(as_learned[name], mean[name]) and torch.equal(as_learned[name], rest[name])
    assert as_learned["model.3.p_conv.weight"].abs().max() > 0
    assert mean["model.3.p_conv.weight"].abs().max() == rest["model.3.p_conv.weight"].abs().max() == 0
    assert mean["model.3.p_conv.bias"].abs().max() > 0 == rest["model.3.p_conv.bias"].abs().max()


def test_images_have_the_channels_that_the_model_reads_in_any_release(mini_dataset, tmp_path, monkeypatch):
    network = tasks.DetectionModel(yolov8_dict(), ch=1, verbose=False).eval()
    network.task, network.args = "detect", {"imgsz": 64}
    network.yaml = {name: value for name, value in network.yaml.items() if name != "channels"} | {"ch": 1}  # as 8.3.9
    file = write_checkpoint(network, tmp_path / "grey.pt")
    monkeypatch.setattr(ablation, "evaluate", lambda *_, **__: scores())
    monkeypatch.setattr(ablation, "check_evaluation", lambda *_: None)
    assert ablate_offsets(file, mini_dataset, imgsz=64, images=2).images == 2


@pytest.mark.slow
def test_the_command_evaluates_prints_and_draws(network, mini_dataset, tmp_path, capsys):
    pytest.importorskip("faster_coco_eval", reason="the extra `eval`")
    network = built({**yolov8_dict(), "nc": 3}).eval()
    network.task, network.args, network.names = "detect", {"imgsz": 64}, {0: "RBC", 1: "WBC", 2: "Platelets"}
    file, picture = write_checkpoint(network, tmp_path / "best.pt"), tmp_path / "ablation.svg"
    command = ["plot", "ablation", str(file), str(mini_dataset), "--imgsz", "64", "--images", "2", "-o", str(picture)]
    assert main([*command, "workers=0", "device=cpu", "batch=8"]) == 0
    printed = capsys.readouterr().out
    assert all(f"| {name} |" in printed for name in ("as learned", "their mean", "none", *SIX))
    assert "svg" in picture.read_text("utf-8")[:200]
    plain = built({**yolov8_dict(name=None), "nc": 3})
    plain.task, plain.args = "detect", {"imgsz": 64}
    assert main(["plot", "ablation", str(write_checkpoint(plain, tmp_path / "plain.pt")), str(mini_dataset)]) == 1
    assert "akconv: the model has no AKConv layer" in capsys.readouterr().err
