# SPDX-License-Identifier: AGPL-3.0-or-later
"""The scripts that compare what conversions keep: their files, and a source that has nothing to keep."""

import csv
import importlib
import sys

import pytest
from conftest import ROOT


@pytest.fixture
def script(monkeypatch):
    """`scripts/distillation_comparison.py` as a module; it imports its neighbour."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("distillation_comparison")


def run(script, monkeypatch, *arguments):
    words = [*map(str, arguments), "--imgsz", "32", "--images", "2", "--steps", "1", "--split", "val"]
    monkeypatch.setattr(sys, "argv", ["distillation_comparison.py", *words])
    script.main()


def rows(file):
    with open(file, encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.slow
def test_every_way_of_a_conversion_is_measured_once_and_told_with_its_spread(
    script, checkpoint, mini_dataset, tmp_path, monkeypatch, capsys
):
    folder, scores = tmp_path / "out", iter([0.5, 0.4, 0.45, 0.5, 0.5, 0.3, 0.4, 0.5])  # random weights find nothing
    monkeypatch.setattr(script, "accuracy", lambda *_: (0.9, next(scores)))
    options = ["--source", checkpoint, "--data", mini_dataset, "--num-param", 3, "-o", folder]
    run(script, monkeypatch, *options, "--seeds", 0)
    ways = {row["arm"]: row for row in rows(folder / "runs.csv")}
    assert [(way, row["kept"]) for way, row in ways.items()] == list(zip(script.ARMS, ("80.00", "90.00", "100.00")))
    assert not ways["without data"]["head error"] and 0 < float(ways["fitted"]["head error"]) < 10
    assert [row["step"] for row in rows(folder / "curves.csv")] == ["0", "1"]
    run(script, monkeypatch, *options, "--seeds", 0, 1)  # the first seed's are there
    assert [row["seed"] for row in rows(folder / "runs.csv")] == ["0"] * 3 + ["1"] * 3
    told = (folder / "table.md").read_text("utf-8")
    assert told.strip() in capsys.readouterr().out
    for cell in ("70.0 % (60.0 to 80.0)", "85.0 % (80.0 to 90.0)", "100.0 % (100.0 to 100.0)", "| 2 |"):
        assert cell in told
    assert (folder / "curves.png").stat().st_size > 5000


def test_a_source_that_finds_nothing_is_refused_before_anything_is_converted(
    script, checkpoint, mini_dataset, tmp_path, monkeypatch, capsys
):
    with pytest.raises(SystemExit) as stop:
        run(script, monkeypatch, "--source", checkpoint, "--data", mini_dataset, "-o", tmp_path / "out")
    assert stop.value.code == 2
    assert f"{checkpoint} has mAP50-95 0 on the split 'val' of {mini_dataset}" in capsys.readouterr().err
    assert not list((tmp_path / "out").iterdir())
