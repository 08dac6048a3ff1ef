# SPDX-License-Identifier: AGPL-3.0-or-later
"""What an export traced on a GPU is made of; the device "meta" stands for one.

ONNX folds what is made of sizes on the CPU: on a GPU it failed where that met the points, which lay there.
"""

from unittest import mock

import pytest
import torch
from conftest import traced_to_onnx
from sample_forms import case
from torch.overrides import TorchFunctionMode

from ultralytics_akconv import sampling_points
from ultralytics_akconv.functional import taps
from ultralytics_akconv.functional.forms import FORMS, grid

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
BETWEEN_PIXELS = sampling_points(5, "ring", "center")


def test_in_an_export_to_onnx_what_is_made_of_numbers_is_made_on_the_cpu():
    class Asking(torch.nn.Module):
        def forward(self, x):
            asked.append(taps.constants_device(GPU))
            return x + 1

    asked = []
    Asking()(torch.ones(1))
    torch.jit.trace(Asking(), torch.ones(1), check_trace=False)
    traced_to_onnx(Asking(), torch.ones(1), opset=17)
    assert asked[:2] == [GPU, GPU] and set(asked[2:]) == {CPU}


@pytest.mark.parametrize("form", ["flat", "gather", "grid", "lookup", "outer", "outer-fixed"])
def test_where_samples_begin_is_worked_out_there_and_taken_to_the_input(form):
    class Made(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            if function in (torch.tensor, torch.arange):
                made.append((function, len(out), out.device.type))
            return out

    x, offset = (tensor.float().to("meta") for tensor in case((2, 3, 7, 9), stride=2))
    made = []
    where = {"constants_device": lambda device: CPU}
    with Made(), mock.patch.multiple(taps, **where), mock.patch.multiple(grid, **where):
        out = FORMS[form](x, offset, torch.empty(4, 3, 5, 1, device="meta"), None, BETWEEN_PIXELS, 2, "paper")
    assert made[:3] == [(torch.tensor, 5, "cpu"), (torch.arange, 4, "cpu"), (torch.arange, 5, "cpu")]
    assert (out.device.type, out.shape) == ("meta", (2, 4, 4, 5))
