# SPDX-License-Identifier: AGPL-3.0-or-later
"""Pickles made to attack: they are refused or read as inert data, in little memory, and nothing in them runs."""

import builtins
import io
import os
import pickle
import subprocess

import pytest
import torch
from hostile import Reduced, in_little_memory, linux

from ultralytics_akconv.forks.rebuild import _USUAL
from ultralytics_akconv.forks.records import CheckpointError, ClassPath, Record, named_modules, plain
from ultralytics_akconv.forks.unpickler import Unpickler


def no_storage(what):
    raise CheckpointError("it refers to something outside that is no storage")


def read(data, storage=no_storage):
    """Return what the unpickler makes of bytes, and what it was asked to call."""
    unpickler = Unpickler(storage)
    return unpickler.load(io.BytesIO(data)), unpickler.called


ATTACKS = {
    "system": lambda f: Reduced(os.system, f"touch {f}"),
    "eval": lambda f: Reduced(eval, f"open({str(f)!r}, 'w')"),
    "exec": lambda f: Reduced(exec, f"open({str(f)!r}, 'w')"),
    "open": lambda f: Reduced(open, str(f), "w"),
    "import": lambda f: Reduced(builtins.__import__, "antigravity"),
    "process": lambda f: Reduced(subprocess.Popen, ["touch", str(f)]),
    "load": lambda f: Reduced(torch.load, str(f)),
    "nested": lambda f: {"a": [(Reduced(os.system, Reduced(str, f"touch {f}")),)]},
    "apply": lambda f: Reduced(map, Reduced(getattr, os, "system"), [f"touch {f}"]),
}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("name", ATTACKS)
def test_a_call_is_read_as_a_record_of_it(tmp_path, name, protocol):
    attack = ATTACKS[name](tmp_path / "attacked")
    if name == "apply":
        attack = Reduced(map, Reduced(getattr, Reduced(builtins.__import__, "os"), "system"), [f"touch {tmp_path}/x"])
    value, called = read(pickle.dumps({"model": attack}, protocol))
    assert called and list(tmp_path.iterdir()) == []
    if name != "nested":
        assert isinstance(value["model"], Record) and str(value["model"].path) in called


class Sets:
    """Has a state that would be set by a method of its own."""

    def __getstate__(self):
        return {"__class__": 1, "__dict__": {}, "x": 2}

    def __setstate__(self, state):
        raise AssertionError("ran")


class Makes:
    def __new__(cls, *args, **kwargs):
        if args or kwargs:
            raise AssertionError("ran")
        return super().__new__(cls)

    def __getnewargs_ex__(self):
        return ("a",), {"b": 1}


class Grows(list):
    def append(self, item):
        raise AssertionError("ran")

    extend = append


class Keeps(dict):
    def __setitem__(self, key, value):
        raise AssertionError("ran")


@pytest.mark.parametrize("protocol", [2, 4])
def test_no_method_of_a_class_runs(protocol):
    grows, keeps = Grows(), Keeps()
    list.append(grows, 3)
    dict.__setitem__(keeps, "k", 4)
    value, _ = read(pickle.dumps([Sets(), Makes(), grows, keeps], protocol))
    assert all(type(item) is Record for item in value) and value[0].path.name == "Sets"
    assert value[0].state == {"__class__": 1, "__dict__": {}, "x": 2}
    assert value[2].content == [3] and value[3].content == [("k", 4)]


