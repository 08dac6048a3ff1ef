# SPDX-License-Identifier: AGPL-3.0-or-later
"""A device without float64, as Apple's GPU is: what is summed up exactly is taken to the CPU first.

There is none on most machines, so a tensor subclass plays one: its results stay there and are never float64.
"""

import pytest
import torch
from conftest import built, yolov8_dict
from ultralytics.nn.modules import Conv

from ultralytics_akconv import AKConv
from ultralytics_akconv.ablation import offset_statistics
from ultralytics_akconv.conversion.calibration import _NormalEquations
from ultralytics_akconv.conversion.coordinates import Moments, Uncorrelated
from ultralytics_akconv.conversion.pairs import Pair
from ultralytics_akconv.functional import using_path


class There(torch.Tensor):
    """A tensor on such a device."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        result = super().__torch_function__(func, types, args, kwargs or {})
        if func is torch.Tensor.cpu:
            return result.as_subclass(torch.Tensor)
        if isinstance(result, There) and result.dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return result


def there(*size):
    return torch.rand(*size).as_subclass(There)


def test_the_device_has_no_float64():
    with pytest.raises(TypeError, match="float64"):
        there(2).double()
    assert type(there(2) + 1) is There
    assert there(2).cpu().double().dtype == torch.float64


@torch.no_grad()
def test_statistics_of_offsets_are_summed_elsewhere():
    network = built(yolov8_dict()).eval()
    with using_path("gather"):  # as there
        mean, layers = offset_statistics(network, [there(1, 3, 64, 64)])
    assert len(mean) == len(layers) == 6 and all(layer.displacement >= 0 for layer in layers)


@torch.no_grad()
def test_the_equations_of_a_fit_are_summed_elsewhere():
    moments = _NormalEquations(Pair("0", AKConv(4, 6, 5, 2).eval(), Conv(4, 6, 3, 2)))
    with using_path("gather"):
        moments.add(there(2, 4, 8, 8), there(2, 6, 4, 4))
    assert type(moments.sums) is torch.Tensor and float(moments.sums[-1, -1]) == 2 * 4 * 4


@torch.no_grad()
def test_moments_of_inputs_are_estimated_elsewhere():
    moments = Moments()
    moments.add(there(64, 3, 4))
    estimate = moments.estimate()
    assert type(estimate) is torch.Tensor and estimate.dtype == torch.float64
    assert Uncorrelated(estimate.float().as_subclass(There), torch.ones(5)).factor.shape == (12, 12)
