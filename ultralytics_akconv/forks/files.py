# SPDX-License-Identifier: AGPL-3.0-or-later
"""Checkpoint files of torch, of today's kind (a zip) and of before 1.6: checked before anything is read into memory."""

from __future__ import annotations

import functools
import io
import struct
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from ultralytics_akconv.forks.records import CheckpointError, ClassPath, Storage
from ultralytics_akconv.forks.unpickler import Unpickler, of_kind

_LEGACY_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the number with which torch's older files begin
_PICKLE_BYTES = 64 * 2**20  # a model of the host needs less than one of them
# What zipfile raises for bytes that no zip of torch has: flags of encryption, names in no encoding, places before 0.
_DAMAGE = (zipfile.BadZipFile, EOFError, OSError, RuntimeError, ValueError, struct.error)
_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class Content(NamedTuple):
    """What a file describes, how many bytes the file has, and what reading it with pickle would have called."""

    value: Any
    nbytes: int
    called: set[str]


class _Bounded:
    """A file that is asked for no more than it has: whatever length a pickle claims takes no memory."""

    def __init__(self, stream: BinaryIO, nbytes: int) -> None:
        self._stream, self._nbytes = stream, nbytes
        self.readline, self.tell = stream.readline, stream.tell

    def read(self, size: int) -> bytes:
        return self._stream.read(min(size, self._nbytes))


@contextmanager
def opened(file: str | Path) -> Iterator[Content]:
    """Open a checkpoint file and read what it describes; its tensors can be read as long as it is open.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If it is no checkpoint, is damaged or cut off, or its sizes do not agree.
    """
    path = Path(file)
    if not path.exists():
        raise FileNotFoundError(f"'{file}' does not exist")
    if not path.is_file():
        raise CheckpointError(f"'{file}': it is no file")
    try:
        with path.open("rb") as stream:
            start = stream.read(16)
            stream.seek(0)
            if start.startswith(b"PK\x03\x04"):
                with _archive(stream) as archive:
                    yield _from_zip(archive, path.stat().st_size)
            elif start.startswith(_LEGACY_START):
                yield _from_legacy(stream, path.stat().st_size)
            else:
                raise CheckpointError(_other_kind(path, start))
    except CheckpointError as error:
        raise CheckpointError(f"'{file}': {error}") from error


def _other_kind(path: Path, start: bytes) -> str:
    """Return what a file is that is no checkpoint."""
    if path.suffix == ".onnx" or (start[:1], start[2:3]) == (b"\x08", b"\x12"):  # ir_version and producer_name
        return "it is an ONNX file, which holds no model to train: take the .pt it was exported from"
    return "it is no PyTorch checkpoint" if start else "it is empty"


def _archive(stream: BinaryIO) -> zipfile.ZipFile:
    """Open a zip that is whole."""
    try:
        return zipfile.ZipFile(stream)
    except _DAMAGE as error:
        raise CheckpointError(f"it is cut off or damaged: {error}") from error


def _from_zip(archive: zipfile.ZipFile, nbytes: int) -> Content:
    """Read what a zip describes.

    torch compresses nothing, so all members together are smaller than the file; where they are not, little stands for
    much.
    """
    members = {info.filename: info for info in archive.infolist()}
    pickles = [name for name in members if name.rpartition("/")[2] == "data.pkl" and name.count("/") <= 1]
    if len(pickles) != 1:
        raise CheckpointError(f"it is a zip, but no PyTorch checkpoint: it holds {len(pickles)} data.pkl")
    root = pickles[0][: -len("data.pkl")]
    if f"{root}constants.pkl" in members:
        raise CheckpointError("it is a TorchScript archive, which holds no model to train: take the .pt it came from")
    if any(info.compress_type != zipfile.ZIP_STORED for info in members.values()):
        raise CheckpointError("it holds compressed data, which torch never writes")
    if sum(info.file_size for info in archive.infolist()) > nbytes:
        raise CheckpointError("its members claim to be larger than the file")
    if f"{root}byteorder" in members and _read(archive, f"{root}byteorder").decode("latin1") != sys.byteorder:
        raise CheckpointError(f"its numbers are not in the byte order of this machine ({sys.byteorder})")
    if members[pickles[0]].file_size > _PICKLE_BYTES:
        raise CheckpointError(f"its pickle is larger than {_PICKLE_BYTES >> 20} MiB")
    found: dict[str, Storage] = {}

    def storage(what: Any) -> Storage:
        key, dtype, numel = _described(what)
        if key not in found:
            name = f"{root}data/{key}"
            if name not in members or members[name].file_size != numel * dtype.itemsize:
                held = members[name].file_size if name in members else 0
                raise CheckpointError(f"storage {key[:40]} should hold {numel} numbers ({dtype}) and has {held} bytes")
            read = functools.lru_cache(maxsize=1)(lambda: _numbers(_read(archive, name), dtype))
            found[key] = Storage(dtype, numel, read)
        return _same(found[key], dtype, numel, key)

    unpickler = Unpickler(storage)
    return Content(unpickler.load(io.BytesIO(_read(archive, pickles[0]))), nbytes, unpickler.called)


