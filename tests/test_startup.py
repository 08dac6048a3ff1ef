# SPDX-License-Identifier: AGPL-3.0-or-later
"""Activation in fresh interpreters: whole, switched off, and where something is missing or broken."""

import os
import re
import shutil
import sys
import sysconfig
from pathlib import Path

import pytest
import ultralytics
from conftest import ROOT
from ultralytics import YOLO

SITE = sysconfig.get_paths()["purelib"]
HOST = Path(ultralytics.__file__).parents[1]  # where the installed one is not tested, before SITE on every PYTHONPATH
BUILD = """
from ultralytics import YOLO
import ultralytics.nn.tasks as tasks
print(sum(p.numel() for p in YOLO('{}').model.parameters()))
"""
STOCK = BUILD.format("yolov8n.yaml")
OURS = BUILD.format("yolov8n-akconv.yaml")
STOCK_BODY, OUR_BODY = 2259536, 2042476  # parameters of the two without the head, which is the host's own in both
ROW = """
import ultralytics.nn.tasks as tasks
model = dict(nc=2, scale='n', backbone=[[-1, 1, '{}', [64, 5, 2]]], head=[[[0], 1, 'Detect', [2]]])
tasks.DetectionModel(model, verbose=False)
"""


def printed(process):
    assert process.returncode == 0, process.stderr
    return process.stdout.splitlines()


def with_head(body):
    """Return what BUILD prints of a model whose body has so many parameters: heads differ between releases."""
    head = YOLO("yolov8n.yaml").model.model[-1]
    return str(body + sum(parameter.numel() for parameter in head.parameters()))


def failure(process):
    """Return the last line of the traceback of a process that failed, as it must have."""
    assert process.returncode != 0, process.stdout
    return process.stderr.strip().splitlines()[-1]


def test_nothing_is_imported_or_printed_at_interpreter_start(fresh):
    process = fresh("import sys; print(*(n for n in sys.modules if 'torch' in n or 'ultralytics' in n))")
    # An editable install has a finder of setuptools beside ours.
    assert [name for name in printed(process)[0].split() if "__editable__" not in name] == [
        "ultralytics_akconv_startup"
    ]
    assert process.stderr == ""


@pytest.mark.slow
def test_a_program_that_never_heard_of_the_plug_in_has_it(fresh):
    process = fresh(OURS + "import torch; print(tasks.AKConv(3, 4, 5, 2)(torch.zeros(1, 3, 8, 8)).shape)")
    assert printed(process)[-2:] == [with_head(OUR_BODY), "torch.Size([1, 4, 4, 4])"]
    assert process.stderr == ""


@pytest.mark.slow
@pytest.mark.parametrize("value", ["0", " False "])
def test_the_off_switch_leaves_the_host_alone(fresh, value):
    code = STOCK + "print(hasattr(tasks, 'AKConv'), hasattr(tasks.parse_model, '__wrapped__'))"
    process = fresh(code + OURS, ULTRALYTICS_AKCONV=value)
    assert re.search(r"'yolov8n?-akconv\.yaml' does not exist", failure(process))  # releases differ in the name
    assert process.stdout.splitlines()[-2:] == [with_head(STOCK_BODY), "False False"]


@pytest.mark.slow
def test_a_stock_model_is_bit_for_bit_the_same_with_the_plug_in(fresh):
    code = """
import hashlib, sys, torch
from ultralytics import YOLO
torch.manual_seed(7)
model = YOLO('yolov8n.yaml').model
digest = hashlib.sha256()
for name, value in model.state_dict().items():
    digest.update(name.encode() + value.numpy().tobytes())
with torch.no_grad():
    out = model.eval()(torch.rand(1, 3, 64, 64))[0]
print(digest.hexdigest(), hashlib.sha256(out.numpy().tobytes()).hexdigest(), model.save, torch.rand(1).item())
print('ultralytics_akconv' in sys.modules)
"""
    on, off = (printed(fresh(code, ULTRALYTICS_AKCONV=value))[-2:] for value in ("1", "0"))
    assert on[0] == off[0] and len(on[0]) > 128
    assert (on[1], off[1]) == ("True", "False")


@pytest.mark.slow
@pytest.mark.parametrize("late", [True, False], ids=["late", "early"])
def test_importing_the_package_activates_it_without_the_start_up_file(fresh, late):
    before = (
        "import ultralytics.nn.tasks as t, ultralytics.data.utils; assert not hasattr(t, 'AKConv')\n" if late else ""
    )
    code = before + "import ultralytics_akconv" + OURS
    path = os.pathsep.join(map(str, (ROOT, HOST, SITE)))
    process = fresh([sys.executable, "-S", "-c", code], PYTHONPATH=path)  # under -S no .pth is read
    assert printed(process)[-1] == with_head(OUR_BODY)


