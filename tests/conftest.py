# SPDX-License-Identifier: AGPL-3.0-or-later
"""Settings of the host before it is imported, the tolerance table, and what several test files share."""

import atexit
import copy
import importlib.util
import inspect
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CONFIG_DIR = tempfile.mkdtemp(prefix="akconv-tests-")  # one a test process: xdist workers must not share settings
atexit.register(shutil.rmtree, CONFIG_DIR, ignore_errors=True)
os.environ.update(YOLO_OFFLINE="true", YOLO_AUTOINSTALL="false", YOLO_CONFIG_DIR=CONFIG_DIR, OMP_NUM_THREADS="1")

if not any("cuda" in argument for argument in sys.argv):
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported: its programs run on a CPU, for the kernels

import pytest  # noqa: E402
import torch  # noqa: E402
import ultralytics.utils  # noqa: E402
from ultralytics.utils import SETTINGS  # noqa: E402

torch.set_num_threads(1)
ultralytics.utils.LOGGER.propagate = True  # older releases keep what they say from `caplog`
for kind in ("runs", "datasets", "weights"):  # the host's default is the repository that its own files lie in
    SETTINGS[f"{kind}_dir"] = f"{CONFIG_DIR}/{kind}"
    setattr(ultralytics.utils, f"{kind.upper()}_DIR", Path(CONFIG_DIR) / kind)

ROOT = Path(__file__).resolve().parent.parent
TORCH = tuple(int(part) for part in torch.__version__.split(".")[:2])
TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 8e-3}


def pytest_addoption(parser):
    parser.addoption("--device", default="cpu", help="device of the tensors in tests that take one")
    parser.addoption("--dtype", default="float64,float32,float16,bfloat16", help="dtypes of the tests that take one")


def pytest_generate_tests(metafunc):
    own = any("dtype" in mark.args[0] for mark in metafunc.definition.iter_markers("parametrize"))
    if "dtype" in metafunc.fixturenames and not own:
        names = metafunc.config.getoption("--dtype").split(",")
        metafunc.parametrize("dtype", [getattr(torch, name) for name in names], ids=names)


@pytest.fixture
def device(request):
    return torch.device(request.config.getoption("--device"))


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _default_activation(monkeypatch):
    """Put the host's default activation back: older releases leave there what a model's `activation` key says."""
    from ultralytics.nn.modules.conv import Conv  # after the folders are set: it imports most of the host

    monkeypatch.setattr(Conv, "default_act", Conv.default_act)


@pytest.fixture
def close():
    """Compare two tensors by so many times the tolerance of a dtype (the coarser of the two unless told)."""

    def check(actual, expected, dtype=None, times=1):
        tolerance = TOLERANCES[dtype] if dtype else max(TOLERANCES[actual.dtype], TOLERANCES[expected.dtype])
        tolerance *= times
        torch.testing.assert_close(
            actual, expected, rtol=tolerance, atol=tolerance, check_dtype=False, check_stride=False, equal_nan=True
        )

    return check


def clean_environment(home, **extra):
    """Return the environment of a fresh user: the host offline, and in `home` its settings alone.

    Nothing is on PYTHONPATH but the host of this process, where that is not the installed one (`scripts/matrix.py`).
    """
    settings = Path(home) / "Ultralytics/settings.json"
    if not settings.exists():
        settings.parent.mkdir()
        own = {f"{kind}_dir": str(Path(home) / kind) for kind in ("runs", "datasets", "weights")}
        settings.write_text(json.dumps({**SETTINGS, **own}), "utf-8")
    names = ("PATH", "LANG", "LD_LIBRARY_PATH", "SYSTEMROOT", "TEMP", "TMP", "APPDATA", "PATHEXT", "COMSPEC")  # Windows
    keep = {name: os.environ[name] for name in names if name in os.environ}
    offline = {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "OMP_NUM_THREADS": "1"}
    host = Path(ultralytics.__file__).parents[1]
    on_path = {Path(entry).resolve() for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry}
    if host.resolve() in on_path:  # else a process would test the installed host under another's name
        keep["PYTHONPATH"] = str(host)
    return {**keep, **offline, "HOME": str(home), "USERPROFILE": str(home), "YOLO_CONFIG_DIR": str(home), **extra}


def skip_if_onnx_needs_onnxscript():
    """Skip where the host leaves torch's choice of ONNX exporter open, and that is one whose package is absent."""
    host = Path(ultralytics.__file__).parent
    files = [host / "engine/exporter.py", host / "utils/patches.py", *(host / "utils/export").glob("*.py")]
    chosen = any(
        re.search(r"\bdynamo\b[\"']?\s*[:=]\s*False", file.read_text("utf-8")) for file in files if file.exists()
    )
    parameter = inspect.signature(torch.onnx.export).parameters.get("dynamo")
    default = parameter is not None and parameter.default
    if default and not chosen and importlib.util.find_spec("onnxscript") is None:
        pytest.skip(f"ONNX export by Ultralytics {ultralytics.__version__} needs onnxscript with this torch")


def skip_if_onnx_runtime_lacks_deform(opset):
    """Skip from opset 19 on where the ONNX Runtime is too old for what AKConv becomes there."""
    import onnxruntime

    from ultralytics_akconv.exports import ONNX_DEFORM_OPSET, ORT_DEFORM

    version = onnxruntime.__version__
    if (opset or 0) >= ONNX_DEFORM_OPSET and tuple(map(int, version.split(".")[:2])) < ORT_DEFORM:
        pytest.skip(f"ONNX Runtime {version} has no operator DeformConv, which AKConv is at opset {opset}")


