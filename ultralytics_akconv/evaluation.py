# SPDX-License-Identifier: AGPL-3.0-or-later
"""The columns of the paper's tables for any dataset: AP by COCO rules beside the host's own metrics, size and latency.

Predictions come from the host's validator. COCO rules (crowd boxes, sizes, at most 100 boxes an image) are those of
`faster-coco-eval`, the library the host itself uses; the figures differ from the host's mAP, never mix the two.
"""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from ultralytics import RTDETR, YOLO
from ultralytics.data.utils import exif_size
from ultralytics.utils.torch_utils import get_flops

# The library's name of each figure -> ours, in the order of the paper's tables.
_COCO = {"AP_50": "AP50", "AP_75": "AP75", "AP_all": "AP", "AP_small": "APS", "AP_medium": "APM", "AP_large": "APL"}
_MISSING = "COCO metrics need faster-coco-eval: pip install 'ultralytics-akconv[eval]'"


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` returns. AP... by COCO rules (None: no such object), the rest as the host measures it."""

    AP50: float | None
    AP75: float | None
    AP: float | None
    APS: float | None
    APM: float | None
    APL: float | None
    precision: float
    recall: float
    mAP50: float
    mAP: float
    parameters: int
    gflops: float  # of one image at `imgsz`
    latency: float  # ms an image: preprocessing, inference and postprocessing in the validator's batches
    images: int
    ground_truth: str  # "labels", or the name of the original annotations file

    def table(self) -> str:
        """Return all figures as a Markdown table of one line."""
        return markdown([asdict(self)])


def markdown(rows: list[dict[str, Any]]) -> str:
    """Return rows of the same keys as a Markdown table; None becomes a dash."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: object) -> str:
    """Return a value as a person reads it."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) <= 1 else f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def evaluate(
    model: str | Path,
    data: str | Path,
    split: str = "val",
    imgsz: int = 640,
    annotations: str | Path | None = None,
    **arguments: Any,
) -> Evaluation:
    """Evaluate a detection model on a split of a dataset.

    Args:
        model: A checkpoint or a model YAML: whatever the host's `YOLO(...)` takes.
        data: A dataset YAML of the host's form.
        split: "val", "test" or "train".
        imgsz: Image side in pixels.
        annotations: The original instances JSON of the split. Without it, `annotations/instances_<split folder>.json`
            in the dataset's folder is taken if it is there; otherwise the ground truth is made from the labels, with
            the area of a box for the area of the object, and without crowd boxes, which labels do not hold.
        arguments: More arguments of the host's `val` (batch, device, conf, max_det, project, name, ...).

    Raises:
        ImportError: If the library of the COCO rules is not installed.
        ValueError: If the model does not detect boxes, or model, dataset and annotations do not fit one another.

    Example:
        >>> evaluate("best.pt", "coco.yaml", batch=16).AP
    """
    _library()  # before the work
    network = host_model(model)
    if network.task != "detect":
        raise ValueError(f"'{model}' is a model of the task {network.task!r}: COCO box metrics need 'detect'")
    parameters = sum(parameter.numel() for parameter in network.model.parameters())  # before the host fuses it
    gflops = get_flops(network.model, imgsz)
    validators: list[Any] = []
    with tempfile.TemporaryDirectory() as folder:
        arguments = {"plots": False, "project": folder, "name": "val", **arguments}
        validator = _recording(network._smart_load("validator"), validators)
        metrics = network.val(
            validator=validator, data=str(data), split=split, imgsz=imgsz, save_json=True, **arguments
        )
    (done,) = validators
    labels, names = done.dataloader.dataset.labels, done.data["names"]
    source = Path(annotations) if annotations else _original(done.data, split)
    truth, image_ids = _read(source, labels, names) if source else from_labels(labels, names)
    figures = coco_metrics(truth, _renamed(done.jdict, image_ids, truth, names), list(image_ids.values()))
    return Evaluation(
        **figures,
        precision=float(metrics.box.mp),
        recall=float(metrics.box.mr),
        mAP50=float(metrics.box.map50),
        mAP=float(metrics.box.map),
        parameters=parameters,
        gflops=gflops,
        latency=sum(metrics.speed[part] for part in ("preprocess", "inference", "postprocess")),
        images=len(labels),
        ground_truth=source.name if source else "labels",
    )


def host_model(model: str | Path) -> YOLO | RTDETR:
    """Return the host's object of a model YAML or a checkpoint; only RT-DETR has a class of its own."""
    return (RTDETR if "rtdetr" in Path(model).stem.lower() else YOLO)(model)


def coco_metrics(
    truth: dict[str, Any], predictions: list[dict[str, Any]], image_ids: list[int] | None = None
) -> dict[str, float | None]:
    """Return AP50, AP75, AP, APS, APM and APL of predictions by COCO rules.

    Args:
        truth: A dictionary in the form of COCO's instances JSON.
        predictions: Rows of image_id, category_id, bbox (left, top, width, height in pixels) and score.
        image_ids: The images that count; all of `truth` without it.

    Returns:
        The figures by name, None where the ground truth has no object of that size.

    Raises:
        ImportError: If faster-coco-eval is not installed.
    """
    coco, evaluator = _library()
    with contextlib.redirect_stdout(io.StringIO()):  # it prints a table of its own, in other words than ours
        reference = coco(truth)
        if not predictions:  # the library refuses an empty list; nothing found is 0 wherever there is something to find
            of = {"image_id": truth["images"][0]["id"], "category_id": truth["categories"][0]["id"]}
            predictions = [{**of, "bbox": [0.0, 0.0, 0.0, 0.0], "score": 0.0}]
        result = evaluator(reference, reference.loadRes(predictions), iouType="bbox", print_function=_silent)
        if image_ids is not None:
            result.params.imgIds = image_ids
        result.evaluate()
        result.accumulate()
        result.summarize()
    stats = result.stats_as_dict
    return {ours: float(stats[theirs]) if stats[theirs] >= 0 else None for theirs, ours in _COCO.items()}


def from_labels(labels: list[dict[str, Any]], names: dict[int, str]) -> tuple[dict[str, Any], dict[str, int]]:
    """Return labels as the host's dataset holds them in COCO's form, and the image ids by the stem of the image file.

    Args:
        labels: One mapping an image: im_file, cls (n, 1), bboxes (n, 4; x, y, w, h of 0 to 1).
        names: Class names by index; the index is the category id.

    Raises:
        ValueError: If two images have the same stem: the host's predictions name the stem alone.
    """
    image_ids = _stems(label["im_file"] for label in labels)
    images, boxes = [], []
    for image_id, label in enumerate(labels, start=1):
        with Image.open(label["im_file"]) as image:  # the host takes the shape out of its labels while sorting them
            width, height = exif_size(image)
        images.append({"id": image_id, "width": width, "height": height, "file_name": Path(label["im_file"]).name})
        for cls, (x, y, w, h) in zip(label["cls"].reshape(-1).tolist(), label["bboxes"].tolist()):
            box = [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]
            row = {"image_id": image_id, "category_id": int(cls), "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            boxes.append({"id": len(boxes) + 1, **row})
    categories = [{"id": index, "name": name} for index, name in names.items()]
    return {"info": {}, "images": images, "annotations": boxes, "categories": categories}, image_ids


def _library() -> tuple[type, type]:
    """Return the classes of the library of the COCO rules."""
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise ImportError(_MISSING) from error
    return COCO, COCOeval_faster


def _silent(*_: object) -> None:
    """Take what the library would print."""


def _recording(validator: type, made: list[Any]) -> type:
    """Return the host's validator, but with class indices in its predictions and its own COCO evaluation left out."""

    class Recording(validator):
        def init_metrics(self, model: Any) -> None:
            if len(model.names) != self.data["nc"]:
                counts = f"{len(model.names)} classes, the dataset {self.data['nc']}"
                raise ValueError(f"the model has {counts}: COCO metrics need the same classes")
            super().init_metrics(model)
            self.class_map = list(range(len(model.names)))  # releases number them differently
            made[:] = [self]

        def eval_json(self, stats: dict[str, Any]) -> dict[str, Any]:
            return stats  # for COCO it would put other figures in the place of the host's mAP

    return Recording


def _stems(files: Any) -> dict[str, int]:
    """Number images by the stem of their file, from 1 on."""
    stems = [Path(file).stem for file in files]
    twice = [stem for stem, count in Counter(stems).items() if count > 1]
    if twice:
        raise ValueError(f"images of the same name cannot be told apart in predictions: {', '.join(twice[:5])}")
    return {stem: number for number, stem in enumerate(stems, start=1)}


def _original(data: dict[str, Any], split: str) -> Path | None:
    """Return the original instances JSON that lies in the folder of a dataset, None if there is none."""
    if not isinstance(data[split], str):
        return None
    file = Path(data["path"]) / "annotations" / f"instances_{Path(data[split]).stem}.json"
    return file if file.is_file() else None


def _read(file: Path, labels: list[dict[str, Any]], names: dict[int, str]) -> tuple[dict[str, Any], dict[str, int]]:
    """Return an instances JSON, and its ids of the images that were evaluated by their stems."""
    truth = json.loads(file.read_text("utf-8"))
    known = {Path(image["file_name"]).stem: image["id"] for image in truth["images"]}
    stems = list(_stems(label["im_file"] for label in labels))
    absent = [stem for stem in stems if stem not in known]
    if absent:
        raise ValueError(f"{file} lacks {len(absent)} of the {len(stems)} images: {', '.join(absent[:5])}")
    theirs, ours = [category["name"] for category in truth["categories"]], list(names.values())
    if sorted(theirs) != sorted(ours):
        raise ValueError(f"{file} has the classes {sorted(theirs)}, the dataset {sorted(ours)}")
    return truth, {stem: known[stem] for stem in stems}


def _renamed(
    predictions: list[dict[str, Any]], image_ids: dict[str, int], truth: dict[str, Any], names: dict[int, str]
) -> list[dict[str, Any]]:
    """Return the host's predictions with the image and category ids of the ground truth."""
    by_number = {int(stem): image_id for stem, image_id in image_ids.items() if stem.isnumeric()}  # 000000000042 -> 42
    categories = {category["name"]: category["id"] for category in truth["categories"]}
    return [
        {
            "image_id": (by_number if isinstance(row["image_id"], int) else image_ids)[row["image_id"]],
            "category_id": categories[names[row["category_id"]]],
            "bbox": row["bbox"],
            "score": row["score"],
        }
        for row in predictions
    ]
