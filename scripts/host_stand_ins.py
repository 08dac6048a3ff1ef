# SPDX-License-Identifier: AGPL-3.0-or-later
"""What `host_tests.py` makes in the place of the weights and datasets that Ultralytics' tests would download."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from matrix import ROOT
from PIL import Image

MINI = ROOT / "cfg/datasets/akconv-mini"
# What the tests call their datasets -> the task, of which rows of labels are made from boxes.
DATASETS = {
    "coco8": "detect",
    "coco8-seg": "segment",
    "coco8-pose": "pose",
    "dota8": "obb",
    "imagenet10": "classify",
    "cityscapes8": "semantic",
    "depth8-png": "depth",
}
# The tasks whose labels are images -> the folder of these.
MAPS = {"semantic": "masks", "depth": "depth"}
# Run in a process of the release under test: the weights that its tests name, as the trainer leaves them.
WEIGHTS = r"""
import re
import sys
from pathlib import Path
import torch
import torchvision
from ultralytics import RTDETR, YOLO
from ultralytics.cfg import TASK2MODEL
from ultralytics.utils import DEFAULT_CFG_DICT, LOGGER
from ultralytics.nn.tasks import DetectionModel
from ultralytics_akconv import transfer, write_checkpoint
folder, grafted = Path(sys.argv[1]), sys.argv[2] == "grafted"
folder.mkdir(parents=True, exist_ok=True)
for name in sorted({*TASK2MODEL.values(), "yolo11n.pt", "yolo11n-grayscale.pt", "yolo26n.pt", *sys.argv[3:]}):
    yaml = "yolov8s-seg.yaml" if name.startswith("FastSAM") else name.replace(".pt", ".yaml")
    try:
        grey = name.endswith("-grayscale.pt")
        opened = RTDETR if name.startswith("rtdetr") else YOLO
        model = DetectionModel("yolo11n.yaml", ch=1) if grey else opened(yaml).model
    except (FileNotFoundError, ImportError, OSError) as error:
        LOGGER.warning(f"no stand-in for {name}: {error}")  # of another release, without a YAML, in want of the network
        continue
    for key, value in model.named_parameters():  # of random numbers no head is sure: this one of its first class
        if re.search(r"cv3\.\d+\.2\.bias$|score_head.*bias$", key) and value.ndim == 1:
            value.data[0] = 1.0
    model.args = {**DEFAULT_CFG_DICT, "model": name, "task": getattr(model, "task", "detect")}
    if grafted:
        try:
            model = transfer(model, num_param=5).model
        except ValueError as error:
            LOGGER.warning(f"{name} stays as it is: {error}")
    write_checkpoint(model.half(), folder / name)
resnet = torchvision.models.get_model_weights("resnet18").DEFAULT.url.rpartition("/")[2]  # in one of the host's YAMLs
(folder / "hub/checkpoints").mkdir(parents=True)
torch.save(torchvision.models.resnet18().state_dict(), folder / "hub/checkpoints" / resnet)
"""


def weights_named(tests: Path) -> list[str]:
    """Return the names of weights that the tests of a release ask for."""
    text = "\n".join(file.read_text("utf-8") for file in sorted(tests.glob("*.py")))
    return sorted(set(re.findall(r"\b(?:yolo|rtdetr|FastSAM)[\w-]*\.pt\b", text)))


def write_datasets(folder: Path) -> None:
    """Write four training and four validation images under each name of `DATASETS`, with labels of its task."""
    for name, task in DATASETS.items():
        for split in ("train", "val"):
            for number, image in enumerate(sorted((MINI / "images" / split).glob("*.jpg"))[:4]):
                if task == "classify":
                    target = folder / name / split / f"class{number % 2}"
                    target.mkdir(parents=True, exist_ok=True)
                    shutil.copy(image, target)
                    continue
                if task in MAPS:
                    for kind in ("images", MAPS[task]):
                        (folder / name / kind / split).mkdir(parents=True, exist_ok=True)
                    shutil.copy(image, folder / name / "images" / split)
                    grey = Image.open(image).convert("L")  # as classes 0 to 15, or as metres
                    values = grey.point(lambda value: value // 16) if task == "semantic" else grey.convert("I")
                    values = (
                        values if task == "semantic" else values.point(lambda value: value * 20 + 500).convert("I;16")
                    )
                    values.save(folder / name / MAPS[task] / split / f"{image.stem}.png")
                    continue
                for kind in ("images", "labels"):
                    (folder / name / kind / split).mkdir(parents=True, exist_ok=True)
                shutil.copy(image, folder / name / "images" / split)
                lines = (MINI / "labels" / split / f"{image.stem}.txt").read_text("utf-8").splitlines()
                rows = [label(task, *map(float, line.split())) for line in lines]
                (folder / name / "labels" / split / f"{image.stem}.txt").write_text("\n".join(rows) + "\n", "utf-8")


def label(task: str, cls: float, x: float, y: float, w: float, h: float) -> str:
    """Return the row of a box in the labels of a task."""
    corners = [x - w / 2, y - h / 2, x + w / 2, y - h / 2, x + w / 2, y + h / 2, x - w / 2, y + h / 2]
    row = {"detect": [x, y, w, h], "pose": [x, y, w, h, *[x, y, 2] * 17]}.get(task, corners)
    cls = 0 if task == "pose" else int(cls)
    return " ".join([str(cls), *(f"{min(max(value, 0), 2):.6f}" for value in row)])
