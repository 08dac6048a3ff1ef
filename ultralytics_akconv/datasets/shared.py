# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the conversions of all layouts share: reading text, copying images, the host's scripts, names of splits."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from unittest import mock

import yaml
from ultralytics.data.utils import check_det_dataset


def read_lines(file: Path) -> list[str]:
    """Return the lines of a text file in UTF-8, without blanks at their ends.

    Raises:
        ValueError: If it is no such text.
    """
    try:
        return [line.strip() for line in file.read_text("utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} cannot be read: {error}") from error


def copy_files(folders: list[Path], names: Iterable[str] | Mapping[str, str], target: Path) -> None:
    """Copy files by name from the first of the folders that has them; a mapping gives them other names.

    Raises:
        FileNotFoundError: If a file is in none of them.
        ValueError: If a name leads out of the folder.
    """
    target.mkdir(parents=True, exist_ok=True)
    for name, new in names.items() if isinstance(names, Mapping) else zip(*[list(names)] * 2):
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
            raise ValueError(f"the file name {name!r} must be a path below {folders[0]}, with / between folders")
        file = next((folder / name for folder in folders if (folder / name).is_file()), None)
        if file is None:
            raise FileNotFoundError(f"'{name}' is in none of {', '.join(str(folder) for folder in folders)}")
        (target / new).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, target / new)


def check_jpg(folder: Path, stem: str, needed_by: Path) -> None:
    """Raise the error that says what is wrong unless there is an image of that stem for the host's scripts.

    Raises:
        FileNotFoundError: If there is no image.
        ValueError: If there is one in another format.
    """
    if (folder / f"{stem}.jpg").is_file():
        return
    other = next((file for file in folder.glob("*") if file.stem == stem and file.suffix != ".xml"), None)
    if other is None:
        raise FileNotFoundError(f"'{stem}.jpg' is not in {folder}, but {needed_by} names it")
    raise ValueError(f"{other}: Ultralytics' converter of this layout takes .jpg images alone")


def run_script(data: dict[str, Any], staging: Path) -> None:
    """Run the conversion that the host keeps as `download:` in a data YAML, over a copy, without its downloads."""
    file = staging.parent / "host.yaml"
    missing = {"train": "missing", "val": "missing"}  # has the host run the script
    file.write_text(yaml.safe_dump({**data, **missing, "path": str(staging)}, sort_keys=False), "utf-8")
    with mock.patch("ultralytics.utils.downloads.download"):
        check_det_dataset(str(file))


def splits_of(found: dict[str, Any], source: Path) -> dict[str, Any]:
    """Return the splits by the names that the host needs; COCO's train2017 is the training split.

    Raises:
        ValueError: If there is nothing to train or to validate on.
    """
    splits = {}
    for split in ("train", "val", "test"):
        name = next((name for name in found if name.startswith(split)), None)
        if name is not None:
            splits[split] = found[name]
        elif split != "test":
            there = ", ".join(found) or "none"
            raise ValueError(f"{source} has no images for the split {split!r}: found {there}. Name one {split!r}")
    return splits
