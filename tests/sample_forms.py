# SPDX-License-Identifier: AGPL-3.0-or-later
"""The ways to compute the samples, for tests that hold all of them to the same."""

import importlib.util
import math
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch

from ultralytics_akconv import resample
from ultralytics_akconv.functional import PATHS, using_path
from ultralytics_akconv.functional.forms.gathers import OUTER
from ultralytics_akconv.functional.gather import COMPILED, PLAIN, gather_samples
from ultralytics_akconv.functional.taps import base_positions, position_dtype


def gathered(how):
    """The gathers as a trace gets them."""

    def sample(x, offset, points, stride, border):
        base = base_positions(points, stride, *offset.shape[2:], position_dtype(offset.dtype), x.device)
        return gather_samples(x, offset, base, border, traced=True, how=how)

    return sample


def by(path):
    """The form of a path, wherever the tensors are."""

    def sample(*arguments):
        with using_path(path):
            return resample(*arguments)

    return sample


GOLDEN = sorted((Path(__file__).parent / "data/golden").glob("*.npz"))  # what the published module computed
BORDERS = ("paper", "clamp", "zeros")
# Ways to compute the samples: (x, offset, points, stride, border) -> (B, C, h*N, w), all held to the same tests. What
# runtimes are given besides is `functional.forms.FORMS`.
SAMPLE_FORMS = {
    "resample": resample,
    "exported": gathered(PLAIN),
    "compiled": gathered(COMPILED),
    "widened": gathered(OUTER),
    "grid": by("grid"),
}


def coarser(name, dtype, side):
    """How many times the tolerance of its dtype a form needs on a map of a side: 1, but for "grid" in float32.

    `grid_sample` takes positions relative to the side, which rounds them so many times as coarsely.
    """
    return side if (name, dtype) == ("grid", torch.float32) else 1


# Ways a tensor may lie in memory.
LAYOUTS = {
    "contiguous": lambda x: x.contiguous(),
    "channels_last": lambda x: x.to(memory_format=torch.channels_last),
    "sliced": lambda x: torch.stack((x, x + 1), -1)[..., 0],
    "cropped": lambda x: torch.nn.functional.pad(x, (2, 1, 1, 2), value=math.nan)[:, :, 1:-2, 2:-1],
    "transposed": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "batch of a larger one": lambda x: torch.cat((x, x + 1), 1)[:, : x.shape[1]],
}


def _uninterpreted():
    """Return why the kernels do not run in Triton's interpreter here, None if they do."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed: its wheels are for Linux"
    triton, numpy = (tuple(map(int, version(name).split(".")[:2])) for name in ("triton", "numpy"))
    if triton < (3, 2):
        return "the interpreters before Triton 3.2 lack what the kernels call"
    if triton < (3, 7) and numpy >= (2, 4):
        return "the interpreters before Triton 3.7 convert arrays in a way that NumPy 2.4 has dropped"
    return None


needs_triton = pytest.mark.skipif(_uninterpreted() is not None, reason=str(_uninterpreted()))
paths = pytest.mark.parametrize(
    "path", [pytest.param(path, marks=needs_triton if path == "kernels" else ()) for path in PATHS]
)
sample_forms = pytest.mark.parametrize("sample", SAMPLE_FORMS.values(), ids=SAMPLE_FORMS)
borders = pytest.mark.parametrize("border", BORDERS)


def skip_if_off_cpu(path, device):
    """Skip the path that no other device takes."""
    if path == "bags" and device.type != "cpu":
        pytest.skip("bags are the path of a CPU")


def load(file, device="cpu"):
    """Return the tensors and numbers of a golden file by their names."""
    data = np.load(file)
    return {name: torch.from_numpy(data[name]).to(device) if data[name].ndim else data[name].item() for name in data}


def case(shape=(2, 3, 5, 7), num_param=5, stride=1, spread=2.0, dtype=torch.float64, device="cpu"):
    """Return an input and offsets that leave the map here and there."""
    batch, _, height, width = shape
    x = torch.randn(shape, dtype=torch.float64)
    size = (-(-height // stride), -(-width // stride))
    offset = torch.randn(batch, 2 * num_param, *size, dtype=torch.float64) * spread
    return x.to(device, dtype), offset.to(device, dtype)


def passed(path, x, offset, points, stride, border, grad=None):
    """Return the samples and both gradients by one path."""
    x, offset = x.detach().requires_grad_(), offset.detach().requires_grad_()
    with using_path(path):
        out = resample(x, offset, points, stride, border)
        out.backward(torch.ones_like(out) if grad is None else grad)
    assert out.dtype == x.dtype and x.grad.dtype == x.dtype and offset.grad.dtype == offset.dtype
    assert (out.shape, x.grad.shape, offset.grad.shape) == (out.shape, x.shape, offset.shape)
    return out.detach(), x.grad, offset.grad
