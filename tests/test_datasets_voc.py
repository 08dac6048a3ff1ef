# SPDX-License-Identifier: AGPL-3.0-or-later
"""VOC as people have it: parts of its years, XML beside images, and files that cannot be read."""

import re
import shutil

import pytest
from layouts import converted, refused, write_roboflow_voc, write_voc

from ultralytics_akconv.datasets import find_data


def years_of(folder, sets):
    """Write VOCdevkit with the given splits of the given years: {"2012": ("train", "val")}."""
    for year, splits in sets.items():
        root = write_voc(folder / f"VOCdevkit/VOC{year}")
        for split in ("train", "val"):
            if split not in splits:
                (root / f"ImageSets/Main/{split}.txt").unlink()
        if "test" in splits:  # the images that another split does not have by then
            (root / "ImageSets/Main/val.txt").rename(root / "ImageSets/Main/test.txt")
    return folder


@pytest.mark.parametrize(
    "sets, wanted",
    [
        ({"2012": ("train", "val")}, {"train": ["train2012"], "val": ["val2012"]}),
        (
            {"2007": ("train", "val"), "2012": ("train", "val")},
            {"train": ["train2012", "train2007"], "val": ["val2012", "val2007"]},
        ),
        (
            {"2007": ("train", "val", "test"), "2012": ("train", "val")},
            {"train": ["train2012", "train2007", "val2012"], "val": ["test2007"], "test": ["test2007"]},
        ),
        ({"2007": ("train",), "2012": ("val",)}, {"train": ["train2007"], "val": ["val2012"]}),
        ({"2010": ("train", "val")}, {"train": ["train2010"], "val": ["val2010"]}),
    ],
)
def test_voc_is_converted_with_the_years_and_splits_that_are_there(sets, wanted, tmp_path):
    data, _ = converted(years_of(tmp_path / "source", sets))
    assert {split: data[split] for split in ("train", "val", "test") if split in data} == {
        split: [f"images/{part}" for part in parts] for split, parts in wanted.items()
    }


def test_the_test_set_of_a_later_year_is_taken_only_with_its_annotations(tmp_path):
    source = write_voc(tmp_path / "a/VOC2010").parent
    (source / "VOC2010/ImageSets/Main/test.txt").write_text("published_without_annotations\n", "utf-8")
    data, rows = converted(source)
    assert "test" not in data and len(rows) == 6


def test_years_that_share_images_are_refused_together(tmp_path):
    refused(years_of(tmp_path / "source", {"2010": ("train",), "2012": ("val",)}), "holds VOC2010, VOC2012: VOC2008 to")


def test_annotations_without_splits_are_refused_with_what_to_write(tmp_path):
    source = write_voc(tmp_path / "source")
    shutil.rmtree(source / "ImageSets")
    refused(source, "has Annotations and no ImageSets/Main, so nothing says what is trained on")


def test_lists_of_other_names_are_refused_by_these(tmp_path):
    source = write_voc(tmp_path / "source")
    (source / "ImageSets/Main/train.txt").rename(source / "ImageSets/Main/default.txt")  # as CVAT calls its own
    (source / "ImageSets/Main/val.txt").unlink()
    refused(source, "ImageSets/Main has no images listed in train.txt and val.txt; it holds default.txt")


def without_xml(source):
    sorted((source / "train").glob("*.xml"))[0].unlink()


def without_image(source):
    sorted((source / "valid").glob("*.jpg"))[0].unlink()


def with_both_names(source):
    shutil.copytree(source / "valid", source / "val")


def with_an_image_in_two_splits(source):
    for file in (source / "train").iterdir():
        shutil.copy(file, source / "valid")


def with_a_blank_in_a_name(source):
    for file in [*(source / "train").iterdir()]:
        file.rename(file.with_name(f"a {file.name}"))


def without_validation(source):
    shutil.rmtree(source / "valid")


@pytest.mark.parametrize(
    "change, message",
    [
        (without_xml, ".jpg has no XML beside it"),
        (without_image, ".xml names it"),
        (with_both_names, "holds valid and val"),
        (with_an_image_in_two_splits, "lists images twice: "),
        (with_a_blank_in_a_name, "at its blanks: rename that image"),
        (without_validation, "has no images for the split 'val': found train. Name one 'val'"),
    ],
)
def test_xml_beside_images_that_is_not_whole_is_refused(change, message, tmp_path):
    source = write_roboflow_voc(tmp_path / "source")
    change(source)
    refused(source, message)


