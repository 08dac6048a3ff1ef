# SPDX-License-Identifier: AGPL-3.0-or-later
"""The wheel, the sdist and the editable install: what they hold, that they work, and that they go without a trace."""

import shutil
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT, run_clean

from ultralytics_akconv import __version__

pytestmark = pytest.mark.slow
FILES = ("cfg", "ultralytics_akconv", "ultralytics_akconv_startup.py", "setup.py", "pyproject.toml", "README.md")
START_UP = {"ultralytics_akconv.pth", "ultralytics_akconv.start", "ultralytics_akconv_startup.py"}


def run(*command, cwd, **environment):
    """Run a command in a clean environment; it must succeed."""
    process = run_clean(cwd, command, **environment)
    assert process.returncode == 0, process.stdout + process.stderr
    return process


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("package")


@pytest.fixture(scope="module")
def source(folder):
    """A copy of the checkout, in which a build may leave what it likes."""

    def ignore(directory, names):
        top = Path(directory) == ROOT
        return [name for name in names if name == "__pycache__" or (top and name not in FILES)]

    return shutil.copytree(ROOT, folder / "source", ignore=ignore)


@pytest.fixture(scope="module")
def wheel(source, folder):
    pip = (sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet")
    run(*pip, "--wheel-dir", folder / "wheels", source, cwd=folder)
    return folder / f"wheels/ultralytics_akconv-{__version__}-py3-none-any.whl"


@pytest.fixture(scope="module")
def sdist(source, folder):
    code = f"from setuptools import build_meta; build_meta.build_sdist({str(folder / 'sdists')!r})"
    run(sys.executable, "-c", f"import os; os.makedirs({str(folder / 'sdists')!r}); {code}", cwd=source)
    return folder / f"sdists/ultralytics_akconv-{__version__}.tar.gz"


def names_in(wheel):
    with zipfile.ZipFile(wheel) as file:
        return {name for name in file.namelist() if ".dist-info/" not in name}


def shipped(source):
    """What a wheel must hold: every module, the typing marker, all of cfg/ inside the package, the start-up files."""
    code = {str(file.relative_to(source)) for file in (source / "ultralytics_akconv").rglob("*.py")}
    files = [file for file in (source / "cfg").rglob("*") if file.is_file()]
    cfg = {str(Path("ultralytics_akconv/cfg") / file.relative_to(source / "cfg")) for file in files}
    assert len([name for name in cfg if name.endswith((".jpg", ".yaml"))]) > 32 + 10
    return code | cfg | START_UP | {"ultralytics_akconv/py.typed"}


def test_the_wheel_holds_the_package_its_data_and_the_start_up_files_and_nothing_else(wheel, source):
    assert names_in(wheel) == shipped(source)


def test_the_sdist_builds_the_same_wheel(sdist, wheel, folder):
    with tarfile.open(sdist) as file:
        file.extractall(folder / "unpacked", filter="data")
    pip = (sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet")
    run(*pip, "--wheel-dir", folder / "again", folder / f"unpacked/ultralytics_akconv-{__version__}", cwd=folder)
    assert names_in(folder / "again" / wheel.name) == names_in(wheel)


def test_the_metadata_name_the_licence_the_host_and_the_python(wheel):
    with zipfile.ZipFile(wheel) as file:
        (name,) = [name for name in file.namelist() if name.endswith("METADATA")]
        metadata = file.read(name).decode()
    assert "Requires-Dist: ultralytics>=8.3.9\n" in metadata
    assert "Requires-Python: >=3.9\n" in metadata
    for name in ("matplotlib", "numpy", "opencv-python", "pillow", "pyyaml", "torch", "torchvision"):
        assert f"Requires-Dist: {name}>=" in metadata
    assert "Author: " in metadata and "Classifier: Operating System :: Microsoft :: Windows\n" in metadata
    assert "AGPL-3.0-or-later" in metadata and f"Version: {__version__}\n" in metadata


@pytest.fixture(scope="module")
def environment(folder):
    """A fresh environment that borrows everything but the plug-in from the one that runs the tests."""
    run(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
    borrowed = folder / "borrowed"
    borrowed.mkdir()
    for entry in Path(sysconfig.get_paths()["purelib"]).iterdir():
        ours = "akconv" in entry.name or entry.name.startswith("__editable__")
        if not (ours or entry.suffix == ".pth" or entry.name.startswith(("pip", "__pycache__"))):
            (borrowed / entry.name).symlink_to(entry)
    (site,) = (folder / "venv").glob("lib/python*/site-packages")
    (site / "borrowed.pth").write_text(f"{borrowed}\n", "utf-8")
    command = (Path(sys.executable).parent / "yolo").read_text("utf-8").split("\n", 1)[1]
    yolo = folder / "venv/bin/yolo"
    yolo.write_text(f"#!{folder / 'venv/bin/python'}\n{command}", "utf-8")
    yolo.chmod(0o755)
    return folder / "venv", site


def contents(folder):
    return {str(f.relative_to(folder)) for f in folder.rglob("*") if "__pycache__" not in f.parts and f.is_file()}


@pytest.mark.parametrize("kind", ["wheel", "editable"])
def test_install_use_and_uninstall_leave_nothing_behind(kind, wheel, source, environment, folder):
    venv, site = environment
    python, yolo = venv / "bin/python", venv / "bin/yolo"
    before = contents(venv)
    use = f"""
import runpy, sys
sys.argv = ["yolo", "export", "model=yolov8n-akconv.yaml", "format=torchscript", "imgsz=32"]
try:
    runpy.run_path({str(yolo)!r}, run_name="__main__")
except SystemExit as end:
    assert not end.code
from ultralytics.data.utils import check_det_dataset
from ultralytics_akconv.configs import CFG
print(len(check_det_dataset("akconv-mini.yaml")["names"]))
print(CFG)
"""
    home = folder / kind
    home.mkdir()

    what = ("--no-build-isolation", "--editable", source) if kind == "editable" else (wheel,)
    run(python, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet", *what, cwd=home)
    assert {"ultralytics_akconv.pth", "ultralytics_akconv.start"} <= contents(site)
    output = run(python, "-c", use, cwd=home).stdout
    assert "YOLOv8n-akconv summary" in output
    assert list(home.glob("*.torchscript"))
    *_, classes, cfg = output.splitlines()
    assert classes == "3"
    assert Path(cfg) == (source / "cfg" if kind == "editable" else site / "ultralytics_akconv/cfg")

    run(python, "-m", "pip", "uninstall", "--yes", "--quiet", "ultralytics-akconv", cwd=home)
    assert contents(venv) == before
    process = run(python, "-c", "import sys; print([n for n in sys.modules if 'akconv' in n])", cwd=home)
    assert (process.stdout, process.stderr) == ("[]\n", "")
    stock = "from ultralytics.nn import tasks; tasks.DetectionModel('yolov8n.yaml'); print(hasattr(tasks, 'AKConv'))"
    assert run(python, "-c", stock, cwd=home).stdout.splitlines()[-1] == "False"
