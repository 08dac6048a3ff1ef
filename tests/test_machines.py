# SPDX-License-Identifier: AGPL-3.0-or-later
"""Other machines: what is imported when, and what Windows and macOS do not have or do differently."""

import ast
import json
import sys
from collections import namedtuple
from pathlib import Path, PureWindowsPath

import pytest
from conftest import ROOT, copy_mini_dataset
from interpreters import printed

from ultralytics_akconv import cli, configs, graft
from ultralytics_akconv.benchmark import timing
from ultralytics_akconv.files import write_whole
from ultralytics_akconv.grafting import names, resolve
from ultralytics_akconv.sweep import Plan, run

# Import weight

MODULES = "\nimport sys\nprint('modules', *sorted(sys.modules))\n"


def modules_after(process):
    """Return the modules that a process had at each `MODULES` of its code."""
    return [set(line.split()[1:]) for line in printed(process) if line.startswith("modules ")]


@pytest.mark.slow
def test_a_program_without_akconv_imports_our_modules_more_and_no_others(fresh):
    version = "import sys\nsys.argv = ['yolo', 'version']\nfrom ultralytics.cfg import entrypoint\nentrypoint()"
    stages = (version, "from ultralytics import YOLO", "YOLO('yolov8n.yaml')")  # each imports more than the one before
    code = "".join(stage + MODULES for stage in stages)
    with_us, without = (modules_after(fresh(code, ULTRALYTICS_AKCONV=value)) for value in "10")
    assert len(with_us) == len(without) == len(stages)
    for on, off in zip(with_us, without):
        more = {name.partition(".")[0] for name in on - off} - set(getattr(sys, "stdlib_module_names", ()))
        assert more <= {"ultralytics_akconv", "ultralytics_akconv_startup", "einops"}
        assert "torchvision" not in on - off


@pytest.mark.slow
def test_a_command_imports_what_it_needs(fresh):
    code = f"import ultralytics_akconv{MODULES}from ultralytics_akconv.cli import main\n"
    for words in (["--help"], ["benchmark", "--help"], ["models"]):
        code += f"try:\n main({words!r})\nexcept SystemExit:\n pass{MODULES}"
    package, *stages = modules_after(fresh(code))
    assert len(stages) == 3
    for modules in stages:
        more = modules - package
        assert "ultralytics_akconv.cli" in more
        ours = {name for name in more if name.startswith("ultralytics_akconv.")}
        assert ours <= {"ultralytics_akconv.cli", "ultralytics_akconv.cli.arguments", "ultralytics_akconv.cli.models"}
        others = {name.partition(".")[0] for name in more}
        assert not others & {"torch", "torchvision", "ultralytics", "matplotlib"}


def test_every_command_has_a_file_and_a_function_that_adds_its_arguments():
    tables = [cli.COMMANDS, *cli.GROUPS.values()]
    adds = [adds for table in tables for _, adds in table.values()]
    assert len(adds) == len(set(adds)) and set(cli.GROUPS) <= set(adds)
    for file, function in (adds.split(":") for adds in adds if adds not in cli.GROUPS):
        tree = ast.parse((ROOT / f"ultralytics_akconv/cli/{file}.py").read_text("utf-8"))
        assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


# Windows and macOS

# What a program finds there, made on this machine: no modules and functions of POSIX, no /proc, `spawn` alone, and a
# locale whose encoding is not UTF-8. psutil is imported before: on Linux it needs what Windows does not have.
ELSEWHERE = """
import builtins, collections, io, multiprocessing, os, pathlib, psutil, sys
from unittest import mock
Info = collections.namedtuple('Info', 'rss peak_wset')
psutil.Process.memory_info = lambda self: Info(2**27, 2**28)
multiprocessing.set_start_method('spawn')
MISSING = {'resource', 'fcntl', 'pwd', 'grp', 'termios', 'posix_ipc', 'readline', 'syslog', 'tty', 'pty'}
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name in MISSING:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
for name in MISSING:
    sys.modules.pop(name, None)
for name in ('fork', 'forkpty', 'getuid', 'geteuid', 'getgid', 'getpgid', 'killpg', 'setsid', 'sysconf', 'uname_',
             'sched_getaffinity', 'mkfifo', 'chown'):
    if hasattr(os, name):
        delattr(os, name)
exists = pathlib.Path.exists
pathlib.Path.exists = lambda self, **options: not str(self).startswith('/proc') and exists(self, **options)
def gbk(function, place):
    def call(*args, **kwargs):
        mode = kwargs.get('mode', args[1] if len(args) > 1 else 'r')
        caller = sys._getframe(1).f_globals.get('__name__', '') or ''
        text = isinstance(mode, str) and 'b' not in mode
        if text and len(args) <= place and kwargs.get('encoding') is None and caller.startswith('ultralytics_akconv'):
            kwargs['encoding'] = 'gbk'
        return function(*args, **kwargs)
    return call
builtins.open = gbk(builtins.open, 3)
"""


