# SPDX-License-Identifier: AGPL-3.0-or-later
"""The steps in their order, the most important first, and how long each may take of eight minutes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ultralytics_akconv.gpu import exactness, extras, layers, models, trainings
from ultralytics_akconv.gpu.facts import Run


class Step(NamedTuple):
    """A step, the seconds it may take, and what it settles."""

    run: Callable[[Run], None]
    seconds: float
    what: str


STEPS = {
    "machine": Step(exactness.about_device, 40, "card, versions, self-check of the kernels, bandwidth"),
    "errors": Step(exactness.errors, 90, "values and gradients against float64, by border, dtype and path"),
    "repeats": Step(exactness.repeats, 30, "twenty runs bit for bit"),
    "large": Step(exactness.large, 30, "more than 2**31 elements"),
    "layers": Step(layers.layers, 90, "the six layers beside Conv and five other ways, forward and backward, GB/s"),
    "model": Step(models.steps, 120, "a training step under AMP, in turn and by path: ms, GPU-busy ms, memory"),
    "train": Step(trainings.train, 150, "`yolo train` on the bundled images, plain and AKConv"),
    "half": Step(models.half, 30, "half-precision validation of what was trained"),
    "move": Step(extras.moved, 20, "to the CPU and back, a copy, a pickle"),
    "torchscript": Step(extras.torchscript, 40, "TorchScript exported on the card and run there"),
    "onnx": Step(extras.onnx, 40, "ONNX traced on the card and run by its provider"),
    "autobatch": Step(extras.autobatched, 40, "Ultralytics' AutoBatch"),
    "compile": Step(extras.compiled, 150, "torch.compile, and Ultralytics' compile=True"),
}
