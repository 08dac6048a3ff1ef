# SPDX-License-Identifier: AGPL-3.0-or-later
"""Names of host models with AKConv in them: what they resolve to, what wins over them, what is written."""

from pathlib import Path

import pytest
import yaml
from conftest import built, layers_of, yolov8_dict
from networks import HOST_NAMES, model_file
from ultralytics import RTDETR, YOLO
from ultralytics.nn import tasks

from ultralytics_akconv import BLOCKS, AKConv, graft, modules
from ultralytics_akconv.configs import MODELS
from ultralytics_akconv.grafting.names import without_scale
from ultralytics_akconv.info import plain_model

NAMES = [
    ("yolo11s-akconv.yaml", YOLO, 5, "s"),
    ("yolo26n-seg-akconv7.yaml", YOLO, 7, "n"),
    ("yolo11n-obb-ldconv3.yaml", YOLO, 3, "n"),
    ("yolov10n-akconv9.yaml", YOLO, 9, "n"),
    ("yolov5n-akconv2.yaml", YOLO, 2, "n"),
    ("yolov9t-akconv4.yml", YOLO, 4, ""),
    ("rtdetr-l-akconv.yaml", RTDETR, 5, ""),
]


@pytest.mark.parametrize(
    "name, build, num_param, scale",
    [case for case in NAMES if not case[0].startswith("yolo26") or "yolo26.yaml" in HOST_NAMES],
)
def test_a_host_models_name_with_akconv_and_a_number_resolves(name, build, num_param, scale, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = build(name).model
    assert {m.num_param for m in model.modules() if isinstance(m, AKConv)} == {num_param}
    assert (model.yaml["scale"], model.yaml["yaml_file"]) == (scale, name)
    assert not list(tmp_path.iterdir())  # nothing is written where the user works


def asked(*names):
    """Ask as the host does: softly for the first name, then for the second."""
    first, second = names
    return tasks.check_yaml(first, hard=False) or tasks.check_yaml(second)


@pytest.mark.parametrize("own", ["yolo11s-akconv.yaml", "yolo11-akconv.yaml", "yolov10n-akconv.yaml"])
@pytest.mark.parametrize("order", [1, -1])
def test_a_users_file_wins_whichever_name_the_host_asks_first(own, order, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    full = own.replace("yolo11-", "yolo11s-")
    names = (full, without_scale(full))[::order]
    grafted = asked(*names)
    assert grafted != own
    assert "AKConv, [128, 5, 2]" in Path(grafted).read_text("utf-8")
    model_file(tmp_path, "nc: 1", own)
    assert asked(*names) == own


def test_a_shipped_file_wins_over_a_graft_of_its_name():
    for names in (("yolov8n-akconv.yaml", "yolov8-akconv.yaml"), ("yolov8-akconv.yaml", "yolov8n-akconv.yaml")):
        assert Path(asked(*names)) == MODELS / "yolov8-akconv.yaml"


def test_a_grafted_name_is_written_once_and_mended_if_it_was_damaged():
    names = ("yolo11n-akconv3.yaml", "yolo11-akconv3.yaml")
    file = Path(asked(*names))
    text, written = file.read_text("utf-8"), file.stat().st_mtime_ns
    assert asked(*names) == str(file)
    assert file.stat().st_mtime_ns == written
    file.write_text("nc: 1", "utf-8")
    assert Path(asked(*names)).read_text("utf-8") == text
    assert [other.name for other in file.parent.iterdir()] == [file.name]  # no temporary file is left


@pytest.mark.parametrize(
    "name, meant",
    [
        ("yolov8-akconv7s.yaml", "yolov8s-akconv7.yaml"),
        ("yolo11-akconv7x.yaml", "yolo11x-akconv7.yaml"),
        ("yolo11-ldconv7x.yaml", "yolo11x-ldconv7.yaml"),
        ("yolo11-akconvx.yml", "yolo11x-akconv.yml"),
        ("yolo11s-akconv7x.yaml", "yolo11s-akconv7.yaml"),  # two letters: the first is the scale
        ("yolov8ns-akconv.yaml", "yolov8n-akconv.yaml"),  # would be found without its first letter, as scale n
        ("yolo11sx-seg-ldconv7.yaml", "yolo11s-seg-ldconv7.yaml"),
        ("yolov8-seg-akconv5m.yaml", "yolov8m-seg-akconv5.yaml"),
        ("yolov8-p6x-akconv7.yaml", "yolov8x-p6-akconv7.yaml"),
        ("yolov9t-akconv5s.yaml", "yolov9t-akconv5.yaml"),
        ("rtdetr-l-akconv5x.yaml", "rtdetr-l-akconv5.yaml"),
        ("YOLOv8s-akconv.yaml", "yolov8s-akconv.yaml"),  # a file system without capitals would find it, as scale n
    ],
)
def test_a_scale_that_the_host_would_drop_is_refused_with_the_name_that_says_it(name, meant):
    for ask in (YOLO, graft):
        with pytest.raises(FileNotFoundError, match=f"'{name}' does not exist.* Try '{meant}'"):
            ask(name)


def test_a_users_own_file_may_bear_any_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "yolo99-akconv7s.yaml"
    own.write_text(yaml.safe_dump(yolov8_dict(9, 2)), "utf-8")
    for name in (own.name, own):
        assert {m.num_param for m in layers_of(YOLO(name).model)} == {9}


@pytest.mark.parametrize("name", ["yolov8s-c2f-ldconv.yaml", "yolov8n-ldconv-shape-a.yaml", "yolov7-tiny-ldconv5.yaml"])
def test_a_shipped_model_is_found_by_the_operators_later_name(name):
    later, ours = YOLO(name).model, YOLO(name.replace("ldconv", "akconv")).model
    assert later.state_dict().keys() == ours.state_dict().keys()
    assert sum(p.numel() for p in later.parameters()) == sum(p.numel() for p in ours.parameters())
    assert later.yaml["scale"] == ours.yaml["scale"] and later.yaml["yaml_file"] == name


@pytest.mark.parametrize("block", BLOCKS)
def test_every_block_has_its_name_after_the_operators_later_one(block):
    assert getattr(modules, f"{block}_LDConv") is BLOCKS[block]


def test_a_row_may_call_a_block_by_the_operators_later_name():
    texts = graft("yolov8n.yaml", 3, "blocks"), graft("yolov8n.yaml", 3, "blocks").replace("C2f_AKConv", "C2f_LDConv")
    ours, later = (built({**yaml.safe_load(text), "scale": "n"}) for text in texts)
    assert {type(m) for m in later.modules()} == {type(m) for m in ours.modules()}
    assert later.state_dict().keys() == ours.state_dict().keys()
    assert plain_model(yaml.safe_load(texts[1])) == plain_model(yaml.safe_load(texts[0]))


def test_an_unknown_name_lists_near_ones():
    with pytest.raises(
        FileNotFoundError, match=r"'yolo11z-akconv.yaml' does not exist\. Names most like it: .*yolo11-akc"
    ):
        YOLO("yolo11z-akconv.yaml")


def test_a_name_whose_model_has_nothing_to_replace_says_so():
    with pytest.raises(ValueError, match=r"yolov3-tiny.yaml: no layer matches where='downsample'"):
        YOLO("yolov3-tiny-akconv.yaml")
    with pytest.raises(ValueError, match="num_param must be from 1 to 1024, got 0"):
        YOLO("yolo11n-akconv0.yaml")
