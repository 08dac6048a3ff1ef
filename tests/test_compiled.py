# SPDX-License-Identifier: AGPL-3.0-or-later
"""The kernels compiled for cards that are not there: registers and spills are what no interpreter shows."""

import json
import sys
from pathlib import Path

import pytest
from conftest import run_clean

pytestmark = pytest.mark.slow


def test_every_program_compiles_within_64_registers_and_spills_nothing_in_16_bits(tmp_path):
    triton = pytest.importorskip("triton", reason="Triton is not installed: its wheels are for Linux")
    if tuple(map(int, triton.__version__.split(".")[:2])) < (3, 3):
        pytest.skip(f"Triton {triton.__version__} takes what a program is compiled for in another way")
    if not (Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump").exists():
        pytest.skip(f"Triton {triton.__version__} does not bring cuobjdump, which tells the registers")
    script = Path(__file__).with_name("compiled_kernels.py")
    command = [sys.executable, script, "75,80,86,90/float16/16,128", "80,90/bfloat16,float32/64"]
    process = run_clean(tmp_path, command, TRITON_CACHE_DIR=tmp_path / "cache", timeout=600)
    assert process.returncode == 0, process.stderr
    found = [json.loads(line) for line in process.stdout.splitlines()]
    assert len(found) == 3 * (4 * 1 * 2 + 2 * 2 * 1)
    for program in found:
        assert 16 <= program["registers"] <= 64, program
        assert program["spilled"] == 0 or program["dtype"] == "float32", program
