# SPDX-License-Identifier: AGPL-3.0-or-later
"""The page "Playground" in a real browser: what a reader drags, types, touches and shares."""

import random

import pytest
import torch
import yaml
from browsing import SCHEMES, SIZES, contrast, opened, overflow, site, unnamed
from playground_page import ROOT_ELEMENT, center, check, link, state, unit, values

from ultralytics_akconv import resample, sampling_points

pytestmark = pytest.mark.slow
pytest_plugins = ["browsing"]
PAGE = "playground"


@pytest.mark.parametrize(
    "hash_",
    ["", "#n=9&shape=ring&border=clamp&stride=1&at=3,3", "#n=7&shape=cross&origin=center&border=zeros&at=0,3"],
)
def test_every_sample_after_a_drag_is_the_package_s(browser, address, hash_):
    rng = random.Random(hash_)
    with opened(browser) as page:
        page.goto(address + hash_)
        for _ in range(12):
            k = rng.randrange(state(page)["n"])
            before = state(page)["offsets"]
            x, y = center(page, k)
            far = [rng.uniform(-2.5, 2.5) * unit(page) for _ in range(2)]
            page.mouse.move(x, y)
            page.mouse.down()
            page.mouse.move(x + far[0] / 2, y + far[1] / 2)
            page.mouse.move(x + far[0], y + far[1])
            page.mouse.up()
            check(page)
            moved = state(page)["offsets"]
            assert moved != before
        assert page.locator(".ak-sum h3").inner_text() == f"Point {state(page)['point'] + 1} of {state(page)['n']}"


def test_a_drag_moves_a_point_as_far_as_the_mouse(browser, address):
    with opened(browser) as page:
        page.goto(address)
        x, y = center(page, 4)
        size = unit(page)
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + 1.25 * size, y - 0.5 * size, steps=9)
        page.mouse.up()
        row, col = state(page)["offsets"][4]
        assert row == pytest.approx(-0.5, abs=0.03)
        assert col == pytest.approx(1.25, abs=0.03)


def test_the_shape_itself_can_be_dragged_and_its_row_builds_it(browser, address):
    with opened(browser) as page:
        page.goto(f"{address}#n=3&shape=column&origin=center&stride=1&at=3,3")
        page.get_by_label("the shape", exact=True).check()
        x, y = center(page, 0)
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x - unit(page), y, steps=5)
        page.mouse.up()
        check(page)
        [row] = yaml.safe_load(page.locator(".ak-yaml").inner_text())
        points = sampling_points(3, row[3][3]["shape"])
        assert points[1:] == ((0.0, 0.0), (1.0, 0.0))
        assert points[0] == pytest.approx((-1, -1), abs=0.03)
        assert state(page)["offsets"] == [[0, 0]] * 3


def test_keys_move_a_point_a_tenth_or_a_whole_pixel_and_home(browser, address):
    with opened(browser) as page:
        page.goto(address)
        page.locator(".ak-points g").nth(1).focus()
        for key in ("ArrowRight", "ArrowRight", "ArrowUp", "Shift+ArrowDown"):
            page.keyboard.press(key)
        assert state(page)["offsets"][1] == [0.9, 0.2]
        assert state(page)["point"] == 1
        check(page)
        assert "offset 0.9 rows, 0.2 columns" in page.locator(".ak-points g").nth(1).get_attribute("aria-valuetext")
        page.keyboard.press("Home")
        assert state(page)["offsets"][1] == [0, 0]


def test_tab_reaches_the_map_every_point_and_every_control(browser, address):
    with opened(browser) as page:
        page.goto(address)
        page.locator(".ak-cells").focus()
        names = []
        for _ in range(17):
            page.keyboard.press("Tab")
            names.append(
                page.evaluate("document.activeElement.getAttribute('aria-label') || document.activeElement.name")
            )
        assert names[:5] == [f"Point {k} of 5" for k in range(1, 6)]
        assert names[5:12] == ["n", "stride", "shape", "origin", "border", "row", "col"]


