# SPDX-License-Identifier: AGPL-3.0-or-later
"""The bundled images (MIT) in the original layouts of COCO, VOC and VisDrone, what becomes of them, and detections."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from conftest import ROOT, yolov8_dict
from PIL import Image
from ultralytics.data.utils import check_det_dataset

from ultralytics_akconv.datasets import find_data

MINI = ROOT / "cfg/datasets/akconv-mini"
NAMES = ("RBC", "WBC", "Platelets")
COCO_JSON = ROOT / "tests/data/coco/instances_val2017.json"


def boxes(split, limit=3):
    """Return (image file, width, height, [(class, left, top, width, height) in whole pixels]) of some images."""
    found = []
    for image in sorted((MINI / "images" / split).glob("*.jpg"))[:limit]:
        width, height = Image.open(image).size
        rows = []
        for line in (MINI / "labels" / split / f"{image.stem}.txt").read_text("utf-8").splitlines():
            cls, x, y, w, h = map(float, line.split())
            corner = (round((x - w / 2) * width), round((y - h / 2) * height))
            rows.append((int(cls), *corner, round(w * width), round(h * height)))
        found.append((image, width, height, rows))
    return found


def write_voc(folder):
    """Write Annotations, ImageSets/Main and JPEGImages."""
    for name in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (folder / name).mkdir(parents=True)
    for split in ("train", "val"):
        found = boxes(split)
        (folder / f"ImageSets/Main/{split}.txt").write_text("\n".join(f[0].stem for f in found) + "\n", "utf-8")
        for image, width, height, rows in found:
            shutil.copy(image, folder / "JPEGImages")
            objects = "".join(
                f"<object><name>{NAMES[cls]}</name><difficult>{int(number == 0)}</difficult><bndbox><xmin>{left}</xmin>"
                f"<ymin>{top}</ymin><xmax>{left + w}</xmax><ymax>{top + h}</ymax></bndbox></object>"
                for number, (cls, left, top, w, h) in enumerate(rows)
            )
            size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
            (folder / f"Annotations/{image.stem}.xml").write_text(f"<annotation>{size}{objects}</annotation>", "utf-8")
    return folder


def write_visdrone(folder):
    """Write VisDrone2019-DET-train and -val: CRLF, trailing commas, an ignored region first."""
    for split in ("train", "val"):
        root = folder / f"VisDrone2019-DET-{split}"
        (root / "images").mkdir(parents=True)
        (root / "annotations").mkdir()
        for image, _, _, rows in boxes(split):
            shutil.copy(image, root / "images")
            lines = ["0,0,50,50,0,0,0,0,", *(f"{x},{y},{w},{h},1,{cls + 1},0,0" for cls, x, y, w, h in rows)]
            (root / f"annotations/{image.stem}.txt").write_bytes(("\r\n".join(lines) + "\r\n").encode())
    return folder


def write_coco(folder):
    """Write annotations/instances_*.json and the images beside, with contiguous category ids and one crowd."""
    (folder / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        (folder / split).mkdir()
        images, annotations = [], []
        for number, (image, width, height, rows) in enumerate(boxes(split), start=1):
            shutil.copy(image, folder / split)
            images.append({"id": number, "file_name": image.name, "width": width, "height": height})
            for cls, *box in rows:
                row = {"image_id": number, "category_id": cls + 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
                annotations.append({"id": len(annotations) + 1, **row})
        annotations[0]["iscrowd"] = 1
        categories = [{"id": i, "name": name} for i, name in enumerate(NAMES, start=1)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (folder / f"annotations/instances_{split}.json").write_text(json.dumps(content), "utf-8")
    return folder


def write_roboflow_coco(folder):
    """Write train and valid, each with images and _annotations.coco.json, whose category 0 names the group."""
    write_coco(folder)
    for split, name in (("train", "train"), ("val", "valid")):
        file = folder / f"annotations/instances_{split}.json"
        content = json.loads(file.read_text("utf-8"))
        group = {"id": 0, "name": "cells", "supercategory": "none"}
        content["categories"] = [group, *({**c, "supercategory": "cells"} for c in content["categories"])]
        file.write_text(json.dumps(content), "utf-8")
        (folder / split).rename(folder / name)
        file.rename(folder / name / "_annotations.coco.json")
    (folder / "annotations").rmdir()
    return folder


def write_roboflow_voc(folder):
    """Write train and valid, each with images and their XML side by side."""
    write_voc(folder / "voc")
    for split, name in (("train", "train"), ("val", "valid")):
        (folder / name).mkdir()
        for stem in (folder / f"voc/ImageSets/Main/{split}.txt").read_text("utf-8").split():
            for part in (f"JPEGImages/{stem}.jpg", f"Annotations/{stem}.xml"):
                (folder / "voc" / part).rename(folder / name / Path(part).name)
    shutil.rmtree(folder / "voc")
    return folder


def write_original_coco(folder):
    """Write twelve images' own COCO annotations (80 classes, crowds), with grey images of their sizes."""
    content = json.loads(COCO_JSON.read_text("utf-8"))
    (folder / "annotations").mkdir(parents=True)
    for split in ("train2017", "val2017"):
        shutil.copy(COCO_JSON, folder / f"annotations/instances_{split}.json")
        (folder / split).mkdir()
        for image in content["images"]:
            Image.new("RGB", (image["width"], image["height"]), "grey").save(folder / split / image["file_name"])
    return folder


