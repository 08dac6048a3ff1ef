# SPDX-License-Identifier: AGPL-3.0-or-later
"""A copy of Ultralytics with AKConv pasted into it, as people keep them: run as a program, it writes its checkpoints.

It stands in a process of its own, without this package: `python fork.py FOLDER`. What is pasted is in `fork_layers.py`.
Beside each `NAME.pt` lies `NAME.outputs.pt`, what the model makes of three images.
"""

import copy
import inspect
import os
import re
import sys
import types
from pathlib import Path

import torch
import yaml
from fork_layers import CLASSES, LAYERS, REPEATED, AKConv, C2f
from torch import nn
from ultralytics.cfg import get_cfg
from ultralytics.nn import tasks
from ultralytics.nn.modules import block

SCALES = {"n": [0.33, 0.125, 1024], "m": [0.33, 0.125, 1024]}


def edited_parser():
    """Return the host's parser as people edit it: their names beside the host's."""
    source = inspect.getsource(tasks.parse_model)
    names = {"Conv": LAYERS, **REPEATED}
    for host, ours in names.items():
        added = ", ".join([host, *(c.__name__ for c in ours)])
        count = 1 if host == "Conv" else 0
        source, found = re.subn(rf"^(\s+){host},$", rf"\g<1>{added},", source, count=count, flags=re.MULTILINE)
        assert found, host
    source, found = re.subn(r"\bm is C3k2\b", "m in (C3k2, C3k2_AKConv, C3k2_LDConv)", source)
    assert found
    vars(tasks).update({c.__name__: c for c in CLASSES})
    exec(compile(source, "fork", "exec"), vars(tasks))


def place(path):
    """Put the classes into a module of this path, under which they are pickled from now on."""
    name = ""
    for part in path.split("."):
        name = f"{name}.{part}" if name else part
        if name not in sys.modules:
            sys.modules[name] = types.ModuleType(name)
    for cls in CLASSES:
        cls.__module__ = path
        setattr(sys.modules[path], cls.__name__, cls)


def rows(model):
    return model["backbone"] + model["head"]


def downsampling(name, *arguments):
    """Replace the stride-2 convolutions after the stem."""

    def change(model):
        for row in rows(model)[1:]:
            if row[2] == "Conv" and row[3][1:] == [3, 2]:
                row[2:] = [name, [row[3][0], *arguments]]

    return change


def blocks(host, name):
    def change(model):
        for row in rows(model):
            if row[2] == host:
                row[2] = name

    return change


def both(*changes):
    def change(model):
        for one in changes:
            one(model)

    return change


def forgotten(model):
    for row in model["backbone"]:
        if row[2] == "C3k2":
            row[2] = "C3k2_forgotten"


def attention(model):
    """Put somebody's attention behind the first AKConv, and a block with a third branch in place of the next."""
    downsampling("AKConv", 5, 2)(model)
    model["backbone"][2][2:] = ["C2f_AKConv_third", [128, True]]
    model["backbone"][4][2:] = ["Attention_of_somebody", [256]]


