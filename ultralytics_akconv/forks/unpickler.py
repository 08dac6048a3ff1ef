# SPDX-License-Identifier: AGPL-3.0-or-later
"""A pickle read as a description: it builds numbers, texts, containers and records, and calls nothing.

The instructions come from `pickletools.genops`, which only decodes them; what each one means is written here, for those
that torch and Python write in protocols 2 to 5. Where pickle would import, call or set the state of an object, a
`Record` notes the class path and what it would have been given. Any other instruction is refused.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from typing import Any, BinaryIO

from ultralytics_akconv.forks.records import CheckpointError, ClassPath, Record, Storage, TensorRecord

_MARK = object()
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_CONTAINERS = {"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}
_VALUES = {
    "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BINSTRING", "SHORT_BINSTRING",
}  # fmt: skip
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_NOTHING = {"PROTO", "FRAME"}
# What builds a container out of the argument it is called with.
_COLLECTIONS: dict[str, Callable[[Any], Any]] = {
    "collections.OrderedDict": dict,
    "builtins.set": set,
    "__builtin__.set": set,
    "builtins.frozenset": frozenset,
    "__builtin__.frozenset": frozenset,
    "torch.Size": tuple,
}
_BITS = 4096  # of a whole number; longer ones Python refuses to write out
_HASHABLE = (str, bytes, int, float, bool, type(None), Record, ClassPath)


class Unpickler:
    """Reads one pickle.

    Args:
        storage: Called with what the file says of a storage; returns the storage.

    Attributes:
        called: The functions that reading the file in the ordinary way would have called, by their paths.
    """

    def __init__(self, storage: Callable[[Any], Storage]) -> None:
        self._storage = storage
        self.called: set[str] = set()

    def load(self, file: BinaryIO) -> Any:
        """Return what the pickle at the file's position describes; the file is left behind its end.

        Raises:
            CheckpointError: If it is no pickle, is cut off, or holds an instruction that checkpoints do not need.
        """
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        try:
            for opcode, argument, _ in pickletools.genops(file):
                if opcode.name == "STOP":
                    return self._stack.pop()
                self._do(opcode.name, argument)
        except CheckpointError:
            raise
        except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise CheckpointError(f"its pickle is damaged or cut off ({type(error).__name__})") from error
        raise CheckpointError("its pickle has no end")

    def _do(self, name: str, argument: Any) -> None:
        """Carry out one instruction."""
        stack = self._stack
        if name in _VALUES:
            if isinstance(argument, int) and argument.bit_length() > _BITS:
                raise CheckpointError(f"its pickle holds a number of over {_BITS} bits, which no checkpoint needs")
            stack.append(argument)
        elif name in ("BINPUT", "LONG_BINPUT"):
            self._memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _CONTAINERS:
            stack.append(_CONTAINERS[name]())
        elif name == "MARK":
            stack.append(_MARK)
        elif name in _TUPLES:
            stack[-_TUPLES[name] :] = [tuple(stack[-_TUPLES[name] :])]
        elif name == "TUPLE":
            stack.append(tuple(self._marked()))
        elif name == "FROZENSET":
            stack.append(frozenset(map(_hashable, self._marked())))
        elif name in ("APPEND", "APPENDS"):
            items = self._marked() if name == "APPENDS" else [stack.pop()]
            _extend(stack[-1], items)
        elif name in ("SETITEM", "SETITEMS"):
            items = self._marked() if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
            _update(stack[-1], items)
        elif name == "ADDITEMS":
            items = set(map(_hashable, self._marked()))
            of_kind(stack[-1], set).update(items)
        elif name == "GLOBAL":
            stack.append(ClassPath(*argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            stack.append(ClassPath(of_kind(module, str), of_kind(attribute, str)))
        elif name == "NEWOBJ":
            arguments, path = stack.pop(), stack.pop()
            stack.append(Record(of_kind(path, ClassPath), of_kind(arguments, tuple)))
        elif name == "NEWOBJ_EX":
            keywords, arguments, path = stack.pop(), stack.pop(), stack.pop()
            stack.append(Record(of_kind(path, ClassPath), (*of_kind(arguments, tuple), keywords)))
        elif name == "REDUCE":
            arguments, path = stack.pop(), stack.pop()
            path = path.path if isinstance(path, Record) else path  # what a call returned is called
            stack.append(self._called(of_kind(path, ClassPath), of_kind(arguments, tuple)))
        elif name == "BUILD":
            state = stack.pop()
            _build(stack[-1], state)
        elif name == "BINPERSID":
            what = stack.pop()
            source = (
                isinstance(what, tuple) and len(what) == 4 and what[0] == "module"
            )  # a class beside its source text
            stack.append(of_kind(what[1], ClassPath) if source else self._storage(what))
        elif name == "POP":
            stack.pop()
        elif name == "POP_MARK":
            self._marked()
        elif name not in _NOTHING:
            raise CheckpointError(f"its pickle holds the instruction {name}, which no checkpoint needs")

    def _marked(self) -> list[Any]:
        """Take what stands above the last mark off the stack."""
        items = []
        while (item := self._stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]

    def _called(self, path: ClassPath, arguments: tuple) -> Any:
        """Return what stands for the result of a call: a tensor or a container if torch means one, else a record."""
        name = str(path)
        if name in ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor"):
            storage, offset, shape, stride = arguments[:4]
            return TensorRecord(of_kind(storage, Storage), offset, of_kind(shape, tuple), of_kind(stride, tuple))
        if name.startswith("torch._utils._rebuild_parameter") and isinstance(arguments[0], TensorRecord):
            return arguments[0]
        if name in _COLLECTIONS and all(isinstance(item, (list, tuple)) for item in arguments):
            items = arguments[0] if arguments else ()
            if _COLLECTIONS[name] is dict:
                return {_hashable(key): value for key, value in items}
            return _COLLECTIONS[name](map(_hashable, items))
        if name == "collections.defaultdict":
            return {}
        if name == "_codecs.encode":  # bytes, as protocol 2 writes them
            return of_kind(arguments[0], str).encode("latin1")
        self.called.add(name)
        if name == "copyreg._reconstructor":
            return Record(of_kind(arguments[0], ClassPath), arguments[1:])
        return Record(path, arguments)


def of_kind(value: Any, kind: type) -> Any:
    """Return a value that must be of a kind for the pickle to make sense."""
    if not isinstance(value, kind):
        raise CheckpointError(f"its pickle has a {type(value).__name__} where a {kind.__name__} belongs")
    return value


def _hashable(value: Any) -> Any:
    """Return a key: a number, a text or a flat tuple of them, so that hashing it goes no deeper."""
    flat = value if isinstance(value, tuple) else (value,)
    if not all(isinstance(part, _HASHABLE) for part in flat):
        raise CheckpointError(f"its pickle has a {type(value).__name__} for a key")
    return value


def _extend(target: Any, items: list[Any]) -> None:
    """Add items to a list, or note them in a record."""
    target.content.extend(items) if isinstance(target, Record) else of_kind(target, list).extend(items)


def _update(target: Any, items: list[Any]) -> None:
    """Add keys and values, alternating, to a dictionary, or note them in a record."""
    pairs = [(_hashable(key), value) for key, value in zip(items[::2], items[1::2])]
    if isinstance(target, Record):
        target.content.extend(pairs)
    else:
        of_kind(target, dict).update(pairs)


def _build(target: Any, state: Any) -> None:
    """Note the state of a record. Of dictionaries and tensors, torch's own notes about them are left out."""
    if isinstance(target, Record):
        for part in state if isinstance(state, tuple) else (state,):  # (attributes, those in slots)
            if isinstance(part, dict):
                target.state.update(part)
            elif part is not None:
                target.content.append(part)
    elif not isinstance(target, (dict, TensorRecord)):
        raise CheckpointError(f"its pickle sets the state of a {type(target).__name__}")
