# SPDX-License-Identifier: AGPL-3.0-or-later
"""Datasets as people have them: parts of VOC, ids and orders of other tools, and files that cannot be read."""

import json
import re
import shutil

import pytest
import yaml
from layouts import NAMES, tree, write_coco, write_roboflow_coco, write_roboflow_voc, write_visdrone, write_voc
from ultralytics.data.utils import check_det_dataset

from ultralytics_akconv.datasets import find_data
from ultralytics_akconv.evaluation.coco import read_truth


def refused(source, message):
    """Expect one line that names a file, the source as it was, and nothing left of the conversion."""
    before = tree(source)
    with pytest.raises((ValueError, OSError), match=re.escape(message)) as error:
        find_data(source, source.parent / "out")
    assert "\n" not in str(error.value)
    assert tree(source) == before
    assert [file.name for file in source.parent.iterdir()] == [source.name]


def converted(source):
    """Return the data YAML of a converted dataset, and all label rows by the stem of their image."""
    out = source.parent / "out"
    data = yaml.safe_load(find_data(source, out).read_text("utf-8"))
    check_det_dataset(str(out / "data.yaml"))
    rows = {f.stem: [line.split() for line in f.read_text("utf-8").splitlines()] for f in out.rglob("labels/**/*.txt")}
    return data, rows


# VOC


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


# COCO


def changed(source, change, split=None):
    """Change the JSON of all splits, or of one."""
    for file in (source / "annotations").glob(f"instances_{split or '*'}.json"):
        content = json.loads(file.read_text("utf-8"))
        change(content)
        file.write_text(json.dumps(content), "utf-8")
    return source


def renumbered(ids):
    def change(content):
        for row in content["categories"]:
            row["id"] = ids[row["id"] - 1]
        for row in content["annotations"]:
            row["category_id"] = ids[row["category_id"] - 1]

    return change


@pytest.mark.parametrize("ids", [(0, 1, 2), (1, 2, 7), (10, 20, 30), (2, 3, 4)])
def test_category_ids_from_anywhere_and_with_gaps_become_the_same_classes(ids, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    plain = converted(write_coco(tmp_path / "a/source"))
    source = changed(write_coco(tmp_path / "b/source"), renumbered(ids))
    original = {file.name: file.read_bytes() for file in (source / "annotations").iterdir()}
    assert converted(source) == plain
    assert plain[0]["names"] == dict(enumerate(NAMES))
    kept = {file.name: file.read_bytes() for file in (tmp_path / "b/out/annotations").iterdir()}
    assert kept == original  # the evaluation goes by names


def test_equal_categories_in_another_order_or_with_more_about_them_are_equal(tmp_path):
    source = changed(write_coco(tmp_path / "source"), lambda content: content["categories"].reverse(), "val")
    changed(source, lambda content: [row.update(supercategory="cell") for row in content["categories"]], "train")
    data, _ = converted(source)
    assert data["names"] == dict(enumerate(NAMES))


def test_different_categories_are_refused_with_the_difference(tmp_path):
    source = changed(write_coco(tmp_path / "source"), lambda c: c["categories"][0].update(name="cell"), "val")
    refused(source, "have different categories: 1 'RBC', 1 'cell'")


@pytest.mark.parametrize("name", ["images/{}", "images/more/{}", "more/{}"])
def test_images_in_folders_keep_their_labels(name, tmp_path):
    source = write_coco(tmp_path / "source")
    for split in ("train", "val"):
        for image in [*(source / split).glob("*.jpg")]:
            new = (source if name.startswith("images") else source / split) / name.format(image.name)
            new.parent.mkdir(parents=True, exist_ok=True)
            image.rename(new)

    def change(content):
        for image in content["images"]:
            image["file_name"] = name.format(image["file_name"])

    data, rows = converted(changed(source, change))
    out = tmp_path / "out"
    for split in ("train", "val"):
        images = [*(out / data[split]).rglob("*.jpg")]
        labels = [str(image).replace("/images/", "/labels/")[:-4] + ".txt" for image in images]  # the host's look-up
        assert len(labels) == 3 and all(rows[image.stem] for image in images)
        assert all((out / label).is_file() for label in labels)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: c.pop("annotations"), "it must map images, categories, annotations to lists"),
        (lambda c: c["categories"].clear(), "it has no categories"),
        (lambda c: c["categories"][0].update(id="1"), "a row of categories must have an id, which is an int"),
        (lambda c: c["categories"][0].update(name="WBC"), "two categories are called 'WBC'"),
        (lambda c: c["categories"][0].update(id=2), "two rows of categories have one id"),
        (
            lambda c: c["images"][0].pop("file_name"),
            "a row of images must have an id, which is an int",
        ),
        (lambda c: c["images"][0].update(width=0), "has the width 0"),
        (lambda c: c["images"][0].pop("height"), "has the height None"),
        (lambda c: c["annotations"][0].update(category_id=9), "an annotation names no category of the file"),
        (lambda c: c["annotations"][0].update(image_id=99), "an annotation names no image of the file"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, 3]), "the bbox of an annotation must be four numbers"),
        (lambda c: c["images"][0].update(file_name="../../x.jpg"), "'../../x.jpg' must be a path below"),
    ],
)
def test_what_is_wrong_in_a_json_is_told_with_its_file(change, message, tmp_path):
    source = changed(write_coco(tmp_path / "source"), change, "train")
    refused(source, message)
    if "x.jpg" not in message:
        with pytest.raises(ValueError, match=r"instances_train\.json"):
            find_data(source, tmp_path / "out")


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b"\xff\xfe", b"[" * 100_000])
def test_a_file_that_is_no_json_of_instances_is_named(content, tmp_path):
    source = write_coco(tmp_path / "source")
    (source / "annotations/instances_val.json").write_bytes(content)
    refused(source, "instances_val.json cannot be read: ")


