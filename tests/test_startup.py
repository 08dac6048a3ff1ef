# SPDX-License-Identifier: AGPL-3.0-or-later
"""Activation in fresh interpreters: whole, switched off, and with others that look at the host."""

import functools
import json
import os
import re
import sys

import pytest
import ultralytics
from conftest import ROOT, run_clean
from interpreters import HOST, OUR_BODY, OURS, SITE, STOCK_BODY, printed, with_head


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
