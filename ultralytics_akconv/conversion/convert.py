# SPDX-License-Identifier: AGPL-3.0-or-later
"""From a trained model with ordinary convolutions to the same model with AKConv, keeping what it has learned."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from torch import nn
from ultralytics.nn import tasks

from ultralytics_akconv.conversion.budget import Budget, choose
from ultralytics_akconv.conversion.checkpoint import read_source, unwrapped
from ultralytics_akconv.conversion.expectation import Expectation
from ultralytics_akconv.conversion.pairs import Pair, find_pairs, named_state, placed, solve_without_data
from ultralytics_akconv.conversion.report import LayerReport, Transfer
from ultralytics_akconv.grafting import graft
from ultralytics_akconv.host import built_like, input_channels, training_side
from ultralytics_akconv.layers import akconvs
from ultralytics_akconv.modules import AKConv

# Of `graft`, with defaults that make an AKConv read what an ordinary convolution reads.
_OPTIONS: dict[str, Any] = {
    "where": "downsample",
    "shape": "default",
    "border": "zeros",
    "origin": "center",
    "convs": None,
}
# What a model built from another file takes from the source's, also where that says nothing: it belongs to the weights,
# not to the architecture.
_KEPT_KEYS = ("nc", "ch", "channels", "kpt_shape", "activation", "end2end", "reg_max")


def transfer(
    source: str | Path | nn.Module,
    model: str | Path | nn.Module | None = None,
    *,
    num_param: int | Sequence[int] | None = None,
    budget: str | None = None,
    data: str | Path | None = None,
    images: int = 64,
    imgsz: int | None = None,
    distill: int | None = None,
    device: str | None = None,
    seed: int = 0,
    **options: Any,
) -> Transfer:
    """Return a trained model with chosen convolutions as AKConv that compute nearly the same.

    Every other tensor, the class names, the task, strides and train arguments are the source's. A converted layer's
    offset weights are zero and its offset bias puts the points where they reproduce the convolution best, so offsets
    learn from there.

    Args:
        source: A checkpoint, a loaded `YOLO`, or its module.
        model: The AKConv model to fill: a YAML, or a model of the same classes and width; by default the source's own
            architecture, grafted as `num_param` and `options` say. A YAML takes the source's number of classes.
        num_param: Number of sampling points N, 5 by default: one for all, or one for each replaced layer.
        budget: Instead of `num_param`, a bound from which N is chosen layer by layer, a convolution staying where
            that is best: "params=0.95" or "gflops=0.95" of the source's, or "error=0.1" for the expected relative
            error of every layer.
        data: Images for a least-squares fit: a dataset's YAML or name, or a folder. None: from the weights alone.
        images: How many images the least-squares fit uses at most.
        imgsz: Side of their square input in pixels; the source's training size by default.
        distill: Steps in which, after the fit, the new layers learn together from the source model on the unlabelled
            images of `data`, a batch of them a step. Every other tensor stays as it is.
        device: Where they learn, as Ultralytics takes it ("cpu", "0"); a GPU if there is one by default.
        seed: Of the choice of these images and their augmentation.
        options: What else `graft` takes: `where`, `shape`, `border`, `origin` and `convs`. Here `border` is "zeros" and
            `origin` "center" by default, as in an ordinary convolution; the initial shape makes no difference to the
            result, because the offset bias moves its points.

    Returns:
        The model with a report, see `Transfer`.

    Raises:
        FileNotFoundError: If a file or the images do not exist.
        TypeError: If an argument is of the wrong kind.
        ValueError: If a value is not allowed, the source is no usable model, or it does not fit `model`.

    Example:
        >>> result = transfer("yolov8n.pt", num_param=5)  # doctest: +SKIP
        >>> print(result.table())  # doctest: +SKIP
        >>> result.save("yolov8n-akconv5.pt")  # doctest: +SKIP
    """
    unknown = [name for name in options if name not in _OPTIONS]
    if unknown:
        raise TypeError(f"unknown option {', '.join(unknown)}: allowed are {', '.join(_OPTIONS)}")
    _check_steps(distill, data)
    source = read_source(source)
    if akconvs(source):
        raise ValueError("the source model holds AKConv already: nothing is left to transfer")
    if model is not None:
        chosen = [
            name for name, value in {"num_param": num_param, "budget": budget, **options}.items() if value is not None
        ]
        if chosen:
            raise ValueError(
                f"the model is given: {', '.join(chosen)} would choose another; leave out one or the other"
            )
        target = _given(model, source)
    else:
        if budget is not None and num_param is not None:
            raise ValueError("budget chooses num_param: give one of them")
        options = {**_OPTIONS, **options}
        if budget is not None:
            limit = Budget.parse(budget)
            trial = _grafted(source, num_param=1, **{**options, "shape": "default"})  # some shapes have one N alone
            numbers = choose(limit, find_all_pairs(trial, source), source)
            options["where"], num_param = list(numbers), list(numbers.values())
        target = _grafted(source, num_param=5 if num_param is None else num_param, **options)
    result = _filled(target, source)
    return result if data is None else _refined(result, data, images, imgsz, distill, device, seed)


def find_all_pairs(model: nn.Module, source: nn.Module) -> list[Pair]:
    """Return every AKConv of a model with its Conv, front to back.

    Raises:
        ValueError: If one has none that fits, or the model has no AKConv.
    """
    pairs, reasons = find_pairs(model, source)
    if reasons:
        raise ValueError("; ".join(f"{name} cannot be converted: {reason}" for name, reason in reasons.items()))
    if not pairs:
        raise ValueError("the model to fill holds no AKConv")
    return pairs


def _grafted(source: nn.Module, **options: Any) -> nn.Module:
    """Return the source's architecture with AKConv in it, weights as they come."""
    with tempfile.TemporaryDirectory() as folder:
        name = Path(str(source.yaml.get("yaml_file", "model.yaml"))).name
        file = Path(folder) / name
        text = yaml.safe_dump(_as_lists(source.yaml), sort_keys=False, default_flow_style=None)
        file.write_text(text, "utf-8")
        try:
            cfg = yaml.safe_load(graft(file, **options))
        except (TypeError, ValueError) as error:  # the temporary folder would only puzzle
            raise type(error)(str(error).replace(str(file), name)) from error
    model = built_like(source, cfg)
    # A source that was trained on for other classes keeps the head of the old ones, but for the last convolutions: its
    # YAML does not tell that any more, so what holds no AKConv is the source's own.
    for i, layer in enumerate(source.model):
        if not akconvs(model.model[i]):
            model.model[i] = deepcopy(layer)
    return model


