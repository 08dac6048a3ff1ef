# SPDX-License-Identifier: AGPL-3.0-or-later
"""Finds a dataset, and has one in its original layout (COCO JSON, VOC XML, VisDrone txt) converted by the host.

The host's converters of VOC and VisDrone move images and delete what they came from, so they get a copy. What they do
to the annotations is theirs (see docs/datasets.md); nothing is rewritten here.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any
from unittest import mock

import yaml
from ultralytics.data.converter import convert_coco
from ultralytics.data.utils import check_det_dataset
from ultralytics.utils import DATASETS_DIR, ONLINE, ROOT

NAMED = {"coco": "coco.yaml", "voc": "VOC.yaml", "visdrone": "VisDrone.yaml"}
_SOURCE = "# converted from: "
_VISDRONE = ("VisDrone2019-DET-train", "VisDrone2019-DET-val", "VisDrone2019-DET-test-dev")
_VOC_SETS = (("2012", "train"), ("2012", "val"), ("2007", "train"), ("2007", "val"), ("2007", "test"))


def find_data(data: str | Path, output: str | Path | None = None) -> Path:
    """Return the data YAML of a dataset, converted first if it is there in its original layout alone.

    Args:
        data: "coco", "voc" or "visdrone", looked for in the host's datasets folder; a data YAML; or the folder of a
            dataset, in the host's layout or an original one.
        output: Folder of a conversion's result. Without it, the source's folder in the datasets folder with `-yolo`
            appended. What is there already from the same source is used again.

    Returns:
        The YAML. Of a named dataset that is absent while the host is online, the host's own, which downloads it.

    Raises:
        FileNotFoundError: If there is no such dataset; the message says where to put it.
        ValueError: If the layout is unknown, or `output` holds something else.
    """
    if str(data) in NAMED:
        return _named(str(data), output)
    path = Path(data)
    if path.is_dir():
        files = sorted(path.glob("*.yaml"))
        if len(files) == 1:
            return files[0]
        kind = layout(path)
        if kind is None:
            raise ValueError(
                f"{path} holds {len(files)} data YAMLs and no known layout: neither annotations/instances_*.json "
                f"(COCO), nor VOCdevkit or Annotations with ImageSets/Main (VOC), nor {_VISDRONE[0]} (VisDrone)"
            )
        return convert(path, kind, output)
    if path.suffix not in (".yaml", ".yml"):
        raise FileNotFoundError(f"there is no dataset '{data}': give {', '.join(NAMED)}, a data YAML or a folder")
    return path  # the host looks a bare name up among its own


def layout(folder: Path) -> str | None:
    """Return in which original layout a folder is: "coco", "voc", "visdrone", or None."""
    if any((folder / "annotations").glob("instances_*.json")):
        return "coco"
    if _voc_years(folder):
        return "voc"
    return "visdrone" if any((folder / name / "annotations").is_dir() for name in _VISDRONE) else None


def convert(source: Path, kind: str, output: str | Path | None = None) -> Path:
    """Convert a copy of a dataset with the host's converter and return its data YAML. The original stays as it is.

    Raises:
        FileNotFoundError, ValueError: If something is missing in the source, or the result's folder is in use.
    """
    source = source.resolve()
    target = Path(output).resolve() if output else DATASETS_DIR / f"{source.name}-yolo"
    file = target / "data.yaml"
    if file.is_file() and file.read_text("utf-8").splitlines()[0] == f"{_SOURCE}{source}":
        return file
    if target.exists():
        raise ValueError(f"{target} is in the way of converting {source}: remove it, or give another output folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as folder:  # gone if it fails
        staging = Path(folder) / "data"
        content = {"coco": _coco, "voc": _voc, "visdrone": _visdrone}[kind](source, staging)
        text = yaml.safe_dump(content, sort_keys=False)  # no path: the host takes the folder of the file
        (staging / "data.yaml").write_text(f"{_SOURCE}{source}\n{text}", "utf-8")
        os.replace(staging, target)  # whole, or not at all
    return file


def _named(name: str, output: str | Path | None) -> Path:
    """Return the data YAML of one of the three datasets of the paper."""
    file = next((ROOT / "cfg/datasets").glob(NAMED[name]))
    data = yaml.safe_load(file.read_text("utf-8"))
    folder = DATASETS_DIR / Path(data["path"]).name
    val = data["val"] if isinstance(data["val"], list) else [data["val"]]
    labelled = any(folder.glob("labels")) or any(folder.glob("*/labels"))
    if labelled and all((folder / part).exists() for part in val):
        return file
    if folder.is_dir() and layout(folder) == name:
        return convert(folder, name, output)
    if ONLINE:
        return file
    raise FileNotFoundError(
        f"the dataset {name} is not in {folder}, and there is no network to download it. Put it there in the layout "
        f"of {NAMED[name]} or as it was published, or give its folder; `yolo settings datasets_dir=...` moves the place"
    )


def _coco(source: Path, staging: Path) -> dict[str, Any]:
    """Convert annotations/instances_*.json; images are looked for in <split>, images/<split> and images."""
    files = sorted((source / "annotations").glob("instances_*.json"))
    splits = {file.stem.removeprefix("instances_"): json.loads(file.read_text("utf-8")) for file in files}
    categories = {
        json.dumps(content["categories"], sort_keys=True): content["categories"] for content in splits.values()
    }
    if len(categories) > 1:
        raise ValueError(f"the files of {source / 'annotations'} have different categories")
    classes = sorted(next(iter(categories.values())), key=lambda category: category["id"])
    ids = [category["id"] for category in classes]
    original = len(ids) == 80 and ids[-1] == 90
    if not original and ids != list(range(1, len(ids) + 1)):
        raise ValueError(f"categories of {files[0]} have the ids {ids}: they must be 1 to {len(ids)}, or COCO's own 80")
    annotations = staging.parent / "annotations"
    annotations.mkdir()
    for file in files:
        shutil.copy2(file, annotations)
    convert_coco(str(annotations), str(staging), cls91to80=original)
    for split, content in splits.items():
        folders = [source / split, source / "images" / split, source / "images"]
        _copy_images(folders, [image["file_name"] for image in content["images"]], staging / "images" / split)
    shutil.move(str(annotations), staging)  # for the evaluation by COCO rules, which knows crowds
    return {
        **_splits({s: f"images/{s}" for s in splits}, source),
        "names": {i: c["name"] for i, c in enumerate(classes)},
    }


def _voc(source: Path, staging: Path) -> dict[str, Any]:
    """Convert VOC2007 and VOC2012, or one folder of that form, with the script in the host's VOC.yaml."""
    years = _voc_years(source)
    data = yaml.safe_load((ROOT / "cfg/datasets/VOC.yaml").read_text("utf-8"))
    objects = [(file, obj) for folder in years.values() for file in sorted((folder / "Annotations").glob("*.xml"))
               for obj in ElementTree.parse(file).iter("object")]  # fmt: skip
    for file, obj in objects:
        if obj.find("difficult") is None:
            raise ValueError(f"{file}: an object without <difficult>, which the host's converter needs")
    classes = {obj.find("name").text for _, obj in objects}
    if not classes <= set(data["names"].values()):
        data["names"] = dict(enumerate(sorted(classes)))
    sizes = {}
    for year, split in _VOC_SETS:
        copy = staging / "images/VOCdevkit" / f"VOC{year}"
        (copy / "ImageSets/Main").mkdir(parents=True, exist_ok=True)
        listed = years[year] / f"ImageSets/Main/{split}.txt" if year in years else None
        stems = listed.read_text("utf-8").split() if listed and listed.is_file() else []
        (copy / f"ImageSets/Main/{split}.txt").write_text("\n".join(stems), "utf-8")  # the script opens all five
        sizes[f"{split}{year}"] = len(stems)
        if stems:
            _copy_images([years[year] / "JPEGImages"], [f"{stem}.jpg" for stem in stems], copy / "JPEGImages")
            _copy_images([years[year] / "Annotations"], [f"{stem}.xml" for stem in stems], copy / "Annotations")
    _run_script(data, staging)
    shutil.rmtree(staging / "images/VOCdevkit")
    if "2012" in years:  # the 7+12 of the paper: trained on train and val
        parts = {"train": ["train2012", "train2007", "val2012", "val2007"], "val": ["test2007"], "test": ["test2007"]}
    else:
        parts = {"train": ["train2007"], "val": ["val2007"], "test": ["test2007"]}
    filled = {s: [f"images/{p}" for p in names if sizes[p]] for s, names in parts.items()}
    return {**_splits({s: p for s, p in filled.items() if p}, source), "names": data["names"]}


