# SPDX-License-Identifier: AGPL-3.0-or-later
"""Use as users do: the `yolo` command and scripts in processes of their own, on real images, 64 px."""

import csv
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import ultralytics.utils
import yaml
from conftest import (
    clean_environment,
    copy_mini_dataset,
    kill_after_a_checkpoint,
    layers_of,
    run_clean,
    skip_if_onnx_needs_onnxscript,
    yolov8_dict,
)
from test_distributed import TWO_RANKS

pytestmark = pytest.mark.slow
YOLO_COMMAND = Path(sys.executable).parent / "yolo"
SMALL = ("imgsz=64", "batch=8", "nbs=8", "device=cpu", "plots=False", "verbose=False")
OPTIONS = {"shape": "cross", "border": "clamp", "origin": "center"}
restricted_loading = pytest.mark.skipif(
    not hasattr(ultralytics.utils, "SAFE_LOAD"), reason="this host has no restricted loading (ULTRALYTICS_SAFE_LOAD)"
)


def run(folder, *command, **environment):
    """Run a command in `folder` and return what it printed; it must succeed."""
    process = run_clean(folder, command, **environment)
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout + process.stderr


def train_command(data, name, *arguments, model="yolov8n-akconv.yaml"):
    folder = Path(data).parent
    return (YOLO_COMMAND, "train", f"model={model}", f"data={data}", f"project={folder / 'runs'}", f"name={name}",
            "workers=0", *SMALL, *arguments)  # fmt: skip


def epochs_of(run_folder):
    """Return the epochs that a training wrote into its table, after checking that its losses are numbers."""
    rows = [{k.strip(): v for k, v in row.items()} for row in csv.DictReader((run_folder / "results.csv").open())]
    for row in rows:
        assert all(torch.isfinite(torch.tensor(float(v))) for k, v in row.items() if "loss" in k)
    return [int(float(row["epoch"])) for row in rows]


def layers_in(checkpoint):
    content = torch.load(checkpoint, map_location="cpu", weights_only=False)
    return layers_of(content["model"] if content.get("ema") is None else content["ema"])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """One training by the bare command, for all that needs its weights."""
    folder = tmp_path_factory.mktemp("trained")
    data = copy_mini_dataset(folder, images=32)
    output = run(folder, *train_command(data, "run", "epochs=1"))
    return folder, data, folder / "runs/run/weights/best.pt", output


def yolo(*commands):
    """Return Python that runs `yolo` commands one after the other as the program does, in one process."""
    given = [["yolo", *map(str, command)] for command in commands]
    return f"""
import sys
from ultralytics.cfg import entrypoint
for command in {given!r}:
    print("\\n==", command[1])
    sys.argv[:] = command  # the very list that the host looks at
    entrypoint()
"""


def test_yolo_train_trains_and_says_what_it_built(trained):
    folder, _, best, output = trained
    assert epochs_of(folder / "runs/run") == [1]
    assert output.count("ultralytics_akconv.modules.AKConv") == 6
    layers = layers_in(best)
    assert [layer.num_param for layer in layers] == [5] * 6
    assert all(layer.p_conv.weight.any() for layer in layers)  # the offsets have left their zero start


def test_yolo_val_predict_and_benchmark_take_the_weights_in_a_new_process(trained):
    skip_if_onnx_needs_onnxscript()
    folder, data, best, _ = trained
    images = folder / "akconv-mini/images/val"
    shutil.copy(best, folder / "bench.pt")
    where = (f"project={folder / 'runs'}", "name=predicted", "save_txt=True", "conf=0.00001")
    code = yolo(
        ["val", f"model={best}", f"data={data}", *SMALL],
        ["predict", f"model={best}", f"source={images}", "imgsz=64", *where],
        ["benchmark", "model=bench.pt", f"data={data}", "imgsz=64", "format=onnx"],
    )
    _, validated, _, measured = run(folder, sys.executable, "-c", code).split("\n== ")
    assert re.search(r"^ +all +8 ", validated, re.MULTILINE)  # the row of all classes, for eight images
    assert "GFLOPs" in validated and " 0.0 GFLOPs" not in validated
    assert len(list((folder / "runs/predicted").glob("*.jpg"))) == len(list(images.iterdir())) == 8
    assert (folder / "bench.onnx").is_file()
    row = next(line for line in measured.splitlines() if "ONNX" in line and "✅" in line)
    assert "❌" not in row


