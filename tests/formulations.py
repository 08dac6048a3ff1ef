# SPDX-License-Identifier: AGPL-3.0-or-later
"""Every way to compute the samples, for tests that hold all of them to the same."""

from unittest import mock

import pytest
import torch

from ultralytics_akconv import functional, resample
from ultralytics_akconv.functional import using_path
from ultralytics_akconv.functional.outer import outer_samples


def compiled(*arguments):
    """The expression that compilers are given."""
    with mock.patch.object(functional, "is_traced", lambda: True):
        return resample(*arguments)


def exported(*arguments):
    """The expression that exporters are given."""
    with mock.patch.object(functional, "is_exported", lambda: True):
        return compiled(*arguments)


def widened(x, offset, points, stride, border):
    """The expression that ONNX Runtime is given."""
    with mock.patch.object(functional, "gather_samples", lambda *inputs, traced: outer_samples(*inputs)):
        return exported(x, offset, points, stride, border)


def by(path):
    """The expression that a path has, wherever the tensors are."""

    def sample(*arguments):
        with using_path(path):
            return resample(*arguments)

    return sample


BORDERS = ("paper", "clamp", "zeros")
# Every way to compute the samples: (x, offset, points, stride, border) -> (B, C, h*N, w), all held to the same tests.
FORMULATIONS = {"resample": resample, "compiled": compiled, "exported": exported, "widened": widened}
FORMULATIONS.update({path: by(path) for path in ("gather", "grid", "kernels")})

formulations = pytest.mark.parametrize("sample", FORMULATIONS.values(), ids=FORMULATIONS)
borders = pytest.mark.parametrize("border", BORDERS)


def case(shape=(2, 3, 5, 7), num_param=5, stride=1, spread=2.0, dtype=torch.float64, device="cpu"):
    """Return an input and offsets that leave the map here and there."""
    batch, _, height, width = shape
    x = torch.randn(shape, dtype=torch.float64)
    size = (-(-height // stride), -(-width // stride))
    offset = torch.randn(batch, 2 * num_param, *size, dtype=torch.float64) * spread
    return x.to(device, dtype), offset.to(device, dtype)
