# SPDX-License-Identifier: AGPL-3.0-or-later
"""Runs Ultralytics' own tests, out of its source distribution, with the plug-in off, on, and with every model grafted.

python scripts/host_tests.py                              the newest release
python scripts/host_tests.py 8.3.253 8.4.190 --limit 600  these, ten minutes an arm at most
python scripts/host_tests.py -k "forward or workflow"     some of the tests, by pytest's expression

The three arms differ in nothing but the plug-in: "off" has it switched off, "on" has it there, "grafted" reads the
model YAMLs of a copy of the release in which every one that can be is grafted with five points, and weights converted
likewise. Nothing is downloaded: weights are stand-ins with random numbers, datasets a few of the bundled images under
the names the tests ask for. So some tests fail in every arm, as they do offline without us; what counts is a test that
ends otherwise in another arm. These are listed, and the command fails if there is one between "off" and "on".
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path

import yaml
from matrix import FOLDER, ROOT, install, newest

from ultralytics_akconv import graft
from ultralytics_akconv.markdown import markdown_table

ARMS = ("off", "on", "grafted")
TESTS = ("test_python.py", "test_engine.py", "test_cli.py")
MINI = ROOT / "cfg/datasets/akconv-mini"
# What the tests call their datasets -> the task, of which rows of labels are made from boxes.
DATASETS = {"coco8": "detect", "coco8-seg": "segment", "coco8-pose": "pose", "dota8": "obb", "imagenet10": "classify"}
# Run in a process of the release under test: the weights that its tests name, as the trainer leaves them.
WEIGHTS = """
import sys
from pathlib import Path
from ultralytics import YOLO
from ultralytics.cfg import TASK2MODEL
from ultralytics.utils import DEFAULT_CFG_DICT, LOGGER
from ultralytics.nn.tasks import DetectionModel
from ultralytics_akconv import transfer, write_checkpoint
folder, grafted = Path(sys.argv[1]), sys.argv[2] == "grafted"
folder.mkdir(parents=True, exist_ok=True)
for name in sorted({*TASK2MODEL.values(), "yolo11n.pt", "yolo11n-grayscale.pt", "yolo26n.pt"}):
    try:
        grey = name.endswith("-grayscale.pt")
        model = DetectionModel("yolo11n.yaml", ch=1) if grey else YOLO(name.replace(".pt", ".yaml")).model
    except FileNotFoundError:
        continue  # a model of another release
    model.args = {**DEFAULT_CFG_DICT, "model": name, "task": getattr(model, "task", "detect")}
    if grafted:
        try:
            model = transfer(model, num_param=5).model
        except ValueError as error:
            LOGGER.warning(f"{name} stays as it is: {error}")
    write_checkpoint(model.half(), folder / name)
