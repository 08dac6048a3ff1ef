# SPDX-License-Identifier: AGPL-3.0-or-later
"""Pascal VOC's XML: read with its faults named, and converted by the script in the host's VOC.yaml."""

from __future__ import annotations

import math
import re
import shutil
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from ultralytics.utils import ROOT

from ultralytics_akconv.datasets.shared import check_jpg, copy_files, read_lines, run_script, splits_of

# The host's script goes through these and no others; each year is put in the place of 2007.
_SLOTS = (("2012", "train"), ("2012", "val"), ("2007", "train"), ("2007", "val"), ("2007", "test"))
_SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class _Part:
    """The images of a split of a year ("" where the folder has none), by their stems, and where they lie."""

    year: str
    split: str
    stems: list[str]
    images: Path
    annotations: Path
    listed_in: Path


def has_xml(folder: Path) -> bool:
    """Return whether a folder is in a layout of VOC, also in one that cannot be converted for want of splits."""
    below = any((folder / "Annotations").glob("*.xml"))
    return below or bool(_year_folders(folder)) or any(folder.glob("train/*.xml"))


def convert_xml(source: Path, staging: Path) -> dict[str, Any]:
    """Convert the years of VOC that are there, a folder of that form, or one with each split's XML beside its images.

    With the test set of 2007 beside 2012, both years' train and val are trained on, as in the paper; without, each
    split is that of the years that are there.

    Returns:
        The content of a data YAML.
    """
    parts = _parts(source)
    for year in {part.year for part in parts}:
        same = [part for part in parts if part.year == year]
        counts = Counter(stem for part in same for stem in part.stems)
        twice = [stem for stem, count in counts.items() if count > 1]
        if twice:
            raise ValueError(f"{same[0].listed_in.parent} lists images twice: {', '.join(twice[:5])}")
    there = {part.split + part.year: part for part in parts if part.stems}
    data = yaml.safe_load((ROOT / "cfg/datasets/VOC.yaml").read_text("utf-8"))
    classes = _classes([part.annotations / f"{stem}.xml" for part in parts for stem in part.stems])
    if not classes <= set(data["names"].values()):
        data["names"] = dict(enumerate(sorted(classes)))
    if "train2012" in there and "test2007" in there:  # the 7+12 of the paper
        names = {"train": ["train2012", "train2007", "val2012", "val2007"], "val": ["test2007"], "test": ["test2007"]}
    else:
        years = sorted({part.year for part in parts}, reverse=True)
        names = {split: [f"{split}{year}" for year in years] for split in _SPLITS}
    filled = {split: [f"images/{name}" for name in listed if name in there] for split, listed in names.items()}
    splits = splits_of({split: listed for split, listed in filled.items() if listed}, source)
    for part in there.values():
        for stem in part.stems:
            named_by = part.listed_in if part.listed_in.is_file() else part.annotations / f"{stem}.xml"
            check_jpg(part.images, stem, named_by)
    for year in sorted({part.year for part in there.values()}):
        _run(data, [part for part in there.values() if part.year == year], staging)
    return {**splits, "names": data["names"]}


def _run(data: dict[str, Any], parts: list[_Part], staging: Path) -> None:
    """Have the host's script convert a copy of a year, under numbers for names and in ASCII.

    It opens lists and XML in the encoding of the locale, which on many machines is not UTF-8.
    """
    run = staging.parent / "year"
    numbers = {stem: str(number) for number, stem in enumerate(stem for part in parts for stem in part.stems)}
    devkit = run / "images/VOCdevkit"
    for year, split in _SLOTS:  # the script opens all five lists
        main = devkit / f"VOC{year}/ImageSets/Main"
        main.mkdir(parents=True, exist_ok=True)
        stems = next((part.stems for part in parts if year == "2007" and part.split == split), [])
        (main / f"{split}.txt").write_text("\n".join(numbers[stem] for stem in stems), "utf-8")
    annotations = devkit / "VOC2007/Annotations"
    annotations.mkdir()
    for part in parts:
        images = {f"{stem}.jpg": f"{numbers[stem]}.jpg" for stem in part.stems}
        copy_files([part.images], images, devkit / "VOC2007/JPEGImages")
        for stem in part.stems:
            ElementTree.parse(part.annotations / f"{stem}.xml").write(annotations / f"{numbers[stem]}.xml", "us-ascii")
    run_script(data, run)
    for part in parts:
        for kind, suffix in (("images", ".jpg"), ("labels", ".txt")):
            folder = staging / kind / f"{part.split}{part.year}"
            folder.mkdir(parents=True)
            for stem in part.stems:
                number = run / kind / f"{part.split}2007" / f"{numbers[stem]}{suffix}"
                (folder / stem).parent.mkdir(parents=True, exist_ok=True)
                number.rename(folder / f"{stem}{suffix}")
    shutil.rmtree(run)


