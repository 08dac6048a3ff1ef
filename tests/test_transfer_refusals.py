# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a conversion refuses, with what it says, and files that cannot be written."""

import copy

import pytest
import torch
import ultralytics.nn.tasks as tasks
from conftest import yolov8_dict
from conversions import IMAGES, trained

from ultralytics_akconv import from_published, transfer, write_checkpoint
from ultralytics_akconv.cli import main
from ultralytics_akconv.conversion.pairs import find_pairs


def test_a_write_that_fails_leaves_the_old_file_and_no_other(source, tmp_path, monkeypatch):
    file = tmp_path / "model.pt"
    file.write_bytes(b"old")

    def fail(content, stream):
        stream.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        write_checkpoint(source, file)
    assert file.read_bytes() == b"old" and [path.name for path in tmp_path.iterdir()] == ["model.pt"]


def test_a_name_the_host_would_not_take_or_a_missing_folder_is_refused(source, tmp_path):
    with pytest.raises(ValueError, match=r"must end in \.pt"):
        write_checkpoint(source, tmp_path / "model.pth")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        write_checkpoint(source, tmp_path / "missing/model.pt")


def test_a_source_that_is_no_trained_host_model_is_refused(source, tmp_path):
    text, state = tmp_path / "text.pt", tmp_path / "state.pt"
    text.write_text("no checkpoint")
    torch.save(source.state_dict(), state)
    for file in (text, state):
        with pytest.raises(ValueError, match="is no checkpoint of Ultralytics"):
            transfer(file)
    with pytest.raises(FileNotFoundError):
        transfer(tmp_path / "missing.pt")
    with pytest.raises(ValueError, match=r"must be a \.pt checkpoint"):
        transfer(tmp_path / "model.onnx")
    with pytest.raises(ValueError, match="that Ultralytics built from a YAML, got a Linear"):
        transfer(torch.nn.Linear(2, 2))
    with pytest.raises(TypeError, match="source must be a checkpoint file"):
        transfer(3)


def test_a_model_that_is_converted_already_or_fused_is_refused(source):
    with pytest.raises(ValueError, match="holds AKConv already"):
        transfer(transfer(source).model)
    with pytest.raises(ValueError, match="fused"):
        transfer(copy.deepcopy(source).fuse(verbose=False))


def test_a_model_that_differs_in_more_than_akconv_is_refused(source):
    other_classes = tasks.DetectionModel(yolov8_dict(5, 2), nc=4, verbose=False)
    with pytest.raises(ValueError, match=r"differ in more than AKConv.*number of classes"):
        transfer(source, other_classes)
    with pytest.raises(ValueError, match=r"model\.1 cannot be converted"):
        transfer(source, "yolov8s-akconv.yaml")
    with pytest.raises(ValueError, match=r"cannot be converted|differ in more"):
        transfer(source, "yolo11n-akconv.yaml")
    with pytest.raises(ValueError, match="ClassificationModel"):
        transfer(trained("yolov8n-cls.yaml"), other_classes)
    with pytest.raises(ValueError, match="holds no AKConv"):
        transfer(source, "yolov8n.yaml")
    with pytest.raises(ValueError, match="must be a YAML file"):
        transfer(source, "model.pt")
    with pytest.raises(TypeError, match="model must be"):
        transfer(source, 5)


def test_arguments_that_exclude_each_other_or_do_not_exist_are_refused(source):
    with pytest.raises(ValueError, match="num_param would choose another"):
        transfer(source, "yolov8n-akconv.yaml", num_param=5)
    with pytest.raises(ValueError, match="budget chooses num_param"):
        transfer(source, num_param=5, budget="error=0.1")
    with pytest.raises(TypeError, match="unknown option stride"):
        transfer(source, stride=2)
    with pytest.raises(ValueError, match=r"layer 0 .* cannot become AKConv: it is the stem"):
        transfer(source, where=[0])


def test_missing_or_unreadable_images_are_refused(source, tmp_path):
    with pytest.raises(FileNotFoundError, match="no calibration images"):
        transfer(source, data=tmp_path / "missing.yaml")
    with pytest.raises(FileNotFoundError, match="holds none"):
        transfer(source, data=tmp_path)
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(FileNotFoundError, match="can be read"):
        transfer(source, data=tmp_path)
    with pytest.raises(ValueError, match="images must be at least 1"):
        transfer(source, data=IMAGES, images=0)


def test_what_is_no_published_state_dict_is_refused(source, checkpoint, tmp_path):
    with pytest.raises(ValueError, match="is no state dict"):
        from_published(checkpoint, "yolov8n-akconv.yaml")
    with pytest.raises(FileNotFoundError):
        from_published(tmp_path / "missing.pt", "yolov8n-akconv.yaml")
    for state, given in (({"epoch": 3}, "this one maps 'epoch' to int"), ({}, "got dict {}")):
        with pytest.raises(ValueError, match=f"must map names to tensors, {given}"):
            from_published(state, "yolov8n-akconv.yaml")
    with pytest.raises(ValueError, match=r"does not fit 'yolov8n-akconv\.yaml' with 80 classes"):
        from_published(source.state_dict(), "yolov8n-akconv.yaml")
    with pytest.raises(ValueError, match="holds no AKConv"):
        from_published(source.state_dict(), "yolov8n.yaml")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.pt"], "missing.pt"),
        ([], "give a source checkpoint"),
        (["--from-published", "state.pt"], "takes --model"),
        (["{source}", "--budget", "much"], "params=FRACTION"),
    ],
)
def test_the_command_says_what_is_wrong_and_writes_nothing(arguments, message, checkpoint, tmp_path, capsys):
    output = tmp_path / "out.pt"
    arguments = [argument.format(source=checkpoint) for argument in arguments]
    assert main(["convert", *arguments, "-o", str(output)]) == 1
    assert message in capsys.readouterr().err and not output.exists()


def test_a_layer_without_a_counterpart_is_told_by_name_and_reason(source):
    model = tasks.DetectionModel(yolov8_dict(5, 2), nc=3, verbose=False)
    pairs, reasons = find_pairs(model, source)
    assert [found.name for found in pairs] == [f"model.{i}" for i in (1, 3, 5, 7, 16, 19)] and not reasons
    _, reasons = find_pairs(model, torch.nn.Sequential())
    assert reasons["model.1"] == "the source model has no such layer"
