# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the verbs of the Makefile leave alone, and what they name."""

import re
import shutil
import subprocess

import pytest
from conftest import ROOT

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make here")


def make(folder, *arguments):
    done = subprocess.run(["make", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_clean_keeps_what_a_user_may_have_put_or_trained_and_names_it(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    theirs = [f"{name}/file" for name in ("datasets", "runs", "weights", ".matrix", "my-notes")]
    made = [f"{name}/file" for name in (".venv", "build", "dist", "site", "ultralytics_akconv.egg-info")]
    for file in (*theirs, *made):
        (tmp_path / file).parent.mkdir()
        (tmp_path / file).write_text("", "utf-8")
    out = make(tmp_path, "clean")
    left = {str(file.relative_to(tmp_path)) for file in tmp_path.glob("*/*")}
    assert left == set(theirs)
    kept = [line.split()[2] for line in out.splitlines() if line.startswith("== kept")]
    assert kept == [f"{tmp_path}/{name}:" for name in ("datasets", "runs", "weights", ".matrix")]


def test_clean_says_nothing_of_what_is_not_there(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    assert "kept" not in make(tmp_path, "clean")


def test_a_second_training_has_a_folder_of_its_own(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    tools = tmp_path / ".venv/bin"
    tools.mkdir(parents=True)
    (tmp_path / ".venv/ready").write_text("", "utf-8")
    for file in ("setup.py", "pyproject.toml"):  # older than the environment
        (tmp_path / file).write_text("", "utf-8")
    yolo = tools / "yolo"
    yolo.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/log\nmkdir -p runs/akconv-mini$(wc -l < {tmp_path}/log)\n', "utf-8"
    )
    yolo.chmod(0o755)
    first, second = (make(tmp_path, "-o", "setup.py", "-o", "pyproject.toml", "train") for _ in range(2))
    assert "exist_ok" not in (tmp_path / "log").read_text("utf-8")
    assert f"weights: {tmp_path}/runs/akconv-mini1/weights/best.pt" in first
    assert f"weights: {tmp_path}/runs/akconv-mini2/weights/best.pt" in second


def test_the_fast_tests_are_files_that_are_there():
    files = re.findall(r"(?<!\S)tests/\S+", make(ROOT, "--dry-run", "test-fast"))
    assert "tests/test_functional.py" in files
    assert not [file for file in files if not (ROOT / file).is_file()]
