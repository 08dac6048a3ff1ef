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

import numpy as np
import pytest
import yaml
from conftest import ROOT, clean_environment, copy_mini_dataset
from layouts import write_visdrone, write_voc
from test_evaluate import dataset_of
from ultralytics import YOLO

from ultralytics_akconv import datasets
from ultralytics_akconv.cli import main
from ultralytics_akconv.sweep import Arm, Cell, Plan, host_arguments, model_file, read_arm, run, run_sweep, seeds_needed
from ultralytics_akconv.sweep.plan import read_state, write_json
from ultralytics_akconv.sweep.results import differences, score_names, summary, table, write_report
from ultralytics_akconv.sweep.run import last_epoch

pytest.importorskip("faster_coco_eval", reason="the extra `eval`")
stats = pytest.importorskip("scipy.stats", reason="the extra `eval`")
SMALL = {"epochs": 1, "imgsz": 64, "batch": 8, "nbs": 8, "workers": 0, "device": "cpu", "verbose": False}
REPORT = {
    "cells.csv", "curves.csv", "differences.csv", "results.json", "table.md", "ap.png", "curves.png", "sweep.json",
    "sweep.lock",
}  # fmt: skip
# Arms of which the first fails in the training, not before.
ONE_FAILS = {"num_param": (), "baseline": False, "arms": ({"optimizer": "None such"}, {"lr0": 0.01})}


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
    status = run_sweep(plan := plan_of(data, **ONE_FAILS), tmp_path / "sweep")
    assert status == {"yolov8n-plain-optimizer-None-such-seed0": "failed", "yolov8n-plain-lr0-0.01-seed0": "done"}
    text = (tmp_path / "sweep/table.md").read_text("utf-8")
    assert "Failed:\n- yolov8n-plain-optimizer-None-such-seed0: NotImplementedError: " in text
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
    with pytest.raises(ValueError, match="a sweep sets these itself: seed"):
        plan_of("a.yaml", arms=({"num_param": 3, "seed": 1},))
    with pytest.raises(ValueError, match=r"where of an arm needs a number of points \(num_param\)"):
        plan_of("a.yaml", arms=({"where": "neck"},))
    with pytest.raises(ValueError, match="the shape of an arm must be a name"):
        plan_of("a.yaml", arms=({"num_param": 2, "shape": [[0, 0], [0, 1]]},))
    with pytest.raises(ValueError, match="attic"):
        plan_of("a.yaml", arms=({"num_param": 3, "where": "attic"},))
    with pytest.raises(ValueError, match="no engine 'dask': serial, processes, ray"):
        run_sweep(plan_of("a.yaml"), tmp_path / "sweep", "dask")
    with pytest.raises(ValueError, match="0 minutes with the engine 'serial': they must be above 0"):
        run_sweep(plan_of("a.yaml"), tmp_path / "sweep", minutes=0)
    with pytest.raises(ValueError, match="5 minutes with the engine 'ray'"):
        run_sweep(plan_of("a.yaml"), tmp_path / "sweep", "ray", minutes=5)
    with pytest.raises(ValueError, match="2 jobs with the engine 'serial'"):
        run_sweep(plan_of("a.yaml"), tmp_path / "sweep", jobs=2)
    assert not (tmp_path / "sweep").exists()


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
    scores = dict.fromkeys(("AP50", "AP75", "AP", "APS", "APM", "APL", "precision", "recall", "mAP50", "mAP"), 0.5)
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
    assert "| yolov8n | - | - | - | 2 | 3.00 | 8.00 | 2.0 | 50.0 ± 0.0 | 50.0 ± 0.0 | 32.0 ± 2.8 |" in text
    assert "| 33.0 (+3.0) | - |" in text
    assert "| yolov8n-akconv5-default | yolov8n-plain | AP | 1 | +3.0 | - | - | one seed says nothing |" in text
    assert "Not finished: yolov8n-akconv5-default-seed1" in text
    assert Cell(Arm("yolov8n.yaml", 5, "cross"), 0).name == "yolov8n-akconv5-cross-seed0"


