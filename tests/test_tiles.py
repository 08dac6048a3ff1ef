# SPDX-License-Identifier: AGPL-3.0-or-later
"""Tiles: pixels and boxes of known images, the rule of cut boxes, splits, and how wrong input is refused."""

import importlib.util

import cv2
import numpy as np
import pytest
import yaml
from conftest import ROOT

spec = importlib.util.spec_from_file_location("cut_tiles", ROOT / "scripts/cut_tiles.py")
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)


def cut_of(boxes, height=8, width=12, side=4, keep=0.4):
    """Boxes (class, left, top, right, bottom in pixels) of each tile of an image whose pixels tell where they lie."""
    rows, cols = np.mgrid[:height, :width]
    image = np.stack([rows, cols, rows], axis=2).astype(np.uint8)
    share = [
        [c, (left + right) / 2 / width, (top + bottom) / 2 / height, (right - left) / width, (bottom - top) / height]
        for c, left, top, right, bottom in boxes
    ]
    found = {}
    for name, pixels, cut in script.tiles(image, np.array(share, dtype=float).reshape(-1, 5), side, keep):
        left_top = cut[:, 1:3] * side - cut[:, 3:5] * side / 2
        found[name] = pixels, np.hstack([cut[:, :1], left_top, left_top + cut[:, 3:5] * side]).round(6).tolist()
    return found


def test_tiles_lie_side_by_side_and_hold_the_boxes_of_their_place():
    found = cut_of([(2, 5, 1, 7, 3), (1, 8, 4, 12, 8)])
    assert list(found) == ["r0c0", "r0c1", "r0c2", "r1c0", "r1c1", "r1c2"]
    pixels, boxes = found["r0c1"]
    assert boxes == [[2, 1, 1, 3, 3]]
    assert (pixels.shape, pixels[0, 0].tolist(), pixels[3, 3].tolist()) == ((4, 4, 3), [0, 4, 0], [3, 7, 3])
    assert found["r1c2"][1] == [[1, 0, 0, 4, 4]]
    assert [name for name, (_, boxes) in found.items() if boxes] == ["r0c1", "r1c2"]


def test_a_box_stays_in_each_tile_that_holds_its_share_cut_at_the_edge():
    box = (0, 1, 0, 6, 2)  # three of its five columns lie in the first tile, two in the second
    assert {n: b for n, (_, b) in cut_of([box], keep=0.4).items() if b} == {
        "r0c0": [[0, 1, 0, 4, 2]],
        "r0c1": [[0, 0, 0, 2, 2]],
    }
    assert [n for n, (_, b) in cut_of([box], keep=0.41).items() if b] == ["r0c0"]
    touching = (0, 0, 0, 4, 4)  # ends where the next tiles begin: no part of it lies there
    assert [n for n, (_, b) in cut_of([touching], keep=0.0).items() if b] == ["r0c0"]


def test_the_last_tile_ends_with_the_image_over_the_one_before():
    found = cut_of([(0, 6, 0, 9, 4)], height=4, width=9)
    assert list(found) == ["r0c0", "r0c1", "r0c2"]
    assert found["r0c2"][0][0, 0, 1] == 5
    assert (found["r0c1"][1], found["r0c2"][1]) == ([[0, 2, 0, 4, 4]], [[0, 1, 0, 4, 4]])
    with pytest.raises(ValueError, match="an image of 9 x 3 pixels holds no tile of 4"):
        cut_of([], height=3, width=9)


@pytest.fixture
def data(tmp_path):
    """Two images a split of 40 x 20 pixels, with one box in the middle, and one image without labels."""
    for split in ("train", "val"):
        (tmp_path / "data/images" / split).mkdir(parents=True)
        (tmp_path / "data/labels" / split).mkdir(parents=True)
        for name in ("a", "b"):
            cv2.imwrite(str(tmp_path / f"data/images/{split}/{name}.png"), np.full((20, 40, 3), 7, np.uint8))
        (tmp_path / f"data/labels/{split}/a.txt").write_text("1 0.5 0.5 0.5 0.5\n", "utf-8")
    file = tmp_path / "data/data.yaml"
    file.write_text(f"path: {tmp_path / 'data'}\ntrain: images/train\nval: images/val\nnames: [x, y]\n", "utf-8")
    return file


def test_a_dataset_of_tiles_is_whole_reproducible_and_keeps_its_splits(data, tmp_path):
    first = script.cut(data, tmp_path / "one", side=10, scale=0.5, every={"val": 3})
    second = script.cut(data, tmp_path / "two", side=10, scale=0.5, every={"val": 3})
    files = sorted(file.relative_to(tmp_path / "one") for file in (tmp_path / "one").rglob("*") if file.is_file())
    assert [str(file) for file in files if "images" in file.parts] == [
        "images/train/a-r0c0.png", "images/train/a-r0c1.png", "images/train/b-r0c0.png", "images/train/b-r0c1.png",
        "images/val/a-r0c0.png", "images/val/b-r0c1.png",
    ]  # fmt: skip
    assert all((tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes() for file in files)
    assert yaml.safe_load(first.read_text("utf-8")) == {
        "train": "images/train", "val": "images/val", "names": {0: "x", 1: "y"},
    }  # fmt: skip
    assert second.name == "data.yaml"
    label = (tmp_path / "one/labels/train/a-r0c1.txt").read_text("utf-8")
    assert label == "1 0.250000 0.500000 0.500000 0.500000\n"
    assert (tmp_path / "one/labels/train/b-r0c0.txt").read_text("utf-8") == ""


def test_what_cannot_be_cut_is_refused_and_leaves_nothing(data, tmp_path):
    with pytest.raises(ValueError, match="is in the way"):
        script.cut(data, tmp_path / "data")
    with pytest.raises(ValueError, match=r"keep 0 to 1; got 10, \{\}, 1.0, 2"):
        script.cut(data, tmp_path / "out", side=10, keep=2)
    with pytest.raises(ValueError, match=r"no split test in .*: train, val"):
        script.cut(data, tmp_path / "out", side=10, every={"test": 2})
    (tmp_path / "data/labels/val/a.txt").write_text("1 0.1 0.1 0.2 0.1 0.2 0.2\n", "utf-8")
    with pytest.raises(ValueError, match="holds other labels than boxes"):
        script.cut(data, tmp_path / "out", side=10)
    (tmp_path / "data/images/train/a.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="cannot be read as an image"):
        script.cut(data, tmp_path / "out", side=10)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["data"]


def test_the_command_cuts_and_tells_errors(data, tmp_path, capsys):
    command = [str(data), "-o", str(tmp_path / "out"), "--side", "10"]
    assert script.main([*command, "--every", "train=8", "val=8"]) == 0
    assert capsys.readouterr().out == f"wrote {tmp_path / 'out/data.yaml'}\n"
    assert len(list((tmp_path / "out/images").rglob("*.png"))) == 4  # of 16 a split
    assert script.main(command) == 1
    assert capsys.readouterr().err.startswith("cut_tiles.py: ")
    with pytest.raises(SystemExit):
        script.main([*command, "--every", "train"])
    assert "write SPLIT=N as in train=5" in capsys.readouterr().err
