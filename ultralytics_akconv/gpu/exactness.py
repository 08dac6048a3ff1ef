# SPDX-License-Identifier: AGPL-3.0-or-later
"""Whether the numbers are right on this device: against float64, run after run, and on a map of over 2**31 elements."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ultralytics_akconv.benchmark.measurements import machine
from ultralytics_akconv.functional import BORDERS, resample
from ultralytics_akconv.functional.kernels import kernel_status
from ultralytics_akconv.functional.kernels.trust import TOLERANCES, relative_error
from ultralytics_akconv.functional.paths import using_path
from ultralytics_akconv.gpu.clock import milliseconds
from ultralytics_akconv.gpu.facts import Run
from ultralytics_akconv.shapes import sampling_points

_GRID = 100  # times the tolerance: its positions are shares of the map, so they are rounded by what the map is wide
RESULTS = ("samples", "input gradient", "offset gradient")


class Case(NamedTuple):
    """An input (B, C, H, W), N and stride, and what some of the offsets are set to."""

    size: tuple[int, int, int, int]
    num_param: int = 5
    stride: int = 2
    fill: float | None = None


_CASES = (
    *(Case((2, 16, 33, 47), fill=fill) for fill in (None, 1e4, float("inf"), float("nan"))),
    *(Case((2, 16, *side)) for side in ((1, 1), (7, 1), (1, 9), (2, 2))),
    Case((0, 16, 4, 4)),
)
_TINY = (Case((1, 4, 5, 4)), Case((1, 4, 5, 4), fill=float("nan")))
# A number of channels or points is a program of its own: in one dtype and one border only.
_MORE = (
    Case((2, 64, 9, 7)),
    Case((1, 80, 5, 6)),
    Case((1, 130, 5, 6)),
    Case((2, 16, 9, 7), 3, 1),
    Case((1, 3, 8, 8), 9),
)


def paths() -> list[str]:
    """Return the paths that a layer can take on a GPU: the kernels wherever Triton is."""
    triton = importlib.util.find_spec("triton") is not None
    return [*(["kernels"] if triton else []), "grid", "gather"]


def about_device(run: Run) -> None:
    """Tell the card, the versions, the self-check by dtype and the bandwidth of a copy."""
    about: dict[str, Any] = {"cuda": torch.version.cuda, "tiny": run.tiny}
    about["triton"] = importlib.import_module("triton").__version__ if "kernels" in paths() else None
    run.part("versions", lambda: {**machine(run.device), **about})
    if run.cuda:
        run.part("card", lambda: _card(run.device))
    for dtype in TOLERANCES if "kernels" in paths() else ():
        run.part("self-check", lambda dtype=dtype: kernel_status(run.device, dtype)._asdict(), dtype=dtype)
    run.part("copy", lambda: _bandwidth(run))


def _card(device: torch.device) -> dict[str, Any]:
    """Return what CUDA says of a card."""
    card = torch.cuda.get_device_properties(device)
    free, total = torch.cuda.mem_get_info(device)
    return {
        "name": card.name,
        "capability": f"{card.major}.{card.minor}",
        "processors": card.multi_processor_count,
        "GB": round(total / 1e9, 1),
        "free GB": round(free / 1e9, 1),
        "cudnn": torch.backends.cudnn.version(),
    }


def _bandwidth(run: Run) -> dict[str, Any]:
    """Return the bandwidth of a copy, reading and writing counted."""
    x = torch.empty(2**16 if run.tiny else 2**28, device=run.device)
    ms = milliseconds({"copy": x.clone}, run.device, rounds=2 if run.tiny else 10)["copy"].median
    return {"GB/s": round(2 * x.nbytes / ms / 1e6, 1)}


def errors(run: Run) -> None:
    """Tell the largest error of each path, dtype and border, of samples and both gradients, over all cases."""
    for dtype, path in itertools.product(TOLERANCES, paths()):
        for border in BORDERS:
            cases = _TINY if run.tiny else _CASES
            more = _MORE if (dtype, border) == (torch.float16, "paper") and not run.tiny else ()
            run.part(
                "error",
                lambda c=(*cases, *more), d=dtype, p=path, b=border: _worst(run, c, d, p, b),
                path=path,
                dtype=dtype,
                border=border,
            )


def _worst(run: Run, cases: tuple[Case, ...], dtype: torch.dtype, path: str, border: str) -> dict[str, Any]:
    """Return the largest error of each result, the case it is from, and whether all are within the tolerance."""
    worst = dict.fromkeys(RESULTS, 0.0)
    where: dict[str, Case] = {}
    for case in cases:
        for name, error in _errors(run.device, case, dtype, path, border):
            if worst[name] == worst[name] and not error <= worst[name]:  # a NaN is the worst there is, and stays
                worst[name], where[name] = error, case
    tolerance = TOLERANCES[dtype] * (_GRID if path == "grid" else 1)
    wrong = {name: (error, tuple(where[name])) for name, error in worst.items() if not error <= tolerance}
    if wrong:
        raise ArithmeticError(f"beyond {tolerance:g}: {wrong}")
    return {name: float(f"{error:.1e}") for name, error in worst.items()}


def inputs(case: Case, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return a channels_last map and offsets of about 1.5 px."""
    b, c, height, width = case.size
    h, w = (height - 1) // case.stride + 1, (width - 1) // case.stride + 1
    x = torch.randn(b, c, height, width, device=device).to(dtype)
    offset = (torch.randn(b, 2 * case.num_param, h, w, device=device) * 1.5).to(dtype)
    if case.fill is not None:
        offset[:, ::3, ::2] = case.fill
    return tuple(tensor.to(memory_format=torch.channels_last) for tensor in (x, offset))


