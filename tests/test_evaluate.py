# SPDX-License-Identifier: AGPL-3.0-or-later
"""AP by COCO rules: equal to the library on the original annotations, and right on labels; errors."""

import json
import re
import shutil
import sys

import pytest
import ultralytics
from conftest import copy_mini_dataset
from layouts import MINI, detect_labels, small_model, write_original_coco
from ultralytics.data.converter import coco80_to_coco91_class
from ultralytics.utils.checks import check_version

from ultralytics_akconv.cli import main
from ultralytics_akconv.datasets import find_data
from ultralytics_akconv.evaluation import coco_metrics, evaluate

pytest.importorskip("faster_coco_eval", reason="the extra `eval`")
SMALL = {"imgsz": 64, "batch": 8, "device": "cpu", "workers": 0, "verbose": False}
NEW = pytest.mark.skipif(
    not check_version(ultralytics.__version__, ">=8.3.200"), reason="the host's predictions have another form"
)


def library(truth_file, predictions):
    """Run the library by itself."""
    from faster_coco_eval import COCO, COCOeval_faster

    truth = COCO(str(truth_file))
    result = COCOeval_faster(truth, truth.loadRes(predictions), "bbox")
    result.evaluate()
    result.accumulate()
    result.summarize()
    return [result.stats_as_dict[name] for name in ("AP_50", "AP_75", "AP_all", "AP_small", "AP_medium", "AP_large")]


@NEW
def test_cocos_figures_are_those_of_the_library_on_the_original_annotations(tmp_path, monkeypatch):
    data = find_data(write_original_coco(tmp_path / "coco"), tmp_path / "converted")
    detect_labels(monkeypatch, noise=0.1, copies=2)
    result = evaluate("yolov8n.yaml", data, **{**SMALL, "imgsz": 320}, project=str(tmp_path), name="val")
    original = tmp_path / "coco/annotations/instances_val2017.json"
    predictions = json.loads((tmp_path / "val/predictions.json").read_text("utf-8"))
    for row in predictions:
        row["category_id"] = coco80_to_coco91_class()[row["category_id"]]
    figures = [result.AP50, result.AP75, result.AP, result.APS, result.APM, result.APL]
    assert figures == library(original, predictions)
    assert 0.1 < result.AP < result.AP50 < 1
    assert result.ground_truth.endswith("instances_val2017.json")
    assert abs(result.mAP - result.AP) > 1e-3  # the host's own figure stays its own
    assert any(a["iscrowd"] for a in json.loads(original.read_text("utf-8"))["annotations"])


def test_a_crowd_forgives_boxes_in_it_and_counts_none_missing():
    box = {"image_id": 1, "category_id": 0}
    crowd = {"id": 2, **box, "bbox": [50, 50, 40, 40], "area": 1600, "iscrowd": 1}
    one = {"id": 1, **box, "bbox": [0, 0, 40, 40], "area": 1600, "iscrowd": 0}
    truth = {"images": [{"id": 1, "width": 100, "height": 100}], "annotations": [one, crowd],
             "categories": [{"id": 0, "name": "a"}]}  # fmt: skip
    found = [{**box, "bbox": [55, 55, 10, 10], "score": 0.9}, {**box, "bbox": [0, 0, 40, 40], "score": 0.5}]
    figures = coco_metrics(truth, found)
    assert figures["AP"] == figures["APM"] == pytest.approx(1.0)
    assert figures["APL"] is None  # there is no large object
    crowd["iscrowd"] = 0
    assert coco_metrics(truth, found)["AP"] < 0.6
    assert coco_metrics(truth, [])["AP"] == 0


@NEW
def test_perfect_predictions_of_a_dataset_of_labels_are_perfect(tmp_path, monkeypatch):
    detect_labels(monkeypatch, noise=0.0, copies=1)
    result = evaluate(small_model(tmp_path), copy_mini_dataset(tmp_path), **SMALL)
    assert result.AP > 0.99
    assert (result.images, result.ground_truth) == (8, "labels")
    assert result.mAP50 > 0.9 and result.parameters > 2e6 and result.gflops > 0 and result.latency > 0


def test_what_the_host_says_of_bad_labels_and_images_stays_visible(tmp_path, caplog):
    data = copy_mini_dataset(tmp_path)
    files = sorted((tmp_path / "akconv-mini/labels/val").glob("*.txt"))
    files[0].write_text("0 1.5 0.5 0.1 0.1\n", "utf-8")  # out of range
    files[1].write_text("7 0.5 0.5 0.1 0.1\n", "utf-8")  # a class too many
    files[2].write_text("", "utf-8")
    files[3].unlink()
    (tmp_path / f"akconv-mini/images/val/{files[4].stem}.jpg").write_bytes(b"no image")
    result = evaluate(small_model(tmp_path, name=None), data, **SMALL)
    said = re.sub(r"\[ +", "[", caplog.text)  # older releases pad the numbers
    assert result.images == 5  # the host leaves out three and takes two as background
    for number, words in ((0, "coordinates [1.5]"), (1, "exceeds dataset class count 3"), (4, "")):
        assert f"{files[number].stem}.jpg: ignoring corrupt image/label: " in said
        assert words in said


def test_annotations_that_do_not_fit_are_refused(tmp_path):
    data = copy_mini_dataset(tmp_path)
    images = [{"id": i, "file_name": f.name} for i, f in enumerate(sorted((MINI / "images/val").glob("*.jpg")))]
    names = [{"id": i, "name": name} for i, name in enumerate(("RBC", "WBC", "Platelets"))]
    for content, message in (
        ({"images": images[1:], "categories": names}, f"lacks 1 of the 8 images: {images[0]['file_name'][:-4]}"),
        ({"images": images, "categories": names[1:]}, r"has the classes \['Platelets', 'WBC'\], the dataset"),
    ):
        file = tmp_path / "instances.json"
        file.write_text(json.dumps({**content, "annotations": []}), "utf-8")
        with pytest.raises(ValueError, match=message):
            evaluate(small_model(tmp_path), data, annotations=file, **SMALL)
    with pytest.raises(ValueError, match="the model has 80 classes, the dataset 3"):
        evaluate("yolov8n.yaml", data, **SMALL)


def test_images_of_one_name_are_refused(tmp_path):
    data = copy_mini_dataset(tmp_path)
    for kind, end in (("images", "jpg"), ("labels", "txt")):
        (tmp_path / f"akconv-mini/{kind}/val/more").mkdir()
        file = sorted((tmp_path / f"akconv-mini/{kind}/val").glob(f"*.{end}"))[0]
        shutil.copy(file, file.parent / "more")
    with pytest.raises(ValueError, match="images of the same name"):
        evaluate(small_model(tmp_path), data, **SMALL)


def test_other_tasks_and_a_missing_library_are_refused_before_the_work(monkeypatch, capsys):
    with pytest.raises(ValueError, match="task 'segment'"):
        evaluate("yolov8n-seg.yaml", "coco8.yaml")
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    assert main(["evaluate", "yolov8n.yaml", "--data", "coco8.yaml"]) == 1
    assert "pip install 'ultralytics-akconv[eval]'" in capsys.readouterr().err
