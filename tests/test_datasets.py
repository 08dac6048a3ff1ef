# SPDX-License-Identifier: AGPL-3.0-or-later
"""Finding datasets, and original layouts through the host's converters: results right, originals untouched."""

import pytest
import yaml
from layouts import (
    NAMES,
    boxes,
    tree,
    write_coco,
    write_original_coco,
    write_roboflow_coco,
    write_roboflow_voc,
    write_visdrone,
    write_voc,
)
from ultralytics.data.utils import check_det_dataset

from ultralytics_akconv import datasets
from ultralytics_akconv.datasets import find_data, layout


def labels(folder, split):
    """Return the rows of the label file of the first image as numbers, and that image's record."""
    record = boxes("train" if "train" in split else "val")[0]
    (file,) = [f for f in folder.rglob(f"{record[0].stem}.txt") if "labels" in f.parts and split in str(f)]
    text = file.read_text("utf-8")
    return [[float(number) for number in line.split()] for line in text.splitlines()], record


def expected(record, shift=0):
    """Return the rows that the original boxes stand for."""
    _, width, height, rows = record
    return [[cls, (x + w / 2 - shift) / width, (y + h / 2 - shift) / height, w / width, h / height]
            for cls, x, y, w, h in rows]  # fmt: skip


@pytest.mark.parametrize(
    "write, kind",
    [
        (write_coco, "coco"),
        (write_roboflow_coco, "coco"),
        (write_voc, "voc"),
        (write_roboflow_voc, "voc"),
        (write_visdrone, "visdrone"),
    ],
)
def test_an_original_layout_is_converted_and_stays_as_it_is(write, kind, tmp_path):
    source = write(tmp_path / "source")
    assert layout(source) == kind
    before = tree(source)
    data = find_data(source, tmp_path / "converted")
    assert tree(source) == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["converted", "source"]  # nothing left of the copy
    checked = check_det_dataset(str(data))
    rows, record = labels(tmp_path / "converted", "train")
    if kind == "visdrone":
        assert rows == [pytest.approx(row, abs=1e-6) for row in expected(record)]  # without the ignored region
        assert len(checked["names"]) == 10
    elif kind == "voc":
        wanted = [[sorted(NAMES).index(NAMES[int(cls)]), *box] for cls, *box in expected(record, shift=1)]
        assert rows == [pytest.approx(row, abs=1e-6) for row in wanted[1:]]  # without the difficult one
    else:
        unique = list(dict.fromkeys(map(tuple, expected(record)[1:])))  # without the crowd
        assert rows == [pytest.approx(row, abs=1e-5) for row in unique]
        val = "val" if write is write_coco else "valid"
        assert (tmp_path / f"converted/annotations/instances_{val}.json").is_file()
        assert checked["names"] == dict(enumerate(NAMES))


def test_cocos_own_category_ids_become_the_80_classes(tmp_path):
    data = check_det_dataset(str(find_data(write_original_coco(tmp_path / "coco"), tmp_path / "out")))
    host = yaml.safe_load((datasets.ROOT / "cfg/datasets/coco.yaml").read_text("utf-8"))["names"]
    assert data["names"] == host
    assert data["val"].endswith("images/val2017")


def test_a_conversion_is_done_once_and_never_over_something_else(tmp_path, monkeypatch):
    source, output = write_coco(tmp_path / "source"), tmp_path / "out"
    data = find_data(source, output)
    monkeypatch.setattr(datasets.coco, "convert_coco", None)
    assert find_data(source, output) == data
    with pytest.raises(ValueError, match="in the way of converting"):
        find_data(write_voc(tmp_path / "other"), output)
    (output / "data.yaml").unlink()
    kept = tree(output)
    with pytest.raises(ValueError, match="remove it, or give another output folder"):
        find_data(source, output)
    assert tree(output) == kept


def test_a_failed_conversion_leaves_nothing(tmp_path):
    source = write_voc(tmp_path / "source")
    next((source / "JPEGImages").glob("*.jpg")).unlink()
    with pytest.raises(FileNotFoundError, match="JPEGImages"):
        find_data(source, tmp_path / "out")
    assert [file.name for file in tmp_path.iterdir()] == ["source"]


def test_an_object_without_the_tag_that_the_host_reads_is_named(tmp_path):
    source = write_voc(tmp_path / "source")
    file = next((source / "Annotations").glob("*.xml"))
    file.write_text(file.read_text("utf-8").replace("<difficult>0</difficult>", ""), "utf-8")
    with pytest.raises(ValueError, match=f"{file.name}: an object without <difficult>"):
        find_data(source, tmp_path / "out")


@pytest.mark.parametrize("name", datasets.NAMED)
def test_an_absent_dataset_without_network_says_where_to_put_it(name, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "DATASETS_DIR", tmp_path)
    monkeypatch.setattr(datasets, "ONLINE", False)
    with pytest.raises(FileNotFoundError, match=f"{name} is not in {tmp_path}.* Put it there"):
        find_data(name)
    monkeypatch.setattr(datasets, "ONLINE", True)
    assert find_data(name).name == datasets.NAMED[name]  # the host downloads it


def test_a_named_dataset_in_its_original_layout_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "DATASETS_DIR", tmp_path)
    write_visdrone(tmp_path / "VisDrone")
    assert find_data("visdrone") == tmp_path / "VisDrone-yolo/data.yaml"


def test_what_is_no_dataset_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no dataset 'pascal': give coco, voc, visdrone"):
        find_data("pascal")
    with pytest.raises(ValueError, match="no known layout"):
        find_data(tmp_path)
    assert str(find_data("coco8.yaml")) == "coco8.yaml"
