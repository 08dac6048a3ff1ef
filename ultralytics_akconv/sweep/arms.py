# SPDX-License-Identifier: AGPL-3.0-or-later
"""The arms of a sweep: what is trained by every seed, under the name that its line of the report bears."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from ultralytics_akconv.layers import akconvs
from ultralytics_akconv.sweep.settings import host_arguments, model_file

GRAFTED = {"shape": None, "where": "downsample", "border": "paper", "origin": "corner"}  # options and their defaults
OFFSETS = "offsets"  # `freeze=offsets`: the branches that predict offsets, of every AKConv


@dataclass(frozen=True)
class Arm:
    """A model, what is grafted into it, and the host's arguments that are its own.

    Without `num_param` the model stays as it is: the baseline of all arms of that model.
    """

    model: str
    num_param: int | None = None
    shape: str | None = None
    where: str | tuple[int, ...] = "downsample"
    border: str = "paper"
    origin: str = "corner"
    arguments: tuple[tuple[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """The name of its line of the table, and the first part of the name of its folders."""
        parts = [Path(self.model).stem]
        parts.append("plain" if self.num_param is None else f"akconv{self.num_param}-{self.shape or 'default'}")
        parts += [_word(value) for value in self.options.values()]
        return "-".join(parts + [f"{key}-{_word(value)}" for key, value in self.arguments])

    @property
    def options(self) -> dict[str, Any]:
        """Where, border and origin, those that are not the defaults."""
        return {key: getattr(self, key) for key in ("where", "border", "origin") if getattr(self, key) != GRAFTED[key]}

    def settings(self, common: Mapping[str, Any]) -> dict[str, Any]:
        """Return the host's arguments: those of all arms, and its own over them."""
        return {**common, **{key: list(v) if isinstance(v, tuple) else v for key, v in self.arguments}}

    def file(self) -> Path:
        """Return the YAML of the model.

        Raises:
            FileNotFoundError, TypeError, ValueError: If there is no such model, or an option is wrong.
        """
        return model_file(self.model, self.num_param, self.shape, **self.options)

    def baselines(self) -> list[Arm]:
        """Return what the arm is compared with: the plain model, and itself without arguments of its own."""
        others = [Arm(self.model), replace(self, arguments=())]
        return [arm for arm in dict.fromkeys(others) if arm != self]


def arm_of(model: str, options: Mapping[str, Any]) -> Arm:
    """Return the arm of a model by options of `graft`, by name; all others are arguments of the host.

    Raises:
        ValueError: If an option of the graft comes without `num_param`, or the shape is not a name.
    """
    if not isinstance(options.get("shape", ""), str):
        raise ValueError(f"the shape of an arm must be a name, which its line bears, got {options['shape']}")
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}  # hashable
    own = tuple((key, value) for key, value in options.items() if key not in GRAFTED and key != "num_param")
    grafted = {key: value for key, value in options.items() if key in GRAFTED}
    num_param = options.get("num_param")
    if num_param is None and grafted:
        raise ValueError(f"{', '.join(grafted)} of an arm needs a number of points (num_param)")
    if num_param is not None:
        grafted.setdefault("shape", "default")
    return Arm(model, num_param, **grafted, arguments=own)


def read_arm(text: str) -> dict[str, Any]:
    """Read the options of an arm from a command line: "num_param=5 where=neck freeze=offsets".

    Raises:
        ValueError: If a word is not key=value, or its key is neither an option of `graft` nor an argument of the host.
    """
    options: dict[str, Any] = {}
    for word in shlex.split(text):
        key, _, value = word.partition("=")
        try:
            if key == "num_param":
                options[key] = int(value)
                continue
            if key == "where" and value[:1].isdigit():
                options[key] = [int(index) for index in value.split(",")]
                continue
        except ValueError:
            raise ValueError(f"{word!r} of an arm: write whole numbers as in num_param=5 or where=3,5,7") from None
        if key in GRAFTED:
            options[key] = value
        else:
            options |= host_arguments([word])
    return options


def frozen(network: nn.Module) -> list[str]:
    """Return the branches that predict offsets in a network, as the host's `freeze` names them."""
    return [f"{name.removeprefix('model.')}.p_conv" for name in akconvs(network)]


def _word(value: Any) -> str:
    """Return a value as a part of a folder's name."""
    text = Path(value).stem if isinstance(value, str) and value.endswith((".pt", ".yaml")) else str(value)
    return re.sub(r"[^\w.]+", "-", text).strip("-")
