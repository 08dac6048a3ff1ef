# SPDX-License-Identifier: AGPL-3.0-or-later
"""The arithmetic of the page "Playground" is the package's: its script is run by `node` and held to `resample`."""

import random
import re

import pytest
import torch
import yaml
from conftest import ROOT
from pages import needs_node, number, run_script
from ultralytics.nn.tasks import DetectionModel

from ultralytics_akconv import SHAPES, AKConv, resample, sampling_points
from ultralytics_akconv.functional import BORDERS
from ultralytics_akconv.shapes import ORIGINS

MOST_POINTS = 25
FIXED = [name for name in SHAPES if name.startswith("paper_")]
SAMPLES = """
const values = [];
for (const [i, row] of input.offsets.entries())
  for (const [j, of] of row.entries())
    for (const [k, point] of input.points.entries())
      values.push(page.sample(input.map, [i * input.stride, j * input.stride], point, of[k], input.border).value);
return values;
"""
READS = """
const read = input.map.map((row) => row.map(() => 0));
for (const tap of page.sample(input.map, input.base, input.point, input.offset, input.border).reads)
  read[tap.row][tap.col] += tap.weight;
return read;
"""
STATE = "try { return page.parseState(input) } catch (error) { return error.message }"


def random_case(rng):
    """Return a map, a layer and its offsets: most samples on the map or near it, some far away or no number at all."""
    height, width, stride = rng.randint(1, 9), rng.randint(1, 9), rng.randint(1, 4)
    n = rng.randint(1, 9)
    shape = rng.choice([name for name in SHAPES if n == 5 or name not in FIXED])
    points = sampling_points(n, shape, rng.choice(ORIGINS))
    if rng.random() < 0.3:  # a shape of the reader's own, between pixels
        points = [(row + rng.uniform(-1, 1), col + rng.uniform(-1, 1)) for row, col in points]

    def offset():
        far = rng.choice([float("nan"), float("inf"), -float("inf"), 1e9, -1e5, 0.0, 1.0, -2.0, 0.5])
        return far if rng.random() < 0.1 else rng.gauss(0, 1.5)

    out = [(height - 1) // stride + 1, (width - 1) // stride + 1]
    return {
        "map": [[rng.gauss(0, 1) for _ in range(width)] for _ in range(height)],
        "points": points,
        "offsets": [[[[offset(), offset()] for _ in range(n)] for _ in range(out[1])] for _ in range(out[0])],
        "stride": stride,
        "border": rng.choice(BORDERS),
    }


def by_package(case):
    """Return all samples of a case by the package, in the order of the script's."""
    offsets = torch.tensor(case["offsets"], dtype=torch.float64)  # (h, w, N, 2)
    h, w, n, _ = offsets.shape
    offsets = offsets.permute(3, 2, 0, 1).reshape(1, 2 * n, h, w)
    x = torch.tensor(case["map"], dtype=torch.float64)[None, None]
    samples = resample(x, offsets, tuple(map(tuple, case["points"])), case["stride"], case["border"])
    return samples.reshape(h, n, w).permute(0, 2, 1).flatten()


@needs_node
def test_samples_of_the_page_equal_those_of_the_package_in_600_cases():
    rng = random.Random(0)
    cases = [random_case(rng) for _ in range(600)]
    seen = 0
    for case, values in zip(cases, run_script("akconv.js", SAMPLES, cases)):
        actual = torch.tensor([number(value) for value in values], dtype=torch.float64)
        torch.testing.assert_close(actual, by_package(case), rtol=0, atol=1e-12, equal_nan=True)
        seen += len(values)
    assert seen > 10_000


@needs_node
@pytest.mark.parametrize("border", BORDERS)
def test_the_pixels_that_the_page_says_are_read_are_those_with_a_gradient(border):
    rng = random.Random(1)
    cases = [
        {
            "map": [[0.0] * 6 for _ in range(5)],
            "base": [0, 0],
            "point": [rng.uniform(-3, 7), rng.uniform(-3, 8)],
            "offset": [rng.choice([0.0, 0.25, rng.uniform(-1, 1)]) for _ in range(2)],
            "border": border,
        }
        for _ in range(60)
    ]
    for case, weights in zip(cases, run_script("akconv.js", READS, cases)):
        x = torch.zeros(1, 1, 5, 6, dtype=torch.float64, requires_grad=True)
        offset = torch.tensor(case["offset"], dtype=torch.float64)[None, :, None, None].expand(1, 2, 5, 6)
        resample(x, offset, (tuple(case["point"]),), 1, border)[0, 0, 0, 0].backward()
        torch.testing.assert_close(torch.tensor(weights, dtype=torch.float64), x.grad[0, 0], rtol=0, atol=1e-12)


@needs_node
def test_shapes_of_the_page_are_those_of_the_package():
    assert run_script("akconv.js", "return [page.SHAPES, page.BORDERS, page.ORIGINS, page.MOST_POINTS]", [0]) == [
        [list(SHAPES), list(BORDERS), list(ORIGINS), MOST_POINTS]
    ]
    counts = range(1, MOST_POINTS + 1)
    cases = [(n, shape, origin) for shape in SHAPES for n in ([5] if shape in FIXED else counts) for origin in ORIGINS]
    for case, points in zip(cases, run_script("akconv.js", "return page.samplingPoints(...input)", cases)):
        assert [tuple(point) for point in points] == list(sampling_points(*case)), case


@needs_node
@pytest.mark.parametrize(
    "address",
    [
        "",
        "#n=9&shape=ring&border=clamp&stride=1",
        "#n=7&shape=cross&origin=center&border=zeros",
        "#n=3&shape=[[0,0],[0,2.5],[-1,1]]&stride=3",
        "#n=3&shape=[[0,0],[0,2.5],[-1,1]]&origin=center",
        "#shape=paper_c",
    ],
)
def test_the_row_to_copy_builds_the_layer_that_is_seen(address):
    body = "const s = page.parseState(input); return [page.yamlRow(s), s]"
    [[row, state]] = run_script("akconv-state.js", body, [address])
    [points] = run_script("akconv.js", "return page.samplingPoints(input.n, input.shape, input.origin)", [state])
    [parsed] = yaml.safe_load(row)
    parsed[0] = -1
    model = {"nc": 1, "backbone": [parsed], "head": [[[0], 1, "Detect", ["nc"]]]}
    [layer] = [m for m in DetectionModel(model, verbose=False).modules() if isinstance(m, AKConv)]
    assert [list(point) for point in layer.points] == points
    assert (layer.stride, layer.border, layer.out_channels) == (state["stride"], state["border"], 256)


@needs_node
def test_a_state_survives_its_address():
    rng = random.Random(2)
    addresses = []
    for _ in range(200):
        n = rng.choice([1, 2, 5, 9, 25])
        shape = rng.choice([name for name in SHAPES if n == 5 or name not in FIXED])
        if rng.random() < 0.3:
            shape = str([[k, round(rng.uniform(-3, 3), 2)] for k in range(n)]).replace(" ", "")
        stride = rng.randint(1, 4)
        offsets = [[round(rng.uniform(-8, 8), 2), 0.5] for _ in range(n)]
        at = [rng.randint(0, 7 // stride) for _ in range(2)]
        addresses.append(
            f"#n={n}&shape={shape}&origin={rng.choice(ORIGINS)}&border={rng.choice(BORDERS)}&stride={stride}"
            f"&at={at[0]},{at[1]}&point={rng.randrange(n)}&offsets={offsets}".replace(" ", "")
        )
    body = "const s = page.parseState(input); return [s, page.parseState(page.formatState(s))]"
    states = run_script("akconv-state.js", body, addresses)
    assert all(first == again for first, again in states)
    assert len({str(first) for first, _ in states}) > 190


@needs_node
@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("#n=0", "n must be a whole number from 1 to 25, got 0"),
        ("#n=26", "n must be a whole number from 1 to 25, got 26"),
        ("#n=5.5", "n must be a whole number from 1 to 25, got 5.5"),
        ("#n=", "n must be a whole number from 1 to 25, got "),
        ("#shape=star", f"shape must be one of {', '.join(SHAPES)}, got star"),
        ("#shape=__proto__", f"shape must be one of {', '.join(SHAPES)}, got __proto__"),
        ("#n=4&shape=paper_a", "n must be 5 for shape paper_a, got 4"),
        ("#n=2&shape=[[0,0]]", "shape must be 2 [row, col] pairs of numbers from -32 to 32, got [[0,0]]"),
        ("#n=1&shape=[[0,1e9]]", "shape must be 1 [row, col] pair of numbers from -32 to 32, got [[0,1e9]]"),
        ("#n=1&shape=[", "shape must be 1 [row, col] pair of numbers from -32 to 32, got ["),
        ("#n=2&shape=[[0,1],[0,1]]", "the points of a shape must differ, got [0, 1] twice"),
        ("#border=mirror", "border must be one of paper, clamp, zeros, got mirror"),
        ("#origin=left", "origin must be one of corner, center, got left"),
        ("#stride=5", "stride must be a whole number from 1 to 4, got 5"),
        ("#at=1", "at must be two whole numbers, as in 1,2, got 1"),
        ("#at=4,0", "at must be a whole number from 0 to 3, got 4"),
        ("#point=5", "point must be a whole number from 0 to 4, got 5"),
        ("#offsets=[[0,9],[0,0],[0,0],[0,0],[0,0]]", "offsets must be 5 [row, col] pairs of numbers from -8 to 8, got"),
        ('#offsets=[["0",9]]', "offsets must be 5 [row, col] pairs of numbers from -8 to 8, got"),
        ("#n=%E0%A4%A", "n must be a whole number from 1 to 25, got %E0%A4%A"),
        ("#colour=red", "the address may hold n, shape, origin, border, stride, at, point and offsets once each, got"),
        ("#n=5&n=6", "the address may hold n, shape, origin, border, stride, at, point and offsets once each, got n=6"),
        ("#n=" + "9" * 1000, "n must be a whole number from 1 to 25, got 9999999999999999999999999999999999999..."),
    ],
)
def test_nonsense_in_an_address_is_answered_with_what_is_allowed(address, message):
    [answer] = run_script("akconv-state.js", STATE, [address])
    assert isinstance(answer, str)
    assert answer.startswith(message)


@needs_node
def test_links_of_the_manual_into_the_playground_show_what_they_say():
    links = {
        (page.name, state.replace("&amp;", "&"))
        for page in [*(ROOT / "docs").rglob("*.md")]
        for state in re.findall(r'href="[^"#]*(#[^"]+=[^"]+)"', page.read_text("utf-8"))
    }
    assert {name for name, _ in links} >= {"operator.md", "playground.md"}
    answers = run_script("akconv-state.js", STATE, [state for _, state in sorted(links)])
    assert {link: answer for link, answer in zip(sorted(links), answers) if isinstance(answer, str)} == {}
