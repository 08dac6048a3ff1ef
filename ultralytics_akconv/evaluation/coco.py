# SPDX-License-Identifier: AGPL-3.0-or-later
"""AP of boxes by COCO rules, from the host's predictions and either the original annotations or its labels.

The rules (crowd boxes, sizes, at most 100 boxes an image) are those of `faster-coco-eval`, the library the host uses
itself; the figures differ from the host's mAP, never mix the two.
"""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image
from ultralytics.data.utils import exif_size

from ultralytics_akconv.datasets import group_categories, read_instances

# The library's name of each figure -> ours, in the order of the paper's tables.
_COCO = {"AP_50": "AP50", "AP_75": "AP75", "AP_all": "AP", "AP_small": "APS", "AP_medium": "APM", "AP_large": "APL"}
_MISSING = "COCO metrics need faster-coco-eval: pip install 'ultralytics-akconv[eval]'"


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
    coco, evaluator = coco_library()
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
    image_ids = numbered_stems(label["im_file"] for label in labels)
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


def coco_library() -> tuple[type, type]:
    """Return the classes of the library of the COCO rules."""
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise ImportError(_MISSING) from error
    return COCO, COCOeval_faster


def _silent(*_: object) -> None:
    """Take what the library would print."""


def numbered_stems(files: Iterable[str | Path]) -> dict[str, int]:
    """Number images by the stem of their file, from 1 on.

    Raises:
        ValueError: If two images have the same stem: the host's predictions name the stem alone.
    """
    stems = [Path(file).stem for file in files]
    counts = Counter(int(stem) if stem.isdecimal() else stem for stem in stems)  # it takes 007 for 7
    twice = [str(stem) for stem, count in counts.items() if count > 1]
    if twice:
        raise ValueError(f"images of the same name cannot be told apart in predictions: {', '.join(twice[:5])}")
    return {stem: number for number, stem in enumerate(stems, start=1)}


def original_annotations(data: dict[str, Any], split: str) -> Path | None:
    """Return the original instances JSON that lies in the folder of a dataset, None if there is none."""
    if not isinstance(data[split], str):
        return None
    file = Path(data["path"]) / "annotations" / f"instances_{Path(data[split]).stem}.json"
    return file if file.is_file() else None


def read_truth(file: Path, files: Iterable[str | Path], names: dict[int, str]) -> tuple[dict[str, Any], dict[str, int]]:
    """Return an instances JSON, and its ids of the images that are evaluated by their stems.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is none, or lacks an image or a class.
    """
    truth = read_instances(file)
    known = {Path(image["file_name"]).stem: image["id"] for image in truth["images"]}
    stems = list(numbered_stems(files))
    absent = [stem for stem in stems if stem not in known]
    if absent:
        raise ValueError(f"{file} lacks {len(absent)} of the {len(stems)} images: {', '.join(absent[:5])}")
    theirs, ours = [category["name"] for category in truth["categories"]], list(names.values())
    if sorted(theirs) != sorted(ours):  # perhaps for a category that is no class
        groups = group_categories(truth)
        truth["categories"] = [category for category in truth["categories"] if category["id"] not in groups]
        theirs = [category["name"] for category in truth["categories"]]
    if sorted(theirs) != sorted(ours):
        raise ValueError(f"{file} has the classes {sorted(theirs)}, the dataset {sorted(ours)}")
    for row in truth["annotations"]:  # some tools leave them out; labels have them no better
        row.setdefault("area", row["bbox"][2] * row["bbox"][3])
        row.setdefault("iscrowd", 0)
    return truth, {stem: known[stem] for stem in stems}


def renamed(
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
