# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a training leaves about offsets: columns of its log, a picture; and that it never fails for them."""

import csv
import math
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import built, layers_of, learned, yolov8_dict
from ultralytics import YOLO
from ultralytics.nn import tasks
from ultralytics.utils import callbacks as host_callbacks

from ultralytics_akconv import callbacks, plots, register, unregister

SMALL = {"imgsz": 64, "batch": 8, "nbs": 8, "workers": 0, "device": "cpu", "verbose": False, "val": False}
NAMES = [f"akconv/model.{i}" for i in (1, 3, 5, 7, 16, 19)] + ["akconv/outside"]


def rows_of(run):
    with (run / "results.csv").open(encoding="utf-8", newline="") as stream:
        return [{key.strip(): value for key, value in row.items()} for row in csv.DictReader(stream)]


def trained(model, data, tmp_path, **options):
    model.train(data=str(data), project=str(tmp_path), name="run", exist_ok=True, **{**SMALL, "epochs": 1, **options})
    return tmp_path / "run"


@pytest.mark.slow
def test_a_training_logs_offsets_draws_them_and_resumes(tmp_path, mini_dataset):
    class Stop(Exception):
        pass

    def stop(trainer):
        if trainer.epoch == 0:
            raise Stop

    model = YOLO("yolov8n-akconv.yaml")
    model.add_callback("on_fit_epoch_end", stop)
    with pytest.raises(Stop):
        trained(model, mini_dataset, tmp_path, epochs=2, plots=True)
    run = tmp_path / "run"
    YOLO(run / "weights/last.pt").train(resume=True)
    rows = rows_of(run)
    assert [int(row["epoch"]) for row in rows] == [1, 2]
    assert [name for name in rows[0] if name.startswith("akconv/")] == NAMES
    for row in rows:
        assert None not in row  # a row longer than the header would have put its rest there
        assert all(0 < float(row[name]) < 64 for name in NAMES[:-1])
        assert 0 <= float(row[NAMES[-1]]) <= 1
    assert (run / "akconv_offsets.png").read_bytes().startswith(b"\x89PNG")
    assert len(plots.plot_training(run).axes[0].lines) == 6


@pytest.mark.slow
def test_plots_false_leaves_no_picture_and_a_failure_is_one_warning(tmp_path, mini_dataset, monkeypatch):
    calls, measure, warnings = [], callbacks.offsets_on_image, []

    def fail_later(*args):
        calls.append(args)
        if len(calls) > 1:
            raise RuntimeError("no image today")
        return measure(*args)

    monkeypatch.setattr(callbacks, "offsets_on_image", fail_later)
    monkeypatch.setattr(callbacks.LOGGER, "warning", warnings.append)
    run = trained(YOLO("yolov8n-akconv.yaml"), mini_dataset, tmp_path, epochs=3, plots=False)
    ours = [text for text in warnings if "AKConv" in str(text)]
    assert ours == ["AKConv: log_offsets left out: RuntimeError: no image today"]
    assert len(calls) == 2
    rows = rows_of(run)
    assert len(rows) == 3
    assert all(None not in row and None not in row.values() for row in rows)  # all as long as the header
    assert [[math.isnan(float(row[name])) for name in NAMES] for row in rows] == [[False] * 7, [True] * 7, [True] * 7]
    assert not (run / "akconv_offsets.png").exists()
    assert [len(line.get_ydata()) for line in plots.plot_training(run).axes[0].lines] == [3] * 6


def images_of(channels, dtype=torch.uint8):
    image = torch.randint(0, 255, (channels, 64, 64), dtype=torch.uint8)
    return SimpleNamespace(dataset=[{"img": image.to(dtype)}])


def trainer_of(network, tmp_path, **options):
    return SimpleNamespace(
        **{
            "ema": SimpleNamespace(ema=network),
            "csv": tmp_path / "results.csv",
            "lr": {"lr/pg0": 0.01},
            "args": SimpleNamespace(imgsz=64, plots=True),
            **options,
        }
    )


def test_a_stock_model_is_not_looked_at(tmp_path):
    trainer = trainer_of(built(yolov8_dict(name=None)), tmp_path)  # without a loader: reading one would fail
    callbacks.log_offsets(trainer)
    callbacks.draw_offsets(trainer)
    assert trainer.lr == {"lr/pg0": 0.01}
    assert not hasattr(trainer, "akconv_failed")


def test_a_log_that_was_begun_without_our_columns_stays_as_it_is(tmp_path):
    trainer = trainer_of(built(yolov8_dict()), tmp_path)
    trainer.csv.write_text("epoch,time,lr/pg0\n1,0.5,0.01\n", "utf-8")
    callbacks.log_offsets(trainer)
    assert trainer.lr == {"lr/pg0": 0.01}
    assert not hasattr(trainer, "akconv_failed")


def test_other_ranks_do_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(callbacks, "RANK", 1)
    trainer = trainer_of(built(yolov8_dict()), tmp_path)
    callbacks.log_offsets(trainer)
    assert trainer.lr == {"lr/pg0": 0.01}
    assert not hasattr(trainer, "akconv_failed")


def test_registering_adds_the_callbacks_once_and_unregistering_takes_them_back():
    def ours():
        every = host_callbacks.get_default_callbacks()
        return every["on_train_epoch_end"].count(callbacks.log_offsets), every["on_train_end"].count(
            callbacks.draw_offsets
        )

    register()
    assert ours() == (1, 1)
    unregister()
    try:
        assert ours() == (0, 0)
    finally:
        register()
    assert ours() == (1, 1)


