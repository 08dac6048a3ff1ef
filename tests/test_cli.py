# SPDX-License-Identifier: AGPL-3.0-or-later
"""The `akconv` command: what it prints, what it writes, how it fails."""

import argparse
import importlib
import re

import pytest
import yaml
from networks import HOST_NAMES
from ultralytics.cfg import check_cfg

from ultralytics_akconv import __version__, graft
from ultralytics_akconv.cli import COMMANDS, GROUPS, main
from ultralytics_akconv.cli.arguments import exit_status
from ultralytics_akconv.configs import MODELS, config_names
from ultralytics_akconv.grafting.names import host_models
from ultralytics_akconv.info import model_info


def test_graft_prints_the_model_or_writes_it(tmp_path, capsys):
    command = ["graft", "yolo11s.yaml", "--num-param", "7", "--where", "backbone", "--shape", "cross"]
    assert main(command) == 0
    text = graft("yolo11s.yaml", 7, "backbone", shape="cross")
    assert capsys.readouterr().out == text
    assert main([*command, "-o", str(tmp_path / "my.yaml")]) == 0
    assert (tmp_path / "my.yaml").read_text("utf-8") == text
    assert "wrote" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["graft", "yolo99.yaml"], "akconv: 'yolo99.yaml' does not exist. Models most like it: "),
        (["graft", "yolov8.yaml", "--where", "0"], "akconv: yolov8.yaml: layer 0 [-1, 1, 'Conv', [64, 3, 2]] cannot"),
        (["graft", "yolov8.yaml", "-o", "nowhere/my.yaml"], "nowhere/my.yaml"),
        (["info", "yolo11q-akconv.yaml"], "akconv: 'yolo11q-akconv.yaml' does not exist"),
    ],
)
def test_an_error_is_one_line_without_a_traceback(arguments, message, capsys):
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


FILES = {
    "broken.yaml": "nc: [1\nbackbone: {",
    "empty.yaml": "",
    "list.yaml": "[1, 2]",
    "row.yaml": "{nc: 1, backbone: [[-1, 1, Conv, [many, 3, 2]]], head: [[[0], 1, Detect, [nc]]]}",
    "unknown.yaml": "{nc: 1, backbone: [[-1, 1, Nope, [16, 3, 2]]], head: [[[0], 1, Detect, [nc]]]}",
    "broken.pt": "abc",
    "image.jpg": "no image",
    "other.onnx": "abc",
}


@pytest.fixture
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, "utf-8")
    return tmp_path


@pytest.mark.parametrize(
    "command, message",
    [
        ("graft yolov8n.yaml --shape [[0,0", "argument --shape: invalid shape '[[0,0': write points as in [[0, 0], "),
        ("graft yolov8n.yaml --shape [print]", "invalid shape '[print]': write points as in [[0, 0], "),
        ("graft yolov8n.yaml --shape [5]", "every point of a shape must be a [row, col] pair, got 5"),
        ("graft yolov8n.yaml --shape [[0,'a']]", "the coordinates of a shape must be numbers"),
        ("graft yolov8n.yaml --where 3,x", "argument --where: invalid value '3,x': write whole numbers as in 3,5,7"),
        ("graft yolov8n.yaml --num-param 5,", "argument --num-param: invalid value '5,'"),
        ("graft broken.yaml", "broken.yaml is not YAML"),
        ("graft empty.yaml", "empty.yaml: a model YAML must hold a list of rows"),
        ("graft .", "'.' is a folder"),
        ("graft yolov8n.yaml -o .", "Is a directory: '.'"),
        ("info broken.yaml", "broken.yaml"),
        ("info empty.yaml", "Ultralytics cannot load 'empty.yaml'"),
        ("info list.yaml", "list.yaml"),
        ("info row.yaml", "Ultralytics cannot load 'row.yaml': TypeError: "),
        ("info unknown.yaml", "Ultralytics cannot load 'unknown.yaml': KeyError: 'Nope'"),
        ("info broken.pt", "broken.pt"),
        ("info absent.pt", "absent.pt"),
        ("info other.onnx", "'other.onnx' is no model in PyTorch"),
        ("info yolov8n.yaml --imgsz 0", "argument --imgsz: invalid value '0': it must be one whole number, at least 1"),
        ("convert broken.pt -o out.pt", "'broken.pt'"),
        ("convert broken.pt -o out.pt --images 0", "argument --images: invalid value '0'"),
        ("convert broken.pt -o out.pt --plot out.xyz", "a picture's name must end in .png"),
        ("convert --from-published broken.pt --model yolov8n-akconv.yaml -o out.pt", "'broken.pt' is no state dict"),
        ("plot shapes -o out", "a picture's name must end in .png"),
        ("plot shapes -o nowhere/out.png", "nowhere"),
        ("plot offsets yolov8n-akconv.yaml image.jpg --at 1", "argument --at: invalid pixel '1': write X,Y as in 320"),
        ("plot offsets yolov8n-akconv.yaml image.jpg", "'image.jpg' cannot be read as an image"),
        ("plot offsets broken.pt image.jpg", "broken.pt"),
        ("benchmark op --size 16,32", "argument --size: invalid value '16,32': write in channels, out channels and"),
        ("benchmark op --device nowhere", "argument --device: there is no device 'nowhere' here"),
        ("benchmark op --repeats 0", "argument --repeats: invalid value '0'"),
        ("benchmark op --json nowhere/out.json", "nowhere"),
        ("benchmark model row.yaml", "Ultralytics cannot load 'row.yaml'"),
        (
            "benchmark export --format nowhere",
            "argument --format: invalid format 'nowhere': write onnx:19",
        ),
        ("benchmark export --format onnx:a", "argument --format: invalid format 'onnx:a'"),
        ("benchmark train --data coco -o out epochs=many", "'epochs=many' is of invalid type str"),
        ("benchmark train --data coco -o out data=voc", "'data=voc': say it by --data"),
        ("evaluate other.onnx --data akconv-mini.yaml", "'other.onnx' is no model in PyTorch"),
        ("evaluate yolov8n.yaml --data akconv-mini.yaml save_json=True", "evaluate sets save_json itself"),
        ("evaluate yolov8n.yaml --data akconv-mini.yaml imgsz=many", "imgsz=many"),
        ("evaluate yolov8n.yaml --data akconv-mini.yaml --annotations absent.json", "absent.json"),
    ],
)
def test_what_a_user_gets_wrong_is_one_line_that_names_nothing_private(command, message, in_folder, capsys):
    try:
        status = main(command.split())
    except SystemExit as end:  # by argparse, which shows the usage first
        status = end.code
    assert status in (1, 2)
    error = capsys.readouterr().err
    last = error.strip().splitlines()[-1]
    assert message in last
    assert not re.search(r"Traceback|\b_[a-z]|<function|0x[0-9a-f]+", error)
    assert status == 2 or last.startswith("akconv: ")
    assert {file.name for file in in_folder.iterdir()} == set(FILES)


