# SPDX-License-Identifier: AGPL-3.0-or-later
"""Checkpoints of a copy of Ultralytics with AKConv pasted into it (`fork.py`), read in a process without that copy."""

import copy
import functools
import re
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import reference
import torch
import ultralytics
import yaml
from conftest import layers_of
from fork import CASES, SCALES, images, tensors
from fork_layers import AKConv as Pasted
from fork_layers import initial
from ultralytics import YOLO

from ultralytics_akconv import AKConv, from_fork, write_checkpoint
from ultralytics_akconv.cli import main

IMPORTED = [name for name in CASES if name not in ("attention", "stock")]


@pytest.fixture(scope="module")
def imported(forks):
    """Import a checkpoint once; what is returned is shared and stays as it is."""
    return functools.lru_cache(maxsize=None)(lambda name: from_fork(forks / f"{name}.pt"))


def outputs(model):
    with torch.no_grad():
        return [tensors(model(image)) for image in images()]


def convert(*arguments):
    return main(["convert", "--from-fork", *map(str, arguments)])


@pytest.mark.parametrize("name", [*IMPORTED, "last", "old-format"])
def test_the_imported_model_computes_what_the_fork_computed(forks, imported, name, close):
    result = imported(name)
    assert layers_of(result.model) and result.proof.error < 1e-12
    wanted = torch.load(forks / f"{name}.outputs.pt", weights_only=True)
    for ours, theirs in zip(outputs(result.model), wanted):
        assert len(ours) == len(theirs) > 0
        for our, their in zip(ours, theirs):
            scale = max(1.0, their.abs().max().item())
            close(our / scale, their / scale)
    assert not [module for module in sys.modules if "Addmodules" in module or "extra_modules" in module]


def test_the_layer_of_the_fork_is_the_operator_of_the_definition(close):
    layer = Pasted(3, 4, 5, stride=2).double().eval().requires_grad_(False)
    torch.nn.init.normal_(layer.p_conv.weight)
    x = torch.randn(2, 3, 7, 9, dtype=torch.float64)
    points = reference.initial_points(5)
    assert initial(5).flatten().tolist() == [r for r, _ in points] + [c for _, c in points]
    plain = reference.akconv2d(x, layer.p_conv(x), layer.conv[0].weight, points, stride=2)
    close(layer(x), layer.conv[2](layer.conv[1](plain)))


def test_the_tensors_are_those_of_the_file_bit_by_bit(forks, imported):
    result = imported("v8-detect")
    state = dict(torch.load(forks / "state.pt", weights_only=True))
    for name, module in result.model.named_modules():
        if isinstance(module, AKConv):
            for key, tensor in module.published_state_dict().items():
                assert torch.equal(tensor.half(), state.pop(f"{name}.{key}").half())
    ours = result.model.state_dict()
    assert all(torch.equal(ours[key].to(tensor.dtype), tensor.half().to(tensor.dtype)) for key, tensor in state.items())
    assert result.proof.tensors == len(ours)


def test_the_command_writes_a_checkpoint_that_the_host_takes(forks, tmp_path, capsys):
    picture, file = tmp_path / "image.jpg", tmp_path / "mine.pt"
    cv2.imwrite(str(picture), (np.random.default_rng(0).random((120, 90, 3)) * 255).astype(np.uint8))
    assert convert(forks / "v8-detect.pt", "--check", picture, "-o", file) == 0
    printed = capsys.readouterr().out
    assert "ultralytics.nn.Addmodules.AKConv.AKConv" in printed and "AKConv, [128, 5, 2]" in printed
    model = YOLO(file)
    assert f"{len(model.model.state_dict())} tensors bit-equal" in printed and f"on {picture}" in printed
    assert (model.task, model.names) == ("detect", {0: "kind 0", 1: "kind 1", 2: "kind 2"})
    assert model.model.stride.tolist() == [8, 16, 32] and model.model.yaml["nc"] == 3
    stored = torch.load(file, weights_only=False)
    assert {p.dtype for p in stored["model"].parameters()} == {torch.float16}
    settings = stored["train_args"]
    assert (settings["imgsz"], settings["data"], settings["seed"]) == (64, "own.yaml", 3)
    assert settings["save_dir"] == "runs/train"
    assert model.overrides["imgsz"] == 64
    assert len(model.predict(picture, imgsz=64, verbose=False)) == 1


@pytest.mark.parametrize("name", ["v8-segment", "11-pose", "v8-obb", "v8-classify"])
def test_the_other_tasks_are_kept(imported, tmp_path, name):
    file = imported(name).save(tmp_path / "mine.pt")
    model = YOLO(file)
    assert model.task == name.partition("-")[2]
    assert len(model.predict(np.zeros((64, 64, 3), np.uint8), imgsz=64, verbose=False)) == 1


