# SPDX-License-Identifier: AGPL-3.0-or-later
"""Checkpoints made to attack: they are refused or read as inert data, in little memory, and nothing in them runs."""

import builtins
import io
import os
import pickle
import pickletools
import random
import struct
import subprocess
import zipfile
from contextlib import nullcontext

import pytest
import torch
from test_security import in_little_memory, linux

from ultralytics_akconv import from_fork
from ultralytics_akconv.forks.files import Content, opened
from ultralytics_akconv.forks.host_classes import check_model, host_class
from ultralytics_akconv.forks.proof import prove
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


def tiny(new=True):
    """Return a checkpoint of one small layer, as torch writes it, and where the pickle of the model lies in it."""
    layer = torch.nn.Conv2d(1, 2, 3)
    layer.yaml, layer.names = {"nc": 3, "scales": {"n": [0.5, 0.25, 64]}}, ["a", "b"]
    stream = io.BytesIO()
    torch.save({"model": layer, "train_args": {"imgsz": 64}}, stream, _use_new_zipfile_serialization=new)
    data = stream.getvalue()
    if new:
        with zipfile.ZipFile(stream) as whole:
            pickled = next(whole.read(name) for name in whole.namelist() if name.endswith("data.pkl"))
        return data, slice(data.index(pickled), data.index(pickled) + len(pickled))
    stream.seek(0)
    ends = [[stream.tell() for _ in pickletools.genops(stream)][-1] for _ in range(4)]
    return data, slice(ends[2], ends[3])


INSTRUCTIONS = [
    *(b"N", b"}", b"]", b")", b"(", b"t", b"0", b"1", b"2", b"a", b"e", b"s", b"u", b"b", b"R", b"Q"),
    *(b"\x81", b"\x85", b"\x88", b"\x8f", b"\x90", b"\x91", b"\x93", b"\x94", b"K\x05", b"J\xff\xff\xff\xff", b"h\0"),
    *(b"G\x7f\xf8" + bytes(6), b"\x8a\x09" + b"\xff" * 8 + b"\x7f", b"\x8b\xd0\x07\0\0" + b"\x7f" * 2000),
    *(b"X\x01\0\0\0a", b"X\3\0\0\0\xed\xa0\x80", b"\x8d" + b"\xff" * 7 + b"\0", b"\x8e" + b"\xff" * 7 + b"\x3f"),
    *(f"c{name}\n".encode() for name in ("os\nsystem", "torch\nSize", "torch._utils\n_rebuild_tensor_v2")),
    *(f"c{name}\n".encode() for name in ("collections\nOrderedDict", "_codecs\nencode", "copyreg\n_reconstructor")),
]


def with_other_bytes(data, where, generator):
    broken = bytearray(data)
    for _ in range(generator.randint(1, 4)):
        place = generator.randrange(where.start, where.stop)
        size = generator.choice([1, 1, 1, 4, 8])
        broken[place : place + size] = generator.choice([bytes([generator.randrange(256)]), b"\xff", b"\0"]) * size
    return bytes(broken[: len(data)])


def with_other_instructions(data, where, generator):
    pickled = data[where]
    places = [place for _, _, place in pickletools.genops(pickled)]
    parts = [pickled[i:j] for i, j in zip(places, [*places[1:], len(pickled)])]
    for _ in range(generator.randint(1, 4)):
        place, other = (generator.randrange(1, len(parts)) for _ in range(2))
        change = generator.random()
        if change < 0.6:
            parts[place] = generator.choice(INSTRUCTIONS)
        else:
            parts[place : place + 1] = generator.choice([[], [parts[other]], [parts[place], parts[other]]])
    return data[: where.start] + b"".join(parts) + data[where.stop :]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of a text with a backslash, by pickletools
@pytest.mark.parametrize("new", [True, False])
def test_a_damaged_file_is_refused_or_read_and_raises_nothing_else(new, tmp_path):
    data, where = tiny(new)
    everywhere, generator, refused = slice(4, len(data)), random.Random(0), 0
    file = tmp_path / "damaged.pt"
    for number in range(250):
        if number % 2:
            file.write_bytes(with_other_bytes(data, everywhere, generator))
        else:
            broken = with_other_instructions(data, where, generator)
            end = where.stop + len(broken) - len(data)
            storages = {"_0": bytes(4 * 18), "_1": bytes(4 * 2)}
            archive(file, broken[where.start : end], **storages) if new else file.write_bytes(broken)
        try:
            value = value_of(file)
            plain(value), [list(named_modules(part)) for part in (value,) if isinstance(part, Record)]
        except CheckpointError as error:
            assert "damaged.pt" in str(error) and "\n" not in str(error)
            refused += 1
    assert 100 < refused < 250


