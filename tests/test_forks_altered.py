# SPDX-License-Identifier: AGPL-3.0-or-later
"""Whole checkpoints with something put into them, cut, damaged or telling of what cannot be, and models made wrong.

They are refused, or read as inert data.
"""

import io
import os
import pickletools
import random
import zipfile
from contextlib import nullcontext

import pytest
import torch
from conftest import layers_of
from hostile import archive, linux, value_of

from ultralytics_akconv import from_fork
from ultralytics_akconv.forks.files import Content, opened
from ultralytics_akconv.forks.proof import prove
from ultralytics_akconv.forks.records import (
    CheckpointError,
    ClassPath,
    Record,
    Storage,
    TensorRecord,
    named_modules,
    plain,
)


def test_a_working_checkpoint_with_calls_in_it_is_imported_and_they_are_named_and_not_made(forks, tmp_path):
    result = from_fork(forks / "attacked.pt")
    called = f"{os.mkdir.__module__}.mkdir"
    assert f"WARNING: read in the ordinary way, the file would have called {called}; here it was not" in result.table()
    result.save(tmp_path / "mine.pt")
    assert not list(forks.glob("attacked-*"))
    assert b"mkdir" not in (tmp_path / "mine.pt").read_bytes()


# Bytes


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


def test_a_damaged_storage_is_refused(forks, tmp_path):
    with zipfile.ZipFile(forks / "v8-classify.pt") as whole:
        largest = max(whole.infolist(), key=lambda info: info.file_size if "/data/" in info.filename else 0)
    data = bytearray((forks / "v8-classify.pt").read_bytes())
    data[largest.header_offset + 30 + len(largest.filename) + largest.file_size // 2] ^= 1
    (tmp_path / "damaged.pt").write_bytes(data)
    with pytest.raises(CheckpointError, match="it is damaged"):
        from_fork(tmp_path / "damaged.pt")


# What a file that can be read says


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


@pytest.mark.parametrize("what", ["weight", "border", "eps", "stride", "offset", "nan"])
def test_the_proof_finds_a_model_that_computes_something_else(forks, monkeypatch, what):
    from ultralytics_akconv.forks import rebuild

    def broken(model, record, *rest):
        layer = layers_of(model)[1]
        with torch.no_grad():
            if what == "weight":
                layer.conv.conv.weight[0, 0, 0, 0] += 1e-3
            elif what == "offset":
                layer.p_conv.bias[0] += 1e-3
            elif what == "nan":
                layer.conv.bn.bias[0] = float("nan")
        if what == "border":
            layer.border = "clamp"
        elif what == "eps":
            model.model[0].bn.eps = 1e-4
        elif what == "stride":
            model.model[2].m[0].cv1.conv.padding = (2, 2)
            model.model[2].m[0].cv1.conv.dilation = (2, 2)
        return prove(model, record, *rest)

    monkeypatch.setattr(rebuild, "prove", broken)
    text = "is not finite" if what == "nan" else "computes something else than its record"
    with pytest.raises(CheckpointError, match=text):
        from_fork(forks / "v8-detect.pt")
