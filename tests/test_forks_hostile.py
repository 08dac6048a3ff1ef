# SPDX-License-Identifier: AGPL-3.0-or-later
"""Checkpoints made to attack: they are refused or read as inert data, in little memory, and nothing in them runs."""

import builtins
import io
import os
import pickle
import random
import struct
import subprocess
import zipfile

import pytest
import torch
from test_security import in_little_memory, linux

from ultralytics_akconv import from_fork
from ultralytics_akconv.forks.files import Content, opened
from ultralytics_akconv.forks.host_classes import check_model, host_class
from ultralytics_akconv.forks.rebuild import _USUAL, _check_size
from ultralytics_akconv.forks.records import (
    CheckpointError,
    ClassPath,
    Record,
    Storage,
    TensorRecord,
    named_modules,
    plain,
)
from ultralytics_akconv.forks.unpickler import Unpickler


class Reduced:
    """Pickled as a call."""

    def __init__(self, function, *arguments):
        self.called = function, arguments

    def __reduce__(self):
        return self.called


def no_storage(what):
    raise CheckpointError("it refers to something outside that is no storage")


def read(data, storage=no_storage):
    """Return what the unpickler makes of bytes, and what it was asked to call."""
    unpickler = Unpickler(storage)
    return unpickler.load(io.BytesIO(data)), unpickler.called


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


def test_a_working_checkpoint_with_calls_in_it_is_imported_and_they_are_named_and_not_made(forks, tmp_path):
    result = from_fork(forks / "attacked.pt")
    called = f"{os.mkdir.__module__}.mkdir"
    assert f"WARNING: read in the ordinary way, the file would have called {called}; here it was not" in result.table()
    result.save(tmp_path / "mine.pt")
    assert not list(forks.glob("attacked-*"))
    assert b"mkdir" not in (tmp_path / "mine.pt").read_bytes()


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


class Pickler(pickle.Pickler):
    def persistent_id(self, item):
        return item[1:] if isinstance(item, tuple) and item and item[0] == "persistent" else None


def with_storage(*what, shape=(2,), stride=(1,), offset=0):
    """Return the pickle of a tensor of a storage that is described so."""
    out = io.BytesIO()
    storage = ("persistent", *what)
    Pickler(out, 2).dump({"x": Reduced(torch._utils._rebuild_tensor_v2, storage, offset, shape, stride, False, None)})
    return out.getvalue()


FLOATS = ("storage", torch.FloatStorage, "0", "cpu")


def test_a_checkpoint_written_by_hand_is_read(tmp_path):
    file = archive(tmp_path / "a.pt", with_storage(*FLOATS, 2), _0=struct.pack("<2f", 1, 2))
    with opened(file) as content:
        assert content.value["x"].read().tolist() == [1, 2]


@linux
@pytest.mark.parametrize(
    "what, options, message",
    [
        ((*FLOATS, 10**12), {}, "should hold 1000000000000 numbers .* and has 8 bytes"),
        ((*FLOATS, 2), {"shape": (10**6, 10**6), "stride": (1, 1)}, "lies outside its storage"),
        ((*FLOATS, 2), {"shape": (3,)}, "lies outside its storage"),
        ((*FLOATS, 2), {"offset": 1}, "lies outside its storage"),
        ((*FLOATS, 2), {"offset": -1}, "by what is no size"),
        ((*FLOATS, 2), {"stride": (-1,)}, "by what is no size"),
        ((*FLOATS, 2), {"shape": (2.0,)}, "by what is no size"),
        ((*FLOATS, 2), {"shape": (2**70,)}, "by what is no size"),
        ((*FLOATS, 2), {"shape": (2, 1)}, "by what is no size"),
        ((*FLOATS, 2), {"shape": ((((1,),),),)}, "by what is no size"),
        ((*FLOATS, -2), {}, "no storage"),
        (("storage", torch.FloatStorage, "../../etc/passwd", "cpu", 2), {}, "has 0 bytes"),
        (("storage", torch.FloatStorage, "7", "cpu", 2), {}, "should hold 2 numbers"),
        (("storage", torch.FloatStorage, 0, "cpu", 2), {}, "no storage"),
        (("storage", os.system, "0", "cpu", 2), {}, "numbers of the kind"),
        (("module", "x"), {}, "no storage"),
        (("storage",), {}, "no storage"),
        ((), {}, "no storage"),
    ],
)
def test_a_tensor_that_its_storage_does_not_hold_is_refused_before_memory_is_taken(tmp_path, what, options, message):
    file = archive(tmp_path / "a.pt", with_storage(*what, **options), _0=struct.pack("<2f", 1, 2))
    with in_little_memory(), pytest.raises(CheckpointError, match=message):
        value_of(file)


