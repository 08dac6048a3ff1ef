# SPDX-License-Identifier: AGPL-3.0-or-later
"""AP by COCO rules: equal to the library on the original annotations, and right on labels; errors."""

import json
import re
import shutil
import sys

import pytest
import torch
import ultralytics
import yaml
from conftest import copy_mini_dataset
from layouts import MINI, detect_labels, small_model, write_original_coco
from networks import host_text
from ultralytics.data.converter import coco80_to_coco91_class
from ultralytics.utils.checks import check_version

from ultralytics_akconv.cli import main
from ultralytics_akconv.datasets import find_data
from ultralytics_akconv.evaluation import check_evaluation, coco_metrics, evaluate
from ultralytics_akconv.evaluation.coco import read_truth
from ultralytics_akconv.opening import host_model

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


def test_a_missing_library_is_told_before_the_work(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    assert main(["evaluate", "yolov8n.yaml", "--data", "coco8.yaml"]) == 1
    assert "pip install 'ultralytics-akconv[eval]'" in capsys.readouterr().err


def corners(x, y, w, h):
    return [x - w / 2, y - h / 2, x + w / 2, y - h / 2, x + w / 2, y + h / 2, x - w / 2, y + h / 2]


ROWS = {  # what a row of a box's label becomes
    "segment": corners,
    "obb": corners,
    "pose": lambda *box: [*box, box[0], box[1], 2, box[0], box[1], 0],
}
MODELS = {"segment": "yolov8n-seg", "obb": "yolov8n-obb", "pose": "yolov8n-pose", "classify": "yolov8n-cls"}
SCORES = ["precision", "recall", "mAP50", "mAP"]


def dataset_of(task, folder):
    """Write the bundled validation images with labels of a task, and a model YAML of three classes for it."""
    data = copy_mini_dataset(folder)
    model = yaml.safe_load(host_text(MODELS[task].replace("v8n", "v8") + ".yaml"))
    model = {**model, "nc": 3, **({"kpt_shape": [2, 3]} if task == "pose" else {})}
    (folder / f"{MODELS[task]}-three.yaml").write_text(yaml.safe_dump(model), "utf-8")
    if task == "classify":
        for split in ("train", "val"):
            for number, image in enumerate(sorted((folder / f"akconv-mini/images/{split}").glob("*.jpg"))[:6]):
                (folder / f"classes/{split}/{number % 3}").mkdir(parents=True, exist_ok=True)
                shutil.copy(image, folder / f"classes/{split}/{number % 3}")
        return folder / "classes", folder / f"{MODELS[task]}-three.yaml"
    for file in (folder / "akconv-mini/labels").rglob("*.txt"):
        rows = [[float(number) for number in line.split()] for line in file.read_text("utf-8").splitlines()]
        file.write_text("\n".join(" ".join(map(str, [int(cls), *ROWS[task](*box)])) for cls, *box in rows), "utf-8")
    if task == "pose":
        data.write_text(data.read_text("utf-8") + "kpt_shape: [2, 3]\n", "utf-8")
    return data, folder / f"{MODELS[task]}-three.yaml"


@pytest.mark.parametrize(
    "task, scores",
    [
        ("segment", [*SCORES, *(f"mask_{score}" for score in SCORES)]),
        ("pose", [*SCORES, *(f"pose_{score}" for score in SCORES)]),
        ("obb", SCORES),
        ("classify", ["top1", "top5"]),
    ],
)
def test_other_tasks_have_the_hosts_own_metrics_without_the_library(task, scores, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    data, model = dataset_of(task, tmp_path)
    own = host_model(model).val(data=str(data), project=str(tmp_path), name="val", plots=False, **SMALL)
    torch.manual_seed(0)
    result = evaluate(model, data, **SMALL)
    assert list(result.scores) == scores
    assert all(0 <= value <= 1 for value in result.scores.values())
    assert len(result.scores) == len(own.results_dict) - 1  # without its fitness
    figures = result.figures()
    assert figures["images"] == (6 if task == "classify" else 8)
    assert figures["parameters"] > 1e6 and figures["latency"] > 0
    assert result.table().startswith(f"| {scores[0]} |")
    with pytest.raises(ValueError, match="annotations are for models that detect boxes"):
        evaluate(model, data, annotations="instances.json", **SMALL)


def test_the_figures_of_another_task_are_those_of_the_host(tmp_path, monkeypatch):
    from ultralytics.utils.metrics import SegmentMetrics

    told = {"metrics/mAP50(B)": 0.5, "metrics/mAP50-95(B)": 0.25, "metrics/mAP50-95(M)": 0.125, "fitness": 0.4}
    monkeypatch.setattr(SegmentMetrics, "results_dict", told)
    data, model = dataset_of("segment", tmp_path)
    assert evaluate(model, data, **SMALL).scores == {"mAP50": 0.5, "mAP": 0.25, "mask_mAP": 0.125}


def test_what_cannot_be_evaluated_is_told_before(tmp_path, monkeypatch):
    data = copy_mini_dataset(tmp_path)
    check_evaluation("detect", data)
    with pytest.raises(ValueError, match=r"has no split 'test': it has train, val"):
        check_evaluation("detect", data, "test")
    with pytest.raises(FileNotFoundError, match="absent"):
        check_evaluation("detect", tmp_path / "absent.yaml")
    with pytest.raises(FileNotFoundError, match=r"absent\.json"):
        check_evaluation("detect", data, annotations=tmp_path / "absent.json")
    (tmp_path / "broken.yaml").write_text("train: [", "utf-8")
    with pytest.raises(ValueError, match=r"the dataset '.*broken.yaml' cannot be used: "):
        check_evaluation("segment", tmp_path / "broken.yaml")
    image = sorted((tmp_path / "akconv-mini/images/val").glob("*.jpg"))[0]
    (image.parent / "more").mkdir()
    shutil.copy(image, image.parent / "more")
    with pytest.raises(ValueError, match="images of the same name"):
        check_evaluation("detect", data)
    check_evaluation("segment", data)  # which asks for no COCO rules
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(ImportError, match="faster-coco-eval"):
        check_evaluation("detect", data, "train")


def test_annotations_without_area_and_crowd_take_the_boxes(tmp_path):
    images = [{"id": 1, "file_name": "a.jpg", "width": 100, "height": 100}]
    box = {"id": 1, "image_id": 1, "category_id": 0, "bbox": [0, 0, 40, 30]}
    content = {"images": images, "annotations": [box], "categories": [{"id": 0, "name": "a"}]}
    file = tmp_path / "instances.json"
    file.write_text(json.dumps(content), "utf-8")
    truth, ids = read_truth(file, ["a.jpg"], {0: "a"})
    assert ids == {"a": 1}
    assert truth["annotations"] == [{**box, "area": 1200, "iscrowd": 0}]
