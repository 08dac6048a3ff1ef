# SPDX-License-Identifier: AGPL-3.0-or-later
"""Models to convert, for the tests of the transfer."""

import copy

import torch
from conftest import ROOT
from ultralytics.nn import tasks

IMAGES = ROOT / "cfg/datasets/akconv-mini/images/train"
SMALL = {"images": 4, "imgsz": 64, "device": "cpu"}  # a transfer that learns in a second
ARGS = {"imgsz": 64, "data": "some.yaml", "seed": 3}


def trained(config, **changes):
    """Return a host model with random weights whose BatchNorm layers have statistics of their own."""
    if isinstance(config, str):
        name = config
        config = tasks.yaml_model_load(config)
        task = tasks.guess_model_task(name)
    else:
        config, task = copy.deepcopy(config), "detect"
    classes = {"classify": tasks.ClassificationModel, "segment": tasks.SegmentationModel, "pose": tasks.PoseModel}
    model = classes.get(task, {"obb": tasks.OBBModel}.get(task, tasks.DetectionModel))(config | changes, verbose=False)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.3)
            torch.nn.init.normal_(module.running_mean, std=0.3)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    model.args, model.task = dict(ARGS), task
    model.names = {i: f"kind {i}" for i in range(model.yaml["nc"])}
    return model.eval()


def relative(actual, wanted):
    return ((actual - wanted).norm() / wanted.norm()).item()
