# SPDX-License-Identifier: AGPL-3.0-or-later
"""Runs Ultralytics' own tests, out of its source distribution, with the plug-in off, on, and with every model grafted.

python scripts/host_tests.py                              the newest release
python scripts/host_tests.py 8.3.253 8.4.190 --limit 600  these, ten minutes an arm at most
python scripts/host_tests.py --each 60                    a minute a test at most
python scripts/host_tests.py -k "forward or workflow"     some of the tests, by pytest's expression

The three arms differ in nothing but the plug-in: "off" has it switched off, "on" has it there, "grafted" reads the
model YAMLs of a copy of the release in which every one that can be is grafted with five points, and weights converted
likewise. Nothing is downloaded: weights are stand-ins with random numbers, datasets a few of the bundled images under
the names the tests ask for. So some tests fail in every arm, as they do offline without us; what counts is a test that
ends otherwise in another arm, or fails with other words. These are listed, and the command fails if there is one
between "off" and "on". A test that does not end in the time it is given says nothing and is counted apart. Some tests
want lap and aiohttp (`pip install lap aiohttp`), or clip.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path

import yaml
from host_stand_ins import WEIGHTS, weights_named, write_datasets
from matrix import FOLDER, ROOT, install, newest

from ultralytics_akconv import graft
from ultralytics_akconv.markdown import markdown_table

ARMS = ("off", "on", "grafted")
TESTS = ("test_python.py", "test_engine.py", "test_cli.py")
# The outcomes that have words, which are compared too.
BAD = ("failed", "error")


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


def environment(folder: Path, host: Path, arm: str) -> dict[str, str]:
    """Return the environment of an arm, with settings and folders of its own."""
    own = {f"{kind}_dir": str(folder / kind) for kind in ("runs", "datasets", "weights")}
    settings = folder / "config/Ultralytics/settings.json"
    settings.parent.mkdir(parents=True, exist_ok=True)
    # `yolo` of the tests is that of this environment, which reads the release from PYTHONPATH.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    base = {
        **os.environ,
        "PATH": path,
        "PYTHONPATH": str(host),
        "YOLO_CONFIG_DIR": str(folder / "config"),
        "YOLO_OFFLINE": "true",
    }
    base.update(
        TORCH_HOME=str(folder / "weights"), YOLO_AUTOINSTALL="false", ULTRALYTICS_AKCONV="0" if arm == "off" else "1"
    )
    code = "import json; from ultralytics.utils import SETTINGS; print(json.dumps(dict(SETTINGS)))"
    done = subprocess.run([sys.executable, "-c", code], env=base, capture_output=True, text=True, check=True)
    settings.write_text(json.dumps({**json.loads(done.stdout.splitlines()[-1]), **own}), "utf-8")
    return base


def stand_ins(release: str, grafted: bool) -> Path:
    """Return the folder of the weights of all arms that have the same, made where it is not there."""
    source, host = unpack_tests(release), install(release)
    folder = source / ("weights-grafted" if grafted else "weights-plain")
    if not folder.exists():
        unfinished = folder.with_name(f"{folder.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        names = weights_named(source / "tests")
        done = subprocess.run(
            [sys.executable, "-c", WEIGHTS, str(unfinished), "grafted" if grafted else "plain", *names],
            env=environment(source / "making", host, "on"), capture_output=True, text=True,
        )  # fmt: skip
        (source / f"{folder.name}.log").write_text(done.stdout + done.stderr, "utf-8")
        done.check_returncode()
        unfinished.rename(folder)
    return folder


def stop_group(process: subprocess.Popen) -> None:
    """End a process with all it started: trainings, and workers that load data."""
    with contextlib.suppress(ProcessLookupError):  # all have ended
        os.killpg(process.pid, signal.SIGKILL) if os.name == "posix" else process.kill()
    process.wait()


def run_arm(
    release: str, arm: str, tests: list[str], expression: str, limit: int, each: int
) -> dict[str, dict[str, str]]:
    """Run the tests of a release in an arm and return how each ended that was begun within the limit."""
    source, host = unpack_tests(release), install(release)
    folder = source / arm
    shutil.rmtree(folder, ignore_errors=True)
    if arm == "grafted":
        host, count = grafted_copy(host)
        print(f"{release}: {count} model YAMLs grafted", flush=True)
    variables = environment(folder, host, arm)
    shutil.copytree(stand_ins(release, arm == "grafted"), folder / "weights")
    write_datasets(folder / "datasets")
    shutil.copytree(source / "tests", folder / "tests")
    shutil.copy(ROOT / "scripts/host_watch.py", folder)
    # Without one of theirs, the settings of this repository would hold for them.
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = slow\n", "utf-8")
    (folder / "weights/path with spaces").mkdir()
    for name in ("yolo26n.pt", "yolo11n.pt"):
        if (folder / "weights" / name).is_file():
            shutil.copy(folder / "weights" / name, folder / "weights/path with spaces")
    variables.update(HOST_TESTS_OUTCOMES=str(folder / "outcomes.jsonl"), HOST_TESTS_SECONDS=str(each))
    files = [f"tests/{name}" for name in tests if (folder / "tests" / name).is_file()]
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "-p", "host_watch", "--tb=short", *files]
    command += ["-k", expression] if expression else []
    with (folder / "tests.log").open("w", encoding="utf-8") as stream:
        process = subprocess.Popen(
            command, cwd=folder, env=variables, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            print(f"{release}: {arm}: stopped after {limit} s", flush=True)
        finally:
            stop_group(process)
    return outcomes(folder / "outcomes.jsonl")


def outcomes(file: Path) -> dict[str, dict[str, str]]:
    """Return how each test ended, and with which words; what fails is not mended by its teardown."""
    found: dict[str, dict[str, str]] = {}
    for row in map(json.loads, file.read_text("utf-8").splitlines() if file.exists() else []):
        if found.get(row["name"], {}).get("outcome") not in ("stopped", *BAD):
            found[row["name"]] = {"outcome": row["outcome"], "words": row["words"]}
    return found


def alike(words: str) -> str:
    """Return the words of a failure without what is another in each run: paths, numbers, addresses."""
    return re.sub(r"0x[0-9a-f]+|\d+", "0", re.sub(r"(?:[A-Za-z]:)?[/\\][^\s'\",)]*", "PATH", words))


def table(release: str, results: dict[str, dict[str, dict[str, str]]]) -> tuple[str, bool]:
    """Return what the arms say as Markdown, and whether "on" ends as "off" in all tests that both ended."""
    kinds = ("passed", "failed", "skipped", "error", "stopped")
    rows = []
    for arm, found in results.items():
        counts = Counter(row["outcome"] for row in found.values())
        rows.append((arm, *(counts[kind] for kind in kinds)))
    aligned = ("---", *["--:"] * len(kinds))
    lines = [f"## Ultralytics {release}", "", markdown_table(("arm", *kinds), rows, aligned)]
    common, other, words = compared(results)
    lines += ["", f"{len(common)} tests ended in every arm, {len(other)} of them not alike:"]
    lines += [f"- `{name}`: {row_of(results, name, 'outcome')}" for name in other]
    lines += ["", f"{len(words)} failed in every arm, with other words in one of them:"]
    lines += [f"- `{name}`: {row_of(results, name, 'words')}" for name in words]
    first = next(iter(results.values()))
    bad = Counter(alike(first[name]["words"])[:120] for name in common if first[name]["outcome"] in BAD)
    lines += ["", f'What failed in the arm "{next(iter(results))}", by its words:']
    lines += [f"- {count} x {text}" for text, count in bad.most_common()]
    pair = {arm: results[arm] for arm in ("off", "on") if arm in results}
    _, *differences = compared(pair)
    return "\n".join(lines) + "\n", not any(differences)


def compared(results: dict[str, dict[str, dict[str, str]]]) -> tuple[list[str], list[str], list[str]]:
    """Return the tests that ended in all arms, those of them with another outcome, and those with other words."""
    arms = list(results.values())
    if not arms:
        return [], [], []
    common = [
        name
        for name in sorted(set.intersection(*map(set, arms)))
        if all(found[name]["outcome"] != "stopped" for found in arms)
    ]
    other = [name for name in common if len({found[name]["outcome"] for found in arms}) > 1]
    words = [name for name in common if len({alike(found[name]["words"]) for found in arms}) > 1 and name not in other]
    return common, other, words


def row_of(results: dict[str, dict[str, dict[str, str]]], name: str, key: str) -> str:
    """Return what each arm says of a test."""
    return "; ".join(f"{arm}: {found[name][key][:200]}" for arm, found in results.items())


def main() -> int:
    """Run the arms, print their table and return 1 if a test ends otherwise with the plug-in than without."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("releases", nargs="*", help="Ultralytics releases (default: the newest)")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS)
    parser.add_argument("--tests", nargs="+", default=TESTS, metavar="FILE", help=f"default {' '.join(TESTS)}")
    parser.add_argument("-k", dest="expression", default="", help="some of the tests, by pytest's expression")
    parser.add_argument("--limit", type=int, default=3600, help="seconds an arm may take (default 3600)")
    parser.add_argument("--each", type=int, default=120, help="seconds a test may take (default 120)")
    options = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    ok = True
    for release in options.releases or [newest()]:
        results: dict[str, dict[str, dict[str, str]]] = {}
        for folder in (FOLDER / "host" / release).glob("weights-*"):  # of another day's code
            shutil.rmtree(folder) if folder.is_dir() else folder.unlink()
        for arm in options.arms:
            results[arm] = run_arm(release, arm, options.tests, options.expression, options.limit, options.each)
            text, same = table(release, results)
            (FOLDER / "host" / release / "table.md").write_text(text, "utf-8")
            (FOLDER / "host" / release / "outcomes.yaml").write_text(yaml.safe_dump(results), "utf-8")
        print(text, flush=True)
        ok = ok and same
    return int(not ok)


if __name__ == "__main__":
    sys.exit(main())
