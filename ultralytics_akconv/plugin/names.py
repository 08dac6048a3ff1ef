# SPDX-License-Identifier: AGPL-3.0-or-later
"""Names of model and data YAMLs that are not the host's own: its look-up goes on to our files."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ultralytics_akconv import configs
from ultralytics_akconv.grafting import check_scale_letter, model_yaml, near_grafted


def finding_models(host_check: Callable) -> Callable:
    """Return the host's `check_yaml`, which also finds shipped and grafted models."""
    find = functools.partial(model_yaml, host_check=host_check)
    return _with_fallback(host_check, configs.MODELS, find, near_grafted)


def checking_scales(host_load: Callable) -> Callable:
    """Return the host's `yaml_model_load`, which refuses names whose scale letter it would drop.

    Here, because older releases ask `check_yaml` first for the name without its letter, and never for the other.
    """

    @functools.wraps(host_load)
    def load(path: str | Path) -> dict[str, Any]:
        check_scale_letter(path)
        return host_load(path)

    return load


def finding_datasets(host_check: Callable) -> Callable:
    """Return the host's `check_file`, which also finds shipped data YAMLs."""
    return _with_fallback(host_check, configs.DATASETS, _find_dataset, _near_datasets)


def _with_fallback(host_check: Callable, folder: Path, find: Callable, near: Callable) -> Callable:
    """Return the host's `check_yaml` or `check_file`, which goes on to our files after the host's own search.

    So a file in the working directory, or the host's own of that name, wins over ours.

    Args:
        host_check: The host's function.
        folder: Where the shipped files lie. A name that is neither there nor holds "akconv" is the host's alone.
        find: Called with the name and `hard`; returns our file or None.
        near: Returns the names most like one that was not found, as text.
    """
    # Where `hard`, the last of its parameters, stands behind the file; a wrapper of somebody else's takes it by name.
    place = [*inspect.signature(host_check).parameters, "hard"].index("hard") - 1

    @functools.wraps(host_check)
    def check(file: str | Path, *args: Any, **kwargs: Any) -> Any:
        name = Path(str(file)).name.lower()
        if "akconv" not in name and "ldconv" not in name and not configs.find_config(folder, file):
            return host_check(file, *args, **kwargs)
        hard = args[place] if len(args) > place else kwargs.pop("hard", True)
        found = host_check(file, *args[:place], hard=False, **kwargs) or find(file, hard)
        if found or not hard:
            return str(found) if found else []
        raise FileNotFoundError(f"'{file}' does not exist. Names most like it: {near(file)}")

    return check


def _find_dataset(file: str | Path, hard: bool) -> Path | None:
    """Return the shipped data YAML of that name, or None."""
    return configs.find_config(configs.DATASETS, file)


def _near_datasets(file: str | Path) -> str:
    """Return the shipped data YAMLs most like a name, as text."""
    return ", ".join(configs.near_names(configs.DATASETS, file))
