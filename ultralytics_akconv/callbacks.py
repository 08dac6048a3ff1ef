# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a training of the host says about offsets: columns of its log each epoch, and a picture at its end.

Both look at one validation image with the averaged weights, on the first rank, and only where there is an AKConv. What
fails here is a warning: a training never ends for a picture. The room of pictures is imported when it is needed: it
imports the host's models, which are still to come when the plug-in is registered.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ultralytics.utils import LOGGER, RANK

from ultralytics_akconv.files import save_figure
from ultralytics_akconv.modules import AKConv

if TYPE_CHECKING:
    from ultralytics_akconv.plots import Samples

PICTURE = "akconv_offsets.png"


def with_callbacks(host_defaults: Callable[[], dict[str, list]]) -> Callable[[], dict[str, list]]:
    """Return the host's `get_default_callbacks` with ours behind its own."""

    @functools.wraps(host_defaults)
    def get_default_callbacks() -> dict[str, list]:
        callbacks = host_defaults()
        callbacks["on_train_epoch_end"].append(log_offsets)
        callbacks["on_train_end"].append(draw_offsets)
        return callbacks

    return get_default_callbacks


def _harmless(callback: Callable[[Any], None]) -> Callable[[Any], None]:
    """Return a callback for models with AKConv on the first rank, whose errors are a warning, once a training."""

    @functools.wraps(callback)
    def guarded(trainer: Any) -> None:
        if RANK not in (-1, 0) or getattr(trainer, "akconv_failed", False):
            return
        try:
            network = _averaged(trainer)
            if network is not None and any(isinstance(module, AKConv) for module in network.modules()):
                callback(trainer)
        except Exception as error:  # whatever it is, the training goes on
            trainer.akconv_failed = True
            LOGGER.warning(f"AKConv: {callback.__name__} left out: {type(error).__name__}: {error}")

    return guarded


@_harmless
def log_offsets(trainer: Any) -> None:
    """Add the offsets' statistics to the epoch's row of results.csv, and so to every logger of the host.

    They join the learning rates, which all of them write beside the metrics. A results.csv that was begun without
    them (resumed from an older version) stays as it is.
    """
    from ultralytics_akconv.plots.training import OUTSIDE, PREFIX

    if trainer.csv.exists() and OUTSIDE not in _header(trainer.csv):
        return
    samples = _samples(trainer)
    trainer.lr.update({f"{PREFIX}{layer.name}": float(layer.displacement.mean()) for layer in samples.layers})
    off, total = (sum(n) for n in zip(*((int(r.outside.sum()), r.outside.numel()) for r in samples.layers)))
    trainer.lr[OUTSIDE] = off / total


@_harmless
def draw_offsets(trainer: Any) -> None:
    """Leave a picture of the field of offsets in the run's folder, unless the run has `plots=False`."""
    if trainer.args.plots:
        from ultralytics_akconv.plots import plot_field

        file = Path(trainer.save_dir) / PICTURE
        figure = plot_field(_averaged(trainer), _validation_image(trainer), imgsz=_imgsz(trainer))
        save_figure(figure, file, dpi=150)
        trainer.on_plot(file)


def _samples(trainer: Any) -> Samples:
    """Return where the averaged model reads a validation image."""
    from ultralytics_akconv.plots import image_samples

    return image_samples(_averaged(trainer), _validation_image(trainer), imgsz=_imgsz(trainer))


def _averaged(trainer: Any) -> Any:
    """Return the network whose weights the trainer averages and saves."""
    return getattr(getattr(trainer, "ema", None), "ema", None)


def _imgsz(trainer: Any) -> int:
    """Return the image side of a training; the larger of [height, width]."""
    size = trainer.args.imgsz
    return size if isinstance(size, int) else max(size)


def _validation_image(trainer: Any) -> str:
    """Return the file of the first validation image."""
    dataset = trainer.test_loader.dataset
    return dataset.im_files[0] if hasattr(dataset, "im_files") else dataset.samples[0][0]


def _header(file: Path) -> list[str]:
    """Return the column names of a CSV file."""
    with file.open(encoding="utf-8") as stream:
        return [name.strip() for name in stream.readline().split(",")]