RAW = {
    "extension": b"\x80\x02\x82\x01.",
    "instance": b"(iposix\nsystem\n.",
    "object": b"(cposix\nsystem\nX\x04\x00\x00\x00trueo.",
    "call of a text": b"\x80\x02X\x02\x00\x00\x00os)R.",
    "new of a text": b"\x80\x02X\x02\x00\x00\x00os)\x81.",
    "state of a text": b"\x80\x02X\x02\x00\x00\x00os}b.",
    "state of a class": b"\x80\x02cbuiltins\nobject\n}b.",
    "state of a list": b"\x80\x02]}b.",
    "items of a text": b"\x80\x02X\x02\x00\x00\x00osK\x01K\x02s.",
    "append to a text": b"\x80\x02X\x02\x00\x00\x00osK\x01a.",
    "persistent text": b"\x80\x02X\x02\x00\x00\x00osQ.",
    "persistent in old style": b"Pos\n.",
    "a list as key": b"\x80\x02}]K\x01s.",
    "no mark": b"\x80\x02K\x01t.",
    "empty stack": b"\x80\x020.",
    "unknown memo": b"\x80\x02h\x07.",
    "no end": b"\x80\x02K\x01",
    "an unknown byte": b"\x80\x02\xff.",
    "a huge text": b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\x00\x00x.",
    "a huge bytearray": b"\x80\x05\x96\x00\x00\x00\x00\x10\x00\x00\x00x.",
    "a buffer": b"\x80\x05\x97.",
    "a path with a line of its own": b"\x80\x04\x8c\x02os\x8c\x05a\x1b[2J\x93.",
    "a storage of a text": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(X\x01\x00\x00\x00xK\x00))t" + b"R.",
}


@linux
@pytest.mark.parametrize("name", RAW)
def test_an_instruction_that_makes_no_sense_is_refused(name):
    with in_little_memory(), pytest.raises(CheckpointError, match=r"its pickle|it refers to|what is no name"):
        read(RAW[name])


@linux
def test_a_large_memo_takes_no_memory():
    with in_little_memory():
        assert read(b"\x80\x02K\x07r\xff\xff\xff\x7fj\xff\xff\xff\x7f\x86.")[0] == (7, 7)


def test_a_call_of_what_a_call_returned_is_a_record_too():
    value, called = read(b"\x80\x02cposix\nsystem\n)R)R.")
    assert type(value) is Record and called == {"posix.system"}


def test_deep_nesting_ends_no_process():
    deep, _ = read(b"\x80\x02)" + b"\x85" * 300_000 + b".")
    with pytest.raises(CheckpointError, match="nested too deeply"):
        plain(deep)
    with pytest.raises(CheckpointError, match="for a key"):
        read(b"\x80\x02})" + b"\x85" * 300_000 + b"K\x01s.")
    chain = b"\x80\x02" + b"cm\nM\n)\x81}X\x08\x00\x00\x00_modules}X\x01\x00\x00\x00a" * 2000
    chain += b"K\x01" + b"ssb" * 2000 + b"."
    record, _ = read(chain)
    with pytest.raises(CheckpointError, match="nested more than"):
        list(named_modules(record))


def test_few_objects_that_stand_for_many_are_refused():
    laugh = b"\x80\x02]q\x00K\x01a" + b"".join(b"](" + b"h\x00" * 10 + b"eq\x00" for _ in range(30)) + b"."
    value, _ = read(laugh)
    with pytest.raises(CheckpointError, match="over 100000 values"):
        plain(value)
    module = Record(ClassPath("m", "M"), state={"_modules": {}})
    for _ in range(30):
        module = Record(ClassPath("m", "M"), state={"_modules": {"a": module, "b": module}})
    with pytest.raises(CheckpointError, match="over 100000 modules"):
        list(named_modules(module))


def test_a_number_too_long_to_be_written_out_is_refused():
    with pytest.raises(CheckpointError, match="a number of over 4096 bits"):
        read(pickle.dumps({"x": 10**5000}, 2))


def test_a_call_of_torch_or_numpy_that_no_checkpoint_needs_is_named():
    for path in ("torch._utils._rebuild_parameter_v9", "torch.device", "numpy._core.multiarray.scalar", "numpy.dtype"):
        assert _USUAL.fullmatch(path)
    for path in ("torch.load", "numpy.load", "torch.hub.load", "builtins.eval", "os.system", "ultralytics.utils.run"):
        assert not _USUAL.fullmatch(path)
