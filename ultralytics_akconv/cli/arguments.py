# SPDX-License-Identifier: AGPL-3.0-or-later
"""Arguments that several commands share."""

from __future__ import annotations

import ast

WHERE_HELP = "downsample, backbone, neck, blocks, or layer indices: 3,5,7"


def numbers(text: str) -> int | list[int]:
    """Read 5 or 5,7,9."""
    numbers = [int(number) for number in text.split(",")]
    return numbers if len(numbers) > 1 else numbers[0]


def where(text: str) -> str | list[int]:
    """Read a group's name or layer indices; what is neither is left to `graft`, which says what is allowed."""
    return [int(index) for index in text.split(",")] if text[:1].isdigit() else text


def shape(text: str) -> str | list:
    """Read a shape's name or a list of points."""
    return ast.literal_eval(text) if text.startswith("[") else text
