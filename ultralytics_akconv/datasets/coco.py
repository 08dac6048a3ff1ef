# SPDX-License-Identifier: AGPL-3.0-or-later
"""COCO's instances JSON: read with its faults named, and converted by the host."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from ultralytics.data.converter import coco80_to_coco91_class, convert_coco

from ultralytics_akconv.datasets.shared import copy_files, splits_of

_BESIDE = "_annotations.coco.json"  # as Roboflow calls the file in the folder of a split
_FAR = 1e9  # pixels


def read_instances(file: Path) -> dict[str, Any]:
    """Return the content of an instances JSON.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is none: no JSON, or an image, a category or a box in it that is not what it should be.
    """
    if not file.is_file():
        raise FileNotFoundError(f"'{file}' does not exist")
    try:
        content = json.loads(file.read_text("utf-8"))
    except (RecursionError, ValueError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from error
    fault = next(_faults(content), None)
    if fault:
        raise ValueError(f"{file} cannot be read: {fault}")
    return content


def json_files(folder: Path) -> dict[str, Path]:
    """Return the instances files of a folder by split: annotations/instances_*.json, or one beside each split's images.

    Raises:
        ValueError: If there are both.
    """
    files = {f.stem.removeprefix("instances_"): f for f in sorted((folder / "annotations").glob("instances_*.json"))}
    beside = {file.parent.name: file for file in sorted(folder.glob(f"*/{_BESIDE}"))}
    if files and beside:
        raise ValueError(f"{folder} holds annotations/instances_*.json and */{_BESIDE}: take one of the two away")
    return files or beside


def convert_json(source: Path, staging: Path) -> dict[str, Any]:
    """Convert the instances files; images are looked for in <split>, images/<split>, images and beside.

    Category ids may begin anywhere, have gaps and differ from file to file: in the order of the first file the names
    become the classes 0, 1, ... One that only names a group of others, as Roboflow writes it, becomes none.

    Returns:
        The content of a data YAML.
    """
    files = json_files(source)
    contents = {split: read_instances(file) for split, file in files.items()}
    splits = splits_of({split: f"images/{split}" for split in files}, source)
    groups = set.intersection(*(group_categories(content) for content in contents.values()))
    for split, content in contents.items():
        contents[split] = {**content, "categories": [c for c in content["categories"] if c["id"] not in groups]}
    categories = _common_categories(files, contents)
    first = next(iter(categories.values()))
    classes = {name: number for number, name in enumerate(first.values(), start=1)}
    numbers = {split: {category: classes[name] for category, name in c.items()} for split, c in categories.items()}
    original = list(first) == coco80_to_coco91_class() and all(c == first for c in categories.values())
    images = {split: _image_names(files[split], content) for split, content in contents.items()}
    fit = original or all(category == number for n in numbers.values() for category, number in n.items())
    as_they_are = fit and all(name == new and "/" not in new for r in images.values() for name, new in r.items())
    written = images if as_they_are else {split: _flat(renamed) for split, renamed in images.items()}
    annotations = staging.parent / "annotations"
    annotations.mkdir()
    for split, file in files.items():
        if as_they_are and not groups:
            shutil.copy2(file, annotations / f"instances_{split}.json")
        else:
            renumbered = _renumbered(contents[split], numbers[split], written[split])
            _write(annotations / f"instances_{split}.json", renumbered)
    convert_coco(str(annotations), str(staging), cls91to80=original and as_they_are and not groups)
    if not as_they_are:
        for split, renamed in images.items():
            _move_labels(staging / "labels" / split, {written[split][name]: new for name, new in renamed.items()})
    (staging / "annotations").mkdir()
    for split, file in files.items():
        folders = [source / split, source / "images" / split, source / "images", source]
        copy_files(folders, images[split], staging / "images" / split)
        kept = staging / f"annotations/instances_{split}.json"  # for the evaluation by COCO rules, which knows crowds
        if groups:
            _write(kept, contents[split])
        else:
            shutil.copy2(file, kept)
    return {**splits, "names": dict(enumerate(classes))}


def _flat(images: dict[str, str]) -> dict[str, str]:
    """Return a name without a folder for each image: older releases of the host make no folders for labels."""
    return {name: f"{number}.jpg" for number, name in enumerate(images)}


def _move_labels(folder: Path, names: dict[str, str]) -> None:
    """Give the labels of images the names that the images get."""
    if not folder.is_dir():  # no image has boxes
        return
    unnamed = folder.with_name(f"{folder.name}.unnamed")
    folder.rename(unnamed)
    folder.mkdir()
    for old, new in names.items():
        label, target = (unnamed / old).with_suffix(".txt"), (folder / new).with_suffix(".txt")
        if label.is_file():  # an image without boxes has none
            target.parent.mkdir(parents=True, exist_ok=True)
            label.rename(target)
    unnamed.rmdir()


def _write(file: Path, content: dict[str, Any]) -> None:
    """Write the content of an instances file."""
    file.write_text(json.dumps(content), "utf-8")


def group_categories(content: dict[str, Any]) -> set[int]:
    """Return the ids of the categories that only name a group of others: none above them, and no boxes."""
    above = [category.get("supercategory") for category in content["categories"]]
    used = {row["category_id"] for row in content["annotations"]}
    return {
        row["id"]
        for row in content["categories"]
        if row.get("supercategory") == "none" and row["name"] in above and row["id"] not in used
    }


def _common_categories(files: dict[str, Path], contents: dict[str, Any]) -> dict[str, dict[int, str]]:
    """Return the names of the categories by their ids, sorted, of each file; all files must have the same names.

    Raises:
        ValueError: If they have not, or a name would make a class beside another by blanks or capitals alone.
    """
    found = {split: dict(sorted((c["id"], c["name"]) for c in d["categories"])) for split, d in contents.items()}
    first, *others = found
    for split in others:
        if sorted(found[first].values()) != sorted(found[split].values()):
            different = sorted(found[first].items() ^ found[split].items())
            listed = ", ".join(f"{number} {name!r}" for number, name in different)
            raise ValueError(f"{files[first]} and {files[split]} have different categories: {listed}")
    alike = Counter(name.strip().lower() for name in found[first].values())
    for name in found[first].values():
        if name != name.strip() or alike[name.strip().lower()] > 1:
            like = [other for other in found[first].values() if other.strip().lower() == name.strip().lower()]
            raise ValueError(
                f"{files[first]} has the categories {', '.join(map(repr, like))}: "
                f"a name has no blanks around it, and two do not differ in capitals alone"
            )
    return found


def _image_names(file: Path, content: dict[str, Any]) -> dict[str, str]:
    """Return the images of a file, each with the name its copy gets: the host looks labels up by folders `images`.

    Raises:
        ValueError: If an image has no size, or two get one name.
    """
    names: dict[str, str] = {}
    for image in content["images"]:
        for side in ("width", "height"):
            if not _is_number(image.get(side)) or image[side] < 1:
                raise ValueError(f"{file}: image {image['file_name']!r} has the {side} {image.get(side)!r}")
        parts = [part for part in PurePosixPath(image["file_name"]).parts if part != "images"]
        names[image["file_name"]] = "/".join(parts)
    stems = Counter(str(PurePosixPath(name).with_suffix("")) for name in names.values())  # one label file each
    twice = [name for name, count in stems.items() if count > 1]
    if twice or len(names) < len(content["images"]):
        raise ValueError(f"{file} holds two images of one name: {', '.join(twice[:5]) or 'see their file_name'}")
    return names


def _renumbered(content: dict[str, Any], numbers: dict[int, int], images: dict[str, str]) -> dict[str, Any]:
    """Return the content with category ids from 1 on and images under the names of their copies."""
    return {
        "images": [{**image, "file_name": images[image["file_name"]]} for image in content["images"]],
        "annotations": [{**row, "category_id": numbers[row["category_id"]]} for row in content["annotations"]],
        "categories": [{**c, "id": numbers[c["id"]]} for c in content["categories"]],
    }


def _faults(content: Any) -> Iterator[str]:
    """Yield what is wrong with the content of an instances JSON, first things first."""
    parts = ("images", "categories", "annotations")
    if not isinstance(content, dict) or not all(isinstance(content.get(part), list) for part in parts):
        yield f"it must map {', '.join(parts)} to lists"
        return
    ids: dict[str, set[int]] = {}
    for part, name in (("images", "file_name"), ("categories", "name")):
        for row in content[part]:
            if not (isinstance(row, dict) and _is_int(row.get("id")) and isinstance(row.get(name), str) and row[name]):
                yield f"a row of {part} must have an id, which is an int, and a {name}, got {row!r:.200}"
                return
        ids[part] = {row["id"] for row in content[part]}
        if len(ids[part]) < len(content[part]):
            yield f"two rows of {part} have one id"
    if not content["categories"]:
        yield "it has no categories"
    for row in content["annotations"]:
        if not isinstance(row, dict) or not _is_int(row.get("image_id")) or row["image_id"] not in ids["images"]:
            yield f"an annotation names no image of the file: {row!r:.200}"
        elif not _is_int(row.get("category_id")) or row["category_id"] not in ids["categories"]:
            yield f"an annotation names no category of the file: {row!r:.200}"
        elif not _is_box(row.get("bbox")):
            yield f"the bbox of an annotation must be four numbers, got {row.get('bbox')!r:.200}"
        elif row.get("iscrowd") not in (None, 0, 1):  # the host takes all else for a crowd, which it leaves out
            yield f"iscrowd of an annotation must be 0 or 1, got {row['iscrowd']!r:.200}"
    groups = group_categories(content)  # one may be called as the only class of its group
    names = Counter(row["name"] for row in content["categories"] if row["id"] not in groups)
    for name in (name for name, count in names.items() if count > 1):
        yield f"two categories are called {name!r}"


def _is_int(value: Any) -> bool:
    """Return whether a value is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    """Return whether a value is a number that pixels can be counted by: no NaN, and nothing infinite or as good as."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -_FAR < value < _FAR


def _is_box(value: Any) -> bool:
    """Return whether a value is a list of four numbers."""
    return isinstance(value, list) and len(value) == 4 and all(map(_is_number, value))
