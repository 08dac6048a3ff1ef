# SPDX-License-Identifier: AGPL-3.0-or-later
"""Writes files whole: a full disk or a kill leaves the old file, or none.

A failure leaves nothing beside it either. A kill may leave what was written so far, under a hidden name of its own.
"""

from __future__ import annotations

import errno
import io
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

FIGURES = ("png", "svg", "pdf", "jpg", "jpeg", "webp", "eps", "tif", "tiff")  # that matplotlib writes everywhere

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def check_folder(file: str | Path) -> Path:
    """Return the path of a file to write, if it can have one: before any work is done for it.

    Raises:
        FileNotFoundError: If its folder does not exist.
        IsADirectoryError: If it is a folder itself.
    """
    file = Path(file)
    if not file.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(file))
    if file.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(file))
    return file


@contextmanager
def whole_file(file: str | Path) -> Iterator[Path]:
    """Give a file beside `file` to write to, which takes its place when the context ends, and none if by an error.

    So a reader, at any moment, sees all of it or what was there before. Any number of threads and processes may write
    one file at once: one of them is last.

    Raises:
        FileNotFoundError: If its folder does not exist.
        OSError: If it cannot be written; what was there before stays.
    """
    file = check_folder(file)
    written = file.with_name(f".{file.name}.{uuid.uuid4().hex}")
    try:
        written.touch(exist_ok=False)  # with the rights of a new file
        yield written
        written.chmod((file if file.exists() else written).stat().st_mode & 0o777)
        os.replace(written, file)
    except BaseException as error:
        written.unlink(missing_ok=True)
        # The hidden name says nothing to anybody, and of a full disk Python names no file.
        if isinstance(error, OSError) and error.errno and error.filename in (None, written, str(written)):
            raise type(error)(error.errno, error.strerror, str(file)) from error
        raise


def write_whole(file: str | Path, content: str | bytes) -> None:
    """Write a file as `whole_file` does, text in UTF-8."""
    with whole_file(file) as written:
        written.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


def save_figure(figure: Figure, file: str | Path, **options: Any) -> None:
    """Save a figure of matplotlib whole, in the format of the file's suffix, with matplotlib's options.

    Raises:
        ValueError: If matplotlib writes no such format.
    """
    file = check_figure(file)
    content = io.BytesIO()
    figure.savefig(content, format=file.suffix[1:], **options)
    write_whole(file, content.getvalue())


def check_figure(file: str | Path) -> Path:
    """Return the path of a picture to write, before any work is done for it.

    Raises:
        OSError: If its folder does not exist.
        ValueError: If its suffix names no format that is written.
    """
    file = check_folder(file)
    if file.suffix[1:].lower() not in FIGURES:
        raise ValueError(f"a picture's name must end in {', '.join(f'.{name}' for name in FIGURES)}, got '{file}'")
    return file
