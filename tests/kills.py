# SPDX-License-Identifier: AGPL-3.0-or-later
"""Kills trainings at random moments and goes on with them as a user would; a program, run by `test_kills.py`.

python tests/kills.py FOLDER SEED KILLS      prints as JSON what each kill left and what came of it

It imports the host once, and forks for every try, so that a try costs what the training costs. One thread only: a fork
of a process with threads may not get a lock that one of them held.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

import psutil
import torch
from conftest import copy_mini_dataset
from ultralytics import YOLO
from ultralytics.utils import USER_CONFIG_DIR

from ultralytics_akconv import AKConv
from ultralytics_akconv.conversion import write_checkpoint
from ultralytics_akconv.files import write_whole
from ultralytics_akconv.sweep.run import last_epoch, what_is_left

EPOCHS = 3
torch.set_num_threads(1)


def attempt(work, limit=float("inf")):
    """Run `work` in a process of its own, killed once it has had `limit` seconds of a CPU.

    Returns:
        Whether it "ended" or was "killed", and the seconds of a CPU that it had.
    """
    child = os.fork()
    if child == 0:
        with open(os.devnull, "w") as nothing:
            os.dup2(nothing.fileno(), 1)
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    spent = psutil.Process(child)
    done = 0
    while not done:
        time.sleep(0.002)
        done, status, usage = os.wait4(child, os.WNOHANG)
        if not done and sum(spent.cpu_times()[:2]) >= limit:
            os.kill(child, signal.SIGKILL)
            done, status, usage = os.wait4(child, 0)
    seconds = usage.ru_utime + usage.ru_stime
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return "killed", seconds
    if status:
        raise RuntimeError(f"the try failed by itself, status {status}")
    return "ended", seconds


def killed_in_a_checkpoint(work, write, part):
    """Run `work`, killed in its `write`-th write of a checkpoint by the host, of which `part` reaches the disk."""
    writes = 0

    def write_bytes(path, content):
        nonlocal writes
        writes += path.suffix == ".pt"
        cut = path.suffix == ".pt" and writes == write
        with open(path, "wb") as stream:
            stream.write(content[: int(part * len(content))] if cut else content)
        if cut:
            os.kill(os.getpid(), signal.SIGKILL)
        return len(content)

    def dying():
        Path.write_bytes = write_bytes
        work()

    return attempt(dying)


def epoch_in(checkpoint):
    """Return the epoch in a checkpoint (-1: its training has ended), "cut off", or None if there is none."""
    return last_epoch(checkpoint) if last_epoch(checkpoint) is not None or not checkpoint.is_file() else "cut off"


def train(data, folder, weights):
    """Begin a training in `folder`, or go on with it from `weights`."""
    if weights:
        YOLO(weights).train(resume=True)
        return
    YOLO("yolov8n-akconv3.yaml").train(
        data=data, epochs=EPOCHS, imgsz=64, batch=8, nbs=8, device="cpu", workers=0, plots=False, verbose=False,
        project=str(folder), name="run", exist_ok=True,
    )  # fmt: skip


def trainings(folder, kills):
    """Kill trainings and go on with what is left, as a sweep does, until there were `kills` kills.

    Three kills come at a random moment, the fourth within the writing of a checkpoint. Returns what was seen.
    """
    data = copy_mini_dataset(folder)
    _, duration = attempt(lambda: train(str(data), folder / "whole", None))
    seen, ends = [], []
    while len(seen) < kills:
        run = folder / f"training{len(ends)}/run"
        ended, checkpoint = False, None
        while not ended:
            work = functools.partial(train, str(data), run.parent, checkpoint)
            if len(seen) == kills:
                how, (outcome, _) = "left alone", attempt(work)
            elif len(seen) % 4 == 3:
                write, part = random.randint(1, 3), random.random()
                how = f"after {part:.0%} of write {write} of a checkpoint"
                outcome, _ = killed_in_a_checkpoint(work, write, part)
            else:
                limit = random.uniform(0, duration)
                how, (outcome, _) = f"after {limit:.2f} s of {duration:.2f} s", attempt(work, limit)
            left = {name: epoch_in(run / f"weights/{name}.pt") for name in ("last", "best")}
            if outcome == "killed":
                begun = str(checkpoint and checkpoint.stem)
                seen.append({"training": len(ends), "resumed from": begun, "killed": how, "left": left})
            ended, checkpoint = what_is_left(run / "weights", EPOCHS)
        ends.append(judged(run))
    return {"seconds": duration, "kills": seen, "trainings": ends}


def judged(run):
    """Return what a training has at its end."""
    with open(run / "results.csv", encoding="utf-8", newline="") as stream:
        header, *rows = csv.reader(stream)
    model = YOLO(run / "weights/best.pt").model
    return {
        "epochs": [int(float(row[0])) for row in rows],
        "whole rows": all(len(row) == len(header) for row in rows),
        "layers": sum(isinstance(module, AKConv) for module in model.modules()),
        "finite": all(bool(torch.isfinite(value).all()) for value in model.state_dict().values()),
    }


def files_of_ours(folder, kills):
    """Kill a process that writes files of ours over and over; return how whole they were after each kill."""
    text, checkpoint = folder / "text.yaml", folder / "converted.pt"
    texts = [letter * 20_000_000 for letter in "ab"]
    model = YOLO("yolov8n-akconv3.yaml").model

    def write():
        while True:
            for content in texts:
                write_whole(text, content)
            write_checkpoint(model, checkpoint)

    write_whole(text, texts[0])
    write_checkpoint(model, checkpoint)
    whole = []
    for _ in range(kills):
        outcome, _ = attempt(write, random.uniform(0, 0.3))
        assert outcome == "killed"
        whole.append(text.read_text("utf-8") in texts and epoch_in(checkpoint) == -1)
    beside = [file.name for file in folder.iterdir() if file.name[0] == "." and file.is_file()]
    known = (".text.yaml.", ".converted.pt.")
    return {"whole": whole, "beside": len(beside), "strange": [name for name in beside if not name.startswith(known)]}


if __name__ == "__main__":
    target, seed, number = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    random.seed(seed)
    result = {**trainings(target, number), "ours": files_of_ours(target, 2 * number)}
    for file in (USER_CONFIG_DIR / "akconv").rglob("*.yaml"):
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        assert digest.startswith(file.parent.name), f"{file} is not what was written"
    print(json.dumps(result))