def test_a_finger_drags_a_point_and_scrolls_beside_it(browser, address):
    with opened(browser, SIZES[1], has_touch=True, is_mobile=True) as page:
        page.goto(address)
        touch = page.context.new_cdp_session(page)

        def swipe(start, end):
            touch.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [dict(zip("xy", start))]})
            for part in range(1, 9):
                at = [a + (b - a) * part / 8 for a, b in zip(start, end)]
                touch.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [dict(zip("xy", at))]})
            touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

        x, y = center(page, 4)
        top = page.evaluate("scrollY")
        swipe((x, y), (x + 10, y + 2 * unit(page)))
        assert page.evaluate("scrollY") == top
        assert state(page)["offsets"][4][0] == pytest.approx(2, abs=0.06)
        check(page)
        before = state(page)
        box = page.locator(".ak-cell").last.bounding_box()
        swipe((box["x"] + 8, box["y"] + 8), (box["x"] + 8, box["y"] - 300))
        page.wait_for_function(f"scrollY > {top + 100}")
        assert state(page) == before


def test_a_shared_link_shows_the_same_elsewhere(browser, address):
    with opened(browser) as page, opened(browser, SIZES[1]) as other:
        page.goto(address)
        page.get_by_label("Points N").fill("6")
        page.get_by_label("Points N").press("Enter")
        page.get_by_label("Border").select_option("clamp")
        page.locator("select[name=shape]").select_option("ring")
        page.get_by_role("button", name="Random offsets").click()
        page.get_by_label("Output row").fill("2")
        page.get_by_label("Output row").press("Enter")
        check(page)
        other.goto(link(page))
        assert torch.equal(values(other), values(page))
        assert other.locator(".ak-yaml").inner_text() == "- [-1, 1, AKConv, [256, 6, 2, {shape: ring, border: clamp}]]"
        assert other.get_by_label("Output row").input_value() == "2"
        other.goto(address + "#n=4")  # the same page, told another state
        other.wait_for_function("document.querySelectorAll('.ak-points g').length === 4")
        check(other)


def test_a_long_drag_still_ends_in_the_address(browser, address):
    """Chromium drops changes of the address beyond 200 in half a minute."""
    with opened(browser, permissions=["clipboard-read", "clipboard-write"]) as page:
        page.goto(address)
        x, y = center(page, 2)
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + 300, y + 40, steps=120)
        page.mouse.move(x - 20, y + 40, steps=120)
        page.mouse.up()
        page.get_by_role("button", name="Copy the link").click()
        page.get_by_text("Copied.").wait_for()
        copied = page.evaluate("navigator.clipboard.readText()")
        assert state(page)["offsets"][2][1] == pytest.approx(-20 / unit(page), abs=0.05)
        assert copied == link(page)


def test_offsets_are_typed_too(browser, address):
    with opened(browser) as page:
        page.goto(address)
        page.get_by_label("Offset of point 3, row").fill("-1.25")
        page.get_by_label("Offset of point 3, row").press("Enter")
        assert state(page)["offsets"][2] == [-1.25, 0]
        check(page)
        page.get_by_label("Offset of point 3, row").fill("99")
        page.get_by_label("Offset of point 3, row").press("Enter")
        assert page.get_by_role("alert").inner_text() == "An offset must be a number from -8 to 8, got 99."
        assert state(page)["offsets"][2] == [-1.25, 0]


def test_a_shape_of_one_s_own_is_typed_and_refused_with_what_is_allowed(browser, address):
    with opened(browser) as page:
        page.goto(address)
        page.locator("select[name=shape]").select_option("own")
        field = page.get_by_label("My own points")
        field.fill("[[0, 0], [0, 1], [0, 2], [2, 0], [2.5, 2]]")
        field.press("Enter")
        check(page)
        assert page.locator(".ak-yaml").inner_text().endswith("{shape: [[0, 0], [0, 1], [0, 2], [2, 0], [2.5, 2]]}]]")
        field.fill("[[0, 0], [0, 1]]")
        field.press("Enter")
        assert "Shape must be 5 [row, col] pairs" in page.get_by_role("alert").inner_text()
        check(page)


