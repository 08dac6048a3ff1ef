# SPDX-License-Identifier: AGPL-3.0-or-later
"""Annotations as other tools and other machines write them: converted where they say one thing, refused by the file."""

import json
import re

import pytest
import yaml
from layouts import NAMES, tree, write_coco, write_visdrone, write_voc

from ultralytics_akconv.datasets import find_data
from ultralytics_akconv.evaluation.coco import numbered_stems


def converted(source):
    """Return the class names of a converted dataset, and the content of its labels by their file."""
    out = source.parent / "out"
    names = yaml.safe_load(find_data(source, out).read_text("utf-8"))["names"]
    return names, {name: text.decode("utf-8") for name, text in tree(out / "labels").items()}


def refused(source, file, message):
    """Expect one line that names a file, the source as it was, and nothing left of the conversion."""
    before = tree(source)
    with pytest.raises((ValueError, OSError), match=re.escape(message)) as error:
        find_data(source, source.parent / "out")
    assert file in str(error.value) and "\n" not in str(error.value)
    assert tree(source) == before and [path.name for path in source.parent.iterdir()] == [source.name]


def changed(source, change, splits=("train", "val")):
    """Change the instances of some splits."""
    for split in splits:
        file = source / f"annotations/instances_{split}.json"
        content = json.loads(file.read_text("utf-8"))
        change(content)
        file.write_text(json.dumps(content), "utf-8")
    return source


# VOC


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_the_converter_of_voc_reads_every_name_whatever_the_encodings(tmp_path, fresh, encoding):
    source = write_voc(tmp_path / "source")
    first = sorted((source / "Annotations").glob("*.xml"))[0]
    renamed = {"RBC": "红细胞", first.stem: "图像"}  # of another locale they would be other names, or none
    for file in [*(source / "Annotations").glob("*.xml"), *(source / "ImageSets/Main").glob("*.txt")]:
        text = file.read_text("utf-8")
        for old, new in renamed.items():
            text = text.replace(old, new)
        file.write_text(text, encoding if file.suffix == ".xml" else "utf-8")
    for path in (first, source / f"JPEGImages/{first.stem}.jpg"):
        path.rename(path.with_name(f"{renamed[first.stem]}{path.suffix}"))
    # An encoding that files of this program's own code do not name: what the host opens without one is read by it.
    code = (
        "import builtins, io\nfrom ultralytics_akconv.datasets import find_data\nreal = io.open\n"
        "def ascii_by_default(file, mode='r', buffering=-1, encoding=None, *args, **kwargs):\n"
        "    return real(file, mode, buffering, encoding or (None if 'b' in mode else 'ascii'), *args, **kwargs)\n"
        f"builtins.open = ascii_by_default\nfind_data({str(source)!r}, {str(tmp_path / 'out')!r})"
    )
    process = fresh(code)
    assert process.returncode == 0, process.stderr
    names, labels = converted(source)  # what is there already is used again
    assert set(names.values()) == {renamed["RBC"], "WBC", "Platelets"}
    assert any(file.endswith(f"{renamed[first.stem]}.txt") and text for file, text in labels.items())


def test_a_box_of_voc_without_an_end_is_refused(tmp_path):
    source = write_voc(tmp_path / "source")
    file = sorted((source / "Annotations").glob("*.xml"))[0]
    file.write_text(re.sub(r"<xmax>\d+", "<xmax>inf", file.read_text("utf-8")), "utf-8")
    refused(source, file.name, "does not end")


def test_a_list_of_voc_may_begin_with_a_byte_order_mark(tmp_path):
    source = write_voc(tmp_path / "source")
    for file in (source / "ImageSets/Main").glob("*.txt"):
        file.write_text(file.read_text("utf-8"), "utf-8-sig")
    assert len(converted(source)[1]) == 6


# COCO


def test_categories_of_the_same_names_may_have_other_ids_in_each_file(tmp_path):
    _, expected = converted(write_coco(tmp_path / "plain/source"))

    def shifted(content):
        for row in content["categories"]:
            row["id"] = 20 - row["id"]
        for row in content["annotations"]:
            row["category_id"] = 20 - row["category_id"]

    names, labels = converted(changed(write_coco(tmp_path / "shifted/source"), shifted, ["val"]))
    assert names == dict(enumerate(NAMES)) and labels == expected


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: c["annotations"][0].update(iscrowd="0"), "iscrowd of an annotation must be 0 or 1, got '0'"),
        (lambda c: c["annotations"][0].update(bbox=[float("nan"), 1, 2, 3]), "must be four numbers, got [nan, 1"),
        (lambda c: c["annotations"][0].update(bbox=[1, 1, float("inf"), 3]), "must be four numbers"),
        (lambda c: c["annotations"][0].update(bbox=[10**400, 1, 2, 3]), "must be four numbers"),
        (lambda c: c["annotations"][0].update(bbox=[True, 1, 2, 3]), "must be four numbers"),
        (lambda c: c["annotations"][0].update(image_id=1.0), "names no image of the file"),
        (lambda c: c["annotations"][0].update(image_id=[1]), "names no image of the file"),
        (lambda c: c["annotations"][0].update(category_id={}), "names no category of the file"),
        (lambda c: c["images"][0].update(width=float("nan")), "has the width nan"),
        (lambda c: c["images"][0].update(width=True), "has the width True"),
    ],
)
def test_a_row_that_the_converter_would_take_for_another_is_refused(tmp_path, change, message):
    refused(changed(write_coco(tmp_path / "source"), change, ["train"]), "instances_train.json", message)


@pytest.mark.parametrize("name", [" RBC", "wbc", "platelets "])
def test_a_category_beside_another_by_blanks_or_capitals_is_refused(tmp_path, name):
    source = changed(write_coco(tmp_path / "source"), lambda c: c["categories"].append({"id": 9, "name": name}))
    refused(source, "instances_train.json", f"{name!r}: a name has no blanks around it")


def test_a_supercategory_may_be_anything(tmp_path):
    source = changed(write_coco(tmp_path / "source"), lambda c: c["categories"][0].update(supercategory=["cell"]))
    assert converted(source)[0] == dict(enumerate(NAMES))


# VisDrone


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_of_visdrone_without_annotations_is_refused(tmp_path, split):
    source = write_visdrone(tmp_path / "source")
    folder = source / f"VisDrone2019-DET-{split}/annotations"
    for file in folder.iterdir():
        file.unlink()
    refused(source, str(folder), "holds no .txt")


# Evaluation


def test_images_of_one_number_cannot_be_told_apart():
    with pytest.raises(ValueError, match="cannot be told apart in predictions: 7"):
        numbered_stems(["a/007.jpg", "b/7.png"])
    assert numbered_stems(["a/007.jpg", "b/8.png", "a8.jpg"]) == {"007": 1, "8": 2, "a8": 3}
