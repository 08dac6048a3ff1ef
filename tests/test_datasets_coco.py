# SPDX-License-Identifier: AGPL-3.0-or-later
"""COCO as people have it: ids, orders and folders of other tools, and files that cannot be read."""

import json
import shutil

import pytest
from layouts import NAMES, converted, refused, write_coco, write_roboflow_coco

from ultralytics_akconv.datasets import find_data
from ultralytics_akconv.evaluation.coco import read_truth


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