def test_the_report_tells_paired_differences_with_their_intervals_against_each_baseline():
    plan = Plan("x.yaml", num_param=(5,), seeds=range(4), arms=({"num_param": 5, "freeze": "offsets"},))
    scores = {
        "yolov8n-plain": (0.30, 0.33, 0.31, 0.34),
        "yolov8n-akconv5-default": (0.33, 0.37, 0.34, 0.38),
        "yolov8n-akconv5-default-freeze-offsets": (0.32, 0.39, 0.31, 0.40),
    }
    done = {cell: result(scores[cell.arm.name][cell.seed]) for cell in plan.cells()}
    rows = {(row["arm"], row["baseline"]): row for row in differences(done) if row["score"] == "AP"}
    plain, free, still = scores
    assert set(rows) == {(free, plain), (still, plain), (still, free)}
    for (arm, baseline), row in rows.items():
        theirs = stats.ttest_rel(scores[arm], scores[baseline]).confidence_interval()  # by another way of the library
        assert (row["low"], row["high"]) == pytest.approx((theirs.low, theirs.high))
        assert row["mean"] == pytest.approx((theirs.low + theirs.high) / 2)
        assert (row["verdict"] == "no difference shown") == (theirs.low <= 0 <= theirs.high)
    assert rows[free, plain]["verdict"] == "better"
    assert rows[still, free]["verdict"] == "no difference shown"
    text = table(plan, {cell: {"status": "done"} for cell in done}, done)
    assert f"| {free} | {plain} | AP | 4 | +3.5 | +2.6 to +4.4 | {rows[free, plain]['needed']} | better |" in text


def test_other_tasks_are_compared_by_the_scores_that_they_have(tmp_path):
    plan = Plan("x.yaml", num_param=(5,), seeds=(0, 1))
    sizes = {"parameters": 3_000_000, "gflops": 8.0, "latency": 2.0, "images": 8}
    values = {"yolov8n-plain": (0.5, 0.6), "yolov8n-akconv5-default": (0.7, 0.9)}
    done = {
        cell: {"mAP50": 0.1, "mask_mAP50": 0.2, "mask_mAP": values[cell.arm.name][cell.seed], **sizes}
        for cell in plan.cells()
    }
    assert score_names(done) == ["mAP50", "mask_mAP50", "mask_mAP"]
    text = table(plan, {cell: {"status": "done"} for cell in done}, done)
    assert "| mAP50 | mask_mAP50 | mask_mAP |" in text
    assert "| yolov8n-akconv5-default | yolov8n-plain | mask_mAP | 2 | +25.0 | -38.5 to +88.5 |" in text
    assert "| mAP50 | 2 |" not in text
    with plan.claim(tmp_path):
        for cell, figures in done.items():
            run_folder = tmp_path / cell.name / "train"
            run_folder.mkdir(parents=True)
            write_json(run_folder.parent / "cell.json", {"status": "done", "seconds": 9.0, "result": figures})
            head = "epoch,time,metrics/mAP50(B),metrics/mAP50(M),metrics/mAP50-95(M)"
            (run_folder / "results.csv").write_text(f"{head}\n1,10,0.1,0.2,0.3\n2,14,0.1,0.2,0.4\n3,19,0.1,0.3,0.5\n")
        write_report(plan, tmp_path)
    with open(tmp_path / "curves.csv", newline="", encoding="utf-8") as stream:
        curve = [(row["epoch"], row["mask_mAP50"], row["mask_mAP"]) for row in csv.DictReader(stream)][:3]
    assert curve == [("1", "0.2", "0.3"), ("2", "0.2", "0.4"), ("3", "0.3", "0.5")]
    with open(tmp_path / "cells.csv", newline="", encoding="utf-8") as stream:
        assert [row["epoch_seconds"] for row in csv.DictReader(stream)] == ["4.5"] * 4
    with open(tmp_path / "differences.csv", newline="", encoding="utf-8") as stream:
        rows = {row["score"]: row for row in csv.DictReader(stream)}
    assert float(rows["mask_mAP"]["mean"]) == pytest.approx(0.25)
    assert (tmp_path / "differences.png").stat().st_size > 5000


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


