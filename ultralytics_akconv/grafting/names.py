# SPDX-License-Identifier: AGPL-3.0-or-later
"""Names of model YAMLs: which file a name means, and names like `yolo11n-akconv7.yaml` for which there is none."""

from __future__ import annotations

import difflib
import functools
import hashlib
import re
from pathlib import Path

from ultralytics.utils import ROOT, USER_CONFIG_DIR

from ultralytics_akconv import configs
from ultralytics_akconv.files import write_whole

HOST_MODELS = ROOT / "cfg" / "models"
_SCALE = re.compile(r"(\d)([nslmx])(?=[-.]|$)")  # the letter the host reads as the scale: yolov8n-seg, yolo11s.yaml
_GRAFTED = re.compile(r"(.+)-(?:akconv|ldconv)(\d*)\.ya?ml")
# Where the host reads the scale, whatever letter it drops elsewhere when it looks for the file; a letter behind ours.
_HOST_SCALE = re.compile(r"yolo(?:e-)?v?\d+([a-z]?)")  # yolov9t has a letter that is no scale
_OUR_SCALE = re.compile(r"(-(?:akconv|ldconv)\d*)([nslmx])(?=[-.]|$)")


def scale_of(name: str | Path) -> str | None:
    """Return the scale letter in a model's name, None if it has none."""
    match = _SCALE.search(Path(name).name)
    return match[2] if match else None


def without_scale(name: str | Path) -> str:
    """Return the name of the file that holds all scales: yolo11s-seg.yaml -> yolo11-seg.yaml."""
    return _SCALE.sub(r"\1", Path(name).name, count=1)


def check_scale_letter(name: str | Path) -> None:
    """Refuse the name of a model with AKConv whose scale letter stands where the host drops it instead of reading it.

    The host would build the first scale of `yolov8-akconv7s.yaml`. A file of that name is its owner's affair.

    Raises:
        FileNotFoundError: If there is such a letter, one behind another, or one that the host does not read for being
            a capital; the message holds the name as it should be.
    """
    name = str(name)
    if not re.search(r"akconv|ldconv", name.lower()) or Path(name).name != name or Path(name).is_file():
        return
    read = _HOST_SCALE.search(name)
    if read is None and _HOST_SCALE.search(name.lower()):  # found where a file system takes both for one
        raise FileNotFoundError(f"'{name}' does not exist: a model's name is in small letters. Try '{name.lower()}'")
    has_scale = read is not None and read[1] in tuple("nslmx")
    if has_scale and name[read.end() :].startswith(tuple("nslmx")):  # the host reads the first, and drops it
        raise FileNotFoundError(
            f"'{name}' does not exist: it names two scales. Try '{name[: read.end()]}{name[read.end() + 1 :]}'"
        )
    dropped = _OUR_SCALE.search(name) or (None if has_scale else _SCALE.search(name))
    if dropped:
        rest = name[: dropped.start(2)] + name[dropped.end(2) :]
        if read is not None and not read[1]:
            rest = f"{rest[: read.end()]}{dropped[2]}{rest[read.end() :]}"
        raise FileNotFoundError(
            f"'{name}' does not exist: a scale letter stands behind the version of the model, not at its end. "
            f"Try '{rest}'"
        )


@functools.lru_cache(maxsize=1)
def host_models() -> dict[str, Path]:
    """Return the model YAMLs of the installed host by name, sorted."""
    return {file.name: file for file in sorted(HOST_MODELS.rglob("*.yaml"), key=lambda file: file.name)}


def shipped_model(name: str | Path) -> Path | None:
    """Return the shipped model file of a bare name, which may call the layer LDConv; None if there is none."""
    path = Path(name)
    return configs.find_config(configs.MODELS, path.with_name(path.name.replace("ldconv", "akconv")))


def find_model(model: str | Path) -> Path:
    """Return the file of a model: itself, then the host's or a shipped one of that name, with or without its scale.

    Raises:
        FileNotFoundError: If there is none; the message lists near names.
        TypeError: If `model` is neither a name nor a path.
    """
    if not isinstance(model, (str, Path)):
        raise TypeError(f"model must be the name or path of a YAML file, got {model!r} ({type(model).__name__})")
    check_scale_letter(model)
    path = Path(model)
    if path.is_dir():
        raise FileNotFoundError(f"'{model}' is a folder, not a model YAML")
    for name in (path, path.with_name(without_scale(path))):
        if name.is_file():
            return name
        found = host_models().get(str(name)) or shipped_model(name)
        if found:
            return found
    known = [*host_models(), *configs.config_names(configs.MODELS)]
    raise FileNotFoundError(f"'{model}' does not exist. Models most like it: {_near(path.name, known)}")


def source_of(name: str) -> tuple[str, int] | None:
    """Return the host model and the `num_param` that a name like `yolo11n-akconv7.yaml` asks for, or None.

    None too if the host has no such model. Without a number, N is 5.
    """
    match = _GRAFTED.fullmatch(name)
    if match is None:
        return None
    for source in (f"{match[1]}.yaml", without_scale(f"{match[1]}.yaml")):
        if source in host_models():
            return source, int(match[2] or 5)
    return None


def cached(name: str, text: str) -> Path:
    """Return a file of that name and text in the user's configuration folder of the host, written if need be.

    The host reads a model from disk. The folder bears a digest of the text, so that another host release, or another
    process at the same moment, never finds a text that is not its own.
    """
    folder = USER_CONFIG_DIR / "akconv" / hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]
    file = folder / name
    if not _holds(file, text):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            write_whole(file, text)
        except PermissionError:  # Windows: somebody reads it, who may have written it a moment ago
            if not _holds(file, text):
                raise
    return file


def _holds(file: Path, text: str) -> bool:
    """Return whether a file is there and holds this text."""
    return file.is_file() and file.read_text("utf-8") == text


def _near(name: str, known: list[str]) -> str:
    """Return the known names most like `name`, or how to list all."""
    return ", ".join(difflib.get_close_matches(name, known, n=5, cutoff=0.5)) or "none; `akconv models` lists all"


def near_grafted(name: str | Path) -> str:
    """Return, as text, the shipped names and those of grafted host models most like `name`."""
    grafted = [f"{Path(source).stem}-akconv.yaml" for source in host_models()]
    return _near(without_scale(name), [*{*configs.config_names(configs.MODELS), *grafted}])  # some are in both