def _year_folders(folder: Path) -> dict[str, Path]:
    """Return the folders VOC2007, VOC2012 and so on in a folder or below its VOCdevkit, or the folder itself as ""."""
    for root in (folder / "images/VOCdevkit", folder / "VOCdevkit", folder):
        found = sorted(path for path in root.glob("VOC*") if re.fullmatch(r"VOC\d{4}", path.name))
        years = {path.name[3:]: path for path in found if (path / "ImageSets/Main").is_dir()}
        if years:
            return years
    return {"": folder} if (folder / "ImageSets/Main").is_dir() and (folder / "Annotations").is_dir() else {}


def _parts(source: Path) -> list[_Part]:
    """Return the splits of all years.

    Raises:
        ValueError: If nothing says what is trained on, or years are there that share images.
    """
    years = _year_folders(source)
    if not years and (source / "Annotations").is_dir():
        raise ValueError(
            f"{source} has Annotations and no ImageSets/Main, so nothing says what is trained on: write the names of "
            f"the images without .jpg, one a line, into ImageSets/Main/train.txt and val.txt"
        )
    if len(years) > 1 and not set(years) <= {"2007", "2012"}:
        listed = ", ".join(folder.name for folder in years.values())
        raise ValueError(f"{source} holds {listed}: VOC2008 to VOC2012 share images, so give one of these folders")
    if not years:
        return _parts_beside(source)
    parts = []
    for year, folder in years.items():
        for split in _SPLITS:
            stems, file = _listed(folder, split)
            part = _Part(year, split, stems, folder / "JPEGImages", folder / "Annotations", file)
            # Of the test sets after 2007 the images alone were published.
            unknown = not any((part.annotations / f"{stem}.xml").is_file() for stem in stems)
            if not (split == "test" and year not in ("2007", "") and unknown):
                parts.append(part)
    if not any(part.stems for part in parts):
        main = parts[0].listed_in.parent
        there = ", ".join(sorted(file.name for file in main.glob("*.txt"))) or "nothing"
        raise ValueError(f"{main} has no images listed in train.txt and val.txt; it holds {there}")
    return parts


def _parts_beside(source: Path) -> list[_Part]:
    """Return the splits of a folder whose train, valid (or val) and test hold images and XML side by side.

    Raises:
        ValueError: If an image has no XML, or a name has blanks in it.
    """
    parts = []
    for split, names in (("train", ["train"]), ("val", ["valid", "val"]), ("test", ["test"])):
        folders = [source / name for name in names if any((source / name).glob("*.xml"))]
        if len(folders) > 1:
            raise ValueError(f"{source} holds valid and val: one of the two must be what is validated on")
        for folder in folders:
            stems = sorted(file.stem for file in folder.glob("*.xml"))
            for image in sorted(folder.glob("*.jpg")):
                if not image.with_suffix(".xml").is_file():
                    raise ValueError(
                        f"{image} has no XML beside it: remove it, or write one, without objects if it has none"
                    )
            parts.append(_Part("", split, [_whole(stem, folder) for stem in stems], folder, folder, folder))
    return parts


def _listed(folder: Path, split: str) -> tuple[list[str], Path]:
    """Return the images of a split by their stems, and the file that lists them."""
    file = folder / f"ImageSets/Main/{split}.txt"
    lines = [line.lstrip("\ufeff") for line in read_lines(file)] if file.is_file() else []
    return [_whole(line, file) for line in lines if line], file


def _whole(stem: str, file: Path) -> str:
    """Return the name of an image, if it has no blanks in it."""
    if len(stem.split()) > 1:
        raise ValueError(f"{file}: Ultralytics' converter cuts the name {stem!r} at its blanks: rename that image")
    return stem


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
            raise ValueError(f"{file}: an object without <difficult>, which Ultralytics' converter needs")
        if _number(file, item, "difficult", int) != 1:  # the others are left out
            left, top, right, bottom = (
                _number(file, item, f"bndbox/{side}", float) for side in ("xmin", "ymin", "xmax", "ymax")
            )
            if not (left <= right and top <= bottom):  # NaN too
                raise ValueError(f"{file} cannot be read: the box of a {name} ends before it begins")
            if not all(map(math.isfinite, (left, top, right, bottom))):
                raise ValueError(f"{file} cannot be read: the box of a {name} does not end")
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
