# SPDX-License-Identifier: AGPL-3.0-or-later
"""Writes text files whole: a kill or a full disk leaves the old file, or none, and nothing beside it."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path


def write_whole(file: Path, text: str) -> None:
    """Write a text file so that a reader, at any moment, sees all of it or what was there before.

    Raises:
        FileNotFoundError: If its folder does not exist.
        OSError: If it cannot be written; what was there before stays.
    """
    if not file.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(file))  # not the temporary name
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", newline="\n", dir=file.parent, prefix=f".{file.name}.", delete=False
    ) as temporary:
        written = Path(temporary.name)
        try:
            temporary.write(text)
            temporary.close()  # a full disk may show here only
            mode = file.stat().st_mode if file.exists() else 0o666 & ~_umask()
            written.chmod(mode & 0o777)  # temporary files are made for their owner alone
            os.replace(written, file)
        except BaseException:
            written.unlink()
            raise


def _umask() -> int:
    """Return the umask, which can only be read by setting it."""
    umask = os.umask(0o077)
    os.umask(umask)
    return umask
