# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a training of the host says about offsets: columns of its log each epoch, and a picture at its end.

Both look at one validation image with the averaged weights, on the first rank, and only where there is an AKConv. What
fails here is a warning: a training never ends for a picture. The room of pictures is imported when it is needed: it
imports the host's models, which are still to come when the plug-in is registered.
"""

from __future__ import annotations

import functools
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from ultralytics.utils import LOGGER, RANK

from ultralytics_akconv.files import save_figure
from ultralytics_akconv.functional import sampling_positions
from ultralytics_akconv.host import input_channels, training_side
from ultralytics_akconv.layers import COLUMNS, OUTSIDE_COLUMN, akconvs, off_map, seen_in_pass
from ultralytics_akconv.modules import AKConv

PICTURE = "akconv_offsets.png"
SETTING = "ULTRALYTICS_AKCONV_LOG"  # 0 leaves the columns out


def with_callbacks(host_defaults: Callable[[], dict[str, list]]) -> Callable[[], dict[str, list]]:
    """Return the host's `get_default_callbacks` with ours behind its own."""

    @functools.wraps(host_defaults)
    def get_default_callbacks() -> dict[str, list]:
        callbacks = host_defaults()
        callbacks["on_train_epoch_end"].append(log_offsets)
        callbacks["on_train_end"].append(draw_offsets)
        return callbacks

    return get_default_callbacks


def _guarded(callback: Callable[[Any], Any], trainer: Any) -> Any:
    """Call a callback for models with AKConv on the first rank; an error in it is a warning, once a training."""
    if RANK not in (-1, 0) or getattr(trainer, "akconv_failed", False):
        return None
    try:
        network = _averaged(trainer)
        if network is not None and akconvs(network):
            return callback(trainer)
    except Exception as error:  # whatever it is, the training goes on
        trainer.akconv_failed = True
        name = callback.__name__.removeprefix("_")
        LOGGER.warning(f"AKConv: {name} left out: {type(error).__name__}: {error}")
    return None


def log_offsets(trainer: Any) -> None:
    """Add the offsets' statistics to the epoch's row of results.csv, and so to every logger of the host.

    They join the learning rates, which all of them write beside the metrics. The first row decides on the columns: a
    results.csv that was begun without them (resumed from an older version) stays as it is, and in one that has them an
    epoch in which they cannot be told has NaN there, so that all rows are of one length.
    """
    begun = RANK in (-1, 0) and trainer.csv.is_file()
    columns = [name for name in _header(trainer.csv) if name.startswith(COLUMNS)] if begun else None
    told = {} if columns == [] else _guarded(_log_offsets, trainer) or {}
    trainer.lr.update(told if columns is None else {name: told.get(name, float("nan")) for name in columns})


def _log_offsets(trainer: Any) -> dict[str, float]:
    """Return our columns of an epoch."""
    if os.environ.get(SETTING, "1").strip().lower() in {"0", "false", "off", "no"}:
        return {}
    layers = offsets_on_image(_averaged(trainer), _validation_input(trainer))
    told = {f"{COLUMNS}{name}": displacement for name, (displacement, _, _) in layers.items()}
    off, total = (sum(layer[i] for layer in layers.values()) for i in (1, 2))
    return {**told, OUTSIDE_COLUMN: off / total}


@torch.no_grad()
def offsets_on_image(network: nn.Module, image: Tensor) -> dict[str, tuple[float, int, int]]:
    """Return what the AKConv layers of a network do on an image (1, C, H, W), by name.

    The network is neither copied nor changed, and the pass ends with the last of them.

    Returns:
        The mean displacement in map pixels, how many samples lie off the map, and how many there are.
    """
    layers = akconvs(network)

    def look(layer: AKConv, x: Tensor, _: None) -> tuple[float, int, int]:
        offset = layer.offsets(x)[:1].float()
        outside = off_map(*sampling_positions(offset, layer.points, layer.stride)[0].chunk(2), x.shape[2:])
        displacement = torch.hypot(*offset[0].chunk(2)).mean()
        return float(displacement), int(outside.sum()), outside.numel()

    training = network.training
    network.eval()
    try:
        seen = seen_in_pass(network, image, layers.values(), look, before=True)
    finally:
        if training:
            network.train()
    return {name: seen[layer] for name, layer in layers.items() if layer in seen}


def draw_offsets(trainer: Any) -> None:
    """Leave a picture of the field of offsets in the run's folder, unless the run has `plots=False`."""
    if trainer.args.plots:
        _guarded(_draw_offsets, trainer)


def _draw_offsets(trainer: Any) -> None:
    """Draw the picture."""
    from ultralytics_akconv.plots import plot_field

    network = _averaged(trainer)
    if input_channels(network) not in (1, 3):
        LOGGER.info(f"AKConv: no {PICTURE} for images of {input_channels(network)} channels")
        return
    file = Path(trainer.save_dir) / PICTURE
    save_figure(plot_field(network, _validation_image(trainer), imgsz=training_side(trainer)), file, dpi=150)
    trainer.on_plot(file)


def _averaged(trainer: Any) -> Any:
    """Return the network whose weights the trainer averages and saves; of a distillation, the one that learns."""
    network = getattr(getattr(trainer, "ema", None), "ema", None)
    return getattr(network, "student_model", network)


def _validation_image(trainer: Any) -> str:
    """Return the file of the first validation image."""
    dataset = trainer.test_loader.dataset
    return dataset.im_files[0] if hasattr(dataset, "im_files") else dataset.samples[0][0]


def _validation_input(trainer: Any) -> Tensor:
    """Return the first validation image (1, C, H, W) as the validator hands it to the network."""
    with _random_numbers_kept():  # the host draws some even where nothing is left to chance
        image = trainer.test_loader.dataset[0]["img"]
    parameter = next(_averaged(trainer).parameters())
    image = image[None].to(parameter.device)
    return image.to(parameter.dtype) / 255 if image.dtype == torch.uint8 else image.to(parameter.dtype)


@contextmanager
def _random_numbers_kept() -> Iterator[None]:
    """Put all random numbers back: looking must not change what a training draws."""
    python, numbers = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numbers)


def _header(file: Path) -> list[str]:
    """Return the column names of a CSV file."""
    with file.open(encoding="utf-8") as stream:
        return [name.strip() for name in stream.readline().split(",")]