@pytest.mark.slow
def test_unregister_holds_when_the_hosts_data_module_comes_later(fresh):
    host = "import sys, ultralytics.nn.tasks\nprint('ultralytics.data.utils' in sys.modules)"
    if printed(fresh(host, ULTRALYTICS_AKCONV="0"))[-1] == "True":
        pytest.skip(f"Ultralytics {ultralytics.__version__} imports its data module with itself")
    code = """
import sys
import ultralytics.nn.tasks as tasks
from ultralytics_akconv import register, unregister
assert 'ultralytics.data.utils' not in sys.modules and hasattr(tasks, 'AKConv')
unregister()
import ultralytics.data.utils as data
from ultralytics.utils.checks import check_file
assert not hasattr(tasks, 'AKConv') and data.check_file is check_file
register()
assert hasattr(tasks, 'AKConv') and data.check_file is not check_file
"""
    printed(fresh(code))


@pytest.mark.slow
def test_tools_that_look_at_the_host_module_see_its_source(fresh):
    code = """
import importlib.util, inspect
spec = importlib.util.find_spec('ultralytics.nn.tasks')
assert 'def parse_model' in spec.loader.get_source('ultralytics.nn.tasks')
import ultralytics.nn.tasks as tasks
for function in (tasks.yaml_model_load, tasks.parse_model):
    print(inspect.getsource(function).split('(')[0])
print(type(tasks.__loader__).__name__, type(tasks.__spec__.loader).__name__)
"""
    loaders = "SourceFileLoader SourceFileLoader"
    assert printed(fresh(code))[-3:] == ["def yaml_model_load", "def parse_model", loaders]


@pytest.mark.slow
def test_a_finder_of_the_old_kind_does_not_break_the_import(fresh):
    code = """
import sys
class Finder:
    def find_module(self, name, path=None):
        return None
sys.meta_path.insert(1, Finder())
"""
    assert printed(fresh(code + OURS))[-1] == with_head(OUR_BODY)


@pytest.mark.slow
def test_the_package_imports_without_a_warning(fresh):
    process = fresh([sys.executable, "-W", "error", "-c", "import ultralytics_akconv"])
    printed(process)  # the host may say that it made its settings file
    assert process.stderr == ""


# Something is missing or broken


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


@pytest.mark.parametrize("version", ["8.3.8", "8.2.103", "8.0.0"])
def test_a_host_that_is_too_old_is_named(fresh, tmp_path, version):
    process = fresh("import ultralytics_akconv", PYTHONPATH=old_host(tmp_path, "", version))
    assert failure(process) == (
        f"ImportError: ultralytics-akconv needs ultralytics>=8.3.9, found {version}: pip install -U ultralytics"
    )


@pytest.mark.parametrize(
    "source",
    [
        "def parse_model(): return 'built'\ndef check_yaml(file): return file\n",
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
    assert printed(process)[-5:] == [with_head(STOCK_BODY), *[reason] * 4]


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
    ("options", "reason"),
    [
        ({}, None),
        ({"startup": False, "package": False}, "KeyError: 'AKConv'"),
        ({"package": False}, "ModuleNotFoundError: No module named 'ultralytics_akconv'"),
        ({"mangle": without_a_module}, "No module named 'ultralytics_akconv.shapes'"),
        ({"mangle": with_a_syntax_error}, "SyntaxError: invalid syntax"),
        ({"mangle": without_any_file}, "cannot import name 'register' from 'ultralytics_akconv'"),
    ],
    ids=["whole", "only the .pth", "no package", "a module is missing", "a module is broken", "empty folders"],
)
def test_a_half_removed_plug_in_harms_nobody(fresh, tmp_path, options, reason):
    target = site_folder(tmp_path, **options)
    start = f"import site; site.addsitedir({str(target)!r})\n"  # reads the .pth as an interpreter start does

    def run(code):
        return fresh([sys.executable, "-S", "-c", start + code], PYTHONPATH=f"{HOST}{os.pathsep}{SITE}")

    process = run("print('started')")
    assert (printed(process), process.stderr) == (["started"], "")
    process = run(STOCK + ROW.format("AKConv"))
    assert process.stdout.splitlines()[-1] == with_head(STOCK_BODY)
    if reason:
        assert reason in failure(process)
    else:
        printed(process)
