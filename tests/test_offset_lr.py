# SPDX-License-Identifier: AGPL-3.0-or-later
"""The learning rate of offsets: set later, told by `repr`, read from old checkpoints, and offsets that are frozen."""

import copy

import pytest
import torch
import ultralytics
from conftest import learned
from ultralytics import YOLO

from ultralytics_akconv import AKConv


def test_offset_lr_may_be_set_later_and_is_told_by_repr():
    layer = learned(AKConv(3, 4, 5))
    layer.offset_lr = 0
    assert (layer.offset_lr, layer.p_conv.lr) == (0.0, 0.0)
    layer(torch.randn(1, 3, 8, 8)).sum().backward()
    assert not layer.p_conv.weight.grad.any() and layer.conv.conv.weight.grad.any()
    assert "offset_lr=0, act=SiLU" in repr(layer)
    assert "offset_lr=0.1, act=Identity" in repr(AKConv(3, 4, 5, offset_lr=0.1, act=False))
    for wrong, kind in ((-1, ValueError), ("0.1", TypeError), (float("nan"), ValueError)):
        with pytest.raises(kind, match="offset_lr must be"):
            layer.offset_lr = wrong
    assert layer.offset_lr == 0.0


def test_a_checkpoint_that_kept_offset_lr_twice_is_read():
    layer = AKConv(3, 4, 5, offset_lr=0.5)
    layer.__dict__["offset_lr"] = 0.5  # as it was pickled before it became a property
    layer = copy.deepcopy(layer)
    layer.offset_lr = 0.25
    assert (layer.offset_lr, layer.p_conv.lr) == (0.25, 0.25)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["AdamW", "MuSGD"])
def test_frozen_offsets_stay_under_every_optimizer(tmp_path, mini_dataset, optimizer):
    if optimizer == "MuSGD" and tuple(map(int, ultralytics.__version__.split(".")[:2])) < (8, 4):
        pytest.skip(f"Ultralytics {ultralytics.__version__} has no MuSGD")
    model = YOLO("yolov8n-akconv.yaml")
    frozen, free = (1, 3), (5, 7)
    before = {i: copy.deepcopy(model.model.model[i].p_conv.state_dict()) for i in (*frozen, *free)}
    model.train(
        data=str(mini_dataset), epochs=1, imgsz=64, batch=8, nbs=8, workers=0, device="cpu", plots=False, val=False,
        pretrained=False, optimizer=optimizer, lr0=0.01, warmup_epochs=0, project=str(tmp_path), name="run",
        freeze=[f"{i}.p_conv" for i in frozen],
    )  # fmt: skip
    after = YOLO(tmp_path / "run/weights/last.pt").model.model
    for i in frozen:
        assert not after[i].p_conv.weight.any()
        torch.testing.assert_close(after[i].p_conv.bias.float(), before[i]["bias"], rtol=0, atol=1e-3)  # float16
    for i in free:
        assert after[i].p_conv.weight.any()
