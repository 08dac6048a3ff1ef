# SPDX-License-Identifier: AGPL-3.0-or-later
"""Sweeps: plans and what they refuse, tables, differences, command lines; their trainings: `test_sweep_runs.py`."""

import csv
import sys

import numpy as np
import pytest
import yaml
from ultralytics import YOLO

from ultralytics_akconv.cli import main
from ultralytics_akconv.sweep import Arm, Cell, Plan, host_arguments, model_file, read_arm, run, run_sweep, seeds_needed
from ultralytics_akconv.sweep.plan import write_json
from ultralytics_akconv.sweep.results import differences, score_names, summary, table, write_report

pytest.importorskip("faster_coco_eval", reason="the extra `eval`")
stats = pytest.importorskip("scipy.stats", reason="the extra `eval`")
SMALL = {"epochs": 1, "imgsz": 64, "batch": 8, "nbs": 8, "workers": 0, "device": "cpu", "verbose": False}


def plan_of(data, **options):
    return Plan(str(data), **{"num_param": (3,), "seeds": (0,), "arguments": SMALL, **options})


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
    with pytest.raises(ValueError, match="a seed must be at least 0, got -1"):
        plan_of("a.yaml", seeds=(0, -1))
    for settings in ({"arguments": {"save": False}}, {"arms": ({"num_param": 3, "save": False},)}):
        with pytest.raises(ValueError, match="the best epoch of each training, and save=False keeps none"):
            plan_of("a.yaml", **settings)
    for word in ("num_param=x", "num_param=", "where=3,a", "num_param=2.5"):
        with pytest.raises(ValueError, match=f"'{word}' of an arm: write whole numbers as in num_param=5"):
            read_arm(word)
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


def test_a_sweep_refuses_what_cannot_be_evaluated_before_the_first_training(mini_dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(YOLO, "train", lambda *_, **__: pytest.fail("trained"))
    folder = tmp_path / "sweep"
    with pytest.raises(ValueError, match="has no split 'test': it has train, val"):
        run_sweep(plan_of(mini_dataset, split="test"), folder)
    with pytest.raises(FileNotFoundError, match=r"absent\.yaml"):
        run_sweep(plan_of(mini_dataset, models=("absent.yaml",), num_param=()), folder)
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(ImportError, match="COCO metrics need faster-coco-eval"):
        run_sweep(plan_of(mini_dataset), folder)
    command = ["benchmark", "train", "--data", str(mini_dataset), "--num-param", "3", "--seeds", "0", "-o", str(folder)]
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


def test_a_score_that_never_differs_tells_nothing_of_the_seeds_that_a_point_needs():
    plan = Plan("x.yaml", num_param=(5,), seeds=range(4))
    done = {cell: {**result(0.3 + cell.seed / 100), "APS": 0.0} for cell in plan.cells()}
    rows = {row["score"]: row for row in differences(done)}
    assert (rows["APS"]["low"], rows["APS"]["high"], rows["APS"]["needed"]) == (0.0, 0.0, None)
    assert "| APS | 4 | +0.0 | +0.0 to +0.0 | - | no difference shown |" in table(plan, {}, done)


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
