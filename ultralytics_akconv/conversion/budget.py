# SPDX-License-Identifier: AGPL-3.0-or-later
"""How many points each layer gets when the user bounds the size, the work or the error instead of naming N."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from ultralytics.utils.torch_utils import get_flops

from ultralytics_akconv.conversion.calibration import capture
from ultralytics_akconv.conversion.closed_form import expected_error, kernel_gram, place_points, project
from ultralytics_akconv.conversion.expectation import Expectation
from ultralytics_akconv.conversion.pairs import Pair
from ultralytics_akconv.host import input_channels

KINDS = ("params", "gflops", "error")
_IMGSZ = 640  # at which the host counts GFLOPs
_NUMBERS = range(1, 9)  # nine points cost more than the 3x3 convolution, which is left then


@dataclass(frozen=True)
class Budget:
    """A bound: `params` or `gflops` as a fraction of the source's, or the expected relative `error` of every layer."""

    kind: str
    value: float

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Return the budget that a text like "params=0.9" states.

        Raises:
            ValueError: If it is not one of the three kinds with a number between 0 and 1.
        """
        kind, _, number = str(text).partition("=")
        try:
            value = float(number)
        except ValueError:
            value = float("nan")
        if kind not in KINDS or not 0 < value < 1:
            raise ValueError(
                "budget must be params=FRACTION or gflops=FRACTION of the source's, or error=BOUND for every layer, "
                f"with a number between 0 and 1 (for example params=0.95), got {text!r}"
            )
        return cls(kind, value)


@dataclass(frozen=True)
class _Option:
    """One choice for a row of the model: N points, what they save and what they are expected to lose."""

    num_param: int
    saved: float
    error: float  # the largest expected relative error of the row's layers, if it is asked for
    lost: float  # the sum of the squares of what the weights alone let expect


def choose(budget: Budget, pairs: list[Pair], source: nn.Module) -> dict[int, int]:
    """Return N for each row of the model that becomes AKConv, by layer index; the others keep their convolution.

    A saving is reached greedily: from all convolutions as they are, the step is taken again and again that loses least
    for what it saves. A bound on the error gives each row the fewest points that keep it.

    Args:
        budget: The bound.
        pairs: The layers that may be replaced, front to back; a row of blocks holds several.
        source: The source model, from which fractions are counted.

    Raises:
        ValueError: If the bound cannot be kept; the message says what can.
    """
    pixels = _output_pixels(pairs, source) if budget.kind == "gflops" else {}
    expectation = Expectation(source, pairs) if budget.kind == "error" else None
    rows: dict[int, list[Pair]] = {}
    for pair in pairs:
        rows.setdefault(int(pair.name.split(".")[1]), []).append(pair)
    options = {
        index: [option for n in _NUMBERS if (option := _option(members, n, pixels, expectation)).saved > 0]
        for index, members in rows.items()
    }
    if budget.kind == "error":
        return _within_error(budget.value, options)
    if budget.kind == "params":
        total = sum(parameter.numel() for parameter in source.parameters())
    else:
        total = get_flops(source, _IMGSZ) * 1e9
    return _saving(budget, (1 - budget.value) * total, total, options)


def _option(pairs: list[Pair], num_param: int, pixels: dict[str, int], expectation: Expectation | None) -> _Option:
    """Return what a row saves and loses with N points: parameters, or operations where output sizes are given."""
    saved, lost, errors = 0.0, 0.0, [0.0]
    for pair in pairs:
        c1, c2 = pair.akconv.in_channels, pair.akconv.out_channels
        if pixels:  # two operations a weight and output pixel
            saved += 2 * pixels[pair.name] * (9 * c1 * c2 - (c1 * c2 * num_param + 9 * c1 * 2 * num_param))
        else:
            saved += 9 * c1 * c2 - (c1 * c2 * num_param + (9 * c1 + 1) * 2 * num_param)
        kernels = pair.conv.conv.weight.detach().cpu()
        gram = kernel_gram(kernels, pair.gain)
        points = place_points(gram, num_param)
        lost += float(expected_error(gram, points)) ** 2
        if expectation is not None:
            errors.append(expectation.error(pair, points, project(kernels, points)))
    return _Option(num_param, saved, max(errors), lost)


def _output_pixels(pairs: list[Pair], source: nn.Module) -> dict[str, int]:
    """Return the number of output pixels of each layer at the size at which the host counts GFLOPs."""
    image = next(source.parameters()).new_zeros(1, input_channels(source), _IMGSZ, _IMGSZ)
    with torch.no_grad():
        seen = capture(source, [pair.conv.conv for pair in pairs], image)
    return {pair.name: output.shape[-2] * output.shape[-1] for pair, (_, output) in zip(pairs, seen)}


def _within_error(bound: float, options: dict[int, list[_Option]]) -> dict[int, int]:
    """Return the fewest points of each row that keep the bound and save something."""
    chosen = {}
    for index, row in options.items():
        kept = [option.num_param for option in row if option.error <= bound]
        if kept:
            chosen[index] = min(kept)
    if not chosen:
        least = min((option.error for row in options.values() for option in row), default=None)
        raise ValueError(f"no layer keeps error={bound:g} and saves parameters; the least error is {least}")
    return chosen


def _saving(budget: Budget, wanted: float, total: float, options: dict[int, list[_Option]]) -> dict[int, int]:
    """Return the rows' points after the cheapest steps that save `wanted`."""
    state: dict[int, _Option] = {}
    keep = _Option(0, 0.0, 0.0, 0.0)
    while sum(option.saved for option in state.values()) < wanted:
        best = None
        for index, row in options.items():
            now = state.get(index, keep)
            for option in row:
                if option.saved > now.saved:
                    price = (option.lost - now.lost) / (option.saved - now.saved)
                    if best is None or price < best[0]:
                        best = (price, index, option)
        if best is None:
            reached = 1 - sum(option.saved for option in state.values()) / total
            raise ValueError(f"{budget.kind}={budget.value:g} cannot be reached; the least is {reached:.3f}")
        _, index, state[index] = best
    return {index: state[index].num_param for index in sorted(state)}
