# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the offsets of a trained model are worth: how far they go, and what is left when they no longer see the image.

Three models are evaluated: as learned; with every offset set to its mean over training images, which leaves a fixed
shape that was learned; and with all offsets 0, the initial shape. The rest of the weights stays, so the first
difference is the deformation by the image, the second the learned shape. Nothing is trained again: a model that had
learned without offsets could do better than the last. A converted model reads where the mean of its offsets puts its
points, so the last says nothing of one.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ultralytics_akconv.conversion.checkpoint import read_source, write_checkpoint
from ultralytics_akconv.conversion.images import CalibrationImages, image_files
from ultralytics_akconv.evaluation import Evaluation, TaskEvaluation, check_evaluation, evaluate, markdown
from ultralytics_akconv.functional import sampling_positions
from ultralytics_akconv.host import input_channels
from ultralytics_akconv.layers import akconvs, off_map
from ultralytics_akconv.modules import AKConv

_LONGEST, _BINS = 64.0, 6400  # displacements are counted up to so many map pixels


@dataclass(frozen=True)
class LayerOffsets:
    """The offsets of one layer over images and places; lengths in pixels of the map that the layer reads.

    Attributes:
        name: The module's name in the model.
        displacement: Mean length.
        longest: 99th percentile of the length, to 0.01 px.
        outside: Share of the samples that lie off the map.
        mean: Root mean square, over the points, of the mean offset: how far the shape that was learned lies from the
            initial one.
        deviation: Root mean square of what the offsets differ from their means by: the deformation by the image.
    """

    name: str
    displacement: float
    longest: float
    outside: float
    mean: float
    deviation: float


@dataclass(frozen=True)
class Ablation:
    """What `ablate_offsets` returns.

    Attributes:
        layers: The offsets of each AKConv.
        learned: Evaluation of the model as it is.
        mean: With every offset set to its mean.
        rest: With all offsets 0.
        images: Number of training images that the means are over.
    """

    layers: tuple[LayerOffsets, ...]
    learned: Evaluation | TaskEvaluation
    mean: Evaluation | TaskEvaluation
    rest: Evaluation | TaskEvaluation
    images: int

    def table(self) -> str:
        """Return two Markdown tables: the evaluations, and the offsets layer by layer."""
        evaluations = {"as learned": self.learned, "their mean": self.mean, "none": self.rest}
        rows = [{"offsets": name, **evaluation.figures()} for name, evaluation in evaluations.items()]
        return f"{markdown(rows)}\n\n{markdown([asdict(layer) for layer in self.layers])}"


def ablate_offsets(
    model: str | Path, data: str | Path, split: str = "val", imgsz: int = 640, images: int = 64, **arguments: Any
) -> Ablation:
    """Evaluate a trained model with its offsets, with their means, and without them.

    Args:
        model: A checkpoint of a model with AKConv.
        data: A dataset YAML of Ultralytics' form.
        split: What is evaluated: "val", "test" or "train".
        imgsz: Image side in pixels.
        images: Number of training images that the means are taken over.
        arguments: More arguments of Ultralytics' `val` (batch, device, ...).

    Raises:
        FileNotFoundError: If the checkpoint or the dataset does not exist.
        ImportError: If the library of the COCO rules is not installed.
        ValueError: If the model has no AKConv, or does not fit the dataset.

    Example:
        >>> print(ablate_offsets("best.pt", "coco.yaml").table())
    """
    network = read_source(model)
    if not akconvs(network):  # this and the next before the work
        raise ValueError("the model has no AKConv layer")
    check_evaluation(network.task, data, split)
    files, channels = image_files(data, network.task), input_channels(network)
    calibration = CalibrationImages(files, images, imgsz, network.task, channels)
    means, layers = offset_statistics(network, calibration)
    evaluations = []
    with tempfile.TemporaryDirectory() as folder:
        for name, offsets in (("learned", None), ("mean", means), ("rest", dict.fromkeys(means, 0.0))):
            file = write_checkpoint(with_offsets(network, offsets) if offsets else network, Path(folder) / f"{name}.pt")
            evaluations.append(evaluate(file, data, split, imgsz, **arguments))
    return Ablation(layers, *evaluations, images=len(calibration))


def with_offsets(network: nn.Module, offsets: dict[str, Tensor | float]) -> nn.Module:
    """Return a copy of a network whose AKConv layers have the same offsets at every place of every image.

    Args:
        network: The network; it is left as it is.
        offsets: Offsets (2N: rows, then columns) of layers by name, or one number for all of a layer.
    """
    network = copy.deepcopy(network)
    for name, offset in offsets.items():
        branch = network.get_submodule(name).p_conv
        with torch.no_grad():
            branch.weight.zero_()
            branch.bias.copy_(torch.as_tensor(offset, dtype=branch.bias.dtype))
    return network


def offset_statistics(
    network: nn.Module, batches: Iterable[Tensor]
) -> tuple[dict[str, Tensor], tuple[LayerOffsets, ...]]:
    """Return the mean offsets (2N) of each AKConv by name, and how far its offsets go, over batches of images.

    Args:
        network: The network, in evaluation mode.
        batches: Inputs (B, C, H, W).
    """
    gathered = {name: _Gathered() for name in akconvs(network)}
    handles = [network.get_submodule(name).register_forward_pre_hook(hook) for name, hook in gathered.items()]
    try:
        with torch.no_grad():
            for batch in batches:
                network(batch)
    finally:
        for handle in handles:
            handle.remove()
    used = {name: sums for name, sums in gathered.items() if sums.places}  # a layer may serve the training alone
    return {name: sums.mean() for name, sums in used.items()}, tuple(sums.layer(name) for name, sums in used.items())


class _Gathered:
    """Sums over the offsets of one layer; a hook before its forward."""

    def __init__(self) -> None:
        self.places = self.samples = self.outside = 0
        self.sum: Tensor | float = 0.0  # (2N)
        self.squares = self.lengths = 0.0
        self.histogram = torch.zeros(_BINS, dtype=torch.float64)

    def __call__(self, module: AKConv, args: tuple[Tensor]) -> None:
        offset = module.offsets(args[0]).cpu().double()  # (B, 2N, h, w), in this order: Apple's GPU has no float64
        rows, cols = sampling_positions(offset, module.points, module.stride).chunk(2, 1)  # (B, N, h, w)
        down, right = offset.chunk(2, 1)
        lengths = torch.hypot(down, right)
        self.places += offset.shape[0] * offset.shape[2] * offset.shape[3]
        self.samples += lengths.numel()
        self.outside += int(off_map(rows, cols, args[0].shape[2:]).sum())
        self.sum = self.sum + offset.sum((0, 2, 3))
        self.squares += float(offset.square().sum())
        self.lengths += float(lengths.sum())
        self.histogram += torch.histc(lengths.clamp(max=_LONGEST).float(), _BINS, 0, _LONGEST)

    def mean(self) -> Tensor:
        """Return the mean offsets (2N)."""
        return (self.sum / self.places).float()

    def layer(self, name: str) -> LayerOffsets:
        """Return what the sums say."""
        points = self.samples / self.places  # N
        mean_square = float((self.sum / self.places).square().sum()) / points
        bin_of_99 = int((self.histogram.cumsum(0) < 0.99 * self.samples).sum())
        return LayerOffsets(
            name,
            displacement=self.lengths / self.samples,
            longest=(bin_of_99 + 1) * _LONGEST / _BINS,
            outside=self.outside / self.samples,
            mean=mean_square**0.5,
            deviation=max(0.0, self.squares / self.samples - mean_square) ** 0.5,
        )
