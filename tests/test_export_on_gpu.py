# SPDX-License-Identifier: AGPL-3.0-or-later
"""What an export traced on a GPU is made of; the device "meta" stands for one."""

import pytest
import torch
from sample_forms import case
from torch.overrides import TorchFunctionMode

from ultralytics_akconv import sampling_points
from ultralytics_akconv.functional.forms import FORMS

BETWEEN_PIXELS = sampling_points(5, "ring", "center")


@pytest.mark.parametrize("form", ["flat", "gather", "grid", "lookup", "outer", "outer-fixed"])
def test_where_samples_begin_is_worked_out_on_the_cpu(form, monkeypatch):
    """ONNX folds what is made of sizes on the CPU: on a GPU it failed where that met the points, which lay there."""

    class Made(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            if function in (torch.tensor, torch.arange):
                made.append((function, len(out), out.device.type))
            return out

    x, offset = (tensor.float().to("meta") for tensor in case((2, 3, 7, 9), stride=2))
    monkeypatch.setattr(torch.jit, "is_tracing", lambda: True)
    made = []
    with Made():
        out = FORMS[form](x, offset, torch.empty(4, 3, 5, 1, device="meta"), None, BETWEEN_PIXELS, 2, "paper")
    assert made[:3] == [(torch.tensor, 5, "cpu"), (torch.arange, 4, "cpu"), (torch.arange, 5, "cpu")]
    assert (out.device.type, out.shape) == ("meta", (2, 4, 4, 5))
