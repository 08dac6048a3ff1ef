# SPDX-License-Identifier: AGPL-3.0-or-later
"""Where the shipped YAML files lie: `cfg/models` and `cfg/datasets`. Standard library only."""

from __future__ import annotations

import difflib
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
# Installed, cfg/ lies inside the package; in a checkout (and so in an editable install) it lies beside it.
CFG = _PACKAGE / "cfg" if (_PACKAGE / "cfg").is_dir() else _PACKAGE.parent / "cfg"
MODELS = CFG / "models"
DATASETS = CFG / "datasets"


def find_config(folder: Path, name: str | Path) -> Path | None:
    """Return the shipped file of that bare name, or None. A name with a folder in it is never ours."""
    path = Path(name)
    file = folder / path.name
    return file if path == Path(path.name) and file.is_file() else None


def config_names(folder: Path) -> list[str]:
    """Return the names of all shipped YAML files of a folder, sorted."""
    return sorted(file.name for file in folder.glob("*.yaml"))


def near_names(folder: Path, name: str | Path) -> list[str]:
    """Return the shipped names most like `name`, best first, or all names if none is like it."""
    names = config_names(folder)
    return difflib.get_close_matches(Path(name).name, names, n=5, cutoff=0.5) or names
