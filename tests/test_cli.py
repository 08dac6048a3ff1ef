# SPDX-License-Identifier: AGPL-3.0-or-later
"""The `akconv` command: what it prints, what it writes, how it fails."""

import re

import pytest
from networks import HOST_NAMES

from ultralytics_akconv import __version__, graft
from ultralytics_akconv.cli import main
from ultralytics_akconv.configs import MODELS, config_names
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


def test_models_lists_shipped_files_and_grafted_host_models(capsys):
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    names = re.findall(r"^(\S+\.yaml) ", out, re.MULTILINE)
    assert set(config_names(MODELS)) <= set(names)
    assert len(names) == len(set(names))
    assert len(names) > len(HOST_NAMES)
    assert re.search(r"^yolo11-seg-akconv.yaml +n s m l x +yolo11-seg.yaml$", out, re.MULTILINE)
    assert "yolov3-tiny-akconv.yaml" not in names


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


def test_info_knows_blocks_and_activations_and_a_stock_model(tmp_path):
    (tmp_path / "blocks.yaml").write_text(graft("yolov8n.yaml", where="blocks"), "utf-8")
    info, stock = model_info(tmp_path / "blocks.yaml", 64), model_info("yolov8n.yaml", 64)
    assert info.plain == stock.size == stock.plain
    assert len(info.akconvs) == 20
    assert not stock.akconvs
