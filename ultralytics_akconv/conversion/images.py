# SPDX-License-Identifier: AGPL-3.0-or-later
"""Calibration images: found through the host's dataset YAMLs and prepared as its predictor prepares them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from cv2 import IMREAD_COLOR, IMREAD_GRAYSCALE
from PIL import Image
from torch import Tensor
from ultralytics.data.augment import LetterBox, classify_transforms
from ultralytics.data.utils import IMG_FORMATS, check_cls_dataset, check_det_dataset
from ultralytics.utils.patches import imread

_BATCH = 4


def image_files(data: str | Path, task: str) -> list[Path]:
    """Return the training images of a dataset, or the images below a folder, sorted.

    Args:
        data: A dataset's YAML or name as the host takes it, or a folder of images.
        task: The model's task; "classify" has datasets of its own kind.

    Raises:
        FileNotFoundError: If there is no such dataset or folder, or no image in it.
    """
    if Path(data).is_dir():
        train = Path(data) / "train"
        roots = [train if task == "classify" and train.is_dir() else Path(data)]
    else:
        try:
            dataset = check_cls_dataset(str(data)) if task == "classify" else check_det_dataset(str(data))
        except Exception as error:  # the host raises a kind of its own for each thing that may be wrong
            raise FileNotFoundError(f"no calibration images at data={str(data)!r}: {error}") from error
        train = dataset["train"]
        roots = train if isinstance(train, (list, tuple)) else [train]
    files = images_below(roots)
    if not files:
        raise FileNotFoundError(f"no calibration images at data={str(data)!r}: {', '.join(map(str, roots))} holds none")
    return files


def images_below(roots: str | Path | Sequence[str | Path]) -> list[Path]:
    """Return the images of a split, sorted: of a folder, of a text file that lists them, or of several of both."""
    roots = roots if isinstance(roots, (list, tuple)) else [roots]
    return sorted({f for root in roots for f in _below(Path(root)) if f.suffix[1:].lower() in IMG_FORMATS})


def _below(root: Path) -> Iterator[Path]:
    """Yield the files of a folder or those a text file lists, `./` standing for its own folder, as in the host."""
    if root.suffix == ".txt":
        for line in filter(None, map(str.strip, root.read_text("utf-8").splitlines())):
            yield root.parent / line[2:] if line.startswith("./") else Path(line)
    else:
        yield from root.rglob("*")


class CalibrationImages:
    """A few images of a dataset as batches of a model's input; may be gone through many times.

    Args:
        files: The image files to choose from.
        count: How many images to take at most, spread evenly over the files.
        imgsz: Side of the square input in pixels.
        task: The model's task.
        channels: Channels of the model's input.

    Raises:
        FileNotFoundError: If no image can be read.
        ValueError: If a number is not allowed.
    """

    def __init__(self, files: Sequence[Path], count: int, imgsz: int, task: str, channels: int = 3) -> None:
        if count < 1 or imgsz < 32:
            raise ValueError(f"images must be at least 1 and imgsz at least 32, got {count} and {imgsz}")
        if channels not in (1, 3):
            raise ValueError(
                f"calibration images have 1 or 3 channels, the model takes {channels}: convert without data"
            )
        picks = np.linspace(0, len(files) - 1, min(count, len(files))).round().astype(int)
        flag = IMREAD_GRAYSCALE if channels == 1 else IMREAD_COLOR
        images = [image for image in (imread(str(files[pick]), flag) for pick in picks) if image is not None]
        if not images:
            raise FileNotFoundError(f"none of the {len(picks)} calibration images can be read, first '{files[0]}'")
        images = [image.reshape(*image.shape[:2], channels)[..., ::-1] for image in images]  # BGR to RGB
        if task == "classify":
            transforms = classify_transforms(imgsz)
            self._images = [transforms(Image.fromarray(np.ascontiguousarray(image))) for image in images]
        else:
            # Square, not the least rectangle: the images make batches whatever their own shapes are.
            letterbox = LetterBox((imgsz, imgsz), auto=False)
            planes = (letterbox(image=image).reshape(imgsz, imgsz, channels).transpose(2, 0, 1) for image in images)
            self._images = [torch.from_numpy(np.ascontiguousarray(plane)) for plane in planes]  # uint8: small

    def __len__(self) -> int:
        return len(self._images)

    def __iter__(self) -> Iterator[Tensor]:
        for start in range(0, len(self._images), _BATCH):
            batch = torch.stack(self._images[start : start + _BATCH])
            yield batch / 255 if batch.dtype == torch.uint8 else batch