@restricted_loading
def test_restricted_loading_takes_the_weights_for_prediction_and_training_and_refuses_what_is_not_a_layer(trained):
    folder, data, best, _ = trained
    train = train_command(data, "restricted", "epochs=1", model=best)[1:]
    code = f"""
import os, torch
from ultralytics import YOLO
model = YOLO({str(best)!r})
model.predict({str(folder / "akconv-mini/images/val")!r}, imgsz=64, verbose=False)
print(type(model.model.model[1]).__module__, type(model.model.model[1]).__name__)
class Attack:
    def __reduce__(self):
        return os.mkdir, ({str(folder / "attacked")!r},)
content = torch.load({str(best)!r}, weights_only=False)
torch.save({{**content, 'attack': Attack()}}, 'attack.pt')
try:
    YOLO('attack.pt')
except Exception as error:
    print('refused', type(error).__name__)
{yolo(train)}
"""
    output = run(folder, sys.executable, "-c", code, ULTRALYTICS_SAFE_LOAD="1")
    assert "ultralytics_akconv.modules AKConv" in output
    assert "refused" in output
    assert not (folder / "attacked").exists()
    assert epochs_of(folder / "runs/restricted") == [1]
    assert len(layers_in(folder / "runs/restricted/weights/last.pt")) == 6


def test_a_training_killed_in_the_middle_is_resumed_to_its_end(tmp_path):
    """By restricted loading where the host has it: it takes less than the ordinary one, which `test_kills.py` uses."""
    folder = tmp_path
    data = copy_mini_dataset(folder, images=32)
    run_folder = folder / "runs/killed"
    last = run_folder / "weights/last.pt"
    process = subprocess.Popen(
        [str(part) for part in train_command(data, "killed", "epochs=4")],
        cwd=folder,
        env=clean_environment(folder),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    kill_after_a_checkpoint(process, last)
    assert 1 <= len(epochs_of(run_folder)) < 4
    output = run(folder, YOLO_COMMAND, "train", "resume=True", f"model={last}", ULTRALYTICS_SAFE_LOAD="1")
    assert "Resuming training" in output
    assert epochs_of(run_folder) == [1, 2, 3, 4]
    assert len(layers_in(last)) == 6


def options_yaml(folder):
    file = folder / "yolov8n-options.yaml"
    file.write_text(yaml.safe_dump(yolov8_dict(3, 2, {**OPTIONS, "shape": [[0, 0], [1, 1], [2, 0]]})), "utf-8")
    return file


def test_spawned_workers_and_the_options_of_a_row(tmp_path):
    data = copy_mini_dataset(tmp_path)
    script = tmp_path / "train.py"
    script.write_text(
        f"""
import torch
from ultralytics import YOLO

if __name__ == "__main__":
    torch.multiprocessing.set_start_method("spawn")
    YOLO({str(options_yaml(tmp_path))!r}).train(
        data={str(data)!r}, epochs=1, imgsz=64, batch=8, workers=2, plots=False, device="cpu",
        project={str(tmp_path / "runs")!r}, name="run",
    )
    assert torch.multiprocessing.get_start_method() == "spawn"
""",
        "utf-8",
    )
    run(tmp_path, sys.executable, script)
    layers = layers_in(tmp_path / "runs/run/weights/last.pt")
    assert {(m.num_param, m.border, m.origin) for m in layers} == {(3, "clamp", "center")}
    assert {m.points for m in layers} == {((-1, -1), (0, 0), (1, -1))}


@pytest.mark.skipif(TWO_RANKS, reason="two ranks tell more: test_distributed.py")
def test_the_hosts_ddp_file_trains_in_a_process_of_the_launcher(tmp_path):
    """What a multi-GPU training starts for each rank, here one rank on the CPU."""
    pytest.importorskip("cloudpickle", reason="the host's distributed training needs it")
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    code = "from ultralytics.utils import RANK; print(RANK)"
    if run(tmp_path, sys.executable, "-c", code, **alone).split()[-1] != "-1":
        pytest.skip("this host takes one rank for many, and starts no process group for it")
    data = copy_mini_dataset(tmp_path)
    code = f"""
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.utils.dist import generate_ddp_file
overrides = dict(model={str(options_yaml(tmp_path))!r}, data={str(data)!r}, epochs=1, imgsz=64, batch=8, workers=0,
                 plots=False, device='cpu', project={str(tmp_path / "runs")!r}, name='ddp', exist_ok=True)
print(generate_ddp_file(DetectionTrainer(overrides=overrides)))
"""
    file = run(tmp_path, sys.executable, "-c", code).strip().splitlines()[-1]
    launcher = (sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=1", "--master_port=0")
    run(tmp_path, *launcher, file)
    assert epochs_of(tmp_path / "runs/ddp") == [1]
    assert {(m.num_param, m.border) for m in layers_in(tmp_path / "runs/ddp/weights/last.pt")} == {(3, "clamp")}