def test_a_split_by_another_name_is_told(tmp_path):
    source = write_coco(tmp_path / "source")
    for split in ("train", "val"):
        (source / f"annotations/instances_{split}.json").rename(
            source / f"annotations/instances_{split[0]}default.json"
        )
    refused(source, "has no images for the split 'train': found tdefault, vdefault. Name one 'train'")


def test_a_split_without_any_boxes_is_converted(tmp_path):
    source = changed(write_coco(tmp_path / "source"), renumbered((0, 1, 2)))
    _, rows = converted(changed(source, lambda content: content["annotations"].clear(), "val"))
    assert len(rows) == 3


def test_two_images_that_differ_in_their_suffix_alone_are_refused(tmp_path):
    def change(content):
        content["images"][1]["file_name"] = content["images"][0]["file_name"].replace(".jpg", ".png")

    source = changed(write_coco(tmp_path / "source"), change, "train")
    refused(source, "instances_train.json holds two images of one name: ")


def relabelled(source, change):
    """Change the files that Roboflow writes."""
    for file in source.glob("*/_annotations.coco.json"):
        content = json.loads(file.read_text("utf-8"))
        change(content, file.parent.name)
        file.write_text(json.dumps(content), "utf-8")
    return source


def test_a_group_called_as_its_only_class_is_no_class(tmp_path):
    def one_class(content, _):
        group = {"id": 0, "name": "cell", "supercategory": "none"}
        content["categories"] = [group, {"id": 1, "name": "cell", "supercategory": "cell"}]
        for row in content["annotations"]:
            row["category_id"] = 1

    source = relabelled(write_roboflow_coco(tmp_path / "source"), one_class)
    data, rows = converted(source)
    assert data["names"] == {0: "cell"}
    assert {row[0] for listed in rows.values() for row in listed} == {"0"}
    images = [*(tmp_path / "out/images/valid").iterdir()]
    for file in (tmp_path / "out/annotations/instances_valid.json", source / "valid/_annotations.coco.json"):
        truth, _ = read_truth(file, images, data["names"])  # what was converted, and what `--annotations` may name
        assert [category["id"] for category in truth["categories"]] == [1]


def test_a_group_that_has_boxes_in_one_split_is_a_class(tmp_path):
    def used(content, split):
        if split == "train":
            content["annotations"][1]["category_id"] = 0

    data, _ = converted(relabelled(write_roboflow_coco(tmp_path / "source"), used))
    assert data["names"] == dict(enumerate(["cells", *NAMES]))


def test_two_layouts_of_coco_in_one_folder_are_refused(tmp_path):
    source = write_roboflow_coco(tmp_path / "source")
    (source / "annotations").mkdir()
    shutil.copy(source / "train/_annotations.coco.json", source / "annotations/instances_train.json")
    refused(source, "take one of the two away")


# VisDrone


@pytest.mark.parametrize(
    "line, message",
    [
        ("", "line 2 must have 8 fields between commas, got ''"),
        ("1,2,3", "line 2 must have 8 fields between commas, got '1,2,3'"),
        ("1,2,x,4,1,1,0,0", "line 2: invalid literal for int() with base 10: 'x'"),
        ("1,2,3,4,1,0,0,0", "line 2 has the category 0, not 1 to 10"),
        ("1,2,3,4,1,11,0,0", "line 2 has the category 11, not 1 to 10"),
    ],
)
def test_a_line_of_visdrone_that_cannot_be_read_is_named(line, message, tmp_path):
    source = write_visdrone(tmp_path / "source")
    file = sorted(source.glob("*-val/annotations/*.txt"))[0]
    lines = file.read_text("utf-8").splitlines()
    file.write_text("\n".join([lines[0], line, *lines[1:]]) + "\n", "utf-8")
    refused(source, f"{file} cannot be read: {message}")


@pytest.mark.parametrize("end", ["", "\n\n", " \n"])
def test_blank_lines_at_the_end_are_nothing(end, tmp_path):
    source = write_visdrone(tmp_path / "source")
    file = sorted(source.glob("*-val/annotations/*.txt"))[0]
    file.write_text(file.read_text("utf-8").rstrip() + end, "utf-8")
    assert converted(source)[1][file.stem]


def test_an_image_of_visdrone_that_is_absent_or_none_is_named(tmp_path):
    source = write_visdrone(tmp_path / "source")
    image = sorted(source.glob("*-val/images/*.jpg"))[0]
    image.write_bytes(b"no image")
    refused(source, f"{image} cannot be read as an image")
    image.unlink()
    refused(source, f"'{image.name}' is not in {image.parent}, but ")