def _visdrone(source: Path, staging: Path) -> dict[str, Any]:
    """Convert VisDrone2019-DET-train, -val and -test-dev with the script in the host's VisDrone.yaml."""
    data = yaml.safe_load((ROOT / "cfg/datasets/VisDrone.yaml").read_text("utf-8"))
    for name in _VISDRONE:
        if (source / name).is_dir():
            shutil.copytree(source / name, staging / name)
        else:  # the script goes through all three
            (staging / name / "annotations").mkdir(parents=True)
            (staging / name / "images").mkdir()
    _run_script(data, staging)
    splits = {
        split: data[split] for split, name in zip(("train", "val", "test"), _VISDRONE) if (source / name).is_dir()
    }
    return {**_splits(splits, source), "names": data["names"]}


def _run_script(data: dict[str, Any], staging: Path) -> None:
    """Run the conversion that the host keeps as `download:` in a data YAML, over a copy, without its downloads."""
    file = staging.parent / "host.yaml"
    missing = {"train": "missing", "val": "missing"}  # has the host run the script
    file.write_text(yaml.safe_dump({**data, **missing, "path": str(staging)}, sort_keys=False), "utf-8")
    with mock.patch("ultralytics.utils.downloads.download"):
        check_det_dataset(str(file))


def _splits(found: dict[str, Any], source: Path) -> dict[str, Any]:
    """Return the splits by the names that the host needs; COCO's train2017 is the training split."""
    splits = {}
    for split in ("train", "val", "test"):
        name = next((name for name in found if name.startswith(split)), None)
        if name is not None:
            splits[split] = found[name]
        elif split != "test":
            raise ValueError(f"{source} has no images for the split {split!r}: found {', '.join(found) or 'none'}")
    return splits


def _voc_years(folder: Path) -> dict[str, Path]:
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


def _copy_images(folders: list[Path], names: list[str], target: Path) -> None:
    """Copy files by name from the first of the folders that has them."""
    target.mkdir(parents=True, exist_ok=True)
    for name in names:
        file = next((folder / name for folder in folders if (folder / name).is_file()), None)
        if file is None:
            raise FileNotFoundError(f"'{name}' is in none of {', '.join(str(folder) for folder in folders)}")
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, target / name)