def test_training_starts_from_the_imported_weights(imported, tmp_path, mini_dataset):
    result = imported("v8-detect")
    model = YOLO(result.save(tmp_path / "mine.pt"))
    seen = {}
    model.add_callback("on_train_start", lambda trainer: seen.update(copy.deepcopy(trainer.model.state_dict())))
    settings = {"plots": False, "workers": 0, "verbose": False, "device": "cpu", "project": str(tmp_path), "val": False}
    model.train(data=str(mini_dataset), epochs=1, imgsz=64, batch=8, **settings)
    wanted = result.model.state_dict()
    assert set(seen) == set(wanted) and all(torch.equal(seen[name], wanted[name]) for name in wanted)
    assert layers_of(model.model)


def test_a_checkpoint_to_resume_is_said_to_start_anew(forks, imported, tmp_path, capsys):
    assert convert(forks / "last.pt", "-o", tmp_path / "mine.pt") == 0
    assert "training starts anew from the weights" in capsys.readouterr().out
    assert imported("v8-detect").notes == ()


def test_a_model_that_was_saved_whole_is_read(imported, close):
    whole, best = imported("whole"), imported("v8-detect")
    for name, tensor in best.model.state_dict().items():
        close(tensor, whole.model.state_dict()[name].to(tensor.dtype), torch.float16)
    assert whole.model.args["imgsz"] == 64  # an object of settings, not a dictionary


# Rows


def rows_of(result):
    return {layer.index: [layer.module, *layer.args] for layer in result.layers}


def test_blocks_say_which_of_their_convolutions_are_akconv(imported):
    assert rows_of(imported("v8-pose"))[2] == ["C2f_AKConv", 128, True, {"num_param": 5}]
    second = {"num_param": 3, "convs": ["cv2"]}
    assert rows_of(imported("v8-obb"))[2] == ["C2f_AKConv", 128, True, second]
    assert rows_of(imported("11-detect"))[6] == ["C3k2_AKConv", 512, True, second]
    edited = imported("edited")  # the host's own C2f, which tells by its parts alone
    assert rows_of(edited)[2] == ["C2f_AKConv", 128, True, second]
    assert edited.layers[0].path == "ultralytics.nn.modules.block.C2f"
    mixed = rows_of(imported("11-pose"))
    assert mixed[2] == ["C3k2_AKConv", 256, False, 0.25, second] and 6 not in mixed  # a C3k2_LDConv without any
    assert imported("11-pose").model.yaml["backbone"][6][2:] == ["C3k2", [512, True]]
    pointwise = {"num_param": 5, "convs": ["m.0.cv1", "m.0.cv2"]}
    assert rows_of(imported("v5-detect"))[2] == ["C3_AKConv", 128, pointwise]


def test_a_block_that_the_forks_parser_left_out_at_scale_m_is_told_from_one_it_did_not(imported):
    scaled = imported("11-detect-m").model.yaml
    assert scaled["scale"] == "m" and rows_of(imported("11-detect-m"))[2][2] is False
    forgotten = imported("11-forgotten-m").model.yaml
    assert forgotten["scale"] == "n" and forgotten["scales"] == {"n": scaled["scales"]["m"]}
    assert rows_of(imported("11-forgotten-m"))[2][:3] == ["C3k2_AKConv", 256, False]
    assert forgotten["head"][2][2:] == ["C3k2", [512, True]]  # the host's own, which the parser had changed


def test_rows_keep_their_places_and_get_what_the_tensors_tell(imported):
    shape = {"shape": [[0, 0], [0, 2], [1, 1], [2, 0], [2, 2]]}
    assert rows_of(imported("v8-classify"))[1] == ["AKConv", 128, 5, 2, shape]
    assert rows_of(imported("v8-segment"))[1] == ["AKConv", 128, 5, 2]  # a buffer p_n of the default
    result = imported("v8-obb")
    assert rows_of(result)[1] == ["AKConv", 128, 3, 2, {"bias": True}]
    again = type(result.model)(copy.deepcopy(result.model.yaml), verbose=False)  # as the trainer builds it
    again.load_state_dict(result.model.state_dict())
    for ours, theirs in zip(outputs(again.eval()), outputs(result.model)):
        assert all(torch.equal(our, their) for our, their in zip(ours, theirs))


# State dicts


def own_yaml(folder, name="AKConv", host="v8/yolov8"):
    import fork

    stock = Path(ultralytics.__file__).parent / f"cfg/models/{host}.yaml"
    model = {**yaml.safe_load(stock.read_text("utf-8")), "nc": 3, "scales": copy.deepcopy(SCALES)}
    fork.downsampling(name, 5, 2)(model)
    file = folder / f"yolov8n-own{host[9:]}.yaml"
    file.write_text(yaml.safe_dump(model), "utf-8")
    return file


@pytest.mark.parametrize("name, host", [("state", "v8/yolov8"), ("state-p_n", "v8/yolov8-seg")])
def test_a_state_dict_goes_through_the_same_door(forks, tmp_path, name, host):
    file = own_yaml(tmp_path, host=host)
    assert convert(forks / f"{name}.pt", "--model", file, "-o", tmp_path / "mine.pt") == 0
    state = torch.load(forks / f"{name}.pt", weights_only=True)
    state = state.get("state_dict", state)
    layer = layers_of(YOLO(tmp_path / "mine.pt").model)[0]
    assert torch.equal(layer.conv.conv.weight, state["model.1.conv.0.weight"])


