# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the page "Try it" shows, and what `predict` and `image_samples` make of the same."""

import json

import cv2
import numpy as np
import pytest
from conftest import ROOT
from ultralytics import YOLO

from ultralytics_akconv.plots import image_samples

CHECKPOINTS = {name: ROOT / f"build/demo/{name}.pt" for name in ("akconv", "plain")}
DEMO = ROOT / "docs/assets/try/demo.json"
ROOT_ELEMENT = "#akconv-try"


def wait(page):
    """Wait until nothing is loaded or run any more."""
    page.wait_for_function(
        "(root) => !document.querySelector(root).hasAttribute('aria-busy')", arg=ROOT_ELEMENT, timeout=180_000
    )


def press(page, name):
    page.get_by_role("button", name=name).click()
    wait(page)


def choose(page, file):
    page.locator("input[type=file]").set_input_files(file)
    wait(page)


def picture(file, height, width, seed=0):
    """Write an image that is none of the bundled ones: a crop of one, resized, as the file's ending says."""
    [source] = (ROOT / "cfg/datasets/akconv-mini/images/train").glob("BloodImage_00003.jpg")
    image = cv2.imread(str(source))[20 : 20 + 400, 40 : 40 + 560]
    noise = np.random.default_rng(seed).integers(0, 20, (height, width, 3), dtype=np.uint8)
    cv2.imwrite(str(file), cv2.add(cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC), noise))
    return file


def click(page, row, col):
    """Click an image pixel on the canvas and return the pixel that the page took."""
    canvas = page.locator("figure[data-model=akconv] canvas")
    canvas.evaluate("canvas => canvas.scrollIntoView({block: 'center'})")  # off the header, which stays at the top
    box = canvas.bounding_box()
    height, width = json.loads(page.locator(ROOT_ELEMENT).get_attribute("data-size"))
    margin = round(0.04 * max(height, width))
    scale = box["width"] / (width + 2 * margin)
    page.mouse.click(box["x"] + (col + 0.5 + margin) * scale, box["y"] + (row + 0.5 + margin) * scale)
    taken = [int(v) for v in page.locator(ROOT_ELEMENT).get_attribute("data-at").split(",")]
    assert max(abs(a - b) for a, b in zip(taken, (row, col))) <= 2 / scale
    return taken


def points(page):
    """Return the image pixels (row, column) of the points that the table holds, in full figures."""
    texts = page.locator(f"{ROOT_ELEMENT} tbody tr").evaluate_all("rows => rows.map(r => r.dataset.at)")
    return np.array([[float(v) for v in text.split(",")] for text in texts])


def expected_points(layer, row, col):
    """Return the same by `image_samples`."""
    i, j = layer.output_pixel(col, row)
    rows, cols = layer.to_image(layer.rows[:, i, j], layer.cols[:, i, j])
    return np.stack([rows.numpy(), cols.numpy()], 1)


def through(layers, parents, name, row, col):
    """Return what the points of an output pixel see through earlier layers, in image pixels, by `image_samples`."""
    by = {layer.name: layer for layer in layers}
    layer = by[name]
    reads = [(layer.rows[:, i, j], layer.cols[:, i, j]) for i, j in [layer.output_pixel(col, row)]]
    found = []
    while parents[layer.name]:
        before = by[parents[layer.name]]
        height, width = before.rows.shape[1:]
        pixels = {
            (min(max(round(float(r)), 0), height - 1), min(max(round(float(c)), 0), width - 1))
            for rows, cols in reads
            for r, c in zip(rows, cols)
        }
        reads = [(before.rows[:, i, j], before.cols[:, i, j]) for i, j in pixels]
        found.append(np.concatenate([np.stack([v.numpy() for v in before.to_image(*read)], 1) for read in reads]))
        layer = before
    return found


def assert_boxes(page, name, image):
    """Compare the boxes of a model with those of `predict`."""
    result = YOLO(CHECKPOINTS[name]).predict(image, imgsz=320, conf=0.1, verbose=False, save=False)[0].boxes
    found = json.loads(page.locator(f"figure[data-model={name}]").get_attribute("data-boxes"))
    found = [box for box in found if box["confidence"] > 0.1001]  # which rounding puts on one side or the other
    expected = [(box, c, k) for box, c, k in zip(result.xyxy, result.conf, result.cls) if c > 0.1001]
    assert len(found) == len(expected)
    for box, (corners, confidence, kind) in zip(found, sorted(expected, key=lambda e: -float(e[1]))):
        assert box["box"] == pytest.approx(corners.tolist(), abs=0.01)
        assert box["confidence"] == pytest.approx(float(confidence), abs=1e-4)
        assert box["kind"] == int(kind)
    return len(found)


def assert_page_sees_what_python_sees(page, image, clicks):
    layers = image_samples(CHECKPOINTS["akconv"], image).layers
    parents = {layer["name"]: layer["parent"] for layer in json.loads(DEMO.read_text("utf-8"))["layers"]}
    for row, col in clicks:
        taken = click(page, row, col)
        for layer in layers:
            page.locator("select[name=layer]").select_option(layer.name)
            np.testing.assert_allclose(points(page), expected_points(layer, *taken), rtol=0, atol=1e-3)
            seen = json.loads(page.locator(ROOT_ELEMENT).get_attribute("data-faint"))
            expected = through(layers, parents, layer.name, *taken)
            assert [len(reads) for reads in seen] == [len(reads) for reads in expected]
            for actual, reads in zip(seen, expected):
                far = np.linalg.norm(np.array(actual)[:, None] - reads, axis=-1)  # they come in no particular order
                assert max(far.min(0).max(), far.min(1).max()) < 1e-3
