# SPDX-License-Identifier: AGPL-3.0-or-later
"""`akconv check`: what it prints where all is well, and in each case that is not."""

import re
import stat
import sys
import sysconfig
from pathlib import Path

import pytest
import torch
from conftest import ROOT

from ultralytics_akconv import checks
from ultralytics_akconv.checks import devices, environment
from ultralytics_akconv.checks.environment import Finding, ask, plug_in, plug_ins, python_of, short, versions
from ultralytics_akconv.cli import main
from ultralytics_akconv.functional.kernels import KernelStatus

ACTIVE = {"python": "3.11.0", "file": "/site/ultralytics_akconv.pth", "started": True, "enabled": True}
ACTIVE |= {"active": True, "reason": None, "host": "8.4.0"}


def answers(monkeypatch, **changes):
    """Let every interpreter answer that the plug-in is active, but for these changes."""
    monkeypatch.setattr(environment, "ask", lambda python: {**ACTIVE, **changes})


def interpreter(folder, arguments):
    """Return an executable that is this Python with some arguments of its own."""
    file = folder / "python"
    file.write_text(f'#!/bin/sh\nexec {sys.executable} {arguments} "$@"\n', "utf-8")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return str(file)


@pytest.mark.slow
def test_where_all_is_well_the_command_tells_everything_and_ends_with_0(fresh, monkeypatch):
    process = fresh([sys.executable, "-m", "ultralytics_akconv.cli", "check"])
    assert process.returncode == 0, process.stdout + process.stderr
    lines = dict(re.findall(r"^(\S+(?: \S+)*) {2,}(\S.*)$", process.stdout, re.MULTILINE))
    from ultralytics_akconv import __version__

    assert lines["ultralytics-akconv"] == __version__
    assert lines["torch"] == torch.__version__
    assert lines["Python"].startswith(".".join(map(str, sys.version_info[:3])))
    assert re.fullmatch(r"active, by .*ultralytics_akconv\.(pth|start)", lines["plug-in"])
    assert {"system", "Ultralytics", "torchvision", "Triton", "yolo", "GPUs"} <= set(lines)
    if not torch.cuda.is_available():
        assert lines["cpu float32"] == "path bags" and lines["cpu float16"] == "path gather"
    assert re.search(r"forward [\d.]+ ms, Conv [\d.]+ \([\d.]+x\); training [\d.]+ ms, Conv", lines["one layer"])
    assert process.stdout.endswith("\nno problem found\n")


def test_a_problem_is_printed_and_ends_with_1(monkeypatch, capsys):
    found = [Finding("torch", "2.1"), Finding("plug-in", "not active", "it is broken"), Finding("cpu", "path bags")]
    monkeypatch.setattr(checks, "check_installation", lambda: iter(found))
    assert main(["check"]) == 1
    out, error = capsys.readouterr()
    assert out == f"{'torch':<22}2.1\n{'plug-in':<22}not active\n{'cpu':<22}path bags\n\nit is broken\n"
    assert error == "akconv: 1 problem found, see above\n"


# The plug-in


@pytest.mark.slow
def test_a_python_without_our_start_up_file_is_told_to_install_us(tmp_path):
    """Under -S no .pth is read; and the search for it is that of a Python whose site-packages are empty."""
    python = interpreter(tmp_path, "-I -S")
    answer = ask(python)
    assert (answer["active"], answer["started"]) == (False, False)
    finding = plug_in("yolo", python)
    assert "belongs to another Python" in finding.value
    assert finding.problem


@pytest.mark.slow
def test_a_plug_in_that_is_switched_off_is_told_as_that(monkeypatch):
    monkeypatch.setenv("ULTRALYTICS_AKCONV", "off")
    finding = plug_in("plug-in", sys.executable)
    assert finding.value == "switched off"
    assert finding.problem == "plug-in: switched off: ULTRALYTICS_AKCONV=off is set: unset it"


@pytest.mark.slow
def test_a_plug_in_that_does_not_load_gives_its_reason(monkeypatch, tmp_path):
    package = tmp_path / "broken/ultralytics_akconv"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('half of it is missing')\n", "utf-8")
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    finding = plug_in("plug-in", sys.executable)
    assert finding.value == "not active"
    assert finding.problem.endswith("could not be loaded: ImportError: half of it is missing")