@pytest.mark.slow
def test_the_package_works_with_all_absent_that_windows_and_macos_lack(fresh, tmp_path):
    data = copy_mini_dataset(tmp_path)
    code = f"""{ELSEWHERE}
if __name__ == '__main__':
    from ultralytics import YOLO
    from ultralytics_akconv.cli import main
    for words in (['graft', 'yolov8n.yaml', '-o', 'my.yaml'], ['info', 'yolov8n-akconv.yaml', '--imgsz', '64'],
                  ['plot', 'shapes', 'cross', '-o', 'cross.png'], ['models'],
                  ['benchmark', 'op', '--size', '4,4,16', '--repeats', '1', '--json', 'op.json']):
        assert main(words) == 0, words
    import torch
    from ultralytics_akconv.benchmark.timing import _peak
    print(_peak(torch.device("cpu"), lambda: lambda: None, ()) > 0)
    model = YOLO('yolov8n-akconv.yaml')
    model.train(data={str(data)!r}, epochs=1, imgsz=64, batch=8, workers=0, plots=False, device='cpu', project='runs')
    print(sorted(name for name in MISSING if name in sys.modules))
"""
    process = fresh(code, PYTHONUTF8="0", PYTHONIOENCODING="gbk")
    assert printed(process)[-1] == "[]"
    assert json.loads((tmp_path / "op.json").read_text("utf-8"))["rows"]
    assert (tmp_path / "my.yaml").read_text("utf-8") == graft("yolov8n.yaml")


@pytest.mark.skipif(sys.version_info < (3, 10), reason="Python 3.9 does not tell of a file without an encoding")
@pytest.mark.slow
def test_every_file_of_ours_is_opened_with_an_encoding(fresh, tmp_path):
    data = copy_mini_dataset(tmp_path)
    code = f"""
from ultralytics_akconv.cli import main
from ultralytics_akconv.datasets import find_data
from ultralytics_akconv.conversion.images import image_files
for words in (['graft', 'yolo11n.yaml', '-o', 'my.yaml'], ['models'], ['info', 'yolo11n-akconv.yaml', '--imgsz', '64'],
              ['plot', 'shapes', '-o', 's.png'],
              ['benchmark', 'op', '--size', '4,4,16', '--repeats', '1', '--csv', 'op.csv', '--json', 'op.json']):
    assert main(words) == 0
find_data({str(data)!r})
image_files({str(data)!r}, 'detect')
"""
    process = fresh([sys.executable, "-X", "warn_default_encoding", "-c", code])
    printed(process)
    assert not [line for line in process.stderr.splitlines() if "EncodingWarning" in line and "akconv" in line]


def test_a_redirected_graft_is_utf8_whatever_the_consoles_encoding_is(fresh, tmp_path):
    code = "from ultralytics_akconv.cli import main; main(['graft', 'yolov8n.yaml'])"
    command = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}], stdout=open('out.yaml', 'wb'))"
    printed(fresh(command, PYTHONIOENCODING="gbk", PYTHONUTF8="0"))
    assert (tmp_path / "out.yaml").read_text("utf-8") == graft("yolov8n.yaml")


