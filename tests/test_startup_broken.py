# SPDX-License-Identifier: AGPL-3.0-or-later
"""Activation where something is missing or broken: a host too old or strange, a plug-in broken or half removed."""

import os
import re
import shutil
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from interpreters import HOST, OURS, ROW, SITE, STOCK, STOCK_BODY, failure, printed, with_head


def test_a_missing_host_is_named(fresh):
    process = fresh("import sys; sys.modules['ultralytics'] = None; import ultralytics_akconv")
    assert failure(process) == "ImportError: ultralytics-akconv needs ultralytics>=8.3.9: pip install -U ultralytics"


def old_host(folder, tasks_source, version="8.3.8"):
    """Make a tiny package that looks like a host of another release, and return the folder to put on PYTHONPATH."""
    package = folder / "host/ultralytics"
    (package / "nn").mkdir(parents=True)
    (package / "__init__.py").write_text(f"__version__ = '{version}'\n", "utf-8")
    (package / "nn/__init__.py").write_text("", "utf-8")
    (package / "nn/tasks.py").write_text(tasks_source, "utf-8")
    return folder / "host"


BARE = "def parse_model(): return 'built'\ndef check_yaml(file): return file\n"


@pytest.mark.parametrize("version", ["8.3.8", "8.2.103", "8.0.0"])
def test_a_host_that_is_too_old_is_named(fresh, tmp_path, version):
    process = fresh("import ultralytics_akconv", PYTHONPATH=old_host(tmp_path, "", version))
    assert failure(process) == (
        f"ImportError: ultralytics-akconv needs ultralytics>=8.3.9, found {version}: pip install -U ultralytics"
    )


@pytest.mark.parametrize(
    "source",
    [
        BARE,
        "def parse_model(): return 'built'\n",  # a release without the look-up that the plug-in wraps
        "def build_model(): return 'built'\n",
    ],
    ids=["too old", "without check_yaml", "without parse_model"],
)
def test_a_strange_host_works_and_its_use_of_akconv_says_why_not(fresh, tmp_path, source):
    host = old_host(tmp_path, source)
    function = re.search(r"def (\w+_model)", source)[1]
    process = fresh(f"import ultralytics.nn.tasks as t; print(t.{function}())", PYTHONPATH=host)
    assert (printed(process), process.stderr) == (["built"], "")
    process = fresh("import ultralytics.nn.tasks as t; t.AKConv(3, 4, 5, 2)", PYTHONPATH=host)
    reason = "RuntimeError: ultralytics-akconv is installed but could not be loaded: ImportError: .*, found 8.3.8"
    assert re.match(reason, failure(process))


@pytest.mark.slow
def test_a_broken_plug_in_leaves_the_stock_model_and_explains_itself(fresh, tmp_path):
    package = tmp_path / "broken/ultralytics_akconv"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('the plug-in is broken')\n", "utf-8")
    process = fresh("print('started')", PYTHONPATH=package.parent)
    assert (printed(process), process.stderr) == (["started"], "")
    uses = [*(ROW.format(name) for name in ("AKConv", "LDConv", "C2f_AKConv")), OURS]
    code = f"{STOCK}\nfor use in {uses!r}:\n try:\n  exec(use)\n except RuntimeError as error:\n  print(error)"
    reason = "ultralytics-akconv is installed but could not be loaded: ImportError: the plug-in is broken"
    process = fresh(code, PYTHONPATH=f"{package.parent}{os.pathsep}{HOST}")
    assert printed(process)[-5:] == [str(with_head(STOCK_BODY)), *[reason] * 4]


def site_folder(folder, *, startup=True, package=True, mangle=None):
    """Install by hand into a folder of its own: the start-up file, and what else is told."""
    target = folder / "site"
    target.mkdir()
    shutil.copy(Path(SITE) / "ultralytics_akconv.pth", target)
    if startup:
        shutil.copy(ROOT / "ultralytics_akconv_startup.py", target)
    if package:
        shutil.copytree(ROOT / "ultralytics_akconv", target / "ultralytics_akconv")
    if mangle:
        mangle(target / "ultralytics_akconv")
    return target


def without_a_module(package):
    (package / "shapes.py").unlink()


def with_a_syntax_error(package):
    (package / "modules.py").write_text("def broken(:\n", "utf-8")


def without_any_file(package):
    for file in package.rglob("*.py"):
        file.unlink()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "reason", "tiny"),  # where none of our modules is found, a tiny host without torch tells as much
    [
        ({}, None, False),
        ({"startup": False, "package": False}, "KeyError: 'AKConv'", False),
        ({"package": False}, "ModuleNotFoundError: No module named 'ultralytics_akconv'", True),
        ({"mangle": without_a_module}, "No module named 'ultralytics_akconv.shapes'", False),
        ({"mangle": with_a_syntax_error}, "SyntaxError: invalid syntax", False),
        ({"mangle": without_any_file}, "cannot import name 'register' from 'ultralytics_akconv'", True),
    ],
    ids=["whole", "only the .pth", "no package", "a module is missing", "a module is broken", "empty folders"],
)
def test_a_half_removed_plug_in_harms_nobody(fresh, tmp_path, options, reason, tiny):
    target = site_folder(tmp_path, **options)
    start = f"import site; site.addsitedir({str(target)!r})\n"  # reads the .pth as an interpreter start does

    host = old_host(tmp_path, BARE, "8.4.0") if tiny else HOST
    stock, row = ("print(tasks.parse_model())", "tasks.AKConv(3, 4, 5, 2)") if tiny else (STOCK, ROW.format("AKConv"))

    def run(code):
        return fresh([sys.executable, "-S", "-c", start + code], PYTHONPATH=f"{host}{os.pathsep}{SITE}")

    process = run("print('started')")
    assert (printed(process), process.stderr) == (["started"], "")
    process = run(f"import ultralytics.nn.tasks as tasks\n{stock}\n{row}")
    assert process.stdout.splitlines()[-1] == ("built" if tiny else str(with_head(STOCK_BODY)))
    if reason:
        assert reason in failure(process)
    else:
        printed(process)