def edited(source, old, new, pattern="Annotations/*.xml"):
    """Replace text in the first file of a pattern and return its name."""
    file = sorted(source.glob(pattern))[0]
    text = file.read_text("utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), "utf-8")
    return file.name


@pytest.mark.parametrize(
    "content, message",
    [
        ("", "cannot be read: no element found"),
        ("<annotation><size>", "cannot be read: "),
        ('<?xml version="1.0" encoding="nonsense"?><annotation/>', "cannot be read: "),
        ("<annotation/>", "cannot be read: <size/width> is missing, which must be a number"),
        ("<annotation><size><width>0</width><height>5</height></size></annotation>", "the width of the image is 0"),
        (
            "<annotation><size><width>9</width><height>x</height></size></annotation>",
            "<size/height> is 'x', which",
        ),
    ],
)
def test_an_xml_that_cannot_be_read_is_named(content, message, tmp_path):
    source = write_voc(tmp_path / "source")
    file = sorted((source / "Annotations").glob("*.xml"))[0]
    file.write_text(content, "utf-8")
    refused(source, str(file))
    with pytest.raises(ValueError, match=re.escape(message)):
        find_data(source, tmp_path / "out")


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("<difficult>0</difficult>", "", "an object without <difficult>"),
        ("<difficult>0</difficult>", "<difficult>no</difficult>", "<difficult> is 'no', which must be a number"),
        ("<name>RBC</name>", "<name> RBC </name>", "an object has the class ' RBC '"),
        ("<name>RBC</name>", "<name/>", "an object has the class ''"),
        (
            "<difficult>0</difficult><bndbox><xmin>",
            "<difficult>0</difficult><bndbox><xmin>9e9",
            "ends before it begins",
        ),
        ("<difficult>0</difficult><bndbox>", "<difficult>0</difficult><box/><bndbox><xmin/>", "<bndbox/xmin> is ''"),
    ],
)
def test_an_object_that_cannot_be_read_is_named_by_its_file(old, new, message, tmp_path):
    source = write_voc(tmp_path / "source")
    name = edited(source, old, new)
    refused(source, message)
    with pytest.raises(ValueError, match=name):
        find_data(source, tmp_path / "out")


def test_classes_that_differ_in_capitals_alone_are_refused_with_their_files(tmp_path):
    source = write_voc(tmp_path / "source")
    name = edited(source, "<name>RBC</name>", "<name>rbc</name>")
    refused(source, "classes differ in capitals alone: ")
    with pytest.raises(ValueError, match=rf"'rbc' \(.*{name}\)"):
        find_data(source, tmp_path / "out")


@pytest.mark.parametrize("suffix", [".png", ".JPG", ".jpeg"])
def test_an_image_of_another_suffix_is_named_with_what_the_converter_takes(suffix, tmp_path):
    source = write_voc(tmp_path / "source")
    image = sorted((source / "JPEGImages").iterdir())[0]
    image.rename(image.with_suffix(suffix))
    refused(source, f"{image.stem}{suffix}: Ultralytics' converter of this layout takes .jpg images alone")


def test_an_image_name_with_blanks_is_refused_by_that_name(tmp_path):
    source = write_voc(tmp_path / "source")
    stem = sorted((source / "JPEGImages").iterdir())[0].stem
    edited(source, stem, "my first image", "ImageSets/Main/train.txt")
    refused(source, "train.txt: Ultralytics' converter cuts the name 'my first image' at its blanks")


def test_an_image_in_two_splits_is_refused(tmp_path):
    source = write_voc(tmp_path / "source")
    shutil.copy(source / "ImageSets/Main/train.txt", source / "ImageSets/Main/val.txt")
    refused(source, "ImageSets/Main lists images twice: ")


def test_a_list_of_images_in_no_text_is_named(tmp_path):
    source = write_voc(tmp_path / "source")
    (source / "ImageSets/Main/val.txt").write_bytes(b"\xff\xfe\x00")
    refused(source, "val.txt cannot be read: ")
