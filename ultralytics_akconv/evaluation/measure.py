# SPDX-License-Identifier: AGPL-3.0-or-later
"""Evaluates a model of any task with the host's validator, boxes by COCO rules too; or says before that it cannot."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

from ultralytics.data.utils import check_cls_dataset, check_det_dataset
from ultralytics.utils.torch_utils import get_flops

from ultralytics_akconv.conversion.images import images_below
from ultralytics_akconv.evaluation.coco import (
    coco_library,
    coco_metrics,
    from_labels,
    numbered_stems,
    original_annotations,
    read_truth,
    renamed,
)
from ultralytics_akconv.evaluation.figures import Evaluation, TaskEvaluation
from ultralytics_akconv.opening import host_model

_OWN = ("mode", "save_json", "task", "validator")
_PARTS = {"B": "", "M": "mask_", "P": "pose_"}  # boxes, masks, poses, as the host marks them


def check_evaluation(task: str, data: str | Path, split: str = "val", annotations: str | Path | None = None) -> None:
    """Refuse what `evaluate` could not evaluate: to be asked before a training, which would be for nothing.

    Args:
        task: The model's task.
        data: A dataset YAML of the host's form, or what else it takes for the task.
        split: "val", "test" or "train".
        annotations: The original instances JSON of the split, if it does not lie in the dataset's folder.

    Raises:
        FileNotFoundError: If the dataset, its images or the annotations are not there.
        ImportError: If the library of the COCO rules is needed and not installed.
        ValueError: If the dataset is not what the host takes, lacks the split, or its images or annotations do not do
            for COCO rules.
    """
    if task == "detect":
        coco_library()
    try:
        content = check_cls_dataset(str(data), split) if task == "classify" else check_det_dataset(str(data))
    except FileNotFoundError:
        raise
    except Exception as error:  # the host has a kind for each thing that may be wrong
        raise ValueError(f"the dataset '{data}' cannot be used: {error}") from error
    if not content.get(split):
        there = ", ".join(name for name in ("train", "val", "test") if content.get(name))
        raise ValueError(f"the dataset '{data}' has no split {split!r}: it has {there}")
    if task == "detect":
        files = images_below(content[split])
        source = Path(annotations) if annotations else original_annotations(content, split)
        if source:
            read_truth(source, files, content["names"])
        else:
            numbered_stems(files)


def evaluate(
    model: str | Path,
    data: str | Path,
    split: str = "val",
    imgsz: int = 640,
    annotations: str | Path | None = None,
    **arguments: Any,
) -> Evaluation | TaskEvaluation:
    """Evaluate a model on a split of a dataset: boxes by COCO rules too, every other task by Ultralytics' own metrics.

    Args:
        model: A checkpoint or a model YAML: whatever `YOLO(...)` takes.
        data: A dataset YAML of Ultralytics' form, or what else it takes for the model's task.
        split: "val", "test" or "train".
        imgsz: Image side in pixels.
        annotations: The original instances JSON of the split. Without it, `annotations/instances_<split folder>.json`
            in the dataset's folder is taken if it is there; otherwise the ground truth is made from the labels, with
            the area of a box for the area of the object, and without crowd boxes, which labels do not hold.
        arguments: More arguments of Ultralytics' `val` (batch, device, conf, max_det, project, name, ...).

    Raises:
        FileNotFoundError: If the model, the dataset or the annotations are not there.
        ImportError: If the model detects boxes and the library of the COCO rules is not installed.
        ValueError: If model, dataset and annotations do not fit one another, or an argument is what this sets itself.

    Example:
        >>> evaluate("best.pt", "coco.yaml", batch=16).AP
    """
    own = [name for name in _OWN if name in arguments]
    if own:
        raise ValueError(f"evaluate sets {', '.join(own)} itself")
    network = host_model(model, exported=False)
    boxes = network.task == "detect"
    if annotations and not boxes:
        raise ValueError(f"annotations are for models that detect boxes, '{model}' is one of task {network.task!r}")
    check_evaluation(network.task, data, split, annotations)  # before the work
    parameters = sum(parameter.numel() for parameter in network.model.parameters())  # before the host fuses it
    gflops = get_flops(network.model, imgsz)
    validators: list[Any] = []
    with tempfile.TemporaryDirectory() as folder:
        arguments = {"plots": False, "project": folder, "name": "val", **arguments, "save_json": boxes}
        validator = _recording(network._smart_load("validator"), validators)
        metrics = network.val(validator=validator, data=str(data), split=split, imgsz=imgsz, **arguments)
    (done,) = validators
    common = {
        "parameters": parameters,
        "gflops": gflops,
        "latency": sum(metrics.speed[part] for part in ("preprocess", "inference", "postprocess")),
        "images": len(done.dataloader.dataset),
    }
    scores = {score_name(key): float(value) for key, value in metrics.results_dict.items() if key != "fitness"}
    if not boxes:
        return TaskEvaluation(scores, **common)
    labels, names = done.dataloader.dataset.labels, done.data["names"]
    source = Path(annotations) if annotations else original_annotations(done.data, split)
    truth, image_ids = (
        read_truth(source, [label["im_file"] for label in labels], names) if source else from_labels(labels, names)
    )
    coco = coco_metrics(truth, renamed(done.jdict, image_ids, truth, names), list(image_ids.values()))
    return Evaluation(**coco, **scores, **common, ground_truth=source.name if source else "labels")


def _recording(validator: type, made: list[Any]) -> type:
    """Return the host's validator, but with class indices in its predictions and its own COCO evaluation left out."""

    class Recording(validator):
        def init_metrics(self, model: Any) -> None:
            if len(model.names) != self.data["nc"]:
                counts = f"{len(model.names)} classes, the dataset {self.data['nc']}"
                raise ValueError(f"the model has {counts}: the figures need the same classes")
            super().init_metrics(model)
            self.class_map = list(range(len(model.names)))  # releases number them differently
            made[:] = [self]

        def eval_json(self, stats: dict[str, Any]) -> dict[str, Any]:
            return stats  # for COCO it would put other figures in the place of the host's mAP

    return Recording


def score_name(key: str) -> str:
    """Return our name of one of the host's metrics: metrics/mAP50-95(M) -> mask_mAP, metrics/accuracy_top1 -> top1."""
    name, part = re.fullmatch(r"(?:metrics/)?(.+?)(?:\((.)\))?", key).groups()
    return _PARTS.get(part, "") + name.replace("mAP50-95", "mAP").replace("accuracy_", "")