def test_a_call_of_torch_or_numpy_that_no_checkpoint_needs_is_named():
    for path in ("torch._utils._rebuild_parameter_v9", "torch.device", "numpy._core.multiarray.scalar", "numpy.dtype"):
        assert _USUAL.fullmatch(path)
    for path in ("torch.load", "numpy.load", "torch.hub.load", "builtins.eval", "os.system", "ultralytics.utils.run"):
        assert not _USUAL.fullmatch(path)


@linux
def test_a_tensor_that_repeats_its_numbers_without_end_is_refused_when_it_is_read(tmp_path):
    data = with_storage(*FLOATS, 2, shape=(10**6, 10**6), stride=(0, 0))
    file = archive(tmp_path / "a.pt", data, _0=struct.pack("<2f", 1, 2))
    with (
        in_little_memory(),
        pytest.raises(CheckpointError, match="has only 2 numbers in the file"),
        opened(file) as content,
    ):
        content.value["x"].read()


@linux
def test_a_zip_that_stands_for_more_than_it_holds_is_refused(tmp_path):
    bomb = archive(tmp_path / "bomb.pt", pickle.dumps({}), zipfile.ZIP_DEFLATED, _0=bytes(2**27))
    assert bomb.stat().st_size < 2**20
    with in_little_memory(), pytest.raises(CheckpointError, match="compressed data"):
        value_of(bomb)
    data = bytearray(archive(tmp_path / "lie.pt", pickle.dumps({}), _0=b"12345678").read_bytes())
    entry = data.rindex(b"PK\x01\x02")
    data[entry + 20 : entry + 28] = struct.pack("<2I", 2**31, 2**31)  # the central directory's sizes
    (tmp_path / "lie.pt").write_bytes(data)
    with in_little_memory(), pytest.raises(CheckpointError, match=r"larger than the file|cut off or damaged"):
        value_of(tmp_path / "lie.pt")
    many = tmp_path / "many.pt"
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(many, "w") as out:
        for _ in range(2):
            out.writestr("archive/data.pkl", pickle.dumps({}))
    data = bytearray(many.read_bytes())
    (first, second) = (data.index(b"PK\x01\x02"), data.rindex(b"PK\x01\x02"))
    data[second:] = data[first:second] * 1000 + data[second:]  # one member, told of a thousand times
    many.write_bytes(data)
    with in_little_memory(), pytest.raises(CheckpointError):
        value_of(many)


@linux
def test_a_pickle_larger_than_any_models_is_refused(tmp_path):
    file = tmp_path / "large.pt"
    with zipfile.ZipFile(file, "w") as out, out.open("archive/data.pkl", "w") as pickled:
        for _ in range(65):
            pickled.write(bytes(2**20))
    with in_little_memory(), pytest.raises(CheckpointError, match="larger than 64 MiB"):
        value_of(file)


