# SPDX-License-Identifier: AGPL-3.0-or-later
"""Versions, and whether the plug-in is active: in this Python and in the one that runs `yolo`."""

from __future__ import annotations

import importlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

_PROBE = Path(__file__).with_name("probe.py")
# What is imported -> its name for people; without the last, CUDA has another path.
_PACKAGES = {"ultralytics": "Ultralytics", "torch": "torch", "torchvision": "torchvision", "triton": "Triton"}


class Finding(NamedTuple):
    """One line of the check: what was looked at, what was found, and what is wrong with it, if anything is."""

    name: str
    value: str
    problem: str | None = None


def versions() -> Iterator[Finding]:
    """Yield the versions everything depends on; a package that does not load is a problem, Triton may be absent."""
    from ultralytics_akconv import __version__

    yield Finding("ultralytics-akconv", __version__)
    yield Finding("Python", f"{platform.python_version()}, {short(sys.executable)}")
    yield Finding("system", platform.platform())
    for module, name in _PACKAGES.items():
        try:
            yield Finding(name, importlib.import_module(module).__version__)
        except ModuleNotFoundError as error:
            missing = error.name == module
            problem = None if missing and module == "triton" else f"{name} cannot be imported: {error}"
            yield Finding(name, "not installed" if missing else "broken", problem)
        except Exception as error:  # a library of another build raises whatever its loader does
            yield Finding(name, "broken", f"{name} cannot be imported: {type(error).__name__}: {error}")


def plug_ins() -> Iterator[Finding]:
    """Yield whether a bare `yolo` has AKConv, here and, if the command `yolo` is another Python's, there."""
    yield plug_in("plug-in", sys.executable)
    command = shutil.which("yolo")
    if command is None:
        yield Finding("yolo", "no such command on PATH")
        return
    python = python_of(Path(command))
    if python is None:
        yield Finding("yolo", f"{short(command)}; which Python runs it cannot be told")
    elif _is_this(python):
        yield Finding("yolo", "belongs to this Python")
    else:
        yield plug_in("yolo", str(python))


def plug_in(name: str, python: str) -> Finding:
    """Return whether a bare `yolo` run by an interpreter has AKConv; if not, why, and what to do."""
    other = "" if name == "plug-in" else f"belongs to another Python, {short(python)}: "
    answer = ask(python)
    if answer["active"] and answer["started"]:
        return Finding(name, f"{other}active, by {short(answer['file']) if answer['file'] else 'the start-up module'}")
    pip = f"{short(python)} -m pip install"
    if not answer["enabled"]:
        value, problem = "switched off", f"ULTRALYTICS_AKCONV={os.environ.get('ULTRALYTICS_AKCONV')} is set: unset it"
    elif answer["reason"]:
        value, problem = "not active", answer["reason"]
    elif answer["file"] is None:
        value, problem = "not installed", f"no start-up file in its site-packages: {pip} ultralytics-akconv"
    else:
        again = f"{pip} --force-reinstall --no-deps ultralytics-akconv"
        value, problem = "not active", f"{short(answer['file'])} was not executed or does not work: {again}"
    return Finding(name, other + value, f"{name}: {other}{value}: {problem}")


def ask(python: str) -> dict[str, Any]:
    """Return what `probe.py` prints in an interpreter; one that does not run is an answer, too."""
    try:
        process = subprocess.run([python, str(_PROBE)], capture_output=True, text=True, timeout=300, check=True)
        return json.loads(process.stdout.splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        last = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1:]
        reason = f"{short(python)} does not run: {''.join(last)}"
        return {"active": False, "started": False, "enabled": True, "file": None, "reason": reason}


def python_of(command: Path) -> Path | None:
    """Return the interpreter that runs a command which pip, uv or conda installed; None if it cannot be told."""
    if command.parent == Path(sysconfig.get_path("scripts")):
        return Path(sys.executable)
    with open(command, "rb") as file:
        start = file.read(1024).decode("utf-8", "replace")
    # A path too long or with a space in it stands in the second line, run by a shell: '''exec' "/a path/python" "$0"
    line = re.match(r"#!\s*(/[^\n]*?python[\w.]*)\s*$", start, re.MULTILINE)
    line = line or re.match(r"#!/bin/sh\s*\n'''exec' \"?(/[^\"\n]*?python[\w.]*)\"? ", start)
    beside = [command.parent / "python.exe", command.parent.parent / "python.exe"]  # Windows: an .exe, no text
    found = [Path(line[1])] if line else beside
    return next((path for path in found if path.is_file()), None)


def _is_this(python: Path) -> bool:
    """Return whether an interpreter is the one that runs this: links resolve alike in all environments, folders not."""
    return python.parent.resolve() == Path(sys.executable).parent.resolve()


def short(path: str | Path) -> str:
    """Return a path without the name of the user, for a report that is shown to others."""
    path, home = str(path), str(Path.home())
    return f"~{path[len(home) :]}" if path.startswith(home + os.sep) else path
