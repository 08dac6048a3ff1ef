# SPDX-License-Identifier: AGPL-3.0-or-later
import csv
import json

import pytest
import torch

from ultralytics_akconv import AKConv
from ultralytics_akconv.benchmark import LayerSize, benchmark_layers, benchmark_models
from ultralytics_akconv.benchmark.peers import peers_of
from ultralytics_akconv.benchmark.timing import interleave, peak_memory
from ultralytics_akconv.cli import main

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
    timings = interleave({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, repeats=4, warmup=1)
    assert order == ["a", "b"] * 5
    assert timings["a"].ratio == 1
    assert timings["b"].low <= timings["b"].median <= timings["b"].high


def allocate(megabytes):
    return lambda: torch.ones(megabytes * 2**18)


@pytest.mark.slow
def test_peak_memory_is_what_the_call_adds_however_large_the_caller_is():
    large = torch.ones(2**28)  # 1 GB, the peak of this process
    assert 180 < peak_memory(allocate, 200) < 260
    assert large.sum() == 2**28


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
