# SPDX-License-Identifier: AGPL-3.0-or-later
"""Whether the kernels may be used: they are compared with the plain formula before they compute anything.

What the compiler makes of a kernel differs from card to card and from release to release of Triton, and a wrong
gradient would not be noticed. So each process checks its card once for each dtype, on a map of a few pixels.
"""

from __future__ import annotations

import importlib.util
import os
import re
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ultralytics_akconv.functional.gather import gather_samples
from ultralytics_akconv.functional.kernels.samples import KernelSamples, check_cells
from ultralytics_akconv.functional.taps import base_positions

SWITCH = "ULTRALYTICS_AKCONV_KERNELS"
CAPABILITY = (7, 0)  # what Triton compiles for
_OLDEST = (3, 0)  # Triton that has all that the programs call
# Differences allowed, see `relative_error`.
TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 1.6e-2}
# The sizes of the first layer of an n model: its programs are then compiled already.
_POINTS = ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0), (2.0, 0.0))
_SHAPE, _STRIDE = (2, 16, 9, 7), 2


class KernelStatus(NamedTuple):
    """What the self-check found.

    Attributes:
        trusted: Whether the kernels are used.
        reason: Why not, in words; None if they are.
        errors: Largest difference from the plain formula by what was compared ("samples", "input gradient", "offset
            gradient"), relative to values above 1 and absolute below; empty if nothing was run.
    """

    trusted: bool
    reason: str | None = None
    errors: dict[str, float] = {}  # noqa: RUF012 - never changed


_known: dict[tuple[torch.device, torch.dtype], KernelStatus] = {}
_lock = threading.Lock()
_warned = False


def kernel_status(device: torch.device, dtype: torch.dtype) -> KernelStatus:
    """Return whether the kernels are used for a dtype on a device; the first call for both runs the self-check.

    A check that fails is one warning a process. Where there is no Triton, the card is too old or the kernels are
    switched off, there is nothing to mend and no warning: `akconv check` tells.

    Args:
        device: Where the tensors are.
        dtype: Dtype of the input.
    """
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    known = _known.get((device, dtype))
    if known is not None:
        return known
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():  # a check would spoil the capture
        return KernelStatus(False, "not checked yet, since a CUDA graph is being captured")
    with _lock:
        if (device, dtype) not in _known:
            _known[device, dtype] = _status(device, dtype)
    return _known[device, dtype]


def _status(device: torch.device, dtype: torch.dtype) -> KernelStatus:
    """Return what is found, and warn of a failure."""
    try:
        reason = _unavailable(device)
        if reason is not None:
            return KernelStatus(False, reason)
        with ThreadPoolExecutor(1) as fresh:  # a thread has no mode, no autocast and no gradient switched off
            errors = fresh.submit(_errors, device, dtype).result()
    except Exception as error:  # a compiler fails in ways of its own
        return _failed(device, dtype, f"{type(error).__name__}: {error}", {})
    wrong = {what: error for what, error in errors.items() if not error <= TOLERANCES[dtype]}
    if wrong:
        told = ", ".join(f"{what} by {error:.1e}" for what, error in wrong.items())
        return _failed(device, dtype, f"they differ from the plain formula: {told}", errors)
    return KernelStatus(True, None, errors)


def _unavailable(device: torch.device) -> str | None:
    """Return why there is nothing to check, None if there is."""
    if os.environ.get(SWITCH) == "0":
        return f"switched off by {SWITCH}=0"
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        if capability < CAPABILITY:
            return "the card has compute capability {}.{}, Triton needs {}.{}".format(*capability, *CAPABILITY)
    import triton  # takes a while, and what follows needs it anyway

    if tuple(int(number) for number in re.findall(r"\d+", triton.__version__)[:2]) < _OLDEST:
        return "Triton {} is older than {}.{}, which comes with torch 2.4".format(triton.__version__, *_OLDEST)
    return None


def _failed(device: torch.device, dtype: torch.dtype, reason: str, errors: dict[str, float]) -> KernelStatus:
    """Return the status of a failed check, and warn if none has failed before."""
    global _warned
    if not _warned:
        _warned = True
        card = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
        warnings.warn(
            f"AKConv: its GPU kernels are not used for {dtype} on {card}, a slower path is: {reason}. They need a C "
            f"compiler and Python's headers (Debian, Ubuntu: apt install gcc python3-dev). {SWITCH}=0 in the "
            f"environment leaves them out without a warning; `akconv check` tells more.",
            RuntimeWarning,
            stacklevel=2,
        )
    return KernelStatus(False, reason, errors)


def _errors(device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """Return how far the kernels are from the plain formula in float64, on samples on and off a small map."""
    generator = torch.Generator().manual_seed(0)  # the user's random numbers stay as they are
    b, c, height, width = _SHAPE
    n, h, w = len(_POINTS), (height - 1) // _STRIDE + 1, (width - 1) // _STRIDE + 1
    x, offset, grad = (
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
        for shape in (_SHAPE, (b, 2 * n, h, w), (b, c, h * n, w))
    )
    offset[0, 3, 1, 2], offset[1, 7, 0, 0] = float("inf"), -1e4
    base = base_positions(_POINTS, _STRIDE, h, w, torch.float64, torch.device("cpu"))
    wanted = _passed(gather_samples, x.double(), offset.double(), grad.double(), base, "paper")
    with torch.cuda.device(device if device.type == "cuda" else -1):  # in a fresh thread, the first is current
        x, offset, grad = (tensor.to(device) for tensor in (x, offset, grad))
        check_cells(grad, x, offset, _POINTS, _STRIDE)
        found = [tensor.cpu() for tensor in _passed(KernelSamples.apply, x, offset, grad, _POINTS, _STRIDE, "paper")]
    names = ("samples", "input gradient", "offset gradient")
    return {name: relative_error(a, b).max().item() for name, a, b in zip(names, found, wanted)}


def relative_error(found: Tensor, exact: Tensor) -> Tensor:
    """Return how far numbers are from exact ones in float64, relative to values above 1 and absolute below."""
    return (found.double() - exact).abs() / exact.abs().clamp_min(1)


def _passed(sample: Callable[..., Tensor], x: Tensor, offset: Tensor, grad: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    """Return samples and gradients of a way to sample."""
    x, offset = x.requires_grad_(), offset.requires_grad_()
    samples = sample(x, offset, *rest)
    return samples.detach(), *torch.autograd.grad(samples, (x, offset), grad)
