# SPDX-License-Identifier: AGPL-3.0-or-later
"""Hostile input: rows that name code, sizes that would take the machine, names that leave a folder, files that run.

A hostile checkpoint is in `test_processes.py`, the start-up hook in `test_security_startup.py`. What is trusted and
what is not: `docs/security.md`.
"""

import ast
import os
import pickle
from pathlib import Path

import pytest
import torch
import ultralytics
import yaml
from conftest import ROOT, built, yolov8_dict
from hostile import in_little_memory, linux
from test_architecture import SCRIPTS, SOURCES
from ultralytics import YOLO

from ultralytics_akconv import AKConv, from_published, graft, sampling_points
from ultralytics_akconv.cli import main
from ultralytics_akconv.grafting import names
from ultralytics_akconv.grafting.names import cached

# Rows of a YAML


CALLS = [
    "__import__('os').mkdir('attacked')",
    "os.mkdir('attacked')",
    "torch.nn.Module",
    "nn.SiLU()",
    "lambda x: x",
    "m",  # a local of the host's parser
]


@pytest.mark.parametrize("value", CALLS)
@pytest.mark.parametrize("option", ["shape", "border", "origin", "offset_lr", "act"])
@pytest.mark.parametrize("name", ["AKConv", "C2f_AKConv"])
def test_the_options_of_a_row_cannot_name_code(tmp_path, monkeypatch, name, option, value):
    monkeypatch.chdir(tmp_path)
    model = yolov8_dict()
    row = model["backbone"][1 if name == "AKConv" else 2]
    row[2:] = [name, [row[3][0], *((5, 2) if name == "AKConv" else (True,)), {option: value}]]
    with pytest.raises((TypeError, ValueError)) as caught:
        built(model)
    assert "layer " in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["forward", "__class__", "conv", "in_channels", "self", "weight"])
def test_the_options_of_a_row_are_those_of_the_layer_alone(option):
    with pytest.raises(ValueError, match=f"unknown option '{option}'"):
        built(yolov8_dict(5, 2, {option: 1}))


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.mkdir [attacked]", "!!python/name:os.mkdir ''"])
def test_a_yaml_with_a_tag_of_python_is_refused(tmp_path, monkeypatch, tag):
    monkeypatch.chdir(tmp_path)
    text = graft("yolov8n.yaml")
    file = tmp_path / "hostile.yaml"
    file.write_text(f"{text}\nextra: {tag}\n", "utf-8")
    with pytest.raises(ValueError, match=r"hostile\.yaml is not YAML"):
        graft(file)
    assert list(tmp_path.iterdir()) == [file]


# Sizes


def deep(levels):
    value = []
    for _ in range(levels):
        value = [value]
    return value


@linux
@pytest.mark.parametrize(
    ("num_param", "shape", "error"),
    [
        (10**9, "default", "num_param must be from 1 to 1024, got 1000000000"),
        (10**9, "disk", "num_param must be from 1 to 1024"),
        (10**6, [[0, 0]] * 10**6, "num_param must be from 1 to 1024"),
        (5, [[0, 0]] * 10**6, "got 1000000"),
        (1, deep(100_000), r"must be a \[row, col\] pair"),
        (1, [[0] * 10**6], r"must be a \[row, col\] pair"),
        (1, [deep(100_000) * 2], "must be numbers"),
        (1, "x" * 10**6, "unknown shape"),
        (1, [[0, 10**400]], "within 4096 px"),
    ],
    ids=["N", "N disk", "N points", "points", "deep list", "long point", "deep point", "long name", "long number"],
)
def test_what_would_take_the_memory_is_refused_before_and_in_few_words(num_param, shape, error):
    for refuse in (lambda: sampling_points(num_param, shape), lambda: AKConv(3, 4, num_param, shape=shape)):
        with in_little_memory(), pytest.raises((TypeError, ValueError), match=error) as caught:
            refuse()
        assert len(str(caught.value)) < 1000


ALIASES = "a0: &a0 [1, 2]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12))
HOSTILE = {
    "aliases": (ALIASES, "at most 100000 values"),
    "endless": ("a: &a [*a]\n", "at most 100000 values"),
    "nested": ("a: " + "[" * 20_000 + "]" * 20_000 + "\n", "nested too deeply"),
}


@linux
@pytest.mark.parametrize("extra", HOSTILE)
def test_a_yaml_that_stands_for_more_than_it_holds_is_refused(tmp_path, extra):
    text, error = HOSTILE[extra]
    file = tmp_path / "hostile.yaml"
    file.write_text(graft("yolov8n.yaml") + text, "utf-8")
    with in_little_memory(), pytest.raises(ValueError, match=error):
        graft(file)