def passed(
    x: Tensor, offset: Tensor, case: Case, path: str, border: str, grad: Tensor | None = None
) -> tuple[Tensor, ...]:
    """Return samples and both gradients by a path; the gradient of the samples is random unless given."""
    x, offset = x.detach().requires_grad_(), offset.detach().requires_grad_()
    with using_path(path):
        samples = resample(x, offset, sampling_points(case.num_param), case.stride, border)
        grad = torch.randn_like(samples) if grad is None else grad.to(samples.dtype)
        return samples.detach(), *torch.autograd.grad(samples, (x, offset), grad), grad


def _errors(
    device: torch.device, case: Case, dtype: torch.dtype, path: str, border: str
) -> Iterator[tuple[str, float]]:
    """Yield the error of each result against the plain formula in float64 of the same numbers."""
    x, offset = inputs(case, dtype, device)
    *found, grad = passed(x, offset, case, path, border)
    wanted = passed(x.double(), offset.double(), case, "gather", border, grad)
    for name, ours, exact in zip(RESULTS, found, wanted):
        # Which pixel a NaN offset reads is left open, so which of them gets its NaN gradient as well.
        if name != RESULTS[1] and not torch.equal(ours.isnan(), exact.isnan()):
            yield name, float("nan")
        difference = relative_error(ours, exact).nan_to_num(0)
        yield name, difference.max().item() if difference.numel() else 0.0


def repeats(run: Run) -> None:
    """Tell for each path how far twenty runs of a layer's samples and gradients differ: 0 is bit for bit."""
    case = Case((1, 4, 5, 4) if run.tiny else (16, 16, 320, 320))
    for path in paths():
        run.part("twenty runs", lambda path=path: _repeated(run, case, path), path=path)


def _repeated(run: Run, case: Case, path: str) -> dict[str, Any]:
    """Run again and again and compare."""
    x, offset = inputs(case, torch.float16, run.device)
    *first, grad = passed(x, offset, case, path, "paper")
    differ = dict.fromkeys(RESULTS, 0.0)
    for _ in range(1 if run.tiny else 19):
        again = passed(x, offset, case, path, "paper", grad)
        for name, a, b in zip(RESULTS, again, first):
            differ[name] = max(differ[name], (a - b).abs().max().item())
    if path == "kernels" and any(differ.values()):
        raise ArithmeticError(f"not the same bits: {differ}")
    return {"runs": 2 if run.tiny else 20, **differ}


def large(run: Run) -> None:
    """Tell whether a batch of over 2**31 elements gives for its last image what that image gives alone."""
    case = Case((2, 4, 9, 9) if run.tiny else (40, 64, 1024, 1024), stride=5 if run.tiny else 33)
    elements = torch.Size(case.size).numel()
    for path in paths()[:1]:
        run.part("large batch", lambda path=path: _large(run, case, path), path=path, elements=elements)


def _large(run: Run, case: Case, path: str) -> dict[str, Any]:
    """Compare samples and gradients of the last image."""
    needed = 5 * 2 * torch.Size(case.size).numel()  # input, gradient, and what the backward pass works with
    if run.cuda and torch.cuda.mem_get_info(run.device)[0] < needed:
        return {"left_out": f"{needed / 1e9:.0f} GB of memory needed"}
    x, offset = inputs(case, torch.float16, run.device)
    *batch, grad = passed(x, offset, case, path, "paper")
    alone = passed(x[-1:].clone(), offset[-1:].clone(), case, path, "paper", grad[-1:])
    equal = {name: torch.equal(a[-1:], b) for name, a, b in zip(RESULTS, batch, alone)}
    if not all(equal.values()):
        raise ArithmeticError(f"the last image alone gives something else: {equal}")
    return equal
