# SPDX-License-Identifier: AGPL-3.0-or-later
"""The page "Try it" in a real browser, against `predict` and `image_samples` of the model it was made from."""

import json
import random

import cv2
import numpy as np
import pytest
from browsing import SCHEMES, SIZES, contrast, opened, overflow, site, unnamed
from try_page import (
    CHECKPOINTS,
    DEMO,
    ROOT_ELEMENT,
    assert_boxes,
    assert_page_sees_what_python_sees,
    choose,
    click,
    picture,
    points,
    press,
    wait,
)

pytestmark = pytest.mark.slow
pytest_plugins = ["browsing"]
PAGE = "try"
needs_demo = pytest.mark.skipif(
    not all(file.exists() for file in (DEMO, *CHECKPOINTS.values())),
    reason="`make demo`, which makes the models of the page, has not been run",
)


@pytest.fixture(scope="module")
def page(browser, address):
    """The page with both models loaded."""
    with opened(browser) as page:
        page.goto(address)
        press(page, "Load runtime and model")
        press(page, "Load the plain model")
        yield page


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("images")


@needs_demo
def test_the_button_names_the_size_and_progress_is_shown(browser, address):
    demo = json.loads(DEMO.read_text("utf-8"))
    total = demo["models"]["akconv"]["bytes"] + demo["runtime"]["wasm"]["bytes"]
    with opened(browser) as page:
        page.goto(address)
        button = page.get_by_role("button", name="Load runtime and model")
        assert f"{total / 1e6:.1f} MB" in button.inner_text()
        assert not page.locator(".ak-work").is_visible()
        page.evaluate(
            """() => { window.seen = []; const bar = document.querySelector("progress");
               new MutationObserver(() => bar.hidden || window.seen.push(bar.value))
                 .observe(bar, {attributes: true, attributeFilter: ["value", "hidden"]}); }"""
        )
        press(page, "Load runtime and model")
        seen = page.evaluate("window.seen")
        assert seen == sorted(seen)
        assert len(seen) > 5
        assert seen[-1] == pytest.approx(1)
        assert not page.locator("progress").is_visible()


@needs_demo
@pytest.mark.parametrize("number", range(3))
def test_bundled_images_give_the_boxes_and_points_of_python(page, number):
    name = json.loads(DEMO.read_text("utf-8"))["images"][number]
    page.get_by_role("button", name=f"Bundled image {name}").click()
    wait(page)
    image = DEMO.parent / name
    assert assert_boxes(page, "akconv", image) > 3
    assert_boxes(page, "plain", image)
    rng = random.Random(number)
    assert_page_sees_what_python_sees(page, image, [(rng.randrange(480), rng.randrange(640)) for _ in range(3)])


@needs_demo
@pytest.mark.parametrize(
    ("name", "height", "width"),
    [("halved.png", 400, 640), ("odd.jpg", 389, 517), ("large.jpg", 1100, 1500), ("small.png", 90, 61)],
)
def test_an_image_of_the_reader_s_gives_them_too(page, folder, name, height, width):
    image = picture(folder / name, height, width)
    choose(page, image)
    assert page.locator(ROOT_ELEMENT).get_attribute("data-image") == name
    assert_boxes(page, "akconv", image)
    rng = random.Random(name)
    corners = [(0, 0), (height - 1, width - 1)]
    assert_page_sees_what_python_sees(page, image, [*corners, (rng.randrange(height), rng.randrange(width))])


@needs_demo
def test_the_camera_s_orientation_is_followed(page, folder):
    from PIL import Image

    image = Image.open(picture(folder / "upright.png", 300, 500))
    exif = Image.Exif()
    exif[274] = 6  # a quarter turn
    image.save(folder / "turned.jpg", exif=exif, quality=95)
    choose(page, folder / "turned.jpg")
    assert json.loads(page.locator(ROOT_ELEMENT).get_attribute("data-size")) == [500, 300]
    assert_page_sees_what_python_sees(page, folder / "turned.jpg", [(250, 100)])


@needs_demo
def test_the_slider_filters_and_both_models_are_timed_in_turn(page):
    press(page, "Bundled image BloodImage_00014.jpg")
    boxes = json.loads(page.locator("figure[data-model=akconv]").get_attribute("data-boxes"))
    for least in (0.1, 0.5, 0.9):
        page.get_by_label("Least confidence").fill(str(least))
        count = sum(box["confidence"] >= least for box in boxes)
        assert page.locator("figure[data-model=akconv] figcaption").inner_text().startswith(f"With AKConv: {count} box")
    page.get_by_label("Least confidence").fill("0.25")
    press(page, "Time both models")
    for caption in page.locator("figcaption").all_inner_texts():
        assert "ms an image (median of 7)" in caption


