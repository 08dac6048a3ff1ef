# SPDX-License-Identifier: AGPL-3.0-or-later
"""Imports beside others in one process: host modules executed again, two threads, an import of ours that broke."""

import pytest
from interpreters import printed

STATE = """
from ultralytics_akconv import callbacks
from ultralytics.utils import callbacks as host_callbacks
every = host_callbacks.get_default_callbacks()
print(sum(type(m).__name__ == 'AKConv' for m in YOLO('yolov8n-akconv.yaml').model.modules()),
      every['on_train_epoch_end'].count(callbacks.log_offsets), every['on_train_end'].count(callbacks.draw_offsets))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "again",
    ["importlib.reload(tasks)", "del sys.modules['ultralytics.nn.tasks']; import ultralytics.nn.tasks as tasks"],
    ids=["reload", "fresh import"],
)
def test_a_host_module_that_is_executed_again_is_patched_again_and_once(fresh, again):
    code = f"""
import importlib, sys
import ultralytics.nn.tasks as tasks
from ultralytics import YOLO
before = tasks.parse_model
import ultralytics.data.utils as data
import ultralytics.engine.exporter as exporter
import ultralytics.utils.callbacks
{again}
for module in (data, exporter, ultralytics.utils.callbacks):
    importlib.reload(module)
def ours():
    functions = (tasks.parse_model, tasks.BaseModel.load, data.check_file, exporter.Exporter.__call__)
    return [function.__globals__['__name__'] == 'ultralytics_akconv.plugin.patches' for function in functions]
print(*ours())
model = dict(nc=2, scale='n', backbone=[[-1, 1, 'AKConv', [64, 5, 2]], [-1, 1, 'C2f_AKConv', [64]]],
             head=[[[1], 1, 'Detect', [2]]])
new = tasks.DetectionModel(model, verbose=False)
print(type(new.model[0]).__name__, type(new.model[1]).__name__, tasks.parse_model is before)
{STATE}
from ultralytics_akconv import register, unregister
unregister()
print(*ours(), hasattr(tasks, 'AKConv'))
importlib.reload(tasks)
print(hasattr(tasks, 'AKConv'))
register()
{STATE}
"""
    process = fresh(code)
    assert printed(process) == [
        "True True True True",
        "AKConv C2f_AKConv False",
        "6 1 1",
        "False False False False False",
        "False",
        "6 1 1",
    ]
    assert process.stderr == ""


RACE = """
import sys, threading, time
package, host = threading.Event(), threading.Event()

class Slow:
    # Holds one thread up in the middle of an import until the other has come to where it needs it.
    def find_spec(self, name, path=None, target=None):
        if name == {slow!r}:
            {then}
            time.sleep(1)

sys.meta_path.insert(0, Slow())
found = []

def build():
    {build_waits}
    from ultralytics import YOLO
    model = YOLO('yolov8n-akconv.yaml')
    names = [c.__name__ for c in model.callbacks['on_train_epoch_end']]
    found.append((sum(type(m).__name__ == 'AKConv' for m in model.model.modules()), names.count('log_offsets')))

def load():
    {load_waits}
    import ultralytics_akconv

threads = [threading.Thread(target=f) for f in (build, load)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(found)
"""
PACKAGE_FIRST = {  # the package waits in its middle while the host's module is executed to its end
    "slow": "ultralytics_akconv.functional", "then": "package.set()", "build_waits": "package.wait()",
    "load_waits": "pass",
}  # fmt: skip
HOST_FIRST = {  # the host's module is being executed when the package comes to import it
    "slow": "ultralytics.utils.loss", "then": "host.set()", "build_waits": "pass", "load_waits": "host.wait()",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("case", [PACKAGE_FIRST, HOST_FIRST], ids=["package first", "host first"])
def test_a_model_built_while_another_thread_imports_the_package_has_its_layers(fresh, case):
    process = fresh(RACE.format(**case))
    assert (printed(process)[-1], process.stderr) == ("[(6, 1)]", "")


@pytest.mark.slow
def test_the_first_use_after_a_broken_import_of_the_package_says_why(fresh):
    code = """
import sys
class Broken:
    def find_spec(self, name, path=None, target=None):
        if name == 'ultralytics_akconv.grafting':
            raise OSError('the disk is gone')
sys.meta_path.insert(0, Broken())
try:
    import ultralytics_akconv
except OSError as error:
    print(error)
from ultralytics import YOLO
print(len(YOLO('yolov8n.yaml').model.model))
try:
    YOLO('yolov8n-akconv.yaml')
except RuntimeError as error:
    print(error)
"""
    reason = "ultralytics-akconv is installed but could not be loaded: OSError: the disk is gone"
    assert printed(fresh(code)) == ["the disk is gone", "23", reason]


@pytest.mark.slow
def test_a_process_that_has_not_imported_torchvision_exports_by_its_operator(fresh):
    """Within a trace that import fails; whatever ran before in this process has made it long ago."""
    code = """
import torch
from ultralytics_akconv import AKConv
from ultralytics_akconv.functional.forms import export_form
layer, x = AKConv(3, 4, 5, 2).eval(), torch.randn(1, 3, 9, 7)
with torch.no_grad(), export_form(lambda: 'deform'):
    traced = torch.jit.trace(layer, x, check_trace=False)
assert 'DeformConv' in str(traced.inlined_graph)
print(float((traced(x) - layer(x)).abs().max()) < 1e-5)
"""
    assert printed(fresh(code)) == ["True"]
