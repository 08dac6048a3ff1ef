# SPDX-License-Identifier: AGPL-3.0-or-later
"""What tests of hostile input share: little memory, and checkpoints written by hand."""

import os
import zipfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from ultralytics_akconv.forks.files import opened


@contextmanager
def in_little_memory(mebibytes=64):
    """Let this process take no more than so much memory more than it has: what asks for more fails at once."""
    import resource  # not at the top: Windows has none

    limits = resource.getrlimit(resource.RLIMIT_AS)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (taken + mebibytes * 2**20, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


linux = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc to limit the memory")


class Reduced:
    """Pickled as a call."""

    def __init__(self, function, *arguments):
        self.called = function, arguments

    def __reduce__(self):
        return self.called


def archive(file, data, compression=zipfile.ZIP_STORED, **storages):
    """Write a checkpoint by hand."""
    with zipfile.ZipFile(file, "w", compression) as out:
        out.writestr("archive/data.pkl", data)
        for key, content in storages.items():
            out.writestr(f"archive/data/{key.strip('_')}", content)
    return file


def value_of(file):
    with opened(file) as content:
        return content.value
