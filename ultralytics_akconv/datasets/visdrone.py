# SPDX-License-Identifier: AGPL-3.0-or-later
"""VisDrone's text files: read with their faults named, and converted by the script in the host's VisDrone.yaml."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import yaml
from PIL import Image
from ultralytics.utils import ROOT

from ultralytics_akconv.datasets.shared import check_jpg, read_lines, run_script, splits_of

VISDRONE = ("VisDrone2019-DET-train", "VisDrone2019-DET-val", "VisDrone2019-DET-test-dev")


def convert_text(source: Path, staging: Path) -> dict[str, Any]:
    """Convert VisDrone2019-DET-train, -val and -test-dev.

    Returns:
        The content of a data YAML.
    """
    data = yaml.safe_load((ROOT / "cfg/datasets/VisDrone.yaml").read_text("utf-8"))
    there = [(split, name) for split, name in zip(("train", "val", "test"), VISDRONE) if (source / name).is_dir()]
    splits = splits_of({split: data[split] for split, _ in there}, source)
    for split, name in there:
        files = sorted((source / name / "annotations").glob("*.txt"))
        if not files and split != "test":
            raise FileNotFoundError(f"'{source / name / 'annotations'}' holds no .txt: nothing could be learnt there")
        for file in files:
            _check(file, len(data["names"]))
            _check_image(source / name / "images", file)
    for name in VISDRONE:
        if (source / name).is_dir():
            shutil.copytree(source / name, staging / name)
        else:  # the script goes through all three
            (staging / name / "annotations").mkdir(parents=True)
            (staging / name / "images").mkdir()
    run_script(data, staging)
    return {**splits, "names": data["names"]}


def _check(file: Path, classes: int) -> None:
    """Raise the error that says what is wrong with an annotation file, if the host's script could not read it."""
    lines = read_lines(file)
    while lines and not lines[-1]:  # the script takes blanks at the ends of the file away
        lines.pop()
    for number, line in enumerate(lines, start=1):
        fields = line.split(",")
        if len(fields) < 6:
            raise ValueError(f"{file} cannot be read: line {number} must have 8 fields between commas, got {line!r}")
        if fields[4] == "0":  # an ignored region
            continue
        try:
            *_, category = (int(field) for field in (*fields[:4], fields[5]))
        except ValueError as error:
            raise ValueError(f"{file} cannot be read: line {number}: {error}") from error
        if not 1 <= category <= classes:
            raise ValueError(f"{file} cannot be read: line {number} has the category {category}, not 1 to {classes}")


def _check_image(folder: Path, annotations: Path) -> None:
    """Raise the error that says what is wrong with the image of an annotation file."""
    check_jpg(folder, annotations.stem, annotations)
    file = folder / f"{annotations.stem}.jpg"
    try:
        with Image.open(file):
            pass
    except (ImportError, OSError) as error:  # the host looks for a reader of more formats first
        raise ValueError(f"{file} cannot be read as an image") from error