def test_aliases_as_people_write_them_are_kept(tmp_path):
    file = tmp_path / "aliases.yaml"
    stock = Path(ultralytics.__file__).parent / "cfg/models/v8/yolov8.yaml"
    file.write_text(stock.read_text("utf-8") + "mine: &mine [1, 2]\nsame: *mine\n", "utf-8")
    model = yaml.safe_load(graft(file))
    assert model["mine"] == model["same"] == [1, 2] and "AKConv" in str(model)


# Paths


ESCAPES = ["../../x-akconv.yaml", "../yolo11n-akconv.yaml", "a/yolo11n-akconv.yaml", "..-akconv.yaml", "/x-akconv.yaml"]


@pytest.mark.parametrize("name", ESCAPES)
def test_a_model_name_with_a_folder_is_not_ours_and_writes_nothing(tmp_path, monkeypatch, name):
    folder = tmp_path / "in/side"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(names, "USER_CONFIG_DIR", tmp_path / "settings")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        YOLO(name)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_grafted_file_lies_in_the_folder_of_the_settings_under_its_own_name(tmp_path, monkeypatch):
    monkeypatch.setattr(names, "USER_CONFIG_DIR", tmp_path)
    YOLO("yolo11n-akconv3.yaml")
    (file,) = (path for path in tmp_path.rglob("*") if path.is_file())
    assert file.parent.parent == tmp_path / "akconv"


@pytest.mark.skipif(os.name != "posix", reason="Windows lets few users make links")
def test_a_link_in_place_of_a_grafted_file_is_replaced_and_not_followed(tmp_path, monkeypatch):
    monkeypatch.setattr(names, "USER_CONFIG_DIR", tmp_path)
    file = cached("a.yaml", "text: 1\n")
    victim = tmp_path / "victim"
    victim.write_text("precious", "utf-8")
    file.unlink()
    file.symlink_to(victim)
    assert cached("a.yaml", "text: 1\n").read_text("utf-8") == "text: 1\n"
    assert victim.read_text("utf-8") == "precious" and not file.is_symlink()


@pytest.mark.parametrize("yaml_file", ["../../escaped.yaml", "/escaped.yaml", "..", ""])
def test_the_yaml_name_inside_a_checkpoint_leads_nowhere(tmp_path, monkeypatch, yaml_file):
    from ultralytics_akconv.conversion import transfer

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    source = built(yolov8_dict(name=None))
    source.yaml["yaml_file"] = yaml_file
    try:
        transfer(source, num_param=3)
    except (OSError, ValueError) as error:
        assert yaml_file in ("..", ""), error
    assert list(tmp_path.iterdir()) == [] and not (tmp_path.parent / "escaped.yaml").exists()


def test_the_text_of_a_yaml_does_not_choose_where_graft_writes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("model.yaml").write_text(graft("yolov8n.yaml") + "yaml_file: ../escaped.yaml\n", "utf-8")
    main(["graft", "model.yaml", "--where", "blocks", "-o", "out.yaml"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.yaml", "out.yaml"]


# Files that are read


class Attack:
    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("write", [torch.save, lambda content, file: file.write_bytes(pickle.dumps(content))])
def test_a_published_state_dict_that_holds_code_is_refused(tmp_path, write):
    file = tmp_path / "published.pt"
    write({"model": {"weight": Attack(tmp_path / "attacked")}}, file)
    with pytest.raises(ValueError, match="is no state dict"):
        from_published(file, "yolov8n-akconv.yaml")
    assert list(tmp_path.iterdir()) == [file]


# A checkpoint of the host that this user's own training has just written: it holds the host's classes.
OWN_CHECKPOINTS = {"ultralytics_akconv/sweep/run.py", "ultralytics_akconv/gpu/extras.py"}


def test_no_file_is_read_in_a_way_that_runs_what_it_holds():
    forbidden = {
        "eval", "exec", "__import__", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "yaml.load_all",
        "yaml.Loader", "yaml.UnsafeLoader", "yaml.FullLoader", "pickle.load", "pickle.loads", "pickle.Unpickler",
        "marshal.loads", "shelve.open", "os.system", "os.popen",
    }  # fmt: skip
    for file in [*SOURCES, *SCRIPTS, ROOT / "ultralytics_akconv_startup.py"]:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, (ast.Name, ast.Attribute)):  # called, or handed on under another name
                assert ast.unparse(node) not in forbidden, f"{file}:{node.lineno}"
            if not isinstance(node, ast.Call):
                continue
            name, keywords = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
            assert keywords.get("shell") in (None, "False") and keywords.get("allow_pickle") in (None, "False"), file
            if name == "torch.load" and str(file.relative_to(ROOT)) not in OWN_CHECKPOINTS:
                assert keywords.get("weights_only") == "True", f"{file}:{node.lineno}"