def test_the_line_below_the_map_counts_all_that_read_a_pixel(browser, address):
    with opened(browser) as page:
        page.goto(f"{address}#n=5&stride=1&at=2,2&offsets=[[0.5,0.25],[0,0],[-0.75,0],[0,1.5],[-3,0]]")
        now = state(page)
        offsets = torch.tensor(now["offsets"], dtype=torch.float64).T.reshape(1, -1, 1, 1).expand(1, -1, 8, 8)
        for row, col in ((3, 3), (0, 0), (7, 7), (0, 4)):
            box = page.locator(".ak-cell").nth(8 * row + col).bounding_box()
            page.mouse.move(box["x"] + 4, box["y"] + 4)
            x = torch.zeros(1, 1, 8, 8, dtype=torch.float64)
            x[..., row, col] = 1
            read = resample(x, offsets, sampling_points(5)).reshape(8, 5, 8)
            line = page.locator(".ak-reads")
            assert int(line.get_attribute("data-readers")) == (read != 0).sum() > 0
            here = [k for k in range(5) if read[2, k, 2] != 0]
            assert [f"point {k + 1} with weight" in line.inner_text() for k in range(5)] == [
                k in here for k in range(5)
            ]


def test_the_doubled_pixel_of_paper_is_seen_and_gone_under_clamp(browser, address):
    with opened(browser) as page:
        page.goto(f"{address}#n=1&at=0,1&offsets=[[-0.5,0.5]]")
        assert page.locator(".ak-weight").all_text_contents() == ["1", "1"]
        assert page.locator(".ak-beyond").count() == 2  # the two above the map, read as those below them
        assert "both are row 0, and counts twice" in page.locator(".ak-sum").inner_text()
        page.get_by_label("Border").select_option("clamp")
        assert page.locator(".ak-weight").all_text_contents() == ["0.5", "0.5"]
        page.get_by_label("Border").select_option("zeros")
        assert page.locator(".ak-weight").all_text_contents() == ["0.25", "0.25"]
        check(page)


def test_the_row_is_copied(browser, address):
    with opened(browser, permissions=["clipboard-read", "clipboard-write"]) as page:
        page.goto(f"{address}#n=9&shape=disk&origin=center")
        page.get_by_role("button", name="Copy the row").click()
        page.get_by_text("Copied.").wait_for()
        text = page.evaluate("navigator.clipboard.readText()")
        assert text == "- [-1, 1, AKConv, [256, 9, 2, {shape: disk, origin: center}]]"


def test_it_works_from_a_file_without_a_server(browser):
    with opened(browser) as page:
        page.goto(f"{(site() / 'playground/index.html').as_uri()}#n=3&shape=row")
        page.locator(".ak-points g").nth(2).focus()
        page.keyboard.press("ArrowDown")
        assert state(page)["offsets"][2] == [0.1, 0]
        check(page)


@pytest.mark.parametrize("hash_", ["#n=many", "#shape=star&n=3", "#offsets=[[1]]", "#<script>alert(1)</script>"])
def test_a_link_of_nonsense_is_answered_and_the_page_works_on(browser, address, hash_):
    with opened(browser) as page:
        page.goto(address + hash_)
        alert = page.get_by_role("alert")
        assert alert.inner_text().startswith("This link cannot be shown, and the page begins anew: ")
        assert page.locator(".ak-points g").count() == 5
        page.locator(".ak-points g").first.focus()
        page.keyboard.press("ArrowDown")
        assert not alert.is_visible()
        check(page)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_it_fits_and_can_be_read(browser, address, size, scheme):
    with opened(browser, size, color_scheme=scheme) as page:
        page.goto(f"{address}#n=25&shape=diagonal&stride=1")
        assert overflow(page) <= 0
        assert unnamed(page, ROOT_ELEMENT) == []
        for selector in (
            ".ak-controls label",
            ".ak-sum p",
            ".ak-reads",
            ".ak-table td",
            ".ak-yaml",
            ".ak-buttons button",
        ):
            assert contrast(page, selector) > 4.5, selector
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
        assert dark == (scheme == "dark")