def test_a_given_yaml_stands_for_the_files_own(forks, tmp_path):
    file = own_yaml(tmp_path, name="LDConv")
    result = from_fork(forks / "v8-detect.pt", file)
    assert result.model.yaml["yaml_file"] == file.name and rows_of(result)[1] == ["AKConv", 128, 5, 2]


# Refusals


def refuse(capsys, folder, *arguments):
    """Return the message of a command that must fail in it and write nothing."""
    before = sorted(folder.iterdir())
    assert convert(*arguments, "-o", folder / "mine.pt") == 1
    assert sorted(folder.iterdir()) == before
    return capsys.readouterr().err


def test_what_cannot_be_expressed_is_listed_at_once(forks, tmp_path, capsys):
    error = refuse(capsys, tmp_path, forks / "attention.pt")
    path = "ultralytics.nn.Addmodules.AKConv"
    assert error.count("\n") == 1 and "expressed: layer 2 " in error and "; layer 4 " in error
    assert f"layer 2 C2f_AKConv_third ({path}.C2f_AKConv_third): m.0.cv3 is an AKConv, C2f has no ordinary" in error
    assert f"layer 4 Attention_of_somebody ({path}.Attention_of_somebody): it is no layer of Ultralytics" in error


@pytest.mark.filterwarnings("ignore::FutureWarning")  # TorchScript is old
def test_files_that_need_no_import_or_another_program_are_told_apart(forks, imported, tmp_path, capsys):
    ours = write_checkpoint(imported("v8-detect").model, tmp_path / "ours.pt")
    whole = (forks / "v8-detect.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "text.pt").write_text("model: yolov8n\n", "utf-8")
    (tmp_path / "model.onnx").write_bytes(b"\x08\x07\x12\x07pytorch\x1a\x052.1.0:")
    (tmp_path / "model.pt").write_bytes(b"\x08\x07\x12\x07pytorch\x1a\x052.1.0:")
    torch.jit.save(torch.jit.trace(torch.nn.Identity(), torch.ones(1)), tmp_path / "script.pt")
    torch.save({"epoch": 3}, tmp_path / "other.pt")
    wanted = {
        forks / "stock.pt": "holds no AKConv, so it needs no import",
        ours: "is a checkpoint of this package, which needs no import",
        tmp_path / "cut.pt": "cut off or damaged",
        tmp_path / "empty.pt": "it is empty",
        tmp_path / "text.pt": "no PyTorch checkpoint",
        tmp_path / "model.onnx": "it is an ONNX file",
        tmp_path / "model.pt": "it is an ONNX file",
        tmp_path / "script.pt": "it is a TorchScript archive",
        tmp_path / "other.pt": "holds no model of Ultralytics",
        tmp_path / "none.pt": "does not exist",
        forks / "yolov5.pt": "its head models.yolo.Detect predicts from anchors: it needs the repository",
        forks / "state.pt": "it is a state dict: give the model YAML",
    }
    for file, text in wanted.items():
        error = refuse(capsys, tmp_path, file)
        assert f"'{file}'" in error and text in error and error.count("\n") == 1


def test_a_yaml_of_another_task_is_refused(forks, tmp_path, capsys):
    file = own_yaml(tmp_path)
    error = refuse(capsys, tmp_path, forks / "v8-segment.pt", "--model", file)
    assert f"its model does segment, {file} is one to detect" in error


def test_a_yaml_of_another_architecture_is_refused_by_layer_or_tensor(forks, tmp_path, capsys):
    error = refuse(capsys, tmp_path, forks / "v8-detect.pt", "--model", "yolov8s-akconv.yaml")
    assert "differ: model.1: channels in is 8 in the file, 32 here; model.1: channels out is 16 in the file" in error
    assert error.count("\n") == 1 and re.search(r"; and \d+ more$", error.strip())
    assert "model must be a YAML file" in refuse(capsys, tmp_path, forks / "v8-detect.pt", "--model", "yolov8n.pt")
    error = refuse(capsys, tmp_path, forks / "v8-detect.pt", "--model", "yolo11n-akconv.yaml")
    assert "rows, the model 23 layers" in error


def test_arguments_that_do_not_belong_to_a_fork_are_refused(forks, tmp_path, capsys):
    for arguments in (["--num-param", "5"], ["source.pt"], ["--data", "x.yaml"]):
        assert "--from-fork takes" in refuse(capsys, tmp_path, forks / "v8-detect.pt", *arguments)
    assert "nc belongs to a state dict" in refuse(capsys, tmp_path, forks / "v8-detect.pt", "--nc", 3)
    assert "does not exist" in refuse(capsys, tmp_path, forks / "v8-detect.pt", "--check", "no.jpg")
    assert main(["convert", "x.pt", "--check", "a.jpg", "-o", str(tmp_path / "mine.pt")]) == 1
    assert "--check belongs to --from-fork" in capsys.readouterr().err
