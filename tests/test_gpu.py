# SPDX-License-Identifier: AGPL-3.0-or-later
"""`scripts/gpu.py`: its rehearsal on a CPU, its arguments, and how it goes on after a failure."""

import json
import sys

import pytest
import torch
from conftest import ROOT

from ultralytics_akconv.gpu import STEPS, Settings, exactness, read_facts, run_steps
from ultralytics_akconv.gpu import run as supervisor
from ultralytics_akconv.gpu import worker as steps_process
from ultralytics_akconv.gpu.facts import write_fact
from ultralytics_akconv.gpu.steps import Step
from ultralytics_akconv.sweep.settings import trained_on

SCRIPT = ROOT / "scripts/gpu.py"


def figures(facts, **about):
    """Return the facts of which this is known, without those that tell of no figures."""
    return [fact for fact in facts if about.items() <= fact.items()]


# The rehearsal


@pytest.mark.slow
def test_the_rehearsal_runs_every_step_on_a_cpu(fresh, tmp_path):
    output = tmp_path / "gpu"
    command = [sys.executable, SCRIPT, "-o", output, "--device", "cpu", "--tiny", "--minutes", "120"]
    process = fresh(command, timeout=1800)
    facts = read_facts(output)
    assert process.returncode == 0, [fact for fact in facts if "failed" in fact] or process.stderr
    ended = {fact["step"]: fact["failures"] for fact in facts if "seconds" in fact}
    assert ended == dict.fromkeys(STEPS, 0)
    assert [fact["step"] for fact in facts if "started" in fact] == list(STEPS)  # in one process, none crashed
    assert {fact["what"] for fact in facts if "left_out" in fact} <= {"yolo train compile=True"}
    paths = exactness.paths()
    assert {fact["path"] for fact in figures(facts, what="error")} == set(paths)
    assert len(figures(facts, what="error")) == 4 * 3 * len(paths)
    assert {"conv 3x3", "definition", "grid_sample", "deform_conv2d"} <= {
        fact["peer"] for fact in figures(facts, what="layer")
    }
    assert figures(facts, what="yolo train")[0]["epochs"] == 1
    assert figures(facts, what="onnx")[0]["runs on"] == "CPUExecutionProvider"
    table = (output / "table.md").read_text("utf-8")
    assert "failed" not in table
    assert "| conv 3x3 |" in table and "| yolov8n-akconv.yaml | as published |" in table


@pytest.mark.slow
def test_the_rehearsal_of_the_paired_trainings_writes_the_report_of_a_sweep(fresh, tmp_path, mini_dataset):
    pytest.importorskip("faster_coco_eval", reason="faster-coco-eval is in the extra `eval`")
    pytest.importorskip("scipy", reason="SciPy is in the extra `eval`")
    output = tmp_path / "pairs"
    command = [sys.executable, SCRIPT, "-o", output, "--device", "cpu", "--tiny", "--minutes", "30", "--train"]
    process = fresh([*command, "--data", mini_dataset, "--jobs", "2"], timeout=1800)
    assert process.returncode == 0, process.stderr
    states = [json.loads(file.read_text("utf-8"))["status"] for file in output.glob("*/cell.json")]
    assert states == ["done", "done"]
    assert "yolov8n-akconv5-default | yolov8n-plain" in process.stdout


@pytest.mark.parametrize(
    ("device", "where"),
    [
        (None, "cuda:0"),
        ("", "cuda:0"),
        ("cpu", "cpu"),
        (1, "cuda:1"),
        ("2,3", "cuda:2"),
        ([1, 0], "cuda:1"),
        (-1, "cuda:0"),
    ],
)
def test_the_report_of_a_sweep_names_the_device_of_its_trainings(monkeypatch, device, where):
    arguments = {} if device is None else {"device": device}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert trained_on(arguments) == torch.device(where)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert trained_on(arguments) == torch.device("cpu")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "cuda:99"], "gpu.py: there is no device 'cuda:99' here, only cpu"),
        (["--device", "cpu", "--minutes", "0"], "gpu.py: minutes must be above 0, got 0.0"),
        (["--device", "cpu", "--train"], "--train needs --data"),
        (["--device", "cpu", "--steps", "nothing"], "argument --steps: invalid choice: 'nothing'"),
    ],
)
def test_a_wrong_argument_is_one_clear_error(tmp_path, arguments, message, capsys, monkeypatch):
    script = {}
    exec(compile(SCRIPT.read_text("utf-8"), str(SCRIPT), "exec"), script)
    monkeypatch.setattr(script["signal"], "signal", lambda *args: None)
    try:
        status = script["main"](["-o", str(tmp_path / "out"), *arguments])
    except SystemExit as end:
        status = end.code
    assert status in (1, 2)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# A step that fails, crashes or hangs