def small_resnet(model):
    """Make the ResNet layers and the decoder small, and AKConv of the two downsampling rows of the neck."""
    for row in rows(model):
        if row[2] == "ResNetLayer":
            c1, c2, stride, first, _ = row[3]
            row[3] = [c1 if first else max(c1 // 8, 8), max(c2 // 8, 8), stride, first, 1]
        if row[2] == "AIFI":
            row[3] = [64, 4]
        if row[2] == "RTDETRDecoder":
            row[3] = ["nc", 32, 20, 2, 4, 1, 64]
    del model["scales"]
    model["width_multiple"] = 0.125
    downsampling("AKConv", 5, 2)(model)


ADD, EXTRA = "ultralytics.nn.Addmodules.AKConv", "ultralytics.nn.extra_modules.block"
CASES = {  # name: (YAML of the host, how its rows change, where the classes lie)
    "v8-detect": ("v8/yolov8", downsampling("AKConv", 5, 2), ADD),
    "v8-segment": ("v8/yolov8-seg", downsampling("LDConv", 5, 2), "ultralytics.nn.modules.conv"),
    "v8-pose": ("v8/yolov8-pose", blocks("C2f", "C2f_AKConv"), EXTRA),
    "v8-obb": ("v8/yolov8-obb", both(downsampling("AKConv", 3, 2, True), blocks("C2f", "C2f_second")), "models.common"),
    "v8-classify": ("v8/yolov8-cls", downsampling("Shaped", 5, 2), "nets.AKConv"),
    "11-detect": ("11/yolo11", both(downsampling("LDConv", 6, 2), blocks("C3k2", "C3k2_AKConv")), EXTRA),
    "11-segment": ("11/yolo11-seg", downsampling("AKConv", 5, 2), ADD),
    "11-pose": ("11/yolo11-pose", both(downsampling("Shaped", 5, 2), blocks("C3k2", "C3k2_LDConv")), ADD),
    "11-obb": ("11/yolo11-obb", blocks("C3k2", "C3k2_AKConv"), ADD),
    "11-classify": ("11/yolo11-cls", downsampling("AKConv", 4, 2), EXTRA),
    "11-detect-m": ("11/yolo11", both(downsampling("AKConv", 5, 2), blocks("C3k2", "C3k2_AKConv")), EXTRA),
    "11-forgotten-m": ("11/yolo11", forgotten, EXTRA),
    "v5-detect": ("v5/yolov5", both(downsampling("AKConv", 7, 2), blocks("C3", "C3_AKConv")), EXTRA),
    "rtdetr": ("rt-detr/rtdetr-resnet50", small_resnet, EXTRA),
    "attention": ("v8/yolov8", attention, ADD),
    "stock": ("v8/yolov8", lambda model: None, ADD),
    "edited": ("v8/yolov8", lambda model: None, "ultralytics.nn.modules.block"),
}
MODELS = {"seg": "Segmentation", "pose": "Pose", "obb": "OBB", "cls": "Classification"}
TASKS = {"Segmentation": "segment", "Pose": "pose", "OBB": "obb", "Classification": "classify"}


def built(name):
    """Build the model of a case, with weights and statistics that are nowhere those of the start."""
    host, change, path = CASES[name]
    place(path)
    model = yaml.safe_load((Path(tasks.__file__).parents[1] / f"cfg/models/{host}.yaml").read_text("utf-8"))
    model.update(
        nc=3, scales=copy.deepcopy(SCALES), scale="m" if name.endswith("-m") else "n", yaml_file=f"/far/{name}.yaml"
    )
    change(model)
    kind = MODELS.get(host.rpartition("-")[2], "Detection")
    network = getattr(tasks, f"{kind}Model")(model, verbose=False)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
        if isinstance(module, AKConv):
            nn.init.normal_(module.p_conv.weight, std=0.05)
            if module.conv[0].bias is not None:
                nn.init.normal_(module.conv[0].bias)
    network.names = {i: f"kind {i}" for i in range(3)}
    network.task = TASKS.get(kind, "detect")
    network.args = get_cfg(overrides={"imgsz": 64, "data": "own.yaml", "seed": 3})
    return network


def trained(network):
    """Take two steps on two images with a box each."""
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9)
    network.criterion = network.init_criterion()
    for _ in range(2):
        boxes = {"cls": torch.tensor([[1.0], [2.0]]), "bboxes": torch.tensor([[0.5, 0.5, 0.4, 0.4]] * 2)}
        loss, _ = network.train().loss({"img": torch.rand(2, 3, 64, 64), "batch_idx": torch.arange(2.0), **boxes})
        loss.sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return optimizer


def images():
    generator = torch.Generator().manual_seed(7)
    return [torch.rand(1, 3, *size, generator=generator) for size in ((64, 64), (96, 64), (64, 128))]


def tensors(output):
    """Return the tensors of a model's output, however they are packed."""
    if isinstance(output, torch.Tensor):
        return [output]
    parts = output.values() if isinstance(output, dict) else output if isinstance(output, (list, tuple)) else ()
    return [tensor for part in parts for tensor in tensors(part)]


class Attack:
    """Makes a folder in whatever program unpickles it."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


class Detect(nn.Module):
    """A head that predicts from anchors."""

    def __init__(self):
        super().__init__()
        self.register_buffer("anchors", torch.ones(3, 3, 2))
        self.m = nn.ModuleList([nn.Conv2d(8, 18, 1)])


class DetectionModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.yaml = {
            "nc": 1,
            "anchors": 3,
            "backbone": [[-1, 1, "AKConv", [8, 5, 2]]],
            "head": [[[0], 1, "Detect", []]],
        }
        self.model = nn.Sequential(AKConv(3, 8, 5, 2), Detect())


def save_yolov5(file):
    """Write a checkpoint as the YOLOv5 repository does."""
    place("models.common")
    sys.modules["models.yolo"] = types.ModuleType("models.yolo")
    for cls in (Detect, DetectionModel):
        cls.__module__ = "models.yolo"
        setattr(sys.modules["models.yolo"], cls.__name__, cls)
    torch.save({"epoch": 3, "model": DetectionModel().half(), "ema": None}, file)


def save(network, file, optimizer=None, extra=(), **options):
    """Write a checkpoint as the host's trainer does, and what the model makes of three images."""
    stored = copy.deepcopy(network).half().eval()
    content = {
        "epoch": -1 if optimizer is None else 1,
        "best_fitness": None if optimizer is None else torch.tensor(0.5).numpy().item(),
        "model": None,
        "ema": stored,
        "updates": 2,
        "optimizer": optimizer.state_dict() if optimizer else None,
        "train_args": {**vars(network.args), "save_dir": Path("runs/train")},
        "date": "2025-01-01",
        "version": "8.3.9",
    }
    if extra:  # in the settings, in the model and beside it
        content["train_args"]["resume"], content["git"], stored.hooked = extra
    torch.save(content, file, **options)
    vars(stored).pop("hooked", None)
    network = copy.deepcopy(stored).float()
    with torch.no_grad():
        outputs = [tensors(network(image)) for image in images()]
    torch.save(outputs, file.with_suffix(".outputs.pt"))


def main(folder):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    edited_parser()
    save_yolov5(folder / "yolov5.pt")
    for name in CASES:
        if name == "edited":
            C2f.__module__ = block.__name__
            block.C2f = tasks.C2f = C2f
        network = built(name)
        save(network, folder / f"{name}.pt")
        if name == "v8-detect":
            save(network, folder / "old-format.pt", _use_new_zipfile_serialization=False)
            torch.save(network, folder / "whole.pt", pickle_protocol=4)
            torch.save(network.state_dict(), folder / "state.pt")
            optimizer = trained(network)
            save(network, folder / "last.pt", optimizer)
            save(network, folder / "attacked.pt", extra=[Attack(folder / f"attacked-{i}") for i in range(3)])
        if name == "v8-segment":
            torch.save({"state_dict": network.state_dict()}, folder / "state-p_n.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
