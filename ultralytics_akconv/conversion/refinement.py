# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a conversion does with images: the least-squares fit, learning together, and the error that is left."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from torch import nn
from ultralytics.utils import LOGGER
from ultralytics.utils.torch_utils import select_device

from ultralytics_akconv.conversion.calibration import fit
from ultralytics_akconv.conversion.distances import HeadDistance
from ultralytics_akconv.conversion.distillation import Learned, distill
from ultralytics_akconv.conversion.images import CalibrationImages, image_files
from ultralytics_akconv.conversion.pairs import Pair, solve_without_data
from ultralytics_akconv.conversion.unlabelled import endless_batches, readable, seeded

_BATCH = 8  # images a step of learning
_HELD_OUT = 32  # images at most, and a fifth of the dataset, on which nothing is learned


@dataclass(frozen=True)
class Images:
    """Which images a conversion uses, and how.

    Attributes:
        data: A dataset's YAML or name, or a folder.
        count: How many images the fit uses at most.
        imgsz: Side of their square input in pixels.
        task: The model's task.
        channels: Channels of the model's input.
        steps: Steps of learning together after the fit; None for none.
        device: Where the layers learn, as the host takes it; None for a GPU if there is one.
        seed: Of the choice of images and their augmentation.
    """

    data: str | Path
    count: int
    imgsz: int
    task: str
    channels: int
    steps: int | None
    device: str | None
    seed: int


@dataclass(frozen=True)
class Refined:
    """What images did to a converted model.

    Attributes:
        layers: Each layer's relative output error without data and fitted.
        prior: Relative error of the maps that the head reads, without data.
        fitted: The same after the fit.
        images: Number of images that `prior` and `fitted` are measured on.
        learned: What learning together did, None if it was not asked for.
    """

    layers: list[tuple[float, float]]
    prior: float
    fitted: float
    images: int
    learned: Learned | None

    def line(self) -> str:
        """Return the errors of the whole model as a line of the report."""
        parts = [f"{100 * self.prior:.1f} % without data", f"{100 * self.fitted:.1f} % fitted"]
        if self.learned is not None:
            parts.append(f"{100 * self.learned.after:.1f} % after {self.learned.step} steps together")
        kind = "the same" if self.learned is None else "held out"
        return f"error of what the head reads ({self.images} images, {kind}): {', '.join(parts)}"


def refine(model: nn.Module, source: nn.Module, pairs: Sequence[Pair], images: Images) -> Refined:
    """Fit the converted layers of a model on images, and let them learn together if that is asked for.

    Args:
        model: The converted model in eval mode, with the data-free weights; changed in place.
        source: The source model in eval mode.
        pairs: The layers, front to back.
        images: The images and what to do with them.

    Returns:
        The errors before and after.
    """
    files = image_files(images.data, images.task)
    size = images.imgsz, images.task, images.channels
    if images.steps is None:
        held_out = batches = CalibrationImages(files, images.count, *size)
    else:
        device = select_device(images.device or "", verbose=False)
        files, held_out_files = _split(files, images.seed)
        batches = CalibrationImages(files, images.count, *size)
        held_out = CalibrationImages(held_out_files, len(held_out_files), *size)
    known = [batches] if images.steps is None else [batches, held_out]
    distance = HeadDistance(source, chain.from_iterable(known))
    prior = distance.error(model, held_out)
    LOGGER.info(f"AKConv: fitting {len(pairs)} layers on {len(batches)} images")
    layers = fit(model, source, pairs, [solve_without_data(pair) for pair in pairs], batches)
    if images.steps is None:
        fitted, learned = distance.error(model, held_out), None
    else:
        with seeded(images.seed):
            # No more than are seen, so that a large dataset is not opened as a whole.
            files = readable(random.sample(files, min(len(files), _BATCH * images.steps)))
            feed = endless_batches(files, *size, _BATCH, device)
            names = [pair.name for pair in pairs]
            learned = distill(
                model, distance, names, feed, list(held_out), chain.from_iterable(known), images.steps, device
            )
        fitted = learned.before
    return Refined(layers, prior, fitted, len(held_out), learned)


def _split(files: Sequence[Path], seed: int) -> tuple[list[Path], list[Path]]:
    """Return the files to learn from and the ones that are held out; a single image is both."""
    count = min(_HELD_OUT, max(1, len(files) // 5))
    held_out = sorted(random.Random(seed).sample(files, count))
    rest = [file for file in files if file not in set(held_out)]
    if not rest:
        LOGGER.warning("AKConv: there is one image alone, so the state that is kept is chosen on what it learned from")
    return rest or held_out, held_out
