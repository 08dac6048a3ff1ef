# SPDX-License-Identifier: AGPL-3.0-or-later
"""SIGKILL at any moment: trainings go on to a valid end, and no file of ours is half-written."""

import json
import sys

import pytest
import torch
from conftest import ROOT
from kills import epoch_in

from ultralytics_akconv.sweep.run import what_is_left

EPOCHS = 5


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="it forks, and reads what a process has used")
def test_trainings_killed_at_random_moments_end_as_they_should(fresh, tmp_path):
    process = fresh([sys.executable, ROOT / "tests/kills.py", tmp_path, 5, 5])
    assert process.returncode == 0, process.stderr
    seen = json.loads(process.stdout.splitlines()[-1])
    lefts = [kill["left"] for kill in seen["kills"]]
    assert len(lefts) == 5
    assert not [left for left in lefts if set(left.values()) == {"cut off"}]  # one of the two is whole at any moment
    assert any("cut off" in left.values() for left in lefts)
    for end in seen["trainings"]:
        assert sorted(set(end["epochs"])) == [1, 2, 3]  # an epoch whose checkpoint was lost is trained, and told, twice
        assert end["whole rows"] and end["finite"] and end["layers"] == 6
    assert len(seen["ours"]["whole"]) == 10 and all(seen["ours"]["whole"])
    assert not seen["ours"]["strange"]


def write(file, epoch):
    """Write what stands for a checkpoint; "cut off" leaves half of it."""
    if epoch is not None:
        torch.save({"epoch": 7 if epoch == "cut off" else epoch, "name": file.stem}, file)
    if epoch == "cut off":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize(
    ("last", "best", "left"),
    [
        (None, None, (False, None)),  # before the first checkpoint
        ("cut off", None, (False, None)),  # within the first
        (0, None, (False, "last")),  # between last.pt and best.pt
        (0, "cut off", (False, "last")),
        (2, 1, (False, "last")),
        ("cut off", 1, (False, "best")),
        (4, 3, (True, None)),  # after the last epoch, before both are marked
        (4, "cut off", (True, None)),
        ("cut off", 3, (False, "best")),  # the marking of last.pt, or the writing of the last epoch
        ("cut off", 4, (True, None)),
        (-1, 3, (True, None)),
        (-1, "cut off", (False, None)),  # the marking of best.pt: which epoch it was of is lost
        (-1, -1, (True, None)),
    ],
)
def test_what_is_left_by_a_kill_at_each_step_of_the_host(tmp_path, last, best, left):
    write(tmp_path / "last.pt", last)
    write(tmp_path / "best.pt", best)
    ended, checkpoint = what_is_left(tmp_path, EPOCHS)
    assert (ended, checkpoint and checkpoint.stem) == left
    if ended:  # a sweep evaluates best.pt, which must be there then
        assert isinstance(epoch_in(tmp_path / "best.pt"), int)


@pytest.mark.parametrize("best", [None, "cut off"])
def test_a_lost_best_checkpoint_is_copied_from_the_last_one(tmp_path, best):
    write(tmp_path / "last.pt", 1)
    write(tmp_path / "best.pt", best)
    what_is_left(tmp_path, EPOCHS)
    assert (tmp_path / "best.pt").read_bytes() == (tmp_path / "last.pt").read_bytes()
