# SPDX-License-Identifier: AGPL-3.0-or-later
"""Writes files whole: a full disk or a kill leaves the old file, or none.

A failure leaves nothing beside it either. A kill may leave what was written so far, under a hidden name of its own.
"""

from __future__ import annotations

import errno
import io
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_whole(file: Path, content: str | bytes) -> None:
    """Write a file, text in UTF-8, so that a reader, at any moment, sees all of it or what was there before.

    Raises:
        FileNotFoundError: If its folder does not exist.
        OSError: If it cannot be written; what was there before stays.
    """
    if not file.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(file))  # not the temporary name
    content = content.encode("utf-8") if isinstance(content, str) else content
    with tempfile.NamedTemporaryFile(dir=file.parent, prefix=f".{file.name}.", delete=False) as temporary:
        written = Path(temporary.name)
        try:
            temporary.write(content)
            temporary.close()  # a full disk may show here only
            mode = file.stat().st_mode if file.exists() else 0o666 & ~_umask()
            written.chmod(mode & 0o777)  # temporary files are made for their owner alone
            os.replace(written, file)
        except BaseException:
            written.unlink()
            raise


def save_figure(figure: Figure, file: Path, **options: Any) -> None:
    """Save a figure of matplotlib whole, in the format of the file's suffix, with matplotlib's options."""
    content = io.BytesIO()
    figure.savefig(content, format=file.suffix[1:], **options)
    write_whole(file, content.getvalue())


def _umask() -> int:
    """Return the umask, which can only be read by setting it."""
    umask = os.umask(0o077)
    os.umask(umask)
    return umask
