# SPDX-License-Identifier: AGPL-3.0-or-later
"""Images without labels through the host's own dataset and loader, augmented lightly, to learn from a source model."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from ultralytics.cfg import DEFAULT_CFG
from ultralytics.data.augment import Compose, Format, classify_augmentations, v8_transforms
from ultralytics.data.base import BaseDataset
from ultralytics.data.build import build_dataloader
from ultralytics.utils import LOGGER
from ultralytics.utils.instance import Instances

# The host's augmentations that leave a picture as likely as it was; all others are off.
_LIGHT = {"fliplr": 0.5, "translate": 0.02, "scale": 0.1, "hsv_h": 0.005, "hsv_s": 0.1, "hsv_v": 0.05}
_OFF = ("mosaic", "mixup", "cutmix", "copy_paste", "degrees", "shear", "perspective", "flipud", "bgr", "erasing")
_WORKERS = 8  # the host's default; on a CPU the images are read between the steps


class UnlabelledImages(BaseDataset):
    """Images as a model takes them, from files alone: no label is read and nothing is written beside them.

    Args:
        files: The image files.
        imgsz: Side of the square input in pixels.
        channels: Channels of the model's input.
    """

    def __init__(self, files: Sequence[Path], imgsz: int, channels: int = 3) -> None:
        self.files = [str(file) for file in files]
        self.data: dict[str, Any] = {"channels": channels}  # the host's transforms look keypoints up here
        self.use_keypoints = self.use_segments = self.use_obb = False
        hyp = copy(DEFAULT_CFG)
        vars(hyp).update(dict.fromkeys(_OFF, 0.0), **_LIGHT)
        options = {} if channels == 3 else {"channels": channels}  # older releases know three alone
        super().__init__(self.files, imgsz, augment=True, hyp=hyp, **options)

    def get_img_files(self, img_path: list[str]) -> list[str]:
        """Return the files as they were given; the host takes folders and lists."""
        return img_path

    def get_labels(self) -> list[dict[str, Any]]:
        """Return a label without objects for each image."""
        return [{"im_file": file, "cls": np.zeros((0, 1), np.float32)} for file in self.files]

    def update_labels(self, include_class: list[int] | None) -> None:
        """Leave the labels as they are: there are no classes to choose from."""

    def update_labels_info(self, label: dict[str, Any]) -> dict[str, Any]:
        """Return a label with the empty instances that the host's transforms move along with the image."""
        boxes, segments = np.zeros((0, 4), np.float32), np.zeros((0, 1000, 2), np.float32)
        label["instances"] = Instances(boxes, segments, bbox_format="xywh", normalized=True)
        return label

    def build_transforms(self, hyp: Any = None) -> Compose:
        """Return the host's training transforms."""
        transforms = v8_transforms(self, self.imgsz, hyp)
        transforms.append(Format())
        return transforms

    @staticmethod
    def collate_fn(batch: list[dict[str, Any]]) -> Tensor:
        """Return the images of a batch (B, C, H, W), uint8."""
        return torch.stack([sample["img"] for sample in batch])


class UnlabelledPictures(Dataset):
    """The same for classification models, whose input is a normalized crop.

    Args:
        files: The image files.
        imgsz: Side of the square input in pixels.
    """

    def __init__(self, files: Sequence[Path], imgsz: int) -> None:
        self.files = files
        names = ("hsv_h", "hsv_s", "hsv_v")
        self.transforms = classify_augmentations(
            imgsz, scale=(1 - _LIGHT["scale"], 1.0), hflip=_LIGHT["fliplr"], **{name: _LIGHT[name] for name in names}
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        with Image.open(self.files[index]) as image:
            return self.transforms(image.convert("RGB"))


def endless_batches(
    files: Sequence[Path], imgsz: int, task: str, channels: int, batch: int, device: torch.device
) -> Iterator[Tensor]:
    """Yield batches (B, C, H, W) of images without end, shuffled and augmented by the random numbers of the process."""
    if task == "classify":
        dataset: Dataset = UnlabelledPictures(files, imgsz)
    else:
        dataset = UnlabelledImages(files, imgsz, channels)
    loader = build_dataloader(dataset, batch, 0 if device.type == "cpu" else _WORKERS)
    while True:
        for images in loader:
            yield images / 255 if images.dtype == torch.uint8 else images


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the random numbers that the host draws from, and put back what was there before."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def readable(files: Sequence[Path]) -> list[Path]:
    """Return the files that hold an image, and warn of the others.

    Raises:
        FileNotFoundError: If none does.
    """
    good = [file for file in files if _is_image(file)]
    if not good:
        raise FileNotFoundError(f"none of the {len(files)} images to learn from can be read, first '{files[0]}'")
    if len(good) < len(files):
        bad = [file for file in files if file not in set(good)]
        LOGGER.warning(f"AKConv: {len(bad)} of {len(files)} images cannot be read and are left out, first {bad[0]}")
    return good


def _is_image(file: Path) -> bool:
    """Return whether a file begins like an image."""
    try:
        with Image.open(file):
            return True
    except (ImportError, OSError):  # the host tries a reader of HEIF on what nothing else can read
        return False