def _given(model: str | Path | nn.Module, source: nn.Module) -> nn.Module:
    """Return the model that the user gave, or one built from the YAML that the user gave."""
    if isinstance(model, (str, Path)):
        if Path(model).suffix not in (".yaml", ".yml"):
            raise ValueError(f"model must be a YAML file or a module, got '{model}'")
        cfg = tasks.yaml_model_load(model)
        if not cfg.get("scale"):
            cfg["scale"] = source.yaml.get("scale")
        cfg = {key: value for key, value in cfg.items() if key not in _KEPT_KEYS}
        cfg.update({key: source.yaml[key] for key in _KEPT_KEYS if key in source.yaml})
        built = built_like(source, cfg)
        for i, layer in enumerate(source.model):  # with what no YAML tells, as which of its heads a model answers by
            if i < len(built.model) and _is_alike(built.model[i], layer):
                built.model[i] = deepcopy(layer)
        return built
    model = unwrapped(model)
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a YAML file, a YOLO or a module, got {model!r} ({type(model).__name__})")
    if type(model) is not type(source):
        raise ValueError(f"the model is a {type(model).__name__}, the source a {type(source).__name__}")
    return deepcopy(model).cpu().float()


def _is_alike(layer: nn.Module, source: nn.Module) -> bool:
    """Return whether a layer without AKConv is the source's but for its numbers."""
    shapes = [{key: value.shape for key, value in each.state_dict().items()} for each in (layer, source)]
    return type(layer) is type(source) and layer.f == source.f and shapes[0] == shapes[1]


def _as_lists(value: Any) -> Any:
    """Return a value of a model dictionary as YAML can write it: tuples, as Python code gives them, as lists."""
    if isinstance(value, dict):
        return {key: _as_lists(item) for key, item in value.items()}
    return [_as_lists(item) for item in value] if isinstance(value, (list, tuple)) else value