def test_a_classifier_is_measured_on_its_first_validation_image(tmp_path):
    loader = images_of(3, torch.float32)
    trainer = trainer_of(YOLO("yolov8n-cls-akconv.yaml").model, tmp_path, test_loader=loader)
    callbacks.log_offsets(trainer)
    assert list(trainer.lr)[1:] == [*(f"akconv/model.{i}" for i in (1, 3, 5, 7)), "akconv/outside"]


@pytest.mark.parametrize("channels", [1, 4, 10])
def test_images_of_any_channels_are_measured_and_those_of_no_picture_not_drawn(channels, tmp_path, monkeypatch):
    network = tasks.DetectionModel(yolov8_dict(), ch=channels, verbose=False)
    said = []
    monkeypatch.setattr(callbacks.LOGGER, "info", said.append)
    trainer = trainer_of(network, tmp_path, test_loader=images_of(channels), save_dir=tmp_path)
    callbacks.log_offsets(trainer)
    assert list(trainer.lr)[1:] == NAMES
    if channels > 3:
        callbacks.draw_offsets(trainer)
        assert not hasattr(trainer, "akconv_failed")
        assert said == [f"AKConv: no akconv_offsets.png for images of {channels} channels"]


def test_the_columns_of_a_distillation_are_those_of_the_model_that_learns(tmp_path):
    network = torch.nn.Module()
    network.student_model, network.teacher_model = built(yolov8_dict()), built(yolov8_dict(3, 2))
    trainer = trainer_of(network, tmp_path, test_loader=images_of(3))
    callbacks.log_offsets(trainer)
    assert list(trainer.lr)[1:] == NAMES
    network.student_model = built(yolov8_dict(name=None))  # a stock model that learns from ours
    trainer = trainer_of(network, tmp_path)
    callbacks.log_offsets(trainer)
    assert list(trainer.lr) == ["lr/pg0"] and not hasattr(trainer, "akconv_failed")


def test_a_look_costs_no_copy_no_head_and_no_random_number(tmp_path, monkeypatch):
    network = built(yolov8_dict()).eval()
    monkeypatch.setattr(type(network), "__deepcopy__", lambda *_: pytest.fail("copied"), raising=False)
    network.model[-1].register_forward_pre_hook(lambda *_: pytest.fail("the head ran"))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    trainer = trainer_of(network, tmp_path, test_loader=images_of(3))

    class Drawing(list):
        def __getitem__(self, index):
            random.random(), np.random.rand(), torch.rand(1)
            return super().__getitem__(index)

    trainer.test_loader.dataset = Drawing(trainer.test_loader.dataset)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    wanted = random.random(), np.random.rand(), torch.rand(1)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    callbacks.log_offsets(trainer)
    assert list(trainer.lr)[1:] == NAMES
    assert (random.random(), np.random.rand(), torch.rand(1)) == wanted
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert not any(module._forward_pre_hooks for module in layers_of(network))


def test_the_statistics_are_those_of_the_picture(tmp_path):
    network = built(yolov8_dict()).eval()
    for layer in layers_of(network):
        learned(layer)
    image = np.random.randint(0, 255, (64, 64, 3), np.uint8)
    pictured = plots.image_samples(network, image, imgsz=64).layers
    tensor = torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1)[None] / 255
    told = callbacks.offsets_on_image(network, tensor)
    for layer in pictured:
        displacement, outside, total = told[layer.name]
        assert displacement == pytest.approx(float(layer.displacement.mean()), rel=1e-5)
        assert (outside, total) == (int(layer.outside.sum()), layer.outside.numel())


def test_a_setting_leaves_the_columns_out_and_a_log_that_has_them_whole(tmp_path, monkeypatch):
    monkeypatch.setenv("ULTRALYTICS_AKCONV_LOG", "0")
    trainer = trainer_of(built(yolov8_dict()), tmp_path)  # without a loader: looking would fail
    callbacks.log_offsets(trainer)
    assert list(trainer.lr) == ["lr/pg0"]
    trainer.csv.write_text("epoch,akconv/model.1,akconv/outside\n1,0.5,0.1\n", "utf-8")
    callbacks.log_offsets(trainer)
    assert list(trainer.lr) == ["lr/pg0", "akconv/model.1", "akconv/outside"]
    assert math.isnan(trainer.lr["akconv/outside"]) and not hasattr(trainer, "akconv_failed")


@pytest.mark.parametrize(
    "text, message",
    [
        ("epoch,akconv/model.1\n1,0.5,3\n", "line 2 of '.*results.csv' has 3 values, the header 2 columns"),
        ("epoch,akconv/model.1\n1,0.5\n2\n", "line 3 of '.*results.csv' has 1 values, the header 2 columns"),
        ("epoch,akconv/model.1\n1,many\n", "line 2 of '.*results.csv': could not convert string to float: 'many'"),
        ("", "is no table of a training: it is empty"),
    ],
)
def test_a_log_that_is_not_whole_is_refused_by_its_line(text, message, tmp_path):
    (tmp_path / "results.csv").write_text(text, "utf-8")
    with pytest.raises(ValueError, match=message):
        plots.plot_training(tmp_path)
