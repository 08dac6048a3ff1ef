# SPDX-License-Identifier: AGPL-3.0-or-later
"""Activation in fresh interpreters: whole, switched off, and where something is missing or broken."""

import functools
import json
import os
import re
import shutil
import sys
import sysconfig
from pathlib import Path

import pytest
import ultralytics
from conftest import ROOT, run_clean
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
    """Return the number of parameters of a model whose body has so many parameters: heads differ between releases."""
    head = YOLO("yolov8n.yaml").model.model[-1]
    return body + sum(parameter.numel() for parameter in head.parameters())


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


# What a program finds in itself that never heard of the plug-in, told as JSON.
ORDINARY = """
import hashlib, importlib.util, inspect, json, sys
spec = importlib.util.find_spec('ultralytics.nn.tasks')  # before the import
import ultralytics.nn.tasks as tasks
early = 'ultralytics.data.utils' in sys.modules
import torch
from ultralytics import YOLO
torch.manual_seed(7)
model = YOLO('yolov8n.yaml').model
digest = hashlib.sha256()
for name, value in model.state_dict().items():
    digest.update(name.encode() + value.numpy().tobytes())
with torch.no_grad():
    out = model.eval()(torch.rand(1, 3, 64, 64))[0]
bits = [digest.hexdigest(), hashlib.sha256(out.numpy().tobytes()).hexdigest(), model.save, torch.rand(1).item()]
facts = {
    'early': early,
    'stock': [*bits, sum(p.numel() for p in model.parameters())],
    'loaded': 'ultralytics_akconv' in sys.modules,
    'patched': [hasattr(tasks, 'AKConv'), hasattr(tasks.parse_model, '__wrapped__')],
    'source': 'def parse_model' in spec.loader.get_source('ultralytics.nn.tasks'),
    'functions': [inspect.getsource(f).split('(')[0] for f in (tasks.yaml_model_load, tasks.parse_model)],
    'loaders': [type(tasks.__loader__).__name__, type(tasks.__spec__.loader).__name__],
}
try:
    facts['ours'] = sum(p.numel() for p in YOLO('yolov8n-akconv.yaml').model.parameters())
    facts['shape'] = tasks.AKConv(3, 4, 5, 2)(torch.zeros(1, 3, 8, 8)).shape
except FileNotFoundError as error:
    facts['error'] = str(error)
print(json.dumps(facts))
"""


@pytest.fixture(scope="module")
def ordinary(tmp_path_factory):
    """Return what `ORDINARY` finds with the plug-in as it comes, or with this value of its switch."""

    @functools.cache
    def found(switch=None):
        options = {} if switch is None else {"ULTRALYTICS_AKCONV": switch}
        process = run_clean(tmp_path_factory.mktemp("home"), [sys.executable, "-c", ORDINARY], **options)
        assert process.stderr == ""
        return json.loads(printed(process)[-1])

    return found


@pytest.mark.slow
def test_a_program_that_never_heard_of_the_plug_in_has_it(ordinary):
    found = ordinary()
    assert (found["ours"], found["shape"]) == (with_head(OUR_BODY), [1, 4, 4, 4])
    assert found["loaded"] and found["patched"] == [True, True]


@pytest.mark.slow
def test_the_off_switch_leaves_the_host_alone(ordinary):
    found = ordinary(" False ")
    assert re.search(r"'yolov8n?-akconv\.yaml' does not exist", found["error"])  # releases differ in the name
    assert found["stock"][-1] == with_head(STOCK_BODY)
    assert not found["loaded"] and found["patched"] == [False, False]


@pytest.mark.slow
def test_a_stock_model_is_bit_for_bit_the_same_with_the_plug_in(ordinary):
    assert ordinary()["stock"] == ordinary(" False ")["stock"]
    assert len("".join(ordinary()["stock"][:2])) == 128


@pytest.mark.slow
@pytest.mark.parametrize("late", [True, False], ids=["late", "early"])
def test_importing_the_package_activates_it_without_the_start_up_file(fresh, late):
    before = (
        "import ultralytics.nn.tasks as t, ultralytics.data.utils; assert not hasattr(t, 'AKConv')\n" if late else ""
    )
    code = before + "import ultralytics_akconv" + OURS
    path = os.pathsep.join(map(str, (ROOT, HOST, SITE)))
    process = fresh([sys.executable, "-S", "-c", code], PYTHONPATH=path)  # under -S no .pth is read
    assert printed(process)[-1] == str(with_head(OUR_BODY))


@pytest.mark.slow
def test_unregister_holds_when_the_hosts_data_module_comes_later(fresh, ordinary):
    if ordinary(" False ")["early"]:
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
def test_tools_that_look_at_the_host_module_see_its_source(ordinary):
    found = ordinary()
    assert found["source"] and found["functions"] == ["def yaml_model_load", "def parse_model"]
    assert found["loaders"] == ["SourceFileLoader", "SourceFileLoader"]


@pytest.mark.slow
def test_a_finder_of_the_old_kind_does_not_break_the_import(fresh):
    code = """
import sys
class Finder:
    def find_module(self, name, path=None):
        return None
sys.meta_path.insert(1, Finder())
"""
    assert printed(fresh(code + OURS))[-1] == str(with_head(OUR_BODY))


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