@pytest.mark.parametrize(
    ("changes", "value", "problem"),
    [
        ({"started": False, "active": False, "file": None}, "not installed", "no start-up file in its site-packages"),
        ({"started": False, "active": False}, "not active", "was not executed or does not work"),
        ({"started": False}, "not active", "was not executed"),  # a fork's AKConv in the host's own code
        ({"active": False, "reason": "ModuleNotFoundError: ultralytics"}, "not active", "ModuleNotFoundError"),
        ({"active": False}, "not active", "--force-reinstall"),
    ],
)
def test_each_way_not_to_be_active_is_named_with_what_to_do(monkeypatch, changes, value, problem):
    answers(monkeypatch, **changes)
    finding = plug_in("plug-in", sys.executable)
    assert finding.value == value
    assert problem in finding.problem


def test_an_interpreter_that_does_not_run_is_a_problem(tmp_path):
    finding = plug_in("yolo", str(tmp_path / "nothing"))
    assert "does not run" in finding.problem
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho oh no >&2\nexit 3\n", "utf-8")
    broken.chmod(0o755)
    assert plug_in("yolo", str(broken)).problem.endswith("does not run: oh no")


# The command `yolo`


def command(folder, text):
    """Write a command `yolo` into a folder of an environment and return it."""
    file = folder / "bin/yolo"
    file.parent.mkdir(parents=True)
    file.write_text(text, "utf-8")
    file.chmod(0o755)
    return file


@pytest.mark.parametrize(
    "text",
    [
        "#!{}\nimport sys\n",
        "#!{} \n",
        "#!/bin/sh\n'''exec' \"{}\" \"$0\" \"$@\"\n' '''\n",
        "#!/bin/sh\n'''exec' {} \"$0\"",
    ],
)
def test_the_python_of_a_command_is_read_from_its_first_lines(tmp_path, text):
    python = tmp_path / "an environment/python3.12"
    python.parent.mkdir()
    python.touch()
    assert python_of(command(tmp_path, text.format(python))) == python


def test_a_command_that_does_not_tell_its_python_has_none_but_on_windows(tmp_path):
    file = command(tmp_path, "MZ\x90 no text")
    assert python_of(file) is None
    (file.parent.parent / "python.exe").touch()
    assert python_of(file) == file.parent.parent / "python.exe"
    assert python_of(Path(sysconfig.get_path("scripts")) / "yolo") == Path(sys.executable)


