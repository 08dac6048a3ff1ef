# SPDX-License-Identifier: AGPL-3.0-or-later
"""Coordinates in which a layer's inputs are uncorrelated: of few rows, flat maps and dead channels too."""

import pytest
import torch

from ultralytics_akconv.conversion.coordinates import Moments, Uncorrelated

CHANNELS, POINTS = 5, 3


def rows(count, mean, spread):
    """Return inputs (count, C1, points) of which the first channel is dead."""
    inputs = mean + spread * torch.randn(count, CHANNELS, POINTS)
    inputs[:, 0] = 0
    return inputs


def moments_of(batches):
    moments = Moments()
    for batch in batches:
        moments.add(batch)
    return moments.estimate()


def test_many_rows_give_the_moments_of_the_rows():
    batches = [rows(500, 2.0, 1.0) for _ in range(8)]
    exact = torch.cat(batches).flatten(1).double()
    exact = exact.T @ exact / len(exact)
    torch.testing.assert_close(moments_of(batches), exact, rtol=0.02, atol=0.02)  # what is drawn is a row an input


@pytest.mark.parametrize("spread", [0.0, 1e-6, 1e-3], ids=["flat", "nearly flat", "faint"])
@pytest.mark.parametrize("count", [1, 2, 64])
@pytest.mark.parametrize("mean", [0.0, 1e4], ids=["about 0", "far from 0"])
def test_a_weight_has_coordinates_whatever_its_inputs_are(mean, count, spread):
    batches = [rows(count, mean, spread) for _ in range(3)]
    moments = moments_of(batches)
    assert torch.equal(moments, moments.T) or torch.allclose(moments, moments.T)
    assert float(torch.linalg.eigvalsh(moments).min()) > -1e-6 * float(moments.diagonal().mean().clamp(min=1e-30))
    weight = torch.randn(4, CHANNELS, POINTS, 1)
    coordinates = Uncorrelated(moments, torch.ones(4))
    torch.testing.assert_close(coordinates(coordinates.right_inverse(weight)), weight, rtol=1e-3, atol=1e-3)
