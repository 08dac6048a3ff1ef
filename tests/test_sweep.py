# SPDX-License-Identifier: AGPL-3.0-or-later
"""Sweeps: results of real (tiny) trainings, kill and resume, failures, folders of others, and the command lines."""

import contextlib
import csv
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from conftest import ROOT, clean_environment, copy_mini_dataset
from layouts import write_visdrone, write_voc
from ultralytics import YOLO

from ultralytics_akconv import datasets
from ultralytics_akconv.cli import main
from ultralytics_akconv.sweep import Cell, Plan, host_arguments, model_file, run_sweep
from ultralytics_akconv.sweep.plan import read_state
from ultralytics_akconv.sweep.results import summary, table
from ultralytics_akconv.sweep.run import last_epoch

pytest.importorskip("faster_coco_eval", reason="the extra `eval`")
SMALL = {"epochs": 1, "imgsz": 64, "batch": 8, "nbs": 8, "workers": 0, "device": "cpu", "verbose": False}
REPORT = {"cells.csv", "curves.csv", "results.json", "table.md", "ap.png", "curves.png", "sweep.json", "sweep.lock"}


@pytest.fixture
def data(tmp_path):
    """Eight training and eight validation images."""
    data = copy_mini_dataset(tmp_path)
    for file in sorted((tmp_path / "akconv-mini/images/train").iterdir())[8:]:
        file.unlink()
    return str(data)


def plan_of(data, **options):
    return Plan(data, **{"num_param": (3,), "seeds": (0,), "arguments": SMALL, **options})


@pytest.mark.slow
def test_a_sweep_writes_its_report_and_does_not_repeat_what_is_done(data, tmp_path, monkeypatch):
    folder = tmp_path / "sweep"
    assert run_sweep(plan_of(data), folder) == {
        "yolov8n-plain-seed0": "done",
        "yolov8n-akconv3-default-seed0": "done",
    }
    assert {file.name for file in folder.iterdir() if file.is_file()} == REPORT
    with open(folder / "cells.csv", newline="", encoding="utf-8") as stream:
        cells = list(csv.DictReader(stream))
    assert [cell["N"] for cell in cells] == ["", "3"]
    assert int(cells[0]["parameters"]) > int(cells[1]["parameters"]) > 2e6
    assert all(float(cell["gflops"]) > 0 and float(cell["latency"]) > 0 for cell in cells)
    with open(folder / "curves.csv", newline="", encoding="utf-8") as stream:
        assert [(row["row"], row["epoch"]) for row in csv.DictReader(stream)] == [
            ("yolov8n-plain", "1"),
            ("yolov8n-akconv3-default", "1"),
        ]
    assert json.loads((folder / "results.json").read_text("utf-8"))["machine"]["ultralytics"]
    monkeypatch.setattr(YOLO, "train", lambda *_, **__: pytest.fail("trained again"))
    assert set(run_sweep(plan_of(data), folder).values()) == {"done"}


