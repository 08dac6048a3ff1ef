# SPDX-License-Identifier: AGPL-3.0-or-later
"""Answers the host's question which file a model name with AKConv in it means."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import yaml

from ultralytics_akconv import configs
from ultralytics_akconv.grafting.edit import graft
from ultralytics_akconv.grafting.names import cached, host_models, shipped_model, source_of, without_scale
from ultralytics_akconv.grafting.selection import chosen_layers, model_layers


def model_yaml(file: str | Path, hard: bool, host_check: Callable) -> str | Path | None:
    """Return the shipped file of a name, or one grafted from the host's own YAML; None if the name means neither.

    The host asks twice, first softly and then for good (`hard`), with the name as given and with the name without its
    scale letter; which comes first depends on its release. A file wins over a graft whichever of the two names it has.
    So a soft question is answered with a graft only where the letter is part of a host file's name (yolov10n): the
    second question may no longer hold it.

    Args:
        file: The name, for which the host's own search has found nothing.
        hard: Whether the host takes no answer for an error.
        host_check: The host's own search.

    Raises:
        ValueError: If the host model has nothing to replace, or the number in the name is not allowed.
    """
    name = Path(file).name
    if str(file) != name:  # a path is never ours
        return None
    shipped = shipped_model(name)
    source, num_param = source_of(name) or ("", 0)
    if shipped or not (hard or without_scale(source) != source):
        return shipped
    other = without_scale(name)
    found = shipped_model(other) or host_check(other, hard=False)
    if found or not source:
        return found or None
    return cached(name, graft(source, num_param))


def resolvable_models() -> list[tuple[str, str, list[str]]]:
    """Return every model name that resolves: the name, the host model it is grafted from or "", and its scales.

    Shipped files come first. A grafted name stands for N=5; any other number may follow `-akconv`.
    """
    shipped = configs.config_names(configs.MODELS)
    models = [(name, "", _scales(yaml.safe_load((configs.MODELS / name).read_text("utf-8")))) for name in shipped]
    for source, file in host_models().items():
        name = f"{Path(source).stem}-akconv.yaml"
        if name not in shipped:
            model = yaml.safe_load(file.read_text("utf-8", errors="ignore"))
            try:
                chosen_layers(model_layers(model), "downsample")
            except ValueError:  # no convolution to replace, as in a model of ResNet layers
                continue
            models.append((name, source, _scales(model)))
    return models


def _scales(model: dict) -> list[str]:
    """Return the scales of a model that its name may choose between."""
    scales = list(model.get("scales") or ())
    return scales if len(scales) > 1 else []
