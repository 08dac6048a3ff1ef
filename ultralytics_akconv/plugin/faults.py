# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is wrong with a row of a model YAML that names AKConv, where the host's parser would not say it."""

from __future__ import annotations

import re
import traceback
from collections.abc import Collection
from typing import Any

from ultralytics_akconv_startup import TASKS, YAML_NAMES

_FORM = "a row is [from, repeats, layer, [out_channels, ...]]"


class RowError(ValueError):
    """A YAML row asks for something AKConv does not have."""


def row_error(error: Exception, model: dict[str, Any], known: Collection[str]) -> RowError | None:
    """Return the error that names the row of ours at which the parser failed, None if it was not one of ours.

    Args:
        error: What the parser raised.
        model: The content of the YAML.
        known: The names of layers and blocks of ours that this host can build.
    """
    sections = [model.get(section) for section in ("backbone", "head")]
    rows = [row for section in sections if isinstance(section, list) for row in section]
    for i, row in enumerate(rows):
        fault = _fault(i, row)
        if fault:
            return RowError(f"{_named(i, row, model)}: {fault}")
    i = _failed_at(error)
    if i is None or i >= len(rows) or not _has_form(rows[i]):
        return None
    name = str(rows[i][2])
    if isinstance(error, (AttributeError, KeyError)) and re.search("akconv|ldconv", name.lower()) and name not in known:
        return RowError(f"{_named(i, rows[i], model)}: there is no layer {name!r} here: {', '.join(sorted(known))}")
    if isinstance(error, (IndexError, TypeError, ValueError)) and name in YAML_NAMES:
        return RowError(f"{_named(i, rows[i], model)}: {error}")
    return None


def _has_form(row: Any) -> bool:
    """Return whether something is a row of four parts, the last of them a list."""
    return isinstance(row, (list, tuple)) and len(row) == 4 and isinstance(row[3], (list, tuple))


def _named(i: int, row: Any, model: dict[str, Any]) -> str:
    """Return which row is meant, as text."""
    arguments = row[3] if _has_form(row) else None
    hint = " (out_channels must be an int)" if arguments is not None and not _begins_with_int(arguments) else ""
    return f"layer {i} {list(row)} of {model.get('yaml_file', 'the model YAML')}{hint}"


def _begins_with_int(arguments: list | tuple) -> bool:
    """Return whether the first argument can be the output channels."""
    return bool(arguments) and isinstance(arguments[0], int)


def _fault(i: int, row: Any) -> str | None:
    """Return what is wrong with the form of row `i`, None if nothing is or it names nothing of ours."""
    if not isinstance(row, (list, tuple)) or not any(isinstance(part, str) and part in YAML_NAMES for part in row):
        return None
    if not _has_form(row) or row[2] not in YAML_NAMES:
        return _FORM
    source, repeats, name, arguments = row
    if not isinstance(source, int):
        return f"{name} takes the output of one layer, by its index or -1, got {source!r}"
    if not -max(i, 1) <= source < max(i, 1):
        return f"there is no layer {source} before it"
    if not isinstance(repeats, (int, float)):
        return f"the repeats must be an int, got {repeats!r}"
    if not arguments or isinstance(arguments[0], dict):
        return f"the output channels are missing: {_FORM}"
    if any(isinstance(argument, dict) for argument in arguments[:-1]):
        return "all options go into one mapping, behind the other arguments"
    return None


def _failed_at(error: Exception) -> int | None:
    """Return the index of the layer at which the host's parser failed; None if it was elsewhere.

    The parser's own lines fail at rows of ours too, and their errors name none: only its loop counter `i` tells which
    it was. Should a release call that otherwise, the host's error comes through as it is, without the row.
    """
    for frame, _ in traceback.walk_tb(error.__traceback__):
        parsing = (frame.f_globals.get("__name__"), frame.f_code.co_name) == (TASKS, "parse_model")
        if parsing and isinstance(frame.f_locals.get("i"), int):
            return frame.f_locals["i"]
    return None