def test_a_fault_of_ours_is_not_told_as_one_of_the_users(monkeypatch):
    def broken(*args, **kwargs):
        raise TypeError("a fault")

    monkeypatch.setattr("ultralytics_akconv.cli.models.graft", broken)
    with pytest.raises(TypeError, match="a fault"):
        main(["graft", "yolov8n.yaml"])


def test_an_error_of_the_hosts_is_told_as_the_hosts(capsys):
    assert exit_status("akconv", lambda: check_cfg({"epochs": "many"})) == 1
    assert re.match(
        r"akconv: Ultralytics: TypeError: 'epochs=many' is of invalid type str.*\n$", capsys.readouterr().err
    )


def test_a_wrong_option_is_refused_with_the_usage(capsys):
    with pytest.raises(SystemExit):
        main(["graft", "yolov8.yaml", "--num-param", "many"])
    assert "argument --num-param: invalid" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([])
    assert "COMMAND" in capsys.readouterr().err


def test_version_is_the_packages(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out.strip() == __version__


def test_models_lists_shipped_files_and_grafted_host_models(capsys, monkeypatch):
    assert list(host_models()) == HOST_NAMES
    few = {name: host_models()[name] for name in ("yolo11-seg.yaml", "yolov3-tiny.yaml", "yolov8.yaml")}
    monkeypatch.setattr("ultralytics_akconv.grafting.resolve.host_models", lambda: few)
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    names = re.findall(r"^(\S+\.yaml) ", out, re.MULTILINE)
    assert names == [*config_names(MODELS), "yolo11-seg-akconv.yaml"]  # once each, if it has a convolution for it
    assert re.search(r"^yolo11-seg-akconv.yaml +n s m l x +yolo11-seg.yaml$", out, re.MULTILINE)


def test_info_prints_rows_sizes_and_the_difference(capsys):
    assert main(["info", "yolov8n-akconv.yaml", "--imgsz", "64"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^model\.1 +16 +32 +5 +2 +\S+ +default, paper, corner$", out, re.MULTILINE)
    assert len(re.findall(r"^model\.", out, re.MULTILINE)) == 6
    info = model_info("yolov8n-akconv.yaml", 64)
    assert info.size.layers == info.plain.layers == 23
    assert info.size.gflops > 0
    assert f"{info.size.parameters:,}" in out
    assert f"{info.size.parameters - info.plain.parameters:+,}" in out
    assert info.size.parameters - info.plain.parameters == 2_940_140 - 3_157_200


def test_info_knows_rows_whose_options_are_empty(tmp_path):
    rows = [[-1, 1, "Conv", [16, 3, 2]], [-1, 1, "C2f_AKConv", [16, True, {}]], [-1, 1, "AKConv", [16, 5, 2, {}]]]
    file = tmp_path / "empty.yaml"
    file.write_text(yaml.safe_dump({"nc": 1, "backbone": rows, "head": [[[1, 2], 1, "Detect", ["nc"]]]}), "utf-8")
    info = model_info(file, 64)
    assert len(info.akconvs) == 3 and info.size.layers == info.plain.layers == 4


def test_info_knows_blocks_and_activations_and_a_stock_model(tmp_path):
    (tmp_path / "blocks.yaml").write_text(graft("yolov8n.yaml", where="blocks"), "utf-8")
    info, stock = model_info(tmp_path / "blocks.yaml", 64), model_info("yolov8n.yaml", 64)
    assert info.plain == stock.size == stock.plain
    assert len(info.akconvs) == 20
    assert not stock.akconvs


def test_every_argument_of_every_command_has_a_line_of_help_and_an_option_its_default():
    tables = [COMMANDS, *GROUPS.values()]
    functions = [adds for table in tables for _, adds in table.values() if ":" in adds]
    for file, _, function in (adds.partition(":") for adds in functions):
        parser = argparse.ArgumentParser()
        getattr(importlib.import_module(f"ultralytics_akconv.cli.{file}"), function)(parser)
        for action in parser._actions:
            assert action.help, f"{function}: {action.dest}"
            if isinstance(action.default, (int, str, list)) and not isinstance(action.default, bool) and action.choices:
                assert "default" in action.help, f"{function}: {action.dest}"