@pytest.mark.slow
def test_a_sweep_that_was_killed_goes_on_where_it_stopped(data, tmp_path, caplog):
    folder = tmp_path / "sweep"
    first, second = (folder / f"yolov8n-{name}-seed0" for name in ("plain", "akconv3-default"))
    options = [f"{key}={value}" for key, value in {**SMALL, "epochs": 3}.items()]
    command = [sys.executable, ROOT / "scripts/benchmark.py", "--data", data, "--num-param", "3", "--seeds", "0"]
    (tmp_path / "home").mkdir()
    process = subprocess.Popen(
        [*map(str, command), "-o", str(folder), *options],
        env=clean_environment(tmp_path / "home"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    last, deadline = second / "train/weights/last.pt", time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if last.is_file():  # stopped first: a checkpoint half written at the kill is another test
            os.killpg(process.pid, signal.SIGSTOP)
            if last_epoch(last) is not None:
                break
            os.killpg(process.pid, signal.SIGCONT)
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    done = (first / "cell.json").read_bytes()
    assert json.loads(done)["status"] == "done"
    assert json.loads((second / "cell.json").read_text("utf-8"))["status"] == "running"
    plan = plan_of(data, arguments={**SMALL, "epochs": 3})
    assert set(run_sweep(plan, folder).values()) == {"done"}
    assert (first / "cell.json").read_bytes() == done
    assert "Resuming training" in caplog.text
    with open(second / "train/results.csv", encoding="utf-8") as stream:
        assert [int(row["epoch"]) for row in csv.DictReader(stream)] == [1, 2, 3]


@pytest.mark.parametrize("rest", [b"", b"PK\x03\x04 cut off", b"no archive at all"])
def test_a_checkpoint_cut_off_by_a_kill_counts_as_none(rest, tmp_path, caplog):
    (tmp_path / "last.pt").write_bytes(rest)
    assert last_epoch(tmp_path / "last.pt") is None
    assert "was cut off" in caplog.text


@pytest.mark.slow
def test_a_checkpoint_cut_off_by_a_kill_starts_the_cell_anew(data, tmp_path, caplog):
    folder = tmp_path / "sweep"
    last = folder / "yolov8n-plain-seed0/train/weights/last.pt"
    plan = plan_of(data, num_param=())
    with plan.claim(folder):
        pass
    last.parent.mkdir(parents=True)
    last.write_bytes(b"PK\x03\x04 cut off")
    assert run_sweep(plan, folder) == {"yolov8n-plain-seed0": "done"}
    assert "was cut off" in caplog.text


@pytest.mark.slow
def test_a_failed_cell_is_told_and_the_rest_goes_on(data, tmp_path):
    plan = plan_of(data, models=("yolov99n.yaml", "yolov8n.yaml"), num_param=())
    status = run_sweep(plan, tmp_path / "sweep")
    assert status == {"yolov99n-plain-seed0": "failed", "yolov8n-plain-seed0": "done"}
    text = (tmp_path / "sweep/table.md").read_text("utf-8")
    assert "Failed:\n- yolov99n-plain-seed0: FileNotFoundError: " in text
    state = read_state(tmp_path / "sweep", plan.cells()[0])
    assert "Traceback" in state["traceback"]


def test_a_folder_of_another_sweep_or_of_anything_else_is_refused(tmp_path):
    with plan_of("a.yaml").claim(tmp_path / "sweep"):
        pass
    kept = (tmp_path / "sweep/sweep.json").read_bytes()
    with plan_of("a.yaml").claim(tmp_path / "sweep"):
        pass
    with pytest.raises(ValueError, match=r"holds another sweep: seeds was \[0\], now \[0, 1\]. Give another folder"):
        run_sweep(plan_of("a.yaml", seeds=(0, 1)), tmp_path / "sweep")
    assert (tmp_path / "sweep/sweep.json").read_bytes() == kept
    with pytest.raises(ValueError, match="is not empty and holds no sweep"):
        run_sweep(plan_of("a.yaml"), tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["sweep"]


def test_a_plan_refuses_what_cannot_work_before_the_work(tmp_path):
    with pytest.raises(ValueError, match="a sweep sets these itself: name, seed"):
        plan_of("a.yaml", arguments={"seed": 1, "name": "x"})
    with pytest.raises(ValueError, match="has no cell"):
        plan_of("a.yaml", num_param=(), baseline=False)
    with pytest.raises(ValueError, match="has a cell twice: yolov8n-akconv3-default-seed0"):
        plan_of("a.yaml", num_param=(3, 3))
    with pytest.raises(ValueError, match="circle"):
        plan_of("a.yaml", shapes=("circle",))
    with pytest.raises(ValueError, match="no engine 'dask': serial, ray"):
        run_sweep(plan_of("a.yaml"), tmp_path / "sweep", "dask")


def test_a_sweep_refuses_what_cannot_be_evaluated_before_the_first_training(data, tmp_path, monkeypatch):
    monkeypatch.setattr(YOLO, "train", lambda *_, **__: pytest.fail("trained"))
    folder = tmp_path / "sweep"
    with pytest.raises(ValueError, match="has no split 'test': it has train, val"):
        run_sweep(plan_of(data, split="test"), folder)
    with pytest.raises(FileNotFoundError, match=r"absent\.yaml"):
        run_sweep(plan_of(data, models=("absent.yaml",), num_param=()), folder)
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(ImportError, match="COCO metrics need faster-coco-eval"):
        run_sweep(plan_of(data), folder)
    command = ["benchmark", "train", "--data", data, "--num-param", "3", "--seeds", "0", "-o", str(folder)]
    assert main(command) == 1
    assert not folder.exists()


def result(ap, **other):
    scores = dict.fromkeys(("AP50", "AP75", "APS", "APM", "APL", "precision", "recall", "mAP50", "mAP"), 0.5)
    return {**scores, "AP": ap, "parameters": 3_000_000, "gflops": 8.0, "latency": 2.0, **other}


def test_the_table_tells_mean_spread_and_the_difference_over_common_seeds():
    plan = Plan("voc.yaml", num_param=(5,), seeds=(0, 1))
    plain0, akconv0, plain1, akconv1 = plan.cells()
    done = {plain0: result(0.30), plain1: result(0.34), akconv0: result(0.33, APS=None)}
    rows = {row["row"]: row for row in summary(done)}
    assert rows["yolov8n-plain"]["AP"] == pytest.approx({"mean": 0.32, "spread": 0.04 / 2**0.5, "difference": 0.0})
    akconv = rows["yolov8n-akconv5-default"]
    assert akconv["AP"] == {"mean": 0.33, "spread": None, "difference": pytest.approx(0.03)}  # by seed 0 alone
    assert akconv["APS"] == {"mean": None, "spread": None, "difference": None}
    states = {**{cell: {"status": "done"} for cell in done}, akconv1: {"status": "waiting"}}
    text = table(plan, states, done)
    assert "| yolov8n | - | - | 2 | 3.00 | 8.00 | 2.0 | 50.0 ± 0.0 | 50.0 ± 0.0 | 32.0 ± 2.8 |" in text
    assert "| 33.0 (+3.0) | - |" in text
    assert "Not finished: yolov8n-akconv5-default-seed1" in text
    assert Cell("yolov8n.yaml", 5, "cross", 0).name == "yolov8n-akconv5-cross-seed0"


def test_arguments_of_the_host_are_read_and_unknown_ones_refused():
    read = host_arguments(["epochs=3", "--batch", "4", "--lr0=0.1", "--close-mosaic", "0", "cos_lr=True"])
    assert read == {"epochs": 3, "batch": 4, "lr0": 0.1, "close_mosaic": 0, "cos_lr": True}
    with pytest.raises(ValueError, match="no argument 'epoks'; most like it: epochs"):
        host_arguments(["epoks=3"])
    for tokens in (["epochs"], ["--epochs"]):
        with pytest.raises(ValueError, match="is not an argument: write key=value or --key value"):
            host_arguments(tokens)
    with pytest.raises(ValueError, match="needs a number of points"):
        model_file("yolov8n.yaml", shape="cross")


def test_the_command_shows_its_cells_and_refuses_unknown_arguments(tmp_path, capsys):
    command = ["benchmark", "train", "--data", "voc", "--shape", "default", "cross", "--seeds", "0", "--dry-run", "-o",
               str(tmp_path / "out"), "batch=4"]  # fmt: skip
    assert main(command) == 0
    out = capsys.readouterr().out
    assert out.count("-seed0\n") == 7
    assert "data=voc epochs=300 imgsz=640 optimizer=SGD pretrained=False batch=4" in out
    assert not (tmp_path / "out").exists()
    assert main([*command, "epoks=4"]) == 1
    assert "akconv: Ultralytics has no argument 'epoks'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["models", "epochs=4"])
    assert "unrecognized arguments: epochs=4" in capsys.readouterr().err


def script(name):
    """Return the function behind a script."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"scripts/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@pytest.mark.slow
def test_the_scripts_train_and_validate_on_original_layouts(tmp_path, monkeypatch, capsys):
    train, val = script("train"), script("val")
    monkeypatch.setattr(datasets, "DATASETS_DIR", tmp_path)
    monkeypatch.setattr(datasets, "ONLINE", False)
    command = ["--data", "visdrone", "--model", "yolov8n.yaml", "--num-param", "5"]
    assert train([*command, "--dry-run", "--batch", "4"]) == 0
    shown = capsys.readouterr().out
    assert "yolov8n-akconv5-default.yaml data=VisDrone.yaml epochs=300 imgsz=640 optimizer=SGD" in shown
    assert train(command) == 1
    assert capsys.readouterr().err.startswith("train.py: the dataset visdrone is not in ")
    write_visdrone(tmp_path / "VisDrone")
    options = [f"{key}={value}" for key, value in SMALL.items()]
    assert train([*command, *options, "plots=False", "name=run", f"project={tmp_path / 'runs'}"]) == 0
    best = str(tmp_path / "runs/run/weights/best.pt")
    validate = [best, "--data", "visdrone", "--coco-metrics", "imgsz=64", "device=cpu", "workers=0"]
    assert val(validate) == 0
    columns = "| AP50 | AP75 | AP | APS | APM | APL | precision | recall | mAP50 | mAP | parameters |"
    assert columns in capsys.readouterr().out
    assert val([*validate, "epoks=1"]) == 1
    write_voc(tmp_path / "cells")
    assert val([best, "--data", str(tmp_path / "cells"), "--coco-metrics", "imgsz=64", "workers=0"]) == 1
    assert "the model has 10 classes, the dataset 3" in capsys.readouterr().err


@pytest.mark.slow
def test_ray_runs_the_cells_on_two_workers(data, tmp_path):
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        plan = plan_of(data, models=("yolov99n.yaml", "yolov8n.yaml"), num_param=(), seeds=(0, 1))
        status = run_sweep(plan, tmp_path / "sweep", "ray")
    finally:
        ray.shutdown()
    assert [status[f"yolov8n-plain-seed{seed}"] for seed in (0, 1)] == ["done", "done"]
    assert [status[f"yolov99n-plain-seed{seed}"] for seed in (0, 1)] == ["failed", "failed"]
    assert "| yolov8n | - | - | 2 |" in (tmp_path / "sweep/table.md").read_text("utf-8")


@pytest.mark.slow
def test_a_cell_whose_ray_workers_are_killed_is_tried_again_told_and_taken_up_by_the_next_command(data, tmp_path):
    ray, psutil = pytest.importorskip("ray"), pytest.importorskip("psutil")
    plan = plan_of(data, num_param=(), arguments={**SMALL, "epochs": 4})
    folder = tmp_path / "sweep"
    (cell,) = plan.cells()
    last = folder / cell.name / "train/weights/last.pt"

    def kill(workers, ready):
        """Kill so many workers, each when it is at work and `ready` holds."""
        killed, deadline = set(), time.monotonic() + 150
        while len(killed) < workers and time.monotonic() < deadline:
            time.sleep(0.05)
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                    if process.pid not in killed and "ray::run_cell" in " ".join(process.cmdline()) and ready():
                        process.kill()
                        killed.add(process.pid)

    def swept_with(workers, ready):
        killer = threading.Thread(target=kill, args=(workers, ready))
        killer.start()
        try:
            return run_sweep(plan, folder, "ray")
        finally:
            killer.join()

    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        # Each of the three tries that Ray makes is lost.
        assert swept_with(3, (folder / cell.name / "cell.json").is_file) == {cell.name: "running"}
        assert f"Not finished: {cell.name}" in (folder / "table.md").read_text("utf-8")
        # One is lost after an epoch (the first is 0), and another goes on.
        assert swept_with(1, lambda: last_epoch(last)) == {cell.name: "done"}
    finally:
        ray.shutdown()
    with open(last.parents[1] / "results.csv", encoding="utf-8") as stream:
        assert {int(row["epoch"]) for row in csv.DictReader(stream)} == {1, 2, 3, 4}