@needs_demo
def test_keys_move_the_chosen_pixel(page):
    press(page, "Bundled image BloodImage_00014.jpg")
    click(page, 100, 200)
    row, col = (int(v) for v in page.locator(ROOT_ELEMENT).get_attribute("data-at").split(","))
    page.locator("figure[data-model=akconv] canvas").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Shift+ArrowLeft")
    assert page.locator(ROOT_ELEMENT).get_attribute("data-at") == f"{row + 4},{col - 20}"
    assert f"--at {col - 20},{row + 4}" in page.locator(".ak-sum").inner_text()


@needs_demo
def test_images_that_cannot_be_read_are_answered_and_the_last_one_stays(page, folder):
    press(page, "Bundled image BloodImage_00014.jpg")
    (folder / "notes.txt").write_text("no image", "utf-8")
    (folder / "broken.jpg").write_bytes((DEMO.parent / "BloodImage_00014.jpg").read_bytes()[:400])
    with (folder / "large.bmp").open("wb") as file:
        file.truncate(100_000_000)
    cv2.imwrite(str(folder / "one.png"), np.zeros((1, 1, 3), np.uint8))
    (folder / "empty.png").write_bytes(b"")
    answers = {
        "notes.txt": "notes.txt is no image that this browser can read: use a JPEG, PNG or WebP.",
        "broken.jpg": "broken.jpg is no image that this browser can read: use a JPEG, PNG or WebP.",
        "large.bmp": "large.bmp has 100.0 MB: images up to 50.0 MB are read here.",
        "one.png": "one.png is 1 x 1 pixels: at least 8 x 8 are needed to find anything in it.",
        "empty.png": "empty.png is no image that this browser can read: use a JPEG, PNG or WebP.",
    }
    for name, answer in answers.items():
        choose(page, folder / name)
        assert page.get_by_role("alert").inner_text() == answer
        assert page.locator(ROOT_ELEMENT).get_attribute("data-image") == "BloodImage_00014.jpg"
    press(page, "Bundled image BloodImage_00030.jpg")
    assert not page.get_by_role("alert").is_visible()


def test_a_build_without_models_says_what_is_missing(browser, address):
    with opened(browser, allowed=["404"]) as page:
        page.route("**/try/demo.json", lambda route: route.fulfill(status=404))
        page.goto(address)
        assert page.get_by_role("alert").inner_text() == (
            "This build of the manual holds no model and no runtime: "
            "run make demo in a checkout, and serve the site as it says at its end."
        )
        assert page.get_by_role("button", name="Load the model").is_disabled()


def test_from_a_file_it_says_that_it_needs_a_server(browser):
    with opened(browser) as page:
        page.goto((site() / "try/index.html").as_uri())
        assert "from a server alone: run make demo" in page.get_by_role("alert").inner_text()


def test_without_webassembly_it_says_so(browser, address):
    with opened(browser, before="delete window.WebAssembly") as page:
        page.goto(address)
        assert page.get_by_role("alert").inner_text() == (
            "This page runs its models in WebAssembly, which is switched off in this browser."
        )


@needs_demo
def test_a_server_that_stops_is_answered_and_the_button_works_again(browser, address):
    with opened(browser, allowed=["Failed to load resource"]) as page:
        page.goto(address)
        page.route("**/akconv.onnx", lambda route: route.abort())
        press(page, "Load runtime and model")
        assert page.get_by_role("alert").inner_text() == "akconv.onnx could not be loaded: is the server still running?"
        page.unroute("**/akconv.onnx")
        press(page, "Load runtime and model")
        assert not page.get_by_role("alert").is_visible()
        assert points(page).shape == (5, 2)


@needs_demo
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_it_fits_and_can_be_read(browser, address, size, scheme):
    with opened(browser, size, color_scheme=scheme) as page:
        page.goto(address)
        assert contrast(page, "button.ak-first") > 4.5
        press(page, "Load runtime and model")
        assert overflow(page) <= 0
        assert unnamed(page, ROOT_ELEMENT) == []
        for selector in (".ak-controls label", ".ak-sum", "figcaption", ".ak-table td", ".ak-images label"):
            assert contrast(page, selector) > 4.5, selector
