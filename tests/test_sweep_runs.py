# SPDX-License-Identifier: AGPL-3.0-or-later
"""Sweeps that train: what they write, kill and resume, failures, workers, and the scripts."""

import contextlib
import csv
import importlib.util
import json
import subprocess
import sys
import threading
import time

import pytest
from conftest import ROOT, clean_environment, kill_after_a_checkpoint
from layouts import write_visdrone, write_voc
from test_evaluate import dataset_of
from test_sweep import SMALL, plan_of
from ultralytics import YOLO

from ultralytics_akconv import datasets
from ultralytics_akconv.sweep import Plan, run_sweep
from ultralytics_akconv.sweep.plan import read_state
from ultralytics_akconv.sweep.run import last_epoch

pytest.importorskip("faster_coco_eval", reason="the extra `eval`")
REPORT = {
    "cells.csv", "curves.csv", "differences.csv", "results.json", "table.md", "ap.png", "curves.png", "sweep.json",
    "sweep.lock",
}  # fmt: skip
# Arms of which the first fails in the training, not before.
ONE_FAILS = {"num_param": (), "baseline": False, "arms": ({"optimizer": "None such"}, {"lr0": 0.01})}


@pytest.mark.slow
def test_a_sweep_writes_its_report_and_does_not_repeat_what_is_done(mini_dataset, tmp_path, monkeypatch):
    folder = tmp_path / "sweep"
    assert run_sweep(plan_of(mini_dataset), folder) == {
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
    assert set(run_sweep(plan_of(mini_dataset), folder).values()) == {"done"}


@pytest.mark.slow
def test_a_sweep_that_was_killed_goes_on_where_it_stopped(mini_dataset, tmp_path, caplog):
    folder = tmp_path / "sweep"
    first, second = (folder / f"yolov8n-{name}-seed0" for name in ("plain", "akconv3-default"))
    options = [f"{key}={value}" for key, value in {**SMALL, "epochs": 3}.items()]
    script = ROOT / "scripts/benchmark.py"
    command = [sys.executable, script, "--data", mini_dataset, "--num-param", "3", "--seeds", "0"]
    (tmp_path / "home").mkdir()
    process = subprocess.Popen(
        [*map(str, command), "-o", str(folder), *options],
        env=clean_environment(tmp_path / "home"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    kill_after_a_checkpoint(process, second / "train/weights/last.pt")
    done = (first / "cell.json").read_bytes()
    assert json.loads(done)["status"] == "done"
    assert json.loads((second / "cell.json").read_text("utf-8"))["status"] == "running"
    plan = plan_of(mini_dataset, arguments={**SMALL, "epochs": 3})
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
def test_a_checkpoint_cut_off_by_a_kill_starts_the_cell_anew(mini_dataset, tmp_path, caplog):
    folder = tmp_path / "sweep"
    last = folder / "yolov8n-plain-seed0/train/weights/last.pt"
    plan = plan_of(mini_dataset, num_param=())
    with plan.claim(folder):
        pass
    last.parent.mkdir(parents=True)
    last.write_bytes(b"PK\x03\x04 cut off")
    assert run_sweep(plan, folder) == {"yolov8n-plain-seed0": "done"}
    assert "was cut off" in caplog.text


@pytest.mark.slow
def test_a_failed_cell_is_told_and_the_rest_goes_on(mini_dataset, tmp_path):
    status = run_sweep(plan := plan_of(mini_dataset, **ONE_FAILS), tmp_path / "sweep")
    assert status == {"yolov8n-plain-optimizer-None-such-seed0": "failed", "yolov8n-plain-lr0-0.01-seed0": "done"}
    text = (tmp_path / "sweep/table.md").read_text("utf-8")
    assert "Failed:\n- yolov8n-plain-optimizer-None-such-seed0: NotImplementedError: " in text
    state = read_state(tmp_path / "sweep", plan.cells()[0])
    assert "Traceback" in state["traceback"]


@pytest.mark.slow
@pytest.mark.parametrize("task, score", [("segment", "mask_mAP"), ("classify", "top1")])
def test_a_sweep_trains_and_compares_models_of_other_tasks(task, score, tmp_path):
    data, model = dataset_of(task, tmp_path)
    plan = Plan(str(data), (str(model),), num_param=(3,), seeds=(0,), arguments=SMALL)
    assert set(run_sweep(plan, tmp_path / "sweep").values()) == {"done"}
    for name in ("cells", "curves"):
        with open(tmp_path / f"sweep/{name}.csv", newline="", encoding="utf-8") as stream:
            assert all(0 <= float(row[score]) <= 1 for row in csv.DictReader(stream))
    assert f"| {score} | 1 |" in (tmp_path / "sweep/table.md").read_text("utf-8")


@pytest.mark.slow
def test_workers_end_with_the_command_however_that_ends(tmp_path):
    psutil = pytest.importorskip("psutil")
    code = """
import multiprocessing, os, time
from concurrent.futures import ProcessPoolExecutor
from ultralytics_akconv.sweep.run import _end_with_parent
context = multiprocessing.get_context("spawn")
with ProcessPoolExecutor(1, context, initializer=_end_with_parent) as pool:
    print(pool.submit(os.getpid).result(), flush=True)
    pool.submit(time.sleep, 600).result()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=clean_environment(tmp_path), stdout=subprocess.PIPE, text=True
    )
    lines = iter(process.stdout.readline, "")  # the host may write of its settings before
    worker = psutil.Process(next(int(line) for line in lines if line.strip().isdigit()))
    assert worker.is_running()
    process.kill()
    process.wait()
    gone, alive = psutil.wait_procs([worker], timeout=60)
    assert gone or alive[0].status() == psutil.STATUS_ZOMBIE  # where nobody collects orphans


@pytest.mark.slow
def test_arms_start_from_a_checkpoint_side_by_side_and_frozen_offsets_stay_where_they_start(
    mini_dataset, checkpoint, tmp_path
):
    arguments = {**SMALL, "pretrained": str(checkpoint), "lr0": 0.01, "optimizer": "SGD", "warmup_epochs": 0}
    plan = plan_of(mini_dataset, arguments=arguments, baseline=False, arms=({"num_param": 3, "freeze": "offsets"},))
    status = run_sweep(plan, tmp_path / "sweep", "processes", jobs=2)
    free, still = (
        YOLO(tmp_path / "sweep" / name / "train/weights/last.pt").model.model[3].p_conv.weight for name in status
    )
    assert set(status.values()) == {"done"}
    assert free.abs().max() > 0
    assert still.abs().max() == 0


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
def test_ray_runs_the_cells_on_two_workers(mini_dataset, tmp_path):
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        plan = plan_of(mini_dataset, **ONE_FAILS, seeds=(0, 1))
        status = run_sweep(plan, tmp_path / "sweep", "ray")
    finally:
        ray.shutdown()
    assert [status[f"yolov8n-plain-lr0-0.01-seed{seed}"] for seed in (0, 1)] == ["done", "done"]
    assert [status[f"yolov8n-plain-optimizer-None-such-seed{seed}"] for seed in (0, 1)] == ["failed", "failed"]
    assert "| yolov8n | - | - | lr0=0.01 | 2 |" in (tmp_path / "sweep/table.md").read_text("utf-8")


@pytest.mark.slow
def test_a_cell_whose_ray_workers_are_killed_is_tried_again_told_and_taken_up_by_the_next_command(
    mini_dataset, tmp_path
):
    ray, psutil = pytest.importorskip("ray"), pytest.importorskip("psutil")
    plan = plan_of(mini_dataset, num_param=(), arguments={**SMALL, "epochs": 4})
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