def test_the_plug_in_is_looked_for_in_the_python_of_the_command_too(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(environment, "ask", lambda python: asked.append(python) or ACTIVE)
    monkeypatch.setenv("PATH", "")
    assert [finding.value for finding in plug_ins()][1:] == ["no such command on PATH"]
    monkeypatch.setenv("PATH", sysconfig.get_path("scripts"))
    if Path(sysconfig.get_path("scripts"), "yolo").exists():
        assert [finding.value for finding in plug_ins()][1:] == ["belongs to this Python"]
    other = tmp_path / "other/bin/python"
    file = command(tmp_path / "other", f"#!{other}\n")
    other.touch()
    monkeypatch.setenv("PATH", str(file.parent))
    (_, finding) = plug_ins()
    assert asked[-1] == str(other)
    assert finding == ("yolo", f"belongs to another Python, {other}: active, by /site/ultralytics_akconv.pth", None)


def test_no_path_tells_the_name_of_the_user(monkeypatch, tmp_path):
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert short(tmp_path / "x/python") == "~/x/python"
    assert short(f"{tmp_path}x/python") == f"{tmp_path}x/python"


# Versions


def test_a_package_that_does_not_load_is_a_problem_and_an_absent_triton_is_none(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    findings = {finding.name: finding for finding in versions()}
    assert findings["Triton"] == ("Triton", "not installed", None)
    assert findings["torchvision"].problem.startswith("torchvision cannot be imported")
    assert findings["torch"] == ("torch", torch.__version__, None)


def test_where_a_package_does_not_load_the_devices_are_left_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    answers(monkeypatch)
    assert "GPUs" not in {finding.name for finding in checks.check_installation()}


def test_a_library_of_another_build_is_a_problem(monkeypatch):
    def broken(name):
        raise OSError("undefined symbol: _ZN3c10")

    monkeypatch.setattr(environment.importlib, "import_module", broken)
    problems = [finding.problem for finding in versions() if finding.value == "broken"]
    assert problems[1] == "torch cannot be imported: OSError: undefined symbol: _ZN3c10"


# The package cannot be imported


@pytest.mark.parametrize("arguments", [["check"], ["models"]])
def test_a_host_that_is_too_old_is_one_line_and_for_the_check_the_versions(fresh, tmp_path, arguments):
    host = tmp_path / "host/ultralytics"
    host.mkdir(parents=True)
    (host / "__init__.py").write_text("__version__ = '8.2.0'\n", "utf-8")
    code = f"import sys; sys.argv[1:] = {arguments}; from ultralytics_akconv_startup import main; sys.exit(main())"
    process = fresh(code, PYTHONPATH=host.parent)
    assert process.returncode == 1
    needs = (
        "akconv: ImportError: ultralytics-akconv needs ultralytics>=8.3.9, found 8.2.0: pip install -U ultralytics\n"
    )
    assert process.stderr == needs
    assert ("\ntorch 2." in process.stdout) == (arguments == ["check"])


def test_the_command_is_the_one_that_survives_a_broken_package():
    assert '"akconv=ultralytics_akconv_startup:main"' in (ROOT / "setup.py").read_text("utf-8")


# Devices


@pytest.fixture
def card(monkeypatch):
    """A GPU of compute capability 8.0 whose kernels are what `status` returns."""
    known = {"status": KernelStatus(True, None, {"samples": 3e-7}), "capability": (8, 0)}
    monkeypatch.setattr(devices, "kernel_status", lambda device, dtype: known["status"])
    monkeypatch.setattr(devices, "sampling_path", lambda x, offset: "kernels" if known["status"].trusted else "grid")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: known["capability"])
    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *size, device, dtype: zeros(*size, dtype=dtype))
    monkeypatch.setattr(devices.importlib.util, "find_spec", lambda name: object())
    return known


def path_of(card, **changes):
    card.update(changes)
    return devices.path(torch.device("cuda", 0), torch.float16)


def test_the_path_of_a_gpu_comes_with_the_errors_of_the_self_check(card):
    assert path_of(card) == ("cuda:0 float16", "path kernels; self-check: samples 3e-07", None)


def test_kernels_that_should_run_and_do_not_are_a_problem(card):
    finding = path_of(card, status=KernelStatus(False, "CompilationError: no C compiler"))
    assert finding.value == "path grid; no kernels: CompilationError: no C compiler"
    assert finding.problem == "cuda:0 float16: the kernels are not used: CompilationError: no C compiler"


def test_kernels_that_are_switched_off_or_cannot_be_are_said_and_no_problem(card, monkeypatch):
    no = KernelStatus(False, "the reason")
    finding = path_of(card, status=no, capability=(6, 1))
    assert (finding.value, finding.problem) == ("path grid; no kernels: the reason", None)
    monkeypatch.setenv("ULTRALYTICS_AKCONV_KERNELS", "0")
    assert path_of(card, status=no, capability=(8, 0)).problem is None
    monkeypatch.delenv("ULTRALYTICS_AKCONV_KERNELS")
    monkeypatch.setattr(devices.importlib.util, "find_spec", lambda name: None)
    assert path_of(card, status=no).problem is None


def test_a_device_that_fails_is_a_problem_and_the_next_is_looked_at(monkeypatch):
    def fail(device):
        raise RuntimeError("CUDA error: no kernel image is available\nmore of it")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(devices, "device_findings", fail)
    found = list(devices.devices())
    assert [finding.value for finding in found] == ["2", "failed", "failed"]
    assert found[2].problem == "cuda:1: RuntimeError: CUDA error: no kernel image is available"
