# SPDX-License-Identifier: AGPL-3.0-or-later
"""Archives and tensors that claim more than the file holds: they are refused before the memory for it is taken."""

import io
import os
import pickle
import struct
import zipfile

import pytest
import torch
from hostile import Reduced, archive, in_little_memory, linux, value_of

from ultralytics_akconv.forks.files import Content, opened
from ultralytics_akconv.forks.rebuild import _check_size
from ultralytics_akconv.forks.records import CheckpointError, Storage, TensorRecord


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


def test_tensors_that_share_their_numbers_too_often_are_refused():
    storage = Storage(torch.float32, 1000, lambda: torch.zeros(1000))
    tensors = {str(i): TensorRecord(storage, 0, (1000,), (1,)) for i in range(5)}
    with pytest.raises(CheckpointError, match="far more numbers"):
        _check_size(tensors, Content(None, 4000, set()))