def small_model(folder, **options):
    """Write a YOLOv8n, or with `name` an AKConv one, of the bundled images' three classes and return its file."""
    file = folder / "yolov8n-three.yaml"
    file.write_text(yaml.safe_dump({**yolov8_dict(3, 2, **options), "nc": 3}), "utf-8")
    return file


def detect_labels(monkeypatch, noise, copies):
    """Have the host's validator find every label in some copies, moved by `noise` as a share of the box."""
    from ultralytics.models.yolo.detect import DetectionValidator

    original = DetectionValidator.update_metrics

    def update_metrics(self, preds, batch):
        height, width = batch["img"].shape[2:]
        found = []
        for index, pred in enumerate(preds):
            own = batch["batch_idx"] == index
            x, y, w, h = (batch["bboxes"][own] * torch.tensor([width, height, width, height])).repeat(copies, 1).T
            x, y = x + noise * w * torch.randn_like(x), y + noise * h * torch.randn_like(y)
            found.append(
                {
                    **pred,
                    "bboxes": torch.stack((x - w / 2, y - h / 2, x + w / 2, y + h / 2), 1),
                    "conf": torch.rand(len(x)),
                    "cls": batch["cls"][own].reshape(-1).repeat(copies),
                    "extra": torch.zeros(len(x), 0),
                }
            )
        original(self, found, batch)

    monkeypatch.setattr(DetectionValidator, "update_metrics", update_metrics)


def tree(folder):
    """Return the content of every file of a folder."""
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(Path(folder).rglob("*")) if f.is_file()}


def refused(source, message):
    """Expect one line that names a file, the source as it was, and nothing left of the conversion."""
    before = tree(source)
    with pytest.raises((ValueError, OSError), match=re.escape(message)) as error:
        find_data(source, source.parent / "out")
    assert "\n" not in str(error.value)
    assert tree(source) == before
    assert [file.name for file in source.parent.iterdir()] == [source.name]


def converted(source):
    """Return the data YAML of a converted dataset, and all label rows by the stem of their image."""
    out = source.parent / "out"
    data = yaml.safe_load(find_data(source, out).read_text("utf-8"))
    check_det_dataset(str(out / "data.yaml"))
    rows = {f.stem: [line.split() for line in f.read_text("utf-8").splitlines()] for f in out.rglob("labels/**/*.txt")}
    return data, rows
