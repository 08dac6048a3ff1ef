# SPDX-License-Identifier: AGPL-3.0-or-later
"""Finds a dataset, and has one in its original layout (COCO JSON, VOC XML, VisDrone txt) converted by the host.

The host's converters of VOC and VisDrone move images and delete what they came from, so they get a copy. What they do
to the annotations is theirs (see docs/datasets.md). All that they read is read here before, so that a file which cannot
be read is named, and nothing is left half-converted.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import yaml
from ultralytics.utils import DATASETS_DIR, ONLINE, ROOT

from ultralytics_akconv.datasets.coco import convert_json, group_categories, json_files, read_instances
from ultralytics_akconv.datasets.visdrone import VISDRONE, convert_text
from ultralytics_akconv.datasets.voc import convert_xml, has_xml

__all__ = ("NAMED", "convert", "find_data", "group_categories", "layout", "read_instances")

NAMED = {"coco": "coco.yaml", "voc": "VOC.yaml", "visdrone": "VisDrone.yaml"}
_SOURCE = "# converted from: "
_CONVERTERS = {"coco": convert_json, "voc": convert_xml, "visdrone": convert_text}


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
                f"nor train/_annotations.coco.json (COCO), nor VOCdevkit, Annotations with ImageSets/Main or "
                f"train/*.xml (VOC), nor {VISDRONE[0]} (VisDrone)"
            )
        return convert(path, kind, output)
    if path.suffix not in (".yaml", ".yml"):
        raise FileNotFoundError(f"there is no dataset '{data}': give {', '.join(NAMED)}, a data YAML or a folder")
    return path  # the host looks a bare name up among its own


def layout(folder: Path) -> str | None:
    """Return in which original layout a folder is: "coco", "voc", "visdrone", or None."""
    if json_files(folder):
        return "coco"
    if has_xml(folder):
        return "voc"
    return "visdrone" if any((folder / name / "annotations").is_dir() for name in VISDRONE) else None


def convert(source: Path, kind: str, output: str | Path | None = None) -> Path:
    """Convert a copy of a dataset with the host's converter and return its data YAML. The original stays as it is.

    Raises:
        FileNotFoundError, ValueError: If something is missing in the source, or the result's folder is in use.
    """
    source = source.resolve()
    target = Path(output).resolve() if output else DATASETS_DIR / f"{source.name}-yolo"
    file = target / "data.yaml"
    if file.is_file() and file.read_text("utf-8").startswith(f"{_SOURCE}{source}\n"):
        return file
    if target.exists():
        raise ValueError(f"{target} is in the way of converting {source}: remove it, or give another output folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as folder:  # gone if it fails
        staging = Path(folder) / "data"
        content = _CONVERTERS[kind](source, staging)
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
