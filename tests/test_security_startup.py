# SPDX-License-Identifier: AGPL-3.0-or-later
"""The start of an interpreter: what the start-up hook does not execute, does not read, and what it costs."""

import ast
import py_compile
import re
import shutil
import statistics
import sys

import pytest
from conftest import ROOT, run_clean

START_UP = ROOT / "ultralytics_akconv_startup.py"
PTH = ast.literal_eval(re.search(r"^PTH = (\(.*?^\))", (ROOT / "setup.py").read_text("utf-8"), re.M | re.S)[1])


def python(folder, *arguments, **environment):
    """Run Python in `folder`; it must succeed."""
    process = run_clean(folder, [sys.executable, *arguments], timeout=60, **environment)
    process.check_returncode()
    return process


def test_nothing_in_the_working_directory_is_executed_at_interpreter_start(tmp_path):
    trap = "open('trapped', 'w').close()\n"
    for name in ("ultralytics_akconv_startup", "ultralytics_akconv", "ultralytics", "torch", "yaml"):
        (tmp_path / f"{name}.py").write_text(trap, "utf-8")
    script = tmp_path / "scripts"
    script.mkdir()
    (script / "run.py").write_text("print('ran')\n", "utf-8")
    for arguments in (("-c", "print('ran')"), (script / "run.py",)):
        process = python(tmp_path, *arguments)
        assert (process.stdout, process.stderr) == ("ran\n", "")
        assert not (tmp_path / "trapped").exists()


@pytest.mark.parametrize("value", ["__import__('os').mkdir('trapped')", "/tmp", "1; import os", "", "é"])
def test_the_off_switch_is_a_word_and_nothing_else(tmp_path, value):
    process = python(tmp_path, "-c", "print('ran')", ULTRALYTICS_AKCONV=value)
    assert (process.stdout, process.stderr) == ("ran\n", "") and not (tmp_path / "trapped").exists()


def test_the_start_up_module_reads_one_environment_variable_and_no_file():
    tree = ast.parse(START_UP.read_text("utf-8"))
    calls = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert {call for call in calls if "environ" in call and "strip" not in call} == {
        "os.environ.get('ULTRALYTICS_AKCONV', '1')"
    }
    assert not [call for call in calls if call.startswith(("open(", "print(", "os.listdir", "os.getcwd", "input("))]


def test_the_start_up_hook_costs_half_a_millisecond_at_most(tmp_path):
    shutil.copy(START_UP, tmp_path)
    py_compile.compile(str(tmp_path / START_UP.name))  # as pip does
    (tmp_path / "ultralytics_akconv.pth").write_text(PTH, "utf-8")
    code = f"""
import site, sys, time
sys.modules.pop("ultralytics_akconv_startup", None)  # of the environment that runs the tests
sys.path[:] = [{str(tmp_path)!r}, *(folder for folder in sys.path if "site-packages" not in folder)]
sys.meta_path[:] = [f for f in sys.meta_path if type(f).__name__ != "_Finder" and "editable" not in f.__module__]
line = open({str(tmp_path / "ultralytics_akconv.pth")!r}).read()
start = time.perf_counter()
exec(line)
print(time.perf_counter() - start)
assert sys.modules["ultralytics_akconv_startup"].__file__ == {str(tmp_path / START_UP.name)!r}
assert type(sys.meta_path[0]).__name__ == "_Finder"
assert "torch" not in sys.modules and "ultralytics_akconv" not in sys.modules
"""
    times = [float(python(tmp_path, "-c", code).stdout) for _ in range(15)]
    print(f"median {statistics.median(times) * 1e3:.2f} ms, least {min(times) * 1e3:.2f} ms of {len(times)}")
    assert min(times) <= 0.5e-3  # the least: what a busy machine adds is not the hook's
