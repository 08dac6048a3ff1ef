# SPDX-License-Identifier: AGPL-3.0-or-later
"""The start of an interpreter: what the start-up hook does not execute, does not read, and how little it does."""

import ast
import json
import py_compile
import re
import shutil
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


def _function(tree, name):
    return next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name)


def test_the_start_up_module_reads_one_environment_variable_and_no_file():
    tree = ast.parse(START_UP.read_text("utf-8"))
    calls = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert {call for call in calls if "environ" in call and "strip" not in call} == {
        "os.environ.get('ULTRALYTICS_AKCONV', '1')"
    }
    command = {node for name in ("main", "_tell_versions") for node in ast.walk(_function(tree, name))}
    at_start = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Call) and node not in command}
    assert not [call for call in at_start if call.startswith(("open(", "print(", "os.listdir", "os.getcwd", "input("))]


def test_the_start_up_hook_imports_one_module_and_opens_one_file(tmp_path):
    """Its cost, counted: seconds are the machine's (docs/security.md has figures), steps are the hook's."""
    shutil.copy(START_UP, tmp_path)
    py_compile.compile(str(tmp_path / START_UP.name))  # as pip does
    (tmp_path / "ultralytics_akconv.pth").write_text(PTH, "utf-8")
    code = f"""
import json, site, sys
sys.modules.pop("ultralytics_akconv_startup", None)  # of the environment that runs the tests
sys.path[:] = [{str(tmp_path)!r}, *(folder for folder in sys.path if "site-packages" not in folder)]
sys.meta_path[:] = [f for f in sys.meta_path if type(f).__name__ != "_Finder" and "editable" not in f.__module__]
line = open({str(tmp_path / "ultralytics_akconv.pth")!r}).read()
before, opened, calls = set(sys.modules), [], []
sys.addaudithook(lambda event, values: opened.append(str(values[0])) if event == "open" else None)
sys.setprofile(lambda frame, event, _: calls.append(frame.f_code) if event == "call" else None)
exec(line)
sys.setprofile(None)
assert sys.modules["ultralytics_akconv_startup"].__file__ == {str(tmp_path / START_UP.name)!r}
assert type(sys.meta_path[0]).__name__ == "_Finder"
own = [code.co_name for code in calls if code.co_filename.endswith({START_UP.name!r})]
print(json.dumps([sorted(set(sys.modules) - before), opened, own, len(sys.meta_path) - 1]))
"""
    modules, opened, calls, finders = json.loads(python(tmp_path, "-c", code).stdout)
    assert modules == ["ultralytics_akconv_startup"]
    assert len(opened) == 1 and opened[0].endswith(".pyc")
    looks = finders + 1  # at each finder there was, and the end of them
    assert len(calls) <= 5 + looks, calls  # as docs/security.md tells