def _read(archive: zipfile.ZipFile, name: str) -> bytes:
    """Return a member of a zip."""
    try:
        return archive.read(name)
    except _DAMAGE as error:
        raise CheckpointError(f"it is damaged: {error}") from error


def _from_legacy(stream: BinaryIO, nbytes: int) -> Content:
    """Read what a file of before torch 1.6 describes: five pickles, then each storage with its length before it."""
    found: dict[str, Storage] = {}
    places: dict[str, int] = {}

    def storage(what: Any) -> Storage:
        key, dtype, numel = _described(what)
        if numel * dtype.itemsize > nbytes:
            raise CheckpointError(f"storage {key[:40]} should hold {numel} numbers ({dtype}), more than the file")
        if key not in found:
            read = functools.lru_cache(maxsize=1)(
                lambda: _numbers(_at(stream, places[key], numel * dtype.itemsize), dtype)
            )
            found[key] = Storage(dtype, numel, read)
        return _same(found[key], dtype, numel, key)

    unpickler, bounded = Unpickler(storage), _Bounded(stream, nbytes)
    for _ in range(3):  # the magic number, the protocol and the sizes of C's integers
        unpickler.load(bounded)
    value = unpickler.load(bounded)
    for key in of_kind(unpickler.load(bounded), list):
        if not isinstance(key, str) or key not in found:
            raise CheckpointError("it lists a storage that no tensor has")
        (numel,) = struct.unpack("<q", _at(stream, stream.tell(), 8))
        if numel != found[key].numel:
            raise CheckpointError(f"storage {key[:40]} should hold {found[key].numel} numbers and has {numel}")
        places[key] = stream.tell()
        stream.seek(numel * found[key].dtype.itemsize, 1)
    if stream.tell() > nbytes or set(places) != set(found):
        raise CheckpointError("it is cut off: storages are missing")
    return Content(value, nbytes, unpickler.called)


def _at(stream: BinaryIO, place: int, size: int) -> bytes:
    """Return bytes of a file from a place on."""
    stream.seek(place)
    data = stream.read(size)
    if len(data) != size:
        raise CheckpointError("it is cut off")
    return data


def _described(what: Any) -> tuple[str, torch.dtype, int]:
    """Return the key, the kind of numbers and how many of them a reference to a storage names."""
    if isinstance(what, tuple) and len(what) >= 5 and what[0] == "storage" and not any(what[5:]):  # no view of another
        _, kind, key, _, numel = what[:5]
        if isinstance(kind, ClassPath) and isinstance(key, str) and type(numel) is int and 0 <= numel < 2**63:
            if kind.name in _DTYPES:
                return key, _DTYPES[kind.name], numel
            raise CheckpointError(f"it holds numbers of the kind {kind}; known are {', '.join(_DTYPES)}")
    raise CheckpointError("it refers to something outside that is no storage")


def _same(storage: Storage, dtype: torch.dtype, numel: int, key: str) -> Storage:
    """Return a storage that is met again, if the file says the same of it."""
    if (storage.dtype, storage.numel) != (dtype, numel):
        raise CheckpointError(f"it describes storage {key[:40]} in two ways")
    return storage


def _numbers(data: bytes, dtype: torch.dtype) -> Tensor:
    """Return bytes as numbers."""
    return torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0, dtype=dtype)
