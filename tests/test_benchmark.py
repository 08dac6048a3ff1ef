# SPDX-License-Identifier: AGPL-3.0-or-later
import csv
import json

import pytest
import torch

from ultralytics_akconv import AKConv
from ultralytics_akconv.benchmark import LayerSize, benchmark_layers, benchmark_models, models, timing
from ultralytics_akconv.benchmark.peers import peers_of
from ultralytics_akconv.benchmark.timing import find_device, interleave, peak_memory
from ultralytics_akconv.cli import main

CPU = torch.device("cpu")
BORDER_OF = {"definition": "paper", "grid_sample": "clamp", "deform_conv2d": "zeros"}


@pytest.mark.parametrize("peer", BORDER_OF)
@pytest.mark.parametrize("num_param", [3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
def test_every_peer_computes_the_layer_it_is_measured_against(peer, num_param, stride):
    layer = AKConv(4, 6, num_param, stride, border=BORDER_OF[peer]).double().eval()
    torch.nn.init.normal_(layer.p_conv.weight)
    x = torch.randn(2, 4, 11, 8, dtype=torch.float64)
    torch.testing.assert_close(peers_of(layer)[peer](x), layer(x), rtol=1e-9, atol=1e-9)


def test_peers_take_turns_and_the_first_is_the_measure():
    order = []
    timings = interleave({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, CPU, repeats=4, warmup=1)
    assert order == ["a", "b"] * 5
    assert timings["a"].ratio == 1
    assert timings["b"].low <= timings["b"].median <= timings["b"].high


def allocate(megabytes):
    return lambda: torch.ones(megabytes * 2**18)


@pytest.mark.slow
def test_peak_memory_is_what_the_call_adds_however_large_the_caller_is():
    large = torch.ones(2**27)  # 512 MB, the peak of this process
    assert 180 < peak_memory(CPU, allocate, 200, processes=1) < 260
    assert large.sum() == 2**27


def test_peak_memory_is_the_median_of_five_processes_on_a_cpu_and_of_one_on_a_gpu(monkeypatch):
    peaks = iter((9.0, 1.0, 2.0, 8.0, 3.0, 7.0))
    monkeypatch.setattr(timing, "_peak_of_a_process", lambda device, prepare, args: next(peaks))
    assert [peak_memory(device, allocate) for device in (CPU, torch.device("cuda:0"))] == [3.0, 7.0]


@pytest.fixture
def gpus(monkeypatch):
    """A machine with two GPUs, of which what is asked is written down; their allocator has 3 MB, 8 MB at its peak."""
    asked = []

    def answer(name, value):
        monkeypatch.setattr(torch.cuda, name, lambda *device: asked.append((name, *device)) or value)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name, value in {"memory_allocated": 3, "max_memory_allocated": 8}.items():
        answer(name, value * 2**20)
    answer("synchronize", None)
    answer("reset_peak_memory_stats", None)
    return asked


def test_a_run_on_the_cpu_asks_nothing_of_a_gpu_that_is_there(gpus):
    interleave({"a": lambda: None}, CPU, repeats=2)
    assert timing._peak(CPU, allocate, (64,)) > 32
    assert gpus == []


def test_a_run_on_a_gpu_waits_for_it_and_asks_its_allocator_whichever_is_the_current_one(gpus):
    second = torch.device("cuda:1")
    interleave({"a": lambda: gpus.append("run")}, second, repeats=1, warmup=0)
    assert gpus == [("synchronize", second), "run", ("synchronize", second)]
    gpus.clear()
    peak = timing._peak(second, lambda: lambda: gpus.append("run"), ())
    assert peak == 5
    told = ("reset_peak_memory_stats", "memory_allocated", "run", "max_memory_allocated")
    assert gpus == [name if name == "run" else (name, second) for name in told]


@pytest.mark.parametrize("memory", [12.0, 0.0])
def test_memory_is_measured_where_the_model_runs_and_none_is_no_division_by_zero(monkeypatch, gpus, memory):
    measured = []
    monkeypatch.setattr(models, "peak_memory", lambda device, *args: measured.append(device) or memory)
    report = benchmark_models("yolov8n-akconv.yaml", imgsz=64, batch=1, repeats=1)
    assert measured == [CPU] * 4
    assert [row["x conv, peak"] for row in report.rows] == [1.0 if memory else None] * 4


def test_a_device_is_named_as_torch_or_the_host_names_it(gpus):
    assert [find_device(name) for name in ("cpu", "cuda", "cuda:1", "1")] == [
        CPU, torch.device("cuda:0"), torch.device("cuda:1"), torch.device("cuda:1")
    ]  # fmt: skip
    with pytest.raises(ValueError, match="no device '2' here, only cpu, cuda, cuda:0, cuda:1"):
        find_device("2")


def test_a_device_that_is_not_there_is_one_clear_error(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for what in ("op", "model"):
        with pytest.raises(SystemExit):
            main(["benchmark", what, "--device", "cuda"])
        assert "argument --device: there is no device 'cuda' here, only cpu\n" in capsys.readouterr().err


def test_a_report_holds_a_row_for_each_layer_number_and_peer():
    report = benchmark_layers([LayerSize(4, 8, 16)], num_param=[1, 3], repeats=2)
    assert [(row["N"], row["peer"]) for row in report.rows[::5]] == [(1, "conv 3x3"), (3, "conv 3x3")]
    assert len(report.rows) == 10
    assert report.machine["torch"] == torch.__version__
    assert all(row["forward ms"] > 0 and row["training ms"] > 0 for row in report.rows)


def test_a_model_report_compares_with_the_same_model_without_akconv():
    report = benchmark_models("yolov8n-akconv.yaml", imgsz=64, batch=1, repeats=1, memory=False)
    assert [row["model"] for row in report.rows] == ["conv 3x3", "akconv", "definition", "grid_sample"]
    assert report.rows[0]["x conv"] == report.rows[0]["x conv, training"] == 1


def test_the_command_prints_the_table_and_writes_the_files(tmp_path, capsys):
    files = [str(tmp_path / name) for name in ("op.json", "op.csv")]
    command = ["benchmark", "op", "--size", "4,8,16", "--repeats", "2", "--json", files[0], "--csv", files[1]]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "| 4->8 16x16 | 5 | akconv " in printed and "torch " in printed
    with open(files[0]) as file:
        assert len(json.load(file)["rows"]) == 5
    with open(files[1], newline="") as file:
        assert next(csv.DictReader(file))["peer"] == "conv 3x3"
