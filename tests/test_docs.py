# SPDX-License-Identifier: AGPL-3.0-or-later
"""The manual: every command and every piece of Python in it is run, or parsed where running is out of reach.

Parsed alone, by the real parsers, are: commands of the host (trainings, downloads; their keys, tasks and names are
checked by the host's own tables), `akconv` commands that train, measure time or read a data set from the net, `pip` and
`make` (their packages and targets are looked up), and Python that trains, validates or exports. All else is run.
"""

import argparse
import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import ultralytics
from conftest import ROOT, clean_environment
from ultralytics import YOLO
from ultralytics.cfg import MODES, TASKS, check_dict_alignment, get_cfg
from ultralytics.nn import tasks

from ultralytics_akconv import write_checkpoint
from ultralytics_akconv.cli import main

PAGES = [ROOT / "README.md", ROOT / "README.zh-CN.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMANDS = ("yolo", "akconv", "pip", "make", "python")
PARSED_ALONE = ("benchmark", "evaluate")  # akconv: minutes to days
NEEDS_DATA = re.compile(r"coco8|\b(val2017|voc|visdrone)\b|--data|--from-(published|fork)", re.IGNORECASE)
LONG_PYTHON = re.compile(r"\.(train|val|export|tune)\(|data=|evaluate\(|from_fork\(")


def fences(page):
    """Yield the language, the line number and the text of every fenced block of a page."""
    text = page.read_text("utf-8")
    for match in re.finditer(r"^```(\w*)[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        yield match[1], text.count("\n", 0, match.start()) + 1, match[2]


def where(page, line):
    return f"{page.relative_to(ROOT)}:{line}"


def commands():
    """Return every shell command of all pages with the place it first stands at; continued lines are one command."""
    found = {}
    for page in PAGES:
        for language, line, text in fences(page):
            if language not in ("", "bash", "sh", "console", "shell"):
                continue
            for command in text.replace("\\\n", " ").splitlines():
                words = shlex.split(command, comments=True)
                environment = [word for word in words if re.fullmatch(r"[A-Z_]+=\S*", word)]
                words = words[len(environment) :]
                if words and (words[0] in COMMANDS or language):
                    found.setdefault(tuple(words), f"{where(page, line)} {command.strip()}")
    return [pytest.param(list(words), id=place) for words, place in found.items()]


def snippets():
    return [
        pytest.param(text, id=where(page, line))
        for page in PAGES
        for language, line, text in fences(page)
        if language == "python"
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the files that the examples name, as small as they can be."""
    folder = tmp_path_factory.mktemp("manual")
    cv2.imwrite(str(folder / "image.jpg"), np.full((480, 640, 3), 90, np.uint8))
    write_checkpoint(YOLO("yolov8n.yaml").model, folder / "yolov8n.pt")
    write_checkpoint(YOLO("yolov8n-akconv.yaml").model, folder / "best.pt")
    run = folder / "runs/detect/train"
    run.mkdir(parents=True)
    (run / "results.csv").write_text("epoch,akconv/model.1,akconv/outside\n1,0.5,0.1\n2,0.6,0.1\n", "utf-8")
    (folder / "my.yaml").write_text((ROOT / "cfg/models/yolov8-akconv.yaml").read_text("utf-8"), "utf-8")
    return folder


def check_yolo(words):
    """Check a `yolo` command by the host's own tables: task, mode, keys, and names of ours."""
    plain = [word for word in words if "=" not in word]
    assert not set(plain) - {*TASKS, *MODES, "settings"}, f"neither a task nor a mode: {plain}"
    pairs = dict(word.split("=", 1) for word in words if "=" in word)
    if "settings" not in plain:
        check_dict_alignment(vars(get_cfg()), pairs)
    model = pairs.get("model", "")
    if "akconv" in model and model.endswith(".yaml"):
        version = re.match(r"yolov?\d+", model)[0]
        if not list((Path(ultralytics.__file__).parent / "cfg/models").rglob(f"{version}*.yaml")):
            pytest.skip(f"Ultralytics {ultralytics.__version__} has no {version}")
        assert tasks.check_yaml(model)


def check_akconv(words, monkeypatch):
    """Check an `akconv` command by its own parser, without running it."""
    monkeypatch.setattr(argparse._SubParsersAction, "__call__", parse_only(argparse._SubParsersAction.__call__))
    assert main(words) == 0


def parse_only(call):
    """Return a parser action that lets the chosen command do nothing."""

    def parse(self, parser, namespace, values, option_string=None):
        call(self, parser, namespace, values, option_string)
        namespace.run = lambda options: None

    return parse


def check_pip(words):
    setup = (ROOT / "setup.py").read_text("utf-8")
    assert words[0] in ("install", "uninstall", "show")
    for word in words[1:]:
        if word.startswith("-") or word == "ultralytics":
            continue
        name, extras = re.fullmatch(r"([\w.-]+)(?:\[(.*)\])?", word).groups()
        assert name in (".", "ultralytics-akconv", "onnxscript") or f'"{name}' in setup
        assert all(f'"{extra}":' in setup for extra in (extras or "").split(",") if extra)


def check_python(words, folder):
    if words[0] == "-c":
        done = subprocess.run([sys.executable, *words], env=clean_environment(folder), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    elif words[0] == "-m":
        assert words[1] in ("pip", "pytest", "ultralytics_akconv.cli")
    else:
        assert (ROOT / words[0]).is_file()


@pytest.mark.parametrize("words", commands())
def test_every_command_of_the_manual_is_a_real_one(words, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    program, *rest = words
    if program == "yolo":
        check_yolo(rest)
    elif program == "akconv":
        text = " ".join(rest)
        if rest[0] in PARSED_ALONE or NEEDS_DATA.search(text):
            check_akconv(rest, monkeypatch)
        else:
            assert main(rest) == 0, capsys.readouterr().err
    elif program == "pip":
        check_pip(rest)
    elif program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
        assert {word for word in rest if "=" not in word} <= set(targets)
    elif program == "python":
        check_python(rest, folder)
    else:
        assert program in ("git", "cd", "export") or (ROOT / program).is_file(), f"what is {program}?"


@pytest.mark.parametrize("text", snippets())
def test_every_python_example_of_the_manual_holds(text, folder, monkeypatch):
    monkeypatch.chdir(folder)
    tree = ast.parse(text)
    if LONG_PYTHON.search(text):  # its names must exist all the same
        tree.body = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    exec(compile(tree, "example", "exec"), {"__name__": "example"})


def test_links_of_the_readmes_lead_somewhere():
    for page in PAGES[:2]:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text("utf-8")):
            assert target.startswith("http") or (page.parent / target).exists(), f"{page.name}: {target}"


def test_no_code_of_the_manual_is_wider_than_its_page():
    """Some 80 characters fit into a page at desktop width; what is wider has to be scrolled."""
    wide = [
        where(page, line + number)
        for page in sorted((ROOT / "docs").rglob("*.md"))
        for _, line, text in fences(page)
        for number, code in enumerate(text.splitlines(), 1)
        if len(code) > 80
    ]
    assert not wide


@pytest.mark.slow
def test_the_manual_is_built_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs", reason="mkdocs is in the extra `docs`")
    pytest.importorskip("mkdocstrings", reason="mkdocstrings is in the extra `docs`")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        env=clean_environment(tmp_path, NO_MKDOCS_2_WARNING="1"),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site/troubleshooting/index.html").is_file()


@pytest.mark.slow
def test_the_notebook_runs_from_a_trained_model_to_an_export(tmp_path):
    nbformat = pytest.importorskip("nbformat", reason="nbformat is in the extra `docs`")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is in the extra `docs`")
    pytest.importorskip("ipykernel", reason="ipykernel is in the extra `docs`")
    notebook = nbformat.read(ROOT / "docs/tutorial.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") for cell in notebook.cells), "the notebook is kept without its outputs"
    epochs = "IMGSZ, EPOCHS = 64, 2"  # each cell of it is as right after one
    assert any(epochs in cell.source for cell in notebook.cells)
    for cell in notebook.cells:
        cell.source = cell.source.replace(epochs, "IMGSZ, EPOCHS = 64, 1")
    environment = clean_environment(tmp_path, IPYTHONDIR=str(tmp_path / "ipython"))
    client = nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}})
    client.execute(env=environment)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert "model.3" in "".join(output.get("text", "") for output in outputs)
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    assert list(tmp_path.glob("runs/**/weights/best.torchscript"))
