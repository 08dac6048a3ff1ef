# SPDX-License-Identifier: AGPL-3.0-or-later
"""Tables in Markdown and as plain text: the one place that knows where bars and blanks go."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence


def markdown_table(
    titles: Sequence[object], rows: Iterable[Sequence[object]], rules: str | Sequence[str] = "---", padded: bool = False
) -> str:
    """Return a table in Markdown, without a newline at its end.

    Args:
        titles: What stands above the columns.
        rows: The cells of each row, from left to right.
        rules: What stands below the titles, one for all columns or one each: "--:" aligns a column to the right.
        padded: Make all cells of a column equally wide, rules too, for a reader of the text itself.

    Example:
        >>> print(markdown_table(("model", "AP"), [("yolov8n", 37.3)]))
        | model | AP |
        |---|---|
        | yolov8n | 37.3 |
    """
    lines = [[str(cell) for cell in row] for row in (titles, *rows)]
    rules = [rules] * len(titles) if isinstance(rules, str) else rules
    if padded:
        widths = [max(map(len, column)) for column in zip(*lines)]
        lines = [[cell.ljust(width) for cell, width in zip(line, widths)] for line in lines]
        rules = [f" {'-' * width} " for width in widths]
    head, *body = (f"| {' | '.join(line)} |" for line in lines)
    return "\n".join([head, f"|{'|'.join(rules)}|", *body])


def text_table(
    titles: Sequence[str], rows: Iterable[Sequence[str]], justify: Callable[[str, int], str] = str.ljust
) -> str:
    """Return a table for a console: columns with two blanks between them, no newline at its end.

    Args:
        titles: What stands above the columns.
        rows: The cells of each row, from left to right.
        justify: `str.ljust` or `str.rjust`, with which every cell is brought to the width of its column.

    Example:
        >>> print(text_table(("layer", "N"), [("model.1", "5")]))
        layer    N
        model.1  5
    """
    lines = [titles, *rows]
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join("  ".join(map(justify, line, widths)).rstrip() for line in lines)
