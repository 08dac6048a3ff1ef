# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the page "Playground" shows, and what the package makes of the same."""

import torch

from ultralytics_akconv import resample, sampling_points

ROOT_ELEMENT = "#akconv-playground"


def state(page):
    """Return what the page shows, by its own reading of what will stand in the address."""
    return page.evaluate(f"AKConvState.parseState(document.querySelector('{ROOT_ELEMENT}').dataset.state)")


def link(page):
    """Return the address once it holds what the page shows."""
    page.wait_for_function(f"document.querySelector('{ROOT_ELEMENT}').dataset.state === location.hash")
    return page.url


def values(page):
    """Return the samples that the table shows, in full figures."""
    rows = page.locator(f"{ROOT_ELEMENT} tbody tr")
    return torch.tensor(
        [float(v) for v in rows.evaluate_all("rows => rows.map(r => r.dataset.value)")], dtype=torch.float64
    )


def pixels(page):
    """Return the numbers that stand in the cells of the map."""
    texts = page.locator(".ak-value").all_text_contents()
    return torch.tensor([float(text) for text in texts], dtype=torch.float64).reshape(1, 1, 8, 8)


def by_package(page):
    """Return what the package samples for what the page shows."""
    now = state(page)
    points = sampling_points(now["n"], now["shape"], now["origin"])
    side = 7 // now["stride"] + 1
    offsets = torch.tensor(now["offsets"], dtype=torch.float64).T.reshape(1, -1, 1, 1).expand(1, -1, side, side)
    samples = resample(pixels(page), offsets, points, now["stride"], now["border"])
    row, col = now["at"]
    return samples.reshape(side, now["n"], side)[row, :, col]


def check(page):
    torch.testing.assert_close(values(page), by_package(page), rtol=0, atol=1e-12)


def center(page, k):
    """Return where point k lies in the window."""
    box = page.locator(".ak-points .ak-dot").nth(k).bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def unit(page):
    """Return how many pixels of the window a pixel of the map is."""
    first, second = (page.locator(".ak-cell").nth(k).bounding_box() for k in range(2))
    return second["x"] - first["x"]