def _take_settings(model: nn.Module, source: nn.Module) -> None:
    """Give a model the activations and the constants of BatchNorm that the source works with.

    A YAML need not tell them: they may have been the host's defaults in another release, or set on the modules.
    """
    modules = dict(model.named_modules())
    for name, module in source.named_modules():
        target = modules.get(name)
        target = target.conv if isinstance(target, AKConv) else target
        if isinstance(getattr(module, "act", None), nn.Module) and hasattr(target, "act"):
            target.act = deepcopy(module.act)
        bn = getattr(module, "bn", None)
        if isinstance(bn, nn.BatchNorm2d) and isinstance(getattr(target, "bn", None), nn.BatchNorm2d):
            target.bn.eps, target.bn.momentum = bn.eps, bn.momentum


def _filled(model: nn.Module, source: nn.Module) -> Transfer:
    """Give a model the source's weights and attributes, converted where it has AKConv."""
    pairs = find_all_pairs(model, source)
    solutions = [solve_without_data(pair) for pair in pairs]
    state = dict(source.state_dict())
    for pair, solution in zip(pairs, solutions):
        for key in [key for key in state if key.startswith(f"{pair.name}.")]:
            del state[key]
        state.update(named_state(pair, solution))
    _check_same(model.state_dict(), state)
    model.load_state_dict(state)
    _take_settings(model, source)
    for name, value in vars(source).items():
        if not name.startswith("_") and name not in ("yaml", "model", "save", "criterion", "training"):
            setattr(model, name, deepcopy(value))
    model.eval()
    expectation = Expectation(source, pairs)
    reports = [
        _report(pair, expectation.error(pair, solution.points, solution.weight))
        for pair, solution in zip(pairs, solutions)
    ]
    return Transfer(model, source, tuple(reports))


def _refined(
    result: Transfer,
    data: str | Path,
    images: int,
    imgsz: int | None,
    distill: int | None,
    device: str | None,
    seed: int,
) -> Transfer:
    """Return a conversion without data after what images do for it, with the errors measured on them."""
    # Here, because the host is in the middle of importing its own data room when it loads the plug-in.
    from ultralytics_akconv.conversion.refinement import Images, refine

    source = result.source
    side, task = imgsz or training_side(source), getattr(source, "task", "detect")
    what = Images(data, images, side, task, input_channels(source), distill, device, seed)
    pairs = find_all_pairs(result.model, source)
    done = refine(result.model, source, pairs, what)
    layers = [
        replace(layer, points=placed(pair.akconv), prior=prior, fitted=fitted)
        for layer, pair, (prior, fitted) in zip(result.layers, pairs, done.layers)
    ]
    return replace(result, layers=tuple(layers), refined=done)


def _check_steps(steps: int | None, data: str | Path | None) -> None:
    """Raise an error unless steps of learning are None, or a number of at least 1 and there are images."""
    if steps is None:
        return
    if isinstance(steps, bool) or not isinstance(steps, int):
        raise TypeError(f"distill must be a number of steps, got {steps!r} ({type(steps).__name__})")
    if steps < 1:
        raise ValueError(f"distill must be at least 1 step, got {steps}; leave it out to fit alone")
    if data is None:
        raise ValueError("distill needs data: images to learn from, with or without labels")


def _check_same(wanted: dict[str, Any], given: dict[str, Any]) -> None:
    """Raise an error that names the first differences between a model's state dict and the source's."""
    differences = [f"{key} is missing in the source" for key in wanted if key not in given]
    differences += [f"{key} is not in the model" for key in given if key not in wanted]
    differences += [
        f"{key} is {tuple(given[key].shape)} in the source, {tuple(wanted[key].shape)} in the model"
        for key in wanted
        if key in given and wanted[key].shape != given[key].shape
    ]
    if differences:
        more = f", and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise ValueError(
            "the source and the model differ in more than AKConv (another family, width, task or number of classes): "
            f"{'; '.join(differences[:3])}{more}"
        )


def _report(pair: Pair, expected: float) -> LayerReport:
    """Return the report of a layer converted without data."""
    akconv = pair.akconv
    return LayerReport(
        pair.name,
        akconv.in_channels,
        akconv.out_channels,
        akconv.stride,
        akconv.num_param,
        placed(akconv),
        expected,
    )
