# SPDX-License-Identifier: AGPL-3.0-or-later
"""Whole models: the training step under AMP as the host makes it, and validation in half precision."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import nn
from ultralytics import YOLO
from ultralytics.cfg import get_cfg
from ultralytics.utils import DEFAULT_CFG_DICT
from ultralytics.utils.torch_utils import init_seeds

from ultralytics_akconv.benchmark.exports import settle
from ultralytics_akconv.benchmark.models import replace_layers
from ultralytics_akconv.benchmark.peers import naive_samples
from ultralytics_akconv.benchmark.timing import interleave
from ultralytics_akconv.conversion.distillation import gradient_scaler
from ultralytics_akconv.functional.paths import using_path
from ultralytics_akconv.gpu.clock import busy_milliseconds, rounds_in, step_times
from ultralytics_akconv.gpu.exactness import paths
from ultralytics_akconv.gpu.facts import Run
from ultralytics_akconv.gpu.trainings import mini_dataset, trained

PLAIN, AKCONV = "yolov8n.yaml", "yolov8n-akconv.yaml"
_BATCH = 16
_BOXES = 8  # an image
_SECONDS = 10.0  # for the steps of a batch in turn
_HALF = 0.05  # mAP50 that half precision may cost; eight images have few boxes
_LEARNED = 0.1  # mAP50 that a trained model has at least


class Variant(NamedTuple):
    """A model, the path of its AKConv layers (None: as it is chosen by itself), and the host's `deterministic`."""

    model: str
    path: str | None
    deterministic: bool
    published: bool = False  # with AKConv by its definition, as in the published code


def steps(run: Run) -> None:
    """Tell what a training step takes: plain and AKConv in turn at three batches, then AKConv by each path.

    A small batch waits for the launches, a large one for the card, so ratios of both are told. `deterministic` is the
    host's default; without it, atomic additions are allowed.
    """
    for batch in (2,) if run.tiny else (_BATCH, 64, 128):
        run.part("steps in turn", lambda batch=batch: _in_turn(run, batch), 8, may_not_fit=True, batch=batch)
        _let_go(run)
    variants = [Variant(PLAIN, None, True), Variant(AKCONV, None, True), Variant(PLAIN, None, False)]
    variants += [Variant(AKCONV, None, False), *(Variant(AKCONV, path, True) for path in paths())]
    variants += [Variant(AKCONV, None, True, published=True), Variant(AKCONV, "gather", False)]
    if run.tiny:  # the interpreter takes ten seconds a step
        variants = [Variant(PLAIN, None, True), Variant(AKCONV, paths()[0], True), Variant(AKCONV, None, False, True)]
    try:
        for variant in variants:
            run.part("training step", lambda v=variant: _step(run, v), 8, **variant._asdict())
            _let_go(run)
    finally:
        init_seeds(0, deterministic=False)


def _let_go(run: Run) -> None:
    """Free a model, which holds itself by its hooks: the next one's peak must not count it."""
    gc.collect()
    if run.cuda:
        torch.cuda.empty_cache()


def _in_turn(run: Run, batch: int) -> dict[str, Any]:
    """Return the times of a training step of both models, which take turns, and the median of the rounds' ratios."""
    init_seeds(0, deterministic=True)
    peers = {model: training_step(run, Variant(model, None, True), batch) for model in (PLAIN, AKCONV)}
    if not run.tiny:
        once = sum(timing.median for timing in interleave(peers, run.device, 1, 2).values())
    plain, ours = interleave(peers, run.device, *((1, 0) if run.tiny else (rounds_in(_SECONDS, once, 20), 3))).values()
    facts = {"plain ms": plain.median, "akconv ms": ours.median, "low ms": ours.low, "high ms": ours.high}
    busy = {name: busy_milliseconds(peers[model], run.device) for name, model in (("plain", PLAIN), ("akconv", AKCONV))}
    facts |= {f"{name} {key}": value for name, told in busy.items() for key, value in told.items()}
    return {**{name: round(value, 2) for name, value in facts.items()}, "x plain": round(ours.ratio, 3)}


def _step(run: Run, variant: Variant) -> dict[str, Any]:
    """Return wall-clock time, peak memory, and by the profiler the time at work of one variant."""
    init_seeds(0, deterministic=variant.deterministic)
    step = training_step(run, variant, 2 if run.tiny else _BATCH)
    with using_path(variant.path) if variant.path else nullcontext():
        facts = step_times(step, run.device, *((1, 0) if run.tiny else (20, 5)))
        run.part("busy", lambda: busy_milliseconds(step, run.device), **variant._asdict())
    return facts