def test_the_number_of_seeds_is_the_least_whose_test_has_the_power():
    spread = 0.0156
    needed = seeds_needed(spread)
    draws = np.random.default_rng(0).normal(0.01, spread, (20_000, needed))

    def power(seeds):  # by simulation, from the definition
        return (stats.ttest_1samp(draws[:, :seeds], 0, axis=1).pvalue < 0.05).mean()

    assert power(needed) > 0.79
    assert power(needed - 2) < 0.79
    assert seeds_needed(0.0) == 2
    assert seeds_needed(20.0) is None
    assert [seeds_needed(s) for s in (0.005, 0.01, 0.02)] == sorted(seeds_needed(s) for s in (0.005, 0.01, 0.02))


def test_a_budget_begins_no_seed_that_would_not_end_in_time(monkeypatch):
    cells = Plan("a.yaml", num_param=(3,), seeds=range(5)).cells()
    clock = iter((0.0, 0.0, 240.0, 500.0))  # the start, and the time at which each seed is asked for
    monkeypatch.setattr(run.time, "monotonic", lambda: next(clock))
    assert list(run._within(cells, minutes=10)) == cells[:4]  # 250 s a seed: the third would end at 750 s


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


def test_the_arms_of_a_command_line_are_read():
    arm = read_arm("num_param=5 where=3,5 border=zeros lr0=0.1 freeze=offsets")
    assert arm == {"num_param": 5, "where": [3, 5], "border": "zeros", "lr0": 0.1, "freeze": "offsets"}
    (plain, cell) = Plan("a.yaml", num_param=(), seeds=(0,), arms=(arm,)).cells()
    assert cell.name == "yolov8n-akconv5-default-3-5-zeros-lr0-0.1-freeze-offsets-seed0"
    assert [baseline.name for baseline in cell.arm.baselines()] == [plain.arm.name, "yolov8n-akconv5-default-3-5-zeros"]
    assert [index for index, row in enumerate(yaml_rows(cell.arm.file())) if row[2] == "AKConv"] == [3, 5]
    (cell,) = Plan("a.yaml", num_param=(), seeds=(0,), baseline=False, arms=({"freeze": [1, 2], "lr0": 1},)).cells()
    assert cell.arm.settings({"lr0": 2, "imgsz": 64}) == {"freeze": [1, 2], "lr0": 1, "imgsz": 64}
    assert cell.name == "yolov8n-plain-freeze-1-2-lr0-1-seed0"
    with pytest.raises(ValueError, match="no argument 'wher'"):
        read_arm("num_param=5 wher=neck")
    with pytest.raises(ValueError, match="'five' is not an argument"):
        read_arm("five")


def yaml_rows(file):
    model = yaml.safe_load(file.read_text("utf-8"))
    return model["backbone"] + model["head"]


@pytest.mark.slow
def test_arms_start_from_a_checkpoint_side_by_side_and_frozen_offsets_stay_where_they_start(data, checkpoint, tmp_path):
    arguments = {**SMALL, "pretrained": str(checkpoint), "lr0": 0.01, "optimizer": "SGD", "warmup_epochs": 0}
    plan = plan_of(data, arguments=arguments, baseline=False, arms=({"num_param": 3, "freeze": "offsets"},))
    status = run_sweep(plan, tmp_path / "sweep", "processes", jobs=2)
    free, still = (
        YOLO(tmp_path / "sweep" / name / "train/weights/last.pt").model.model[3].p_conv.weight for name in status
    )
    assert set(status.values()) == {"done"}
    assert free.abs().max() > 0
    assert still.abs().max() == 0


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
        plan = plan_of(data, **ONE_FAILS, seeds=(0, 1))
        status = run_sweep(plan, tmp_path / "sweep", "ray")
    finally:
        ray.shutdown()
    assert [status[f"yolov8n-plain-lr0-0.01-seed{seed}"] for seed in (0, 1)] == ["done", "done"]
    assert [status[f"yolov8n-plain-optimizer-None-such-seed{seed}"] for seed in (0, 1)] == ["failed", "failed"]
    assert "| yolov8n | - | - | lr0=0.01 | 2 |" in (tmp_path / "sweep/table.md").read_text("utf-8")


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
