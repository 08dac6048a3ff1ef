# SPDX-License-Identifier: AGPL-3.0-or-later
"""Compiles the kernels for cards that are not there: `python compiled_kernels.py ARCHITECTURES/DTYPES/CHANNELS ...`.

Triton brings what assembles and what reads it. Prints, as JSON, for every program its registers and bytes spilled.
"""

import json
import re
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path

import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ultralytics_akconv.functional.kernels import programs, samples

POINTERS = {
    **dict.fromkeys(("x", "offset", "samples", "grad", "grad_offset", "grad_x"), "values"),
    **dict.fromkeys(("points", "weights"), "accumulated"),
    **dict.fromkeys(("cells", "starts"), "i32"),
    "order": "i64",
}
NAMES = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32"}


class Recorded(Exception):
    """What a launch was given, in place of the launch."""


def launches(dtype, channels):
    """Return (program, constants, options) of every launch, as `samples` would have it for such a map."""
    found = []
    x = torch.empty(2, channels, 8, 8, dtype=dtype).to(memory_format=torch.channels_last)
    offset, points = torch.empty(2, 10, 4, 4, dtype=dtype), [0.0] * 10
    grad = torch.empty(2, channels, 20, 4, dtype=dtype).to(memory_format=torch.channels_last)
    samples._launch = lambda name, grid, like, *arguments, **constants: found.append((name, constants))
    samples._sample(x, offset, points, 2, "paper")
    _, cells, weights = samples._sample_gradient(grad, x, offset, points, 2, "paper", True, True)
    samples._pixel_gradient(grad, weights, cells.long(), cells, x)
    return found


def compiled(name, constants, dtype, architecture):
    """Compile one program."""
    function = getattr(programs, name)
    constants = dict(constants)
    options = {"num_warps": constants.pop("num_warps")}
    options.update(programs.REGISTERS if name == "pixel_gradient_program" else {})
    constants["ACC"] = getattr(tl, str(constants["ACC"]).removeprefix("torch."))
    signature, fixed, attributes = {}, {}, {}
    for place, argument in enumerate(function.arg_names):
        if argument in constants:
            signature[argument], fixed[(place,)] = "constexpr", constants[argument]
        elif argument in POINTERS:
            kind = {"values": NAMES[dtype], "accumulated": "fp32"}.get(POINTERS[argument], POINTERS[argument])
            signature[argument], attributes[(place,)] = f"*{kind}", [["tt.divisibility", 16]]
        else:
            signature[argument] = "i32"
    source = ASTSource(fn=function, signature=signature, constexprs=fixed, attrs=attributes)
    return triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)


def cost(kernel):
    """Return the registers of a thread and its bytes in local memory."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
        told = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    registers, stack, local = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", told).groups()
    return {"registers": int(registers), "spilled": int(stack) + int(local)}


if __name__ == "__main__":
    cases = (case for argument in sys.argv[1:] for case in product(*(part.split(",") for part in argument.split("/"))))
    for architecture, dtype, count in cases:
        for name, constants in launches(getattr(torch, dtype), int(count)):
            kernel = compiled(name, constants, dtype, int(architecture))
            found = {"architecture": int(architecture), "dtype": dtype, "channels": int(count), "program": name}
            print(json.dumps({**found, **cost(kernel)}), flush=True)
