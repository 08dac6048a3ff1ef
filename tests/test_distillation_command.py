# SPDX-License-Identifier: AGPL-3.0-or-later
"""Learning together from the command line: its report, what is refused, and an interrupt."""

import shutil

import pytest
from conftest import layers_of
from ultralytics import YOLO

from ultralytics_akconv import transfer
from ultralytics_akconv.cli import main
from ultralytics_akconv.conversion.distances import HeadDistance


@pytest.mark.parametrize(
    ("steps", "error", "message"),
    [
        (0, ValueError, "at least 1 step, got 0"),
        (-3, ValueError, "at least 1 step, got -3"),
        (2.5, TypeError, "number of steps, got 2.5"),
        (True, TypeError, "number of steps, got True"),
    ],
)
def test_steps_that_are_none_are_refused(source, pictures, steps, error, message):
    with pytest.raises(error, match=message):
        transfer(source, data=pictures, distill=steps)


def test_learning_without_images_is_refused(source):
    with pytest.raises(ValueError, match="distill needs data"):
        transfer(source, distill=10)


def test_an_interrupt_leaves_nothing_and_another_try_works(checkpoint, pictures, tmp_path, monkeypatch):
    output = tmp_path / "out" / "model.pt"
    output.parent.mkdir()
    command = [
        "convert",
        str(checkpoint),
        "--data",
        str(pictures),
        "--distill",
        "4",
        "--imgsz",
        "64",
        "-o",
        str(output),
    ]
    measured = HeadDistance.error
    calls = []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 3:  # in the middle of the steps
            raise KeyboardInterrupt
        return measured(*args)

    with monkeypatch.context() as patched:
        patched.setattr(HeadDistance, "error", interrupted)
        assert main([*command, "--device", "cpu"]) == 130
    assert not list(output.parent.iterdir())
    assert main([*command, "--device", "cpu"]) == 0
    assert [file.name for file in output.parent.iterdir()] == ["model.pt"]


def test_the_command_reports_the_whole_models_error_and_what_the_validation_set_says(
    checkpoint, mini_dataset, tmp_path, capsys
):
    output = tmp_path / "out.pt"
    command = ["convert", str(checkpoint), "--data", str(mini_dataset), "--imgsz", "64", "--device", "cpu"]
    assert main([*command, "--distill", "2", "--images", "4", "-o", str(output)]) == 0
    printed = capsys.readouterr().out
    assert "error of what the head reads" in printed and "steps together" in printed
    assert "kept, by the validation set: " in printed and "mAP50-95(B)" in printed
    assert len(layers_of(YOLO(output).model)) == 6
    assert main([*command, "--no-val", "--images", "4", "-o", str(output)]) == 0
    printed = capsys.readouterr().out
    assert "kept" not in printed and "without data" in printed and "expected" not in printed


def test_the_command_says_why_it_measures_nothing(checkpoint, pictures, mini_dataset, tmp_path, capsys):
    command = ["convert", str(checkpoint), "--imgsz", "64", "--images", "2", "-o", str(tmp_path / "out.pt")]
    assert main([*command, "--data", str(pictures)]) == 0
    assert "kept: not measured" in (printed := capsys.readouterr().out) and "folder of images" in printed
    shutil.rmtree(mini_dataset.parent / "akconv-mini" / "labels")
    assert main([*command, "--data", str(mini_dataset)]) == 0
    assert "have no labels" in capsys.readouterr().out


@pytest.mark.parametrize(("steps", "message"), [("0", "at least 1"), ("-2", "at least 1")])
def test_the_command_refuses_steps_that_are_none(steps, message, checkpoint, pictures, tmp_path, capsys):
    command = ["convert", str(checkpoint), "--data", str(pictures), f"--distill={steps}", "-o", str(tmp_path / "o.pt")]
    assert main(command) == 1
    assert message in capsys.readouterr().err and not (tmp_path / "o.pt").exists()