def test_memory_is_read_by_what_a_system_has(monkeypatch):
    class Nowhere(type(Path())):
        def exists(self, **options):
            return False

    monkeypatch.setattr(timing, "Path", Nowhere)
    monkeypatch.setattr(timing, "_memory_info", lambda: namedtuple("Info", "rss peak_wset")(3 * 2**20, 5 * 2**20))
    assert (timing._resident(), timing._resident_peak()) == (3, 5)  # Windows
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(timing, "_memory_info", lambda: namedtuple("Info", "rss")(3 * 2**20))
    monkeypatch.setattr(resource, "getrusage", lambda who: namedtuple("Usage", "ru_maxrss")(8 * 2**20))
    monkeypatch.setattr(sys, "platform", "darwin")
    assert timing._resident_peak() == 8  # bytes
    monkeypatch.setattr(sys, "platform", "freebsd14")
    assert timing._resident_peak() == 8 * 2**10  # kilobytes


def test_names_of_models_are_told_from_paths_of_windows(monkeypatch):
    for module in (names, resolve, configs):
        monkeypatch.setattr(module, "Path", PureWindowsPath)
    assert names.scale_of(r"D:\models\yolo1s\yolo11s-seg.yaml") == "s"
    assert names.without_scale(r"D:\user1s\yolo11s-seg.yaml") == "yolo11-seg.yaml"
    for path in (
        r"C:\models\yolov8n-akconv.yaml",
        "C:yolov8n-akconv.yaml",
        r"..\yolov8-akconv.yaml",
        "a/yolov8-akconv.yaml",
    ):
        assert configs.find_config(configs.MODELS, path) is None
        assert resolve.model_yaml(path, True, lambda *args, **kwargs: []) is None


def test_a_graft_names_a_path_of_windows_so_that_a_shell_reads_it(monkeypatch, tmp_path):
    from ultralytics_akconv.grafting import edit

    file = tmp_path / "my model.yaml"
    file.write_text(
        graft("yolov8n.yaml", where="neck").split("\n", 2)[2].replace("AKConv, [256, 5, 2]", "Conv, [256, 3, 2]"),
        "utf-8",
    )
    monkeypatch.setattr(edit, "Path", PureWindowsPath)
    monkeypatch.setattr(edit, "find_model", lambda model: file)
    header = graft(r"D:\new models\my model.yaml").splitlines()[0]
    assert header == "# made by: akconv graft 'D:/new models/my model.yaml' --num-param 5"


# Windows does not let an open file be replaced


def refuse(*args):
    raise PermissionError(13, "The process cannot access the file because it is being used by another process")


def test_a_file_that_is_open_elsewhere_stays_and_nothing_lies_beside_it(monkeypatch, tmp_path):
    file = tmp_path / "table.md"
    file.write_text("before", "utf-8")
    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(PermissionError, match="being used"):
        write_whole(file, "after")
    assert [entry.name for entry in tmp_path.iterdir()] == ["table.md"] and file.read_text("utf-8") == "before"


def test_two_processes_that_graft_one_model_at_once_both_find_it(monkeypatch, tmp_path):
    monkeypatch.setattr(names, "USER_CONFIG_DIR", tmp_path)

    def other_was_first(temporary, file):
        Path(file).write_bytes(Path(temporary).read_bytes())
        refuse()

    with monkeypatch.context() as patched:
        patched.setattr("os.replace", other_was_first)
        file = names.cached("yolov8n-akconv3.yaml", "text")
    assert file.read_text("utf-8") == "text"
    with monkeypatch.context() as patched:
        patched.setattr("os.replace", refuse)
        assert names.cached("yolov8n-akconv3.yaml", "text") == file
        with pytest.raises(PermissionError):
            names.cached("yolov8n-akconv3.yaml", "another text")


def test_a_table_that_somebody_looks_at_does_not_end_a_sweep(monkeypatch, tmp_path, mini_dataset, caplog):
    plan = Plan(str(mini_dataset), ["yolov8n.yaml"], [5], ["default"], [0], True, "val", {})
    reports = []

    def report(plan, folder):
        reports.append(folder)
        if len(reports) == 1:
            refuse()

    monkeypatch.setitem(run.ENGINES, "serial", lambda plan, cells, folder, *_: ((cell, "done") for cell in cells))
    monkeypatch.setattr(run, "write_report", report)
    run.run_sweep(plan, tmp_path / "sweep")
    assert len(reports) == len(plan.cells()) + 1
    assert "the report was not written" in caplog.text
