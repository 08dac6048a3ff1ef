# SPDX-License-Identifier: AGPL-3.0-or-later
"""Programs for fresh interpreters, and what these say: that they ran, or with which words they failed."""

import sysconfig
from pathlib import Path

import ultralytics
from ultralytics import YOLO

SITE = sysconfig.get_paths()["purelib"]
HOST = Path(ultralytics.__file__).parents[1]  # where the installed one is not tested, before SITE on every PYTHONPATH
BUILD = """
from ultralytics import YOLO
import ultralytics.nn.tasks as tasks
print(sum(p.numel() for p in YOLO('{}').model.parameters()))
"""
STOCK = BUILD.format("yolov8n.yaml")
OURS = BUILD.format("yolov8n-akconv.yaml")
STOCK_BODY, OUR_BODY = 2259536, 2042476  # parameters of the two without the head, which is the host's own in both
ROW = """
import ultralytics.nn.tasks as tasks
model = dict(nc=2, scale='n', backbone=[[-1, 1, '{}', [64, 5, 2]]], head=[[[0], 1, 'Detect', [2]]])
tasks.DetectionModel(model, verbose=False)
"""


def printed(process):
    assert process.returncode == 0, process.stderr
    return process.stdout.splitlines()


def with_head(body):
    """Return the number of parameters of a model whose body has so many parameters: heads differ between releases."""
    head = YOLO("yolov8n.yaml").model.model[-1]
    return body + sum(parameter.numel() for parameter in head.parameters())


def failure(process):
    """Return the last line of the traceback of a process that failed, as it must have."""
    assert process.returncode != 0, process.stdout
    return process.stderr.strip().splitlines()[-1]
