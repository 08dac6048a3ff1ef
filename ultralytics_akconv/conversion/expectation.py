# SPDX-License-Identifier: AGPL-3.0-or-later
"""The error to expect of a converted layer when there are no images: by pictures of noise with a natural spectrum.

How much a layer loses depends on how smooth its input is, which its weights do not tell. Pictures do: the amplitudes of
natural ones fall with the frequency, and noise that is made to fall alike runs through the source model. How steep the
fall is was measured to matter little, see docs/results/transfer/expected.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ultralytics_akconv.conversion.calibration import capture
from ultralytics_akconv.conversion.closed_form import interpolation
from ultralytics_akconv.conversion.pairs import Pair
from ultralytics_akconv.host import input_channels

_SIDE, _COUNT = 320, 2
_FALL = 1.3  # amplitude ~ 1 / frequency ** _FALL
_COLOUR = 0.4  # of what is common to the channels, each has this much of its own
_CONTRAST = 0.2  # standard deviation around a middle grey


def noise_pictures(channels: int, count: int = _COUNT, side: int = _SIDE) -> Tensor:
    """Return pictures of noise (count, channels, side, side) from 0 to 1, always the same."""
    generator = torch.Generator("cpu").manual_seed(0)
    white = torch.randn(count, 1 + channels, side, side, generator=generator, device="cpu")
    rows, cols = torch.fft.fftfreq(side, device="cpu")[:, None], torch.fft.rfftfreq(side, device="cpu")
    frequency = (rows.square() + cols.square()).sqrt()
    frequency[0, 0] = 1.0
    noise = torch.fft.irfft2(torch.fft.rfft2(white) / frequency**_FALL, s=(side, side))
    noise = noise / noise.std((2, 3), keepdim=True)
    noise = (noise[:, :1] + _COLOUR * noise[:, 1:]) / (1 + _COLOUR**2) ** 0.5
    return (0.5 + _CONTRAST * noise).clamp(0, 1)


class Expectation:
    """What the source's layers read on pictures of noise, and the errors of conversions there.

    Args:
        source: The source model in eval mode, on the CPU.
        pairs: The layers to ask about.
    """

    @torch.no_grad()
    def __init__(self, source: nn.Module, pairs: Sequence[Pair]) -> None:
        pictures = noise_pictures(input_channels(source))
        seen = capture(source, [pair.conv.conv for pair in pairs], pictures)
        self._inputs = {pair.name: x for pair, (x, _) in zip(pairs, seen)}

    @torch.no_grad()
    def error(self, pair: Pair, points: Tensor, weight: Tensor) -> float:
        """Return the relative error of a layer's output, root mean square, without its mean.

        Args:
            pair: The layer.
            points: Places of the points (N, 2) in input pixels.
            weight: Weights of the points (C2, C1, N).
        """
        conv, x = pair.conv.conv, self._inputs[pair.name]
        kernel = conv.weight.detach()
        missed = kernel - (weight @ interpolation(points)).view_as(kernel).to(kernel)  # what the points do not read
        gain = pair.gain.to(x)[:, None, None]
        lost, wanted = (
            (gain * nn.functional.conv2d(x, each, stride=conv.stride, padding=conv.padding)).var((0, 2, 3)).sum()
            for each in (missed, kernel)
        )
        return float((lost / wanted.clamp(min=torch.finfo(wanted.dtype).tiny)).sqrt())