FAKE = """
import json, os, sys, time
output, steps = sys.argv[2], [argument.partition("=")[0] for argument in sys.argv[4:]]
def say(**fact):
    with open(output + "/facts.jsonl", "a") as file:
        file.write(json.dumps(fact) + "\\n")
for step in steps:
    say(step=step, started=True)
    say(step=step, what="figure", value=1)
    {what}
    say(step=step, seconds=0.1, failures=0)
"""


@pytest.fixture
def faked(tmp_path, monkeypatch):
    """Run steps in a process that does something in each of them; returns the facts."""

    def run(what, steps=("machine", "errors", "repeats"), minutes=8.0, grace=20.0, code=FAKE):
        (tmp_path / "worker.py").write_text(code.replace("{what}", what), "utf-8")
        monkeypatch.setattr(supervisor, "_WORKER", (str(tmp_path / "worker.py"),))
        monkeypatch.setattr(supervisor, "_GRACE", grace)
        told = []
        facts = run_steps(Settings("cpu", True, minutes), tmp_path / "out", steps, told.append)
        assert [{**fact, "time": 0} for fact in told] == [{**fact, "time": 0} for fact in facts]
        return [{key: value for key, value in fact.items() if key != "time"} for fact in facts]

    return run


def test_steps_that_end_run_in_one_process_in_their_order(faked):
    facts = faked("pass")
    assert [fact["step"] for fact in facts if "seconds" in fact] == ["machine", "errors", "repeats"]
    assert not [fact for fact in facts if "failed" in fact]


def test_a_step_that_crashes_its_process_is_told_and_the_next_one_runs(faked):
    facts = faked("os.abort() if step == 'errors' else None")
    assert [fact["step"] for fact in facts if "seconds" in fact] == ["machine", "repeats"]
    (failed,) = [fact for fact in facts if "failed" in fact]
    assert failed["step"] == "errors"
    assert failed["failed"].startswith("its process ended with ")
    assert [fact["step"] for fact in figures(facts, what="figure")] == ["machine", "errors", "repeats"]


def test_a_device_that_a_step_has_spoilt_gets_a_new_process_and_no_blame(faked):
    facts = faked("say(step=step, seconds=0.1, failures=1), sys.exit(3)")
    assert [fact["step"] for fact in facts if "seconds" in fact] == ["machine", "errors", "repeats"]
    assert not [fact for fact in facts if "failed" in fact]


def test_a_step_that_does_not_end_is_ended(faked):
    facts = faked("time.sleep(600) if step == 'errors' else None", minutes=0.06, grace=2.0)
    (failed,) = [fact for fact in facts if "failed" in fact]
    assert failed == {"step": "errors", "failed": "did not end in time, its process was ended"}


def test_a_process_that_begins_no_step_is_told_and_ends_the_run_all_the_same(faked):
    facts = faked("sys.exit(7)", ("machine", "errors"), code="import sys\n{what}")
    assert facts == [
        {"step": step, "failed": "its process ended with 7; see log.txt"} for step in ("machine", "errors")
    ]


def test_what_the_time_does_not_reach_is_told(faked):
    facts = faked("time.sleep(1.5)", minutes=1 / 60, grace=0.5)
    assert facts[-1] == {"step": "repeats", "left_out": "0.0166667 minutes were over"}


def test_a_folder_of_another_run_is_refused(tmp_path):
    write_fact(tmp_path, step="machine")
    with pytest.raises(ValueError, match="holds facts of another run"):
        run_steps(Settings("cpu"), tmp_path)
    with pytest.raises(ValueError, match=r"no step nothing: machine, errors"):
        run_steps(Settings("cpu"), tmp_path / "new", ["nothing"])


def test_a_failing_step_is_a_fact_with_its_place_and_the_process_goes_on(tmp_path, monkeypatch):
    def fail(run):
        raise RuntimeError("it broke")

    fine = Step(lambda run: run.say(what="fine"), 1, "")
    monkeypatch.setattr(steps_process, "STEPS", {"bad": Step(fail, 1, ""), "good": fine})
    assert steps_process.main([Settings("cpu").to_json(), str(tmp_path), str(tmp_path), "bad=9", "good=9"]) == 0
    facts = read_facts(tmp_path)
    failed = next(fact["failed"] for fact in facts if "failed" in fact)
    assert failed.endswith("RuntimeError: it broke") and "in fail" in failed
    assert [fact["failures"] for fact in facts if "seconds" in fact] == [1, 0]
    assert figures(facts, what="fine")


def test_half_a_line_of_a_file_is_not_read(tmp_path):
    write_fact(tmp_path, step="a")
    with open(tmp_path / "facts.jsonl", "a") as file:
        file.write('{"step": "b"')
    assert [fact["step"] for fact in read_facts(tmp_path)] == ["a"]
