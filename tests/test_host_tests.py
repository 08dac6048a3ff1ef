# SPDX-License-Identifier: AGPL-3.0-or-later
"""The script that runs Ultralytics' own tests: what it makes of their outcomes, and what watches over them."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(ROOT / "scripts"))  # it imports its neighbour
    try:
        spec = importlib.util.spec_from_file_location("host_tests", ROOT / "scripts/host_tests.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(ROOT / "scripts"))
    return module


TESTS = """
import os, time
from pathlib import Path
import pytest

def test_passes():
    print("what a test prints may look like FAILED [ 50%]")
    Path(os.environ["YOLO_CONFIG_DIR"], "Ultralytics/settings.json").write_text("reset")

def test_finds_the_settings_as_they_were():
    assert Path(os.environ["YOLO_CONFIG_DIR"], "Ultralytics/settings.json").read_text() == "kept"

def test_fails():
    raise ValueError("in 2 lines\\nof /tmp/words")

def test_is_skipped():
    pytest.skip("for a reason")

def test_does_not_end():
    while True:
        try:
            time.sleep(60)
        except Exception:
            pass

@pytest.fixture
def broken():
    yield
    raise KeyError("in the teardown")

def test_fails_in_its_teardown(broken):
    pass
"""


@pytest.mark.skipif(os.name != "posix", reason="no SIGALRM: nothing is stopped there")
def test_the_outcome_of_each_test_is_kept_and_one_that_does_not_end_is_stopped(script, tmp_path):
    (tmp_path / "Ultralytics").mkdir()
    (tmp_path / "Ultralytics/settings.json").write_text("kept", "utf-8")
    (tmp_path / "test_it.py").write_text(TESTS, "utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\n", "utf-8")
    shutil.copy(ROOT / "scripts/host_watch.py", tmp_path)
    told = {"HOST_TESTS_OUTCOMES": str(tmp_path / "outcomes.jsonl"), "HOST_TESTS_SECONDS": "1"}
    environment = {**os.environ, **told, "YOLO_CONFIG_DIR": str(tmp_path), "ULTRALYTICS_AKCONV": "0"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "host_watch"]
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    found = script.outcomes(tmp_path / "outcomes.jsonl")
    assert {name.partition("::test_")[2]: row["outcome"] for name, row in found.items()} == {
        "passes": "passed",
        "finds_the_settings_as_they_were": "passed",
        "fails": "failed",
        "is_skipped": "skipped",
        "does_not_end": "stopped",
        "fails_in_its_teardown": "error",
    }, done.stdout
    assert found["test_it.py::test_fails"]["words"] == "ValueError: in 2 lines of /tmp/words"


def arm(**rows):
    return {name: {"outcome": outcome, "words": words} for name, (outcome, words) in rows.items()}


OFF = arm(a=("passed", ""), b=("failed", "OSError: no '/tmp/off/x.pt' in 12 s"), c=("stopped", "STOPPED"))


@pytest.mark.parametrize(
    "on, alike, told",
    [
        (
            arm(a=("passed", ""), b=("failed", "OSError: no '/tmp/on/x.pt' in 9 s"), c=("passed", "")),
            True,
            "0 of them not",
        ),
        (
            arm(a=("failed", "x"), b=("failed", "OSError: no '/x' in 9 s"), c=("passed", "")),
            False,
            "- `a`: off: passed; on",
        ),
        (arm(a=("passed", ""), b=("failed", "KeyError: 'AKConv'")), False, "1 failed in every arm, with other words"),
        (arm(a=("passed", "")), True, "1 tests ended in every arm"),
    ],
)
def test_what_ends_otherwise_with_the_plug_in_or_fails_with_other_words_is_told(script, on, alike, told):
    text, same = script.table("8.0", {"off": OFF, "on": on})
    assert same is alike and told in text
    assert script.table("8.0", {"off": OFF, "on": OFF, "grafted": on})[1]  # of its own models it may end otherwise
    assert script.table("8.0", {"grafted": on})[1]


def test_the_weights_that_the_tests_name_are_found(script, tmp_path):
    (tmp_path / "test_a.py").write_text(
        "YOLO(W / 'yolo26n-seg.pt')(x); RTDETR(f'{W}/rtdetr-l.pt'); x = 'last.pt'", "utf-8"
    )
    assert script.weights_named(tmp_path) == ["rtdetr-l.pt", "yolo26n-seg.pt"]


def test_labels_of_each_task_are_made_from_a_box(script):
    assert (
        sys.modules["host_stand_ins"].label("detect", 2, 0.5, 0.5, 0.2, 0.4) == "2 0.500000 0.500000 0.200000 0.400000"
    )
    assert len(sys.modules["host_stand_ins"].label("pose", 2, 0.5, 0.5, 0.2, 0.4).split()) == 5 + 17 * 3
    assert len(sys.modules["host_stand_ins"].label("segment", 2, 0.5, 0.5, 0.2, 0.4).split()) == 9
    assert json.loads(sys.modules["host_stand_ins"].label("obb", 1, 0.5, 0.5, 0.2, 0.4).split()[0]) == 1
