# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a checkpoint says, as inert data: class paths, objects with their state, tensors that are not read yet.

Nothing here is a class of the file's and nothing of the file's is called. A record of a module is read as torch writes
modules: `_parameters`, `_buffers` and `_modules` in its state.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

_SUFFIX = re.compile(r"(?<=.)_?(AKConv|LDConv)$")
_DEPTH = 64  # modules in modules; the host's deepest model has 9
_PATH = 300  # letters of a class path
_VALUES = 100_000  # numbers and texts in what is not tensors


class CheckpointError(ValueError):
    """A file that is no checkpoint of a fork, or one that cannot be trusted."""


@dataclass(frozen=True)
class ClassPath:
    """A class or function that the file names. It is not imported."""

    module: str
    name: str

    def __post_init__(self) -> None:
        if len(str(self)) > _PATH or not str(self).isprintable():
            raise CheckpointError("it names a class by what is no name")

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False, repr=False)
class Record:
    """An object of the file: what it is made from, and its state.

    Attributes:
        path: The class, or the function whose result it would be.
        args: What it would be called with.
        state: Its attributes by name.
        content: What it holds as a list or a dictionary would.
    """

    path: ClassPath
    args: tuple = ()
    state: dict[Any, Any] = field(default_factory=dict)
    content: list[Any] = field(default_factory=list)

    @property
    def kind(self) -> str:
        """The name of the class without its module, and without what says that it may hold AKConv (C3k2_AKConv)."""
        return _SUFFIX.sub("", self.path.name.rpartition(".")[2])

    def get(self, name: str, default: Any = None) -> Any:
        """Return an attribute, also one that is a parameter, a buffer or a module."""
        for part in (self.state, *(_mapping(self, kind) for kind in ("_parameters", "_buffers", "_modules"))):
            if name in part:
                return part[name]
        return default


@dataclass(frozen=True, eq=False)
class Storage:
    """Numbers of the file, which are read when a tensor is."""

    dtype: torch.dtype
    numel: int
    read: Callable[[], Tensor] = field(repr=False)  # a flat tensor of `dtype` with `numel` numbers


@dataclass(frozen=True, eq=False)
class TensorRecord:
    """A tensor of the file; its place in the storage has been checked, its numbers have not been read."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def __post_init__(self) -> None:
        sizes = (self.offset, *self.shape, *self.stride)
        if not all(type(size) is int and 0 <= size < 2**63 for size in sizes) or len(self.shape) != len(self.stride):
            raise CheckpointError("it describes a tensor by what is no size")
        last = self.offset + sum((size - 1) * step for size, step in zip(self.shape, self.stride))
        if len(self.shape) > 16 or (0 not in self.shape and last >= self.storage.numel):
            shape = self.shape[:16]
            raise CheckpointError(f"a tensor of shape {shape} lies outside its storage of {self.storage.numel} numbers")

    @property
    def numel(self) -> int:
        """How many numbers the tensor has."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """How large the tensor is in memory."""
        return self.numel * self.storage.dtype.itemsize

    def read(self) -> Tensor:
        """Return the tensor, which shares its memory with the others of its storage.

        Raises:
            CheckpointError: If it stands for more numbers than the file holds for it.
        """
        if self.numel > self.storage.numel:
            raise CheckpointError(f"a tensor of shape {self.shape} has only {self.storage.numel} numbers in the file")
        if self.numel == 0:
            return torch.empty(self.shape, dtype=self.storage.dtype)
        return self.storage.read().as_strided(self.shape, self.stride, self.offset)


def _mapping(record: Record, name: str) -> dict[Any, Any]:
    """Return one of the dictionaries of a module's state, empty if it has none."""
    value = record.state.get(name)
    return value if isinstance(value, dict) else {}


def children(module: Record) -> dict[str, Record]:
    """Return the modules inside a module by name."""
    inside = _mapping(module, "_modules")
    return {name: child for name, child in inside.items() if _is_name(name) and isinstance(child, Record)}


def _is_name(value: Any) -> bool:
    """Return whether a value is fit for the name of a module or tensor, and to be shown."""
    return isinstance(value, str) and len(value) <= _PATH and value.isprintable()


def is_module(value: Any) -> bool:
    """Return whether a value is the record of a module."""
    return isinstance(value, Record) and isinstance(value.state.get("_modules"), dict)


def named_modules(module: Record, prefix: str = "") -> Iterator[tuple[str, Record]]:
    """Yield a module and all modules inside it under the names that torch gives them, one that is shared at each place.

    Raises:
        CheckpointError: If they are nested too deeply, or are too many.
    """
    left = _VALUES
    stack = [(prefix, module, 0)]
    while stack:
        name, record, depth = stack.pop()
        left -= 1
        if depth > _DEPTH or left < 0:
            raise CheckpointError(f"it holds over {_VALUES} modules, or they are nested more than {_DEPTH} deep")
        yield name, record
        below = [(f"{name}.{key}" if name else key, child, depth + 1) for key, child in children(record).items()]
        stack.extend(reversed(below))


def state_dict(module: Record, prefix: str = "") -> dict[str, TensorRecord]:
    """Return the parameters and persistent buffers of a module and of those inside it."""
    tensors = {}
    for name, record in named_modules(module, prefix):
        left_out = record.state.get("_non_persistent_buffers_set")
        left_out = left_out if isinstance(left_out, (set, frozenset)) else ()
        for kind in ("_parameters", "_buffers"):
            for key, value in _mapping(record, kind).items():
                if isinstance(value, TensorRecord) and _is_name(key) and not (kind == "_buffers" and key in left_out):
                    if len(tensors) == _VALUES:
                        raise CheckpointError(f"it holds over {_VALUES} tensors")
                    tensors[f"{name}.{key}" if name else key] = value
    return tensors


def plain(value: Any) -> Any:
    """Return a value as numbers, texts, lists and dictionaries; paths become texts, all else None.

    Raises:
        CheckpointError: If it stands for too many values, or is nested too deeply.
    """
    left = [_VALUES]

    def convert(item: Any, depth: int) -> Any:
        left[0] -= 1
        if left[0] < 0 or depth > _DEPTH:
            raise CheckpointError(f"a setting of the checkpoint holds over {_VALUES} values or is nested too deeply")
        if item is None or isinstance(item, (bool, int, float, str)):
            return item
        if isinstance(item, (list, tuple, set, frozenset)):
            return [convert(part, depth + 1) for part in item]
        if isinstance(item, dict):
            pairs = [(key, part) for key, part in item.items() if isinstance(key, (str, int))]
            return {key: convert(part, depth + 1) for key, part in pairs}
        if isinstance(item, Record) and item.path.module.split(".")[0] == "pathlib":
            return "/".join(part for part in item.args if isinstance(part, str)).replace("//", "/")
        return None

    return convert(value, 0)


def attributes(value: Any) -> dict[str, Any]:
    """Return settings that are a dictionary or an object with attributes as plain values."""
    value = value.state if isinstance(value, Record) else value
    return plain(value) if isinstance(value, dict) else {}
