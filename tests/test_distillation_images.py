# SPDX-License-Identifier: AGPL-3.0-or-later
"""The images that converted layers learn together from: how they come, and few, plain or broken ones."""

import shutil

import cv2
import numpy as np
import pytest
import torch
from conversions import SMALL

from ultralytics_akconv import transfer
from ultralytics_akconv.conversion import refinement
from ultralytics_akconv.conversion.images import image_files
from ultralytics_akconv.conversion.unlabelled import UnlabelledImages, endless_batches, seeded


def test_images_come_as_the_model_takes_them(tmp_path):
    red = np.zeros((48, 64, 3), np.uint8)
    red[..., 2] = 200  # OpenCV writes BGR
    for i in range(3):
        cv2.imwrite(str(tmp_path / f"{i}.png"), red)
    files = image_files(tmp_path, "detect")
    with seeded(0):
        batch = next(endless_batches(files, 64, "detect", 3, 2, torch.device("cpu")))
        assert len(UnlabelledImages(files, 64)) == 3
    assert batch.shape == (2, 3, 64, 64) and batch.min() >= 0 and batch.max() <= 1
    middle = batch[:, :, 32, 32]
    assert (middle[:, 0] > 0.4).all() and (middle[:, 1:] < 0.2).all()


def test_batches_never_end_and_are_augmented(pictures):
    files = image_files(pictures, "detect")[:2]
    with seeded(0):
        feed = endless_batches(files, 64, "detect", 3, 2, torch.device("cpu"))
        batches = [next(feed) for _ in range(3)]
    assert not torch.equal(batches[0].sort(0).values, batches[1].sort(0).values)


@pytest.mark.parametrize("count", [1, 3])
def test_a_handful_of_images_is_enough(source, pictures, count, tmp_path, said):
    for file in sorted(pictures.iterdir())[:count]:
        shutil.copy(file, tmp_path)
    result = transfer(source, num_param=4, data=tmp_path, distill=2, **SMALL)
    assert result.refined.images == 1 and result.refined.learned.steps == 2
    assert any("one image alone" in line for line in said) == (count == 1)


@pytest.mark.parametrize("colour", [0, 255])
def test_images_of_one_colour_do_no_harm(source, colour, tmp_path):
    for i in range(4):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.full((64, 64, 3), colour, np.uint8))
    result = transfer(source, num_param=4, data=tmp_path, distill=3, **SMALL)
    learned = result.refined.learned
    assert all(value.isfinite().all() for value in result.model.state_dict().values())
    assert learned.after <= learned.before


def test_a_file_that_is_no_image_is_left_out_and_named(source, pictures, tmp_path, said):
    for file in pictures.iterdir():
        shutil.copy(file, tmp_path)
    names = [file.name for file in sorted(tmp_path.iterdir())]
    _, held_out = refinement._split(sorted(tmp_path.iterdir()), 0)
    broken = next(name for name in names if name not in {file.name for file in held_out})
    (tmp_path / broken).write_bytes(b"no image")
    assert transfer(source, data=tmp_path, distill=1, **SMALL).refined.learned.steps == 1
    assert any("cannot be read" in line and broken in line for line in said)
