# SPDX-License-Identifier: AGPL-3.0-or-later
"""The scripts of the manual's pages that run in a browser, run by `node` where it is installed."""

import json
import math
import shutil
import subprocess

import pytest
from conftest import ROOT

NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="node, which runs the scripts of the pages, is not on the PATH")

# JSON has no NaN and no infinity: they travel as words.
PROGRAM = """
const number = (key, value) => (["NaN", "Infinity", "-Infinity"].includes(value) ? Number(value) : value);
const word = (key, value) => (typeof value === "number" && !Number.isFinite(value) ? String(value) : value);
const page = require(process.argv[1]);
const answer = new Function("page", "input", process.argv[2]);
const cases = JSON.parse(require("fs").readFileSync(0, "utf8"), number);
process.stdout.write(JSON.stringify(cases.map((input) => answer(page, input)), word));
"""
WORDS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def _words(value):
    if isinstance(value, dict):
        return {key: _words(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_words(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def run_script(name, body, cases):
    """Return what JavaScript makes of each case: `body` is a function's, of the script `page` and the case `input`."""
    done = subprocess.run(
        [NODE, "-e", PROGRAM, str(ROOT / "docs/assets" / name), body],
        input=json.dumps(_words(cases)),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def number(value):
    """Return a number that may have come as a word."""
    return WORDS.get(value, value) if isinstance(value, str) else value
