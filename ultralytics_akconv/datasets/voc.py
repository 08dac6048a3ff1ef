# SPDX-License-Identifier: AGPL-3.0-or-later
"""Pascal VOC's XML: read with its faults named, and converted by the script in the host's VOC.yaml."""

from __future__ import annotations

import shutil
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from ultralytics.utils import ROOT

from ultralytics_akconv.datasets.shared import check_jpg, copy_files, read_lines, run_script, splits_of

# The script goes through these and no others.
_SETS = (("2012", "train"), ("2012", "val"), ("2007", "train"), ("2007", "val"), ("2007", "test"))


def voc_years(folder: Path) -> dict[str, Path]:
    """Return the folders of VOC form: VOC2007 and VOC2012 in it, or below VOCdevkit, or the folder itself as 2007."""
    for root in (folder / "images/VOCdevkit", folder / "VOCdevkit", folder):
        years = {
            year: root / f"VOC{year}" for year in ("2007", "2012") if (root / f"VOC{year}/ImageSets/Main").is_dir()
        }
        if years:
            return years
    if (folder / "Annotations").is_dir() and (folder / "ImageSets/Main").is_dir():
        return {"2007": folder}
    return {}


def convert_xml(source: Path, staging: Path) -> dict[str, Any]:
    """Convert VOC2007 and VOC2012, one of them, or one folder of that form.

    With the test set of 2007 beside 2012, both years' train and val are trained on, as in the paper; without, each
    split is that of the years that are there.

    Returns:
        The content of a data YAML.
    """
    years = voc_years(source)
    stems = {(year, split): _listed(years[year], split) for year, split in _SETS if year in years}
    for year, folder in years.items():
        counts = Counter(stem for (other, _), listed in stems.items() if other == year for stem in listed)
        twice = [stem for stem, count in counts.items() if count > 1]
        if twice:
            raise ValueError(f"{folder / 'ImageSets/Main'} lists images twice: {', '.join(twice[:5])}")
    data = yaml.safe_load((ROOT / "cfg/datasets/VOC.yaml").read_text("utf-8"))
    files = [years[year] / f"Annotations/{stem}.xml" for (year, _), listed in stems.items() for stem in listed]
    classes = _classes(files)
    if not classes <= set(data["names"].values()):
        data["names"] = dict(enumerate(sorted(classes)))
    for year, split in _SETS:
        copy = staging / "images/VOCdevkit" / f"VOC{year}"
        (copy / "ImageSets/Main").mkdir(parents=True, exist_ok=True)
        listed = stems.get((year, split), [])
        (copy / f"ImageSets/Main/{split}.txt").write_text("\n".join(listed), "utf-8")  # the script opens all five
        for stem in listed:
            check_jpg(years[year] / "JPEGImages", stem, years[year] / f"ImageSets/Main/{split}.txt")
        if listed:
            copy_files([years[year] / "JPEGImages"], [f"{stem}.jpg" for stem in listed], copy / "JPEGImages")
            copy_files([years[year] / "Annotations"], [f"{stem}.xml" for stem in listed], copy / "Annotations")
    run_script(data, staging)
    shutil.rmtree(staging / "images/VOCdevkit")
    if stems.get(("2012", "train")) and stems.get(("2007", "test")):  # the 7+12 of the paper
        parts = {"train": ["train2012", "train2007", "val2012", "val2007"], "val": ["test2007"], "test": ["test2007"]}
    else:
        parts = {split: [f"{split}2012", f"{split}2007"] for split in ("train", "val", "test")}
    there = {f"{split}{year}" for (year, split), listed in stems.items() if listed}
    filled = {split: [f"images/{part}" for part in names if part in there] for split, names in parts.items()}
    return {**splits_of({s: p for s, p in filled.items() if p}, source), "names": data["names"]}


def _listed(folder: Path, split: str) -> list[str]:
    """Return the images of a split by their stems."""
    file = folder / f"ImageSets/Main/{split}.txt"
    stems = [line for line in read_lines(file) if line] if file.is_file() else []
    for stem in stems:
        if len(stem.split()) > 1:
            raise ValueError(f"{file}: Ultralytics' converter cuts the name {stem!r} at its blanks: rename that image")
    return stems


def _classes(files: list[Path]) -> set[str]:
    """Return the names of the classes in some XML files, which are checked on the way.

    Raises:
        FileNotFoundError: If a file is not there.
        ValueError: If one cannot be read, or two names differ in capitals alone.
    """
    first: dict[str, Path] = {}
    for file in files:
        for name in _names(file):
            first.setdefault(name, file)
    alike: dict[str, list[str]] = {}
    for name in first:
        alike.setdefault(name.lower(), []).append(name)
    for names in alike.values():
        if len(names) > 1:
            where = ", ".join(f"{name!r} ({first[name]})" for name in names)
            raise ValueError(f"classes differ in capitals alone: {where}. Call them alike")
    return set(first)


def _names(file: Path) -> list[str]:
    """Return the names of the objects in an XML file, after checking all that the host's script reads in it."""
    try:
        root = ElementTree.parse(file).getroot()
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # no XML, or in an encoding that is none
        raise ValueError(f"{file} cannot be read: {error}") from error
    for side in ("width", "height"):
        if _number(file, root, f"size/{side}", int) < 1:
            raise ValueError(f"{file} cannot be read: the {side} of the image is {root.findtext(f'size/{side}')}")
    names = []
    for item in root.iter("object"):
        name = item.findtext("name") or ""
        if not name or name != name.strip():
            raise ValueError(f"{file}: an object has the class {name!r}: a name without blanks around it is needed")
        if item.find("difficult") is None:
            raise ValueError(f"{file}: an object without <difficult>, which the host's converter needs")
        if _number(file, item, "difficult", int) != 1:  # the others are left out
            left, top, right, bottom = (
                _number(file, item, f"bndbox/{side}", float) for side in ("xmin", "ymin", "xmax", "ymax")
            )
            if not (left <= right and top <= bottom):  # NaN too
                raise ValueError(f"{file} cannot be read: the box of a {name} ends before it begins")
        names.append(name)
    return names


def _number(file: Path, element: ElementTree.Element, path: str, kind: Callable[[str], float]) -> float:
    """Return the number of an element below another."""
    text = element.findtext(path)
    try:
        return kind(text)
    except (TypeError, ValueError):
        found = "is missing" if text is None else f"is {text!r}"
        raise ValueError(f"{file} cannot be read: <{path}> {found}, which must be a number") from None
