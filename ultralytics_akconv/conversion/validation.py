# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a converted model keeps of its source's accuracy, by the host's validation of both."""

from __future__ import annotations

import tempfile
from pathlib import Path

from torch import nn
from ultralytics.data.utils import check_cls_dataset, check_det_dataset, img2label_paths

from ultralytics_akconv.conversion.checkpoint import write_checkpoint
from ultralytics_akconv.conversion.images import images_below
from ultralytics_akconv.conversion.report import Transfer
from ultralytics_akconv.host import training_side
from ultralytics_akconv.opening import wrapper_class

_MEASURES = ("metrics/mAP50-95", "metrics/accuracy_top1")  # how the host's names of them begin


def kept(result: Transfer, data: str | Path, imgsz: int | None = None, device: str | None = None) -> str:
    """Return a line for each measure of the validation set: what the converted model has of the source's.

    Args:
        result: The conversion.
        data: The dataset's YAML or name.
        imgsz: Image side in pixels; the source's training size by default.
        device: Where to work, as the host takes it.

    Returns:
        The lines, or why there is nothing to measure.
    """
    reason = _unlabelled(result.source, data)
    if reason is not None:
        return f"kept: not measured, {reason}"
    side = imgsz or training_side(result.source)
    before, after = (_measured(each, data, side, device) for each in (result.source, result.model))
    lines = []
    for name, value in before.items():
        share = f" ({100 * after[name] / value:.1f} %)" if value else ""
        label = name.removeprefix("metrics/")
        lines.append(f"kept, by the validation set: {after[name]:.4f} of {value:.4f} {label}{share}")
    return "\n".join(lines)


def _unlabelled(source: nn.Module, data: str | Path) -> str | None:
    """Return why a dataset cannot say how good a model is, or None if it can."""
    if source.task == "classify":
        if Path(data).is_dir() and not any((Path(data) / name).is_dir() for name in ("val", "validation", "test")):
            return f"'{data}' has no validation images"
        names = check_cls_dataset(str(data))["names"]
    else:
        if Path(data).is_dir():
            return f"'{data}' is a folder of images"
        dataset = check_det_dataset(str(data))
        names = dataset["names"]
        files = images_below(dataset["val"]) if dataset.get("val") else []
        if not any(Path(label).is_file() for label in img2label_paths([str(file) for file in files])):
            return f"the validation images of '{data}' have no labels"
    if len(names) != len(source.names):
        return f"'{data}' has {len(names)} classes, the model {len(source.names)}"
    return None


def _measured(model: nn.Module, data: str | Path, imgsz: int, device: str | None) -> dict[str, float]:
    """Return the host's measures of a model on the validation set; its files go to a folder that is removed."""
    with tempfile.TemporaryDirectory() as folder:
        file = write_checkpoint(model, Path(folder) / "model.pt")
        network = wrapper_class(type(model).__name__)(file)
        settings = {"data": str(data), "imgsz": imgsz, "device": device, "project": folder, "name": "val"}
        metrics = network.val(**settings, workers=0, plots=False, verbose=False)
    return {name: float(value) for name, value in metrics.results_dict.items() if name.startswith(_MEASURES)}
