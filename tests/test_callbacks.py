# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a training leaves about offsets: columns of its log, a picture; and that it never fails for them."""

import csv
from types import SimpleNamespace

import pytest
from conftest import ROOT, built, yolov8_dict
from ultralytics import YOLO
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
    def fail(*args, **kwargs):
        raise RuntimeError("no image today")

    warnings = []
    monkeypatch.setattr(plots, "image_samples", fail)
    monkeypatch.setattr(callbacks.LOGGER, "warning", warnings.append)
    run = trained(YOLO("yolov8n-akconv.yaml"), mini_dataset, tmp_path, epochs=2, plots=False)
    ours = [text for text in warnings if "AKConv" in str(text)]
    assert ours == ["AKConv: log_offsets left out: RuntimeError: no image today"]
    assert len(rows_of(run)) == 2
    assert not (run / "akconv_offsets.png").exists()


def trainer_of(network, tmp_path, **options):
    return SimpleNamespace(
        ema=SimpleNamespace(ema=network),
        csv=tmp_path / "results.csv",
        lr={"lr/pg0": 0.01},
        args=SimpleNamespace(imgsz=64, plots=True),
        **options,
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
    image = ROOT / "cfg/datasets/akconv-mini/images/val"
    file = str(sorted(image.iterdir())[0])
    loader = SimpleNamespace(dataset=SimpleNamespace(samples=[[file, 0]]))
    trainer = trainer_of(YOLO("yolov8n-cls-akconv.yaml").model, tmp_path, test_loader=loader)
    callbacks.log_offsets(trainer)
    assert list(trainer.lr)[1:] == [*(f"akconv/model.{i}" for i in (1, 3, 5, 7)), "akconv/outside"]