"""


def unpack_tests(release: str) -> Path:
    """Return the folder that holds the tests of a release, out of its source distribution."""
    folder = FOLDER / "host" / release
    if not (folder / "tests").is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-build-isolation"]
        subprocess.run([*command, "--no-binary", ":all:", "--dest", str(folder), f"ultralytics=={release}"], check=True)
        with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
            for member in archive.getmembers():
                inside = Path(*Path(member.name).parts[1:])
                if member.isfile() and inside.parts[:1] == ("tests",) and ".." not in inside.parts:
                    (folder / inside).parent.mkdir(parents=True, exist_ok=True)
                    (folder / inside).write_bytes(archive.extractfile(member).read())
    return folder


def grafted_copy(host: Path) -> tuple[Path, int]:
    """Return a copy of a release whose model YAMLs are grafted, and how many of them could be."""
    copy = host.with_name(f"{host.name}-grafted")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(host, copy, ignore=shutil.ignore_patterns("__pycache__"))
    count = 0
    for file in sorted((copy / "ultralytics/cfg/models").rglob("*.yaml")):
        try:
            text = graft(file)
        except ValueError:  # nothing to replace in it
            continue
        file.write_text(text, "utf-8")
        count += 1
    return copy, count


def write_datasets(folder: Path) -> None:
    """Write four training and four validation images under each name of `DATASETS`, with labels of its task."""
    for name, task in DATASETS.items():
        for split in ("train", "val"):
            for number, image in enumerate(sorted((MINI / "images" / split).glob("*.jpg"))[:4]):
                if task == "classify":
                    target = folder / name / split / f"class{number % 2}"
                    target.mkdir(parents=True, exist_ok=True)
                    shutil.copy(image, target)
                    continue
                for kind in ("images", "labels"):
                    (folder / name / kind / split).mkdir(parents=True, exist_ok=True)
                shutil.copy(image, folder / name / "images" / split)
                lines = (MINI / "labels" / split / f"{image.stem}.txt").read_text("utf-8").splitlines()
                rows = [label(task, *map(float, line.split())) for line in lines]
                (folder / name / "labels" / split / f"{image.stem}.txt").write_text("\n".join(rows) + "\n", "utf-8")


def label(task: str, cls: float, x: float, y: float, w: float, h: float) -> str:
    """Return the row of a box in the labels of a task."""
    corners = [x - w / 2, y - h / 2, x + w / 2, y - h / 2, x + w / 2, y + h / 2, x - w / 2, y + h / 2]
    row = {"detect": [x, y, w, h], "pose": [x, y, w, h, *[x, y, 2] * 17]}.get(task, corners)
    cls = 0 if task == "pose" else int(cls)
    return " ".join([str(cls), *(f"{min(max(value, 0), 2):.6f}" for value in row)])


def environment(folder: Path, host: Path, arm: str) -> dict[str, str]:
    """Return the environment of an arm, with settings and folders of its own."""
    own = {f"{kind}_dir": str(folder / kind) for kind in ("runs", "datasets", "weights")}
    settings = folder / "config/Ultralytics/settings.json"
    settings.parent.mkdir(parents=True, exist_ok=True)
    base = {**os.environ, "PYTHONPATH": str(host), "YOLO_CONFIG_DIR": str(folder / "config"), "YOLO_OFFLINE": "true"}
    base.update(YOLO_AUTOINSTALL="false", ULTRALYTICS_AKCONV="0" if arm == "off" else "1")
    code = "import json; from ultralytics.utils import SETTINGS; print(json.dumps(dict(SETTINGS)))"
    done = subprocess.run([sys.executable, "-c", code], env=base, capture_output=True, text=True, check=True)
    settings.write_text(json.dumps({**json.loads(done.stdout.splitlines()[-1]), **own}), "utf-8")
    return base


def run_arm(release: str, arm: str, tests: list[str], expression: str, limit: int) -> dict[str, str]:
    """Run the tests of a release in an arm and return the outcome of each that ended within the limit."""
    source, host = unpack_tests(release), install(release)
    folder = source / arm
    shutil.rmtree(folder, ignore_errors=True)
    if arm == "grafted":
        host, count = grafted_copy(host)
        print(f"{release}: {count} model YAMLs grafted", flush=True)
    variables = environment(folder, host, arm)
    made = subprocess.run(
        [sys.executable, "-c", WEIGHTS, str(folder / "weights"), arm],
        env={**variables, "ULTRALYTICS_AKCONV": "1", "PYTHONPATH": str(install(release))},
        capture_output=True, text=True,
    )  # fmt: skip
    (folder / "weights.log").write_text(made.stdout + made.stderr, "utf-8")
    made.check_returncode()
    write_datasets(folder / "datasets")
    shutil.copytree(source / "tests", folder / "tests")
    (folder / "weights/path with spaces").mkdir()
    for name in ("yolo26n.pt", "yolo11n.pt"):
        if (folder / "weights" / name).is_file():
            shutil.copy(folder / "weights" / name, folder / "weights/path with spaces")
    files = [f"tests/{name}" for name in tests if (folder / "tests" / name).is_file()]
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "--tb=line", *files]
    command += ["-k", expression] if expression else []
    log = folder / "tests.log"
    with log.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen(command, cwd=folder, env=variables, stdout=stream, stderr=subprocess.STDOUT)
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            print(f"{release}: {arm}: stopped after {limit} s", flush=True)
    return outcomes(log.read_text("utf-8", errors="replace"))


def outcomes(log: str) -> dict[str, str]:
    """Return the outcome of each test in pytest's verbose output; what a test prints may stand between."""
    found: dict[str, str] = {}
    name = None
    for line in log.splitlines():
        begin = re.match(r"(tests/\S+::.+?)(?: (PASSED|FAILED|SKIPPED|ERROR|XFAIL|XPASS)\b|\s*$|\s)", line)
        if begin:
            name = begin[1]
        end = re.search(r"\b(PASSED|FAILED|SKIPPED|ERROR|XFAIL|XPASS)\b.*\[ *\d+%\]\s*$", line)
        if name and end:
            found[name] = end[1].lower()
            name = None
    return found


def table(release: str, results: dict[str, dict[str, str]]) -> tuple[str, bool]:
    """Return what the arms say as Markdown, and whether "on" ends as "off" in all tests that both have."""
    counts = {arm: Counter(found.values()) for arm, found in results.items()}
    rows = [(arm, *(count[kind] for kind in ("passed", "failed", "skipped", "error"))) for arm, count in counts.items()]
    titles = ("arm", "passed", "failed", "skipped", "errors")
    lines = [f"## Ultralytics {release}", "", markdown_table(titles, rows, ("---", *["--:"] * 4))]
    common = set.intersection(*map(set, results.values()))
    different = sorted(name for name in common if len({found[name] for found in results.values()}) > 1)
    lines += ["", f"{len(common)} tests ended in every arm, {len(different)} of them not alike:"]
    lines += [
        f"- `{name}`: {', '.join(f'{arm} {found[name]}' for arm, found in results.items())}" for name in different
    ]
    pair = [results[arm] for arm in ("off", "on") if arm in results]
    alike = len(pair) < 2 or all(pair[0][name] == pair[1][name] for name in set(pair[0]) & set(pair[1]))
    return "\n".join(lines) + "\n", alike


def main() -> int:
    """Run the arms, print their table and return 1 if a test ends otherwise with the plug-in than without."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("releases", nargs="*", help="Ultralytics releases (default: the newest)")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS)
    parser.add_argument("--tests", nargs="+", default=TESTS, metavar="FILE", help=f"default {' '.join(TESTS)}")
    parser.add_argument("-k", dest="expression", default="", help="some of the tests, by pytest's expression")
    parser.add_argument("--limit", type=int, default=3600, help="seconds an arm may take (default 3600)")
    options = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    ok = True
    for release in options.releases or [newest()]:
        results: dict[str, dict[str, str]] = {}
        for arm in options.arms:
            results[arm] = run_arm(release, arm, options.tests, options.expression, options.limit)
            text, alike = table(release, results)
            (FOLDER / "host" / release / "table.md").write_text(text, "utf-8")
            (FOLDER / "host" / release / "outcomes.yaml").write_text(yaml.safe_dump(results), "utf-8")
        print(text, flush=True)
        ok = ok and alike
    return int(not ok)


if __name__ == "__main__":
    sys.exit(main())