def training_step(run: Run, variant: Variant, batch: int) -> Callable[[], None]:
    """Return the host's training step: its loss on random boxes, AMP, scaled gradients that are clipped, and SGD."""
    side = 32 if run.tiny else 640
    network = YOLO(variant.model).model
    if variant.published:
        replace_layers(network, naive_samples)
    network = network.to(run.device, memory_format=torch.channels_last).train()
    network.args = get_cfg()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9, nesterov=True)
    scaler = gradient_scaler(run.cuda)
    boxes = torch.rand(batch * _BOXES, 4, device=run.device) * 0.3 + 0.3  # centre and size, as shares of the image
    images = torch.rand(batch, 3, side, side, device=run.device).to(memory_format=torch.channels_last)
    labels = {
        "img": images,
        "bboxes": boxes,
        "cls": torch.randint(0, 80, (len(boxes), 1), device=run.device).float(),
        "batch_idx": torch.arange(batch, device=run.device).repeat_interleave(_BOXES).float(),
    }

    def step() -> None:
        with torch.autocast(run.device.type, dtype=torch.float16 if run.cuda else torch.bfloat16, enabled=run.cuda):
            loss = network(labels)[0].sum()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(network.parameters(), max_norm=10.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

    return step


def half(run: Run) -> None:
    """Tell how far outputs in half precision are from float32, plain and AKConv, and validate in half precision."""
    for model in (PLAIN, AKCONV):
        run.part("half outputs", lambda model=model: _half_outputs(run, model), 4, model=model)
    run.part("half validation", lambda: _half_validation(run), 8, model=AKCONV)


def settled(model: str, side: int) -> nn.Module:
    """Return a model with offsets and statistics as training would leave them."""
    torch.manual_seed(0)
    network = YOLO(model).model
    settle(network, side)
    return network


def network_of(run: Run, model: str, side: int) -> tuple[nn.Module, bool]:
    """Return a model as the step `train` has left it, or if it has not, a settled one; and whether it is trained."""
    weights = trained(run, model)
    return (settled(model, side), False) if weights is None else (YOLO(weights).model.float(), True)


def _half_outputs(run: Run, model: str) -> dict[str, Any]:
    """Return how far boxes and scores are from float32, relative to their norm.

    A model that has not been trained makes more of a difference than one that has: the plain one is the measure.
    """
    side = 64 if run.tiny else 320
    network, learned = network_of(run, model, side)
    network = network.to(run.device).eval()
    images = torch.rand(2, 3, side, side, device=run.device)
    dtype = torch.float16 if run.cuda else torch.bfloat16
    with torch.no_grad():
        exact = network(images)[0]
        rounded = network.to(dtype)(images.to(dtype))[0].float()
    differ = (rounded - exact).split((4, exact.shape[1] - 4), 1)
    errors = [float(a.norm() / b.norm()) for a, b in zip(differ, exact.split((4, exact.shape[1] - 4), 1))]
    if not all(map(math.isfinite, errors)):
        raise ArithmeticError(f"no numbers come out in half precision, boxes and scores: {errors}")
    return {"trained": learned, **{name: float(f"{error:.1e}") for name, error in zip(("boxes", "scores"), errors)}}


def _half_validation(run: Run) -> dict[str, Any]:
    """Validate by the host on the bundled images, in half precision and not; a CPU does it in float32 both times.

    Raises:
        ArithmeticError: If half precision costs more of the score than it may, or a trained model has no score to lose.
    """
    precision = {"quantize": 16} if "quantize" in DEFAULT_CFG_DICT else {"half": True}
    side = 64 if run.tiny else 320
    settings = {"data": str(mini_dataset(run)), "imgsz": side, "batch": 8, "workers": 0, "device": _index(run)}
    settings |= {"plots": False, "verbose": False, "project": str(run.work), "name": "half", "exist_ok": True}
    found = {}
    for name, extra in {"half": precision, "float32": {}}.items():
        model = YOLO(AKCONV)
        model.model, learned = network_of(run, AKCONV, side)
        metrics = model.val(**settings, **extra)
        found[name] = {"mAP50": round(float(metrics.box.map50), 4), "ms": round(metrics.speed["inference"], 2)}
    if learned and not run.tiny and not found["float32"]["mAP50"] > _LEARNED:
        raise ArithmeticError(f"the trained model finds too little to tell what half precision costs: {found}")
    lost = found["float32"]["mAP50"] - found["half"]["mAP50"]
    if not lost <= _HALF:
        raise ArithmeticError(f"half precision costs {lost} of mAP50, {_HALF} are allowed: {found}")
    return {"trained": learned, **found}


def _index(run: Run) -> str:
    """Return the device as the host takes it."""
    return str(run.device.index) if run.cuda else "cpu"