@pytest.mark.parametrize("name", ["encrypted", "patched", "no text", "before the file", "of a later version"])
def test_a_zip_that_zipfile_does_not_take_is_refused(name, tmp_path):
    data, _ = tiny()
    place = data.index(b"PK\1\2")  # of the first member in the directory
    at, value = {
        "encrypted": (8, b"\1"),
        "patched": (8, b"\x20"),
        "no text": (46, b"\xff"),
        "before the file": (42, b"\xff\xff\xff\x7f"),
        "of a later version": (6, b"\xff"),
    }[name]
    broken, start = bytearray(data), place
    while (start := broken.find(b"PK\1\2", start)) >= 0:  # all members
        broken[start + at : start + at + len(value)] = value
        start += 4
    (tmp_path / "odd.pt").write_bytes(broken)
    with pytest.raises(CheckpointError, match=r"odd\.pt.*(damaged|no PyTorch checkpoint)"):
        value_of(tmp_path / "odd.pt")


@linux
def test_a_length_that_an_old_file_claims_takes_no_memory(tmp_path):
    data, where = tiny(new=False)
    (tmp_path / "long.pt").write_bytes(data[: where.start] + b"\x80\x02\x8d" + (2**62).to_bytes(8, "little"))
    with pytest.raises(CheckpointError, match="damaged or cut off"):
        value_of(tmp_path / "long.pt")


def test_a_number_too_long_to_be_written_out_is_refused():
    with pytest.raises(CheckpointError, match="a number of over 4096 bits"):
        read(pickle.dumps({"x": 10**5000}, 2))


def imported(monkeypatch, value, **options):
    """Have a value imported that no file holds."""
    monkeypatch.setattr("ultralytics_akconv.forks.rebuild.opened", lambda _: nullcontext(Content(value, 10**9, set())))
    return from_fork("never.pt", **options)


def without_nc(model):
    model.state["yaml"]["head"][-1][-1] = [model.state["yaml"].pop("nc")]


def with_a_list_for_a_scale(model):
    model.state["yaml"]["scale"] = ["n"]


def with_names_that_are_numbers(model):
    model.state["names"] = {0: 1}


def of_another_size(model):
    """Rows that fit each other in channels, not in size: only running the model shows it."""
    for row in model.state["yaml"]["head"]:
        row[3] = [None, 3, "nearest"] if row[2] == "nn.Upsample" else row[3]
    for _, module in named_modules(model):
        module.state.update({"scale_factor": 3.0} if module.kind == "Upsample" else {})


@pytest.mark.parametrize(
    "change, message",
    [
        (without_nc, "cannot build its model YAML: KeyError"),
        (with_a_list_for_a_scale, "scale of its model YAML is no letter"),
        (with_names_that_are_numbers, "its names of classes are no texts"),
        (of_another_size, "cannot build its model YAML: RuntimeError"),
    ],
)
def test_what_a_whole_checkpoint_says_of_a_model_that_cannot_be_is_refused(forks, monkeypatch, change, message):
    with opened(forks / "v8-detect.pt") as content:
        change(content.value["model"] if content.value.get("ema") is None else content.value["ema"])
        with pytest.raises(CheckpointError, match=message):
            imported(monkeypatch, content.value)


def test_a_state_dict_whose_names_are_no_texts_is_refused(monkeypatch):
    tensor = TensorRecord(Storage(torch.float32, 1, lambda: torch.ones(1)), 0, (1,), (1,))
    with pytest.raises(CheckpointError, match="a state dict whose names are no texts"):
        imported(monkeypatch, {5: tensor}, model="yolov8n-akconv.yaml")


def test_a_model_that_cannot_be_computed_is_refused():
    model = torch.nn.Sequential(torch.nn.Linear(7, 7))
    model.yaml = {"channels": 3}
    with pytest.raises(CheckpointError, match="its model cannot be computed: RuntimeError"):
        prove(model, Record(ClassPath("a", "b")), 0)


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