def traced_to_onnx(layer, x, opset, **options):
    """Return the ONNX that torch's exporter by tracing makes of a layer; before torch 2.5 there is no other."""
    if "dynamo" in inspect.signature(torch.onnx.export).parameters:
        options["dynamo"] = False
    buffer = io.BytesIO()
    torch.onnx.export(layer, (x,), buffer, opset_version=opset, **options)
    return buffer.getvalue()


def skip_if_half_lacks(what, dtype, device="cpu"):
    """Skip where float16 has no convolution or autocast, `what`, on the CPU: before torch 2.2."""
    if TORCH < (2, 2) and dtype == torch.float16 and torch.device(device).type == "cpu":
        pytest.skip(f"torch {torch.__version__} has no {what} in float16 on the CPU")


def run_clean(home, command, cwd=None, timeout=300, **environment):
    """Run a command as a fresh user with this home, in it or in `cwd`; return the finished process."""
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd or home,
        env=clean_environment(home, **{k: str(v) for k, v in environment.items()}),
        capture_output=True,
        encoding="utf-8",
        errors="replace",  # of a process that speaks another
        timeout=timeout,
        check=False,
    )


@pytest.fixture
def fresh(tmp_path):
    """Run a command (a list, or Python code) in a fresh process of an empty home; returns the finished process."""

    def run(command, *, cwd=None, timeout=300, **environment):
        home = tmp_path / "home"
        home.mkdir(exist_ok=True)
        command = [sys.executable, "-c", command] if isinstance(command, str) else command
        return run_clean(home, command, cwd or tmp_path, timeout, **environment)

    return run


def kill_after_a_checkpoint(process, last):
    """Kill a training that leads its process group, once its checkpoint `last` is whole; it must not have ended."""
    from ultralytics_akconv.sweep.run import last_epoch

    deadline = time.monotonic() + 200
    while process.poll() is None and time.monotonic() < deadline:
        if last.is_file():  # stopped first: a checkpoint half written at the kill is another test
            os.killpg(process.pid, signal.SIGSTOP)
            if last_epoch(last) is not None:
                break
            os.killpg(process.pid, signal.SIGCONT)
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


@pytest.fixture(scope="session")
def forks(tmp_path_factory):
    """The folder of checkpoints that a copy of Ultralytics with AKConv pasted into it has left; see `fork.py`."""
    folder = tmp_path_factory.mktemp("forks")
    done = run_clean(folder, [sys.executable, ROOT / "tests/fork.py", folder], timeout=600, ULTRALYTICS_AKCONV=0)
    assert done.returncode == 0, done.stderr
    return folder


def copy_mini_dataset(folder, images=8):
    """Copy the bundled dataset to `folder` and return a data YAML that names the copy (labels caches lie beside it).

    A training takes twice as long with all 32 `images` as with eight, of which it makes one batch.
    """
    source = ROOT / "cfg/datasets/akconv-mini"
    shutil.copytree(source, folder / "akconv-mini")
    for file in sorted((folder / "akconv-mini/images/train").iterdir())[images:]:
        file.unlink()
    names = "names: {0: RBC, 1: WBC, 2: Platelets}"
    data = folder / "mini.yaml"
    data.write_text(f"path: {folder / 'akconv-mini'}\ntrain: images/train\nval: images/val\n{names}\n", "utf-8")
    return data


@pytest.fixture
def mini_dataset(tmp_path):
    return copy_mini_dataset(tmp_path)


def yolov8_dict(*arguments, name="AKConv", scale="n"):
    """Return the host's YOLOv8 detect dict with its six stride-2 convolutions after the stem as rows of ours.

    `arguments` follow the output channels, (5, 2) unless told; `name=None` leaves the stock model.
    """
    import ultralytics
    import yaml

    stock = Path(ultralytics.__file__).parent / "cfg/models/v8/yolov8.yaml"
    model = {**yaml.safe_load(stock.read_text("utf-8")), "scale": scale}
    for row in (model["backbone"] + model["head"])[1:]:
        if name and row[2] == "Conv" and row[3][1:] == [3, 2]:
            row[2:] = [name, [row[3][0], *(arguments or (5, 2))]]
    return model


@pytest.fixture(scope="session")
def source():
    """A plain YOLOv8n of three classes whose BatchNorm layers look trained. It is shared: tests leave it as it is."""
    from conversions import trained

    torch.manual_seed(0)
    return trained(yolov8_dict(name=None), nc=3)


@pytest.fixture
def checkpoint(source, tmp_path):
    """The checkpoint of `source` as the host's trainer leaves it: float16."""
    from ultralytics_akconv import write_checkpoint

    return write_checkpoint(copy.deepcopy(source).half(), tmp_path / "source.pt")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of eight pictures without labels, as a camera leaves them."""
    folder = tmp_path_factory.mktemp("pictures")
    for file in sorted((ROOT / "cfg/datasets/akconv-mini/images/train").iterdir())[:8]:
        shutil.copy(file, folder)
    return folder


@pytest.fixture
def said(monkeypatch):
    """What the host's logger is told."""
    lines = []
    for kind in ("info", "warning"):
        monkeypatch.setattr(ultralytics.utils.LOGGER, kind, lines.append)
    return lines


def learned(layer):
    """Give the offset branch weights, so that samples leave the grid and the map."""
    torch.nn.init.normal_(layer.p_conv.weight, std=0.2)
    torch.nn.init.normal_(layer.p_conv.bias)
    torch.nn.init.normal_(layer.conv.bn.running_mean)
    return layer


def built(model):
    """Build a detect model from a dict, which stays as it is."""
    from ultralytics.nn.tasks import DetectionModel

    return DetectionModel(copy.deepcopy(model), verbose=False)


def layers_of(model):
    """Return the AKConv layers of a model."""
    from ultralytics_akconv import AKConv

    return [m for m in model.modules() if isinstance(m, AKConv)]