@pytest.mark.parametrize("name", ["v8-classify.pt", "old-format.pt"])
def test_a_file_that_is_cut_anywhere_is_refused(forks, tmp_path, name):
    data = (forks / name).read_bytes()
    for part in range(1, 40):
        (tmp_path / "cut.pt").write_bytes(data[: len(data) * part // 40])
        with pytest.raises(CheckpointError, match=r"cut\.pt"):
            value_of(tmp_path / "cut.pt")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of a text with a backslash, by pickletools
def test_a_damaged_pickle_is_refused_or_read_and_raises_nothing_else(forks):
    with zipfile.ZipFile(forks / "v8-classify.pt") as whole:
        name = next(name for name in whole.namelist() if name.endswith("data.pkl"))
        data = whole.read(name)
    generator, refused = random.Random(0), 0

    def storage(what):
        return Storage(torch.float16, 10**9, lambda: torch.zeros(1))

    for _ in range(60):
        broken = bytearray(data[:20_000] if generator.random() < 0.7 else data)
        for _ in range(generator.randint(1, 8)):
            broken[generator.randrange(len(broken))] = generator.randrange(256)
        try:
            read(bytes(broken), storage)
        except CheckpointError:
            refused += 1
    assert refused > 30


def test_a_damaged_storage_is_refused(forks, tmp_path):
    with zipfile.ZipFile(forks / "v8-classify.pt") as whole:
        largest = max(whole.infolist(), key=lambda info: info.file_size if "/data/" in info.filename else 0)
    data = bytearray((forks / "v8-classify.pt").read_bytes())
    data[largest.header_offset + 30 + len(largest.filename) + largest.file_size // 2] ^= 1
    (tmp_path / "damaged.pt").write_bytes(data)
    with pytest.raises(CheckpointError, match="it is damaged"):
        from_fork(tmp_path / "damaged.pt")


# What the host would run


def model(**changes):
    rows = {"backbone": [[-1, 1, "AKConv", [16, 5, 2]]], "head": [[[0], 1, "Detect", ["nc"]]]}
    return {"nc": 3, "scales": {"n": [1, 1, 512]}, "scale": "n", **rows, **changes}


def row(*parts):
    return {"backbone": [list(parts)]}


@pytest.mark.parametrize(
    "changes",
    [
        {"activation": "__import__('os').system('touch attacked')"},
        {"activation": "nn.SiLU(__import__('os').system('touch attacked'))"},
        {"activation": "nn.functional.relu(1)"},
        {"activation": "nn.SiLU"},
        {"activation": "nn.Module.apply(1)"},
        {"activation": ["nn.SiLU()"]},
        {"scales": {"n": [1e9, 1, 1]}},
        {"scales": {"n": [float("nan"), 1, 1]}},
        {"scales": {"n": ["1e9", 1, 1]}},
        {"scales": [1]},
        {"scale": "x"},
        {"depth_multiple": 1e9},
        {"nc": 10**9},
        {"nc": "eval('1')"},
        row(-1, 10**9, "Conv", [16, 3]),
        row(-1, 1, "Conv", [10**12, 3]),
        row(-1, 1, "Conv", ["__import__('os').system('touch attacked')"]),
        row(-1, 1, "Conv", [[["os\nsystem"]]]),
        row(-1, 1, ["Conv"], [16]),
        row("x", 1, "Conv", [16]),
        row(-1, 1, "Conv", "16"),
        row(-1, 1, "Conv"),
        {"head": None},
        {"backbone": [[-1, 1, "Conv", [16]]] * 2000},
    ],
)
def test_a_model_yaml_that_would_run_code_or_take_the_memory_is_refused(changes):
    check_model(model())
    with pytest.raises(CheckpointError):
        check_model(model(**changes))


@pytest.mark.parametrize(
    "name", ["attempt_download_asset", "torch_safe_load", "TorchVision", "nn.functional", "os", "nn.init"]
)
def test_a_row_may_name_layers_alone(name):
    assert host_class(name) is None
    assert host_class("Conv") and host_class("nn.Upsample") and host_class("Detect")


def test_tensors_that_share_their_numbers_too_often_are_refused():
    storage = Storage(torch.float32, 1000, lambda: torch.zeros(1000))
    tensors = {str(i): TensorRecord(storage, 0, (1000,), (1,)) for i in range(5)}
    with pytest.raises(CheckpointError, match="far more numbers"):
        _check_size(tensors, Content(None, 4000, set()))
