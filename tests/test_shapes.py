# SPDX-License-Identifier: AGPL-3.0-or-later
import math

import pytest
import reference

from ultralytics_akconv import SHAPES, sampling_points
from ultralytics_akconv.shapes import MAX_NUM_PARAM

FAMILIES = ("default", "row", "column", "diagonal", "cross", "ring", "disk")
PAPER = {  # the paper's ablation, (row, col)
    "paper_a": [(0, 0), (0, 2), (1, 1), (2, 0), (2, 2)],
    "paper_b": [(0, 0), (0, 1), (0, 2), (1, 0), (1, 2)],
    "paper_c": [(0, 0), (0, 1), (0, 2), (0, 3), (1, 2)],
    "paper_d": [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4)],
    "paper_e": [(0, 0), (1, 1), (1, 2), (1, 3), (2, 0)],
}


def test_the_worked_example_of_the_module_docstring():
    points = sampling_points(5)
    assert points == ((0, 0), (0, 1), (1, 0), (1, 1), (2, 0))
    assert [(3 * 2 + row, 4 * 2 + col) for row, col in points] == [(6, 8), (6, 9), (7, 8), (7, 9), (8, 8)]


def test_the_default_shape_is_the_published_generation_of_coordinates():
    for num_param in (*range(1, 50), MAX_NUM_PARAM):
        assert list(sampling_points(num_param)) == reference.initial_points(num_param), num_param


def test_the_names_are_the_families_and_the_shapes_of_the_ablation():
    assert (*FAMILIES, *PAPER) == SHAPES


def test_the_five_shapes_of_the_ablation_are_the_papers():
    assert {name: list(sampling_points(5, name)) for name in PAPER} == PAPER


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_gives_n_different_points_with_the_top_left_at_zero(name):
    for num_param in (*range(1, 10), 13, 25, 31, MAX_NUM_PARAM):
        points = sampling_points(num_param, name)
        assert len(points) == len(set(points)) == num_param
        assert min(row for row, _ in points) == min(col for _, col in points) == 0
        assert all(isinstance(value, float) and math.isfinite(value) for point in points for value in point)


def test_the_families_look_like_their_names():
    assert sampling_points(3, "row") == ((0, 0), (0, 1), (0, 2))
    assert sampling_points(3, "column") == ((0, 0), (1, 0), (2, 0))
    assert sampling_points(3, "diagonal") == ((0, 0), (1, 1), (2, 2))
    plus = ((0, 1), (1, 0), (1, 1), (1, 2), (2, 1))
    assert sampling_points(5, "cross") == plus
    assert sampling_points(5, "disk") == plus
    assert sampling_points(9, "cross", "center") == (
        *((-2, 0), (-1, 0)), *((0, -2), (0, -1), (0, 0), (0, 1), (0, 2)), *((1, 0), (2, 0))
    )  # fmt: skip
    assert sampling_points(9, "disk") == sampling_points(9)
    assert sampling_points(4, "ring", "center") == ((0, 1), (1, 0), (0, -1), (-1, 0))


def test_a_disk_is_the_pixels_nearest_to_its_centre():
    cells = [(row, col) for row in range(-20, 21) for col in range(-20, 21)]
    cells.sort(key=lambda cell: (cell[0] ** 2 + cell[1] ** 2, cell))
    for num_param in (*range(1, 60), 250, MAX_NUM_PARAM):
        nearest = sorted(cells[:num_param])
        top, left = min(row for row, _ in nearest), min(col for _, col in nearest)
        disk = [(row - top, col - left) for row, col in nearest]
        assert list(sampling_points(num_param, "disk")) == disk, num_param


def test_a_ring_is_a_circle_rounded_to_a_millionth_of_a_pixel():
    points = sampling_points(7, "ring")
    radius = 7 / (2 * math.pi)
    circle = [(radius * math.sin(2 * math.pi * n / 7), radius * math.cos(2 * math.pi * n / 7)) for n in range(7)]
    top, left = (min(axis) for axis in zip(*circle))
    for point, (row, col) in zip(points, circle):
        assert point == pytest.approx((row - top, col - left), abs=1.1e-6)
        assert point == pytest.approx([round(value, 6) for value in point], abs=1e-12)


def test_neighbours_on_a_large_ring_are_about_a_pixel_apart():
    points = sampling_points(40, "ring")
    gaps = [math.dist(points[n - 1], points[n]) for n in range(40)]
    assert 0.99 < min(gaps) <= max(gaps) < 1.01


def test_the_centre_origin_puts_the_middle_of_the_bounding_box_on_the_pixel():
    for name, sizes in {**dict.fromkeys(FAMILIES, (1, 2, 5, 6, 9)), **dict.fromkeys(PAPER, (5,))}.items():
        for num_param in sizes:
            corner, centre = sampling_points(num_param, name), sampling_points(num_param, name, "center")
            assert centre == tuple(reference.centred(corner)), (name, num_param)


def test_the_centred_3x3_covers_what_a_convolution_covers():
    square = [(row, col) for row in (-1, 0, 1) for col in (-1, 0, 1)]
    assert list(sampling_points(9, origin="center")) == square


def test_halves_round_away_from_zero_on_both_sides():
    assert sampling_points(2, [[0, 0], [1, 1]], "center") == ((-1, -1), (0, 0))
    assert sampling_points(2, [[0, 0], [-1, -1]], "center") == ((1, 1), (0, 0))


def test_an_explicit_list_is_taken_as_it_is():
    assert sampling_points(2, [[-1.5, 0.25], (3, 4)]) == ((-1.5, 0.25), (3.0, 4.0))
    assert sampling_points(1, [[-4096, 4096]]) == ((-4096.0, 4096.0),)  # the farthest that is allowed


def test_a_centred_list_holds_no_negative_zero():
    points = sampling_points(3, [[-1, 1], [-0.0, -0.0], [1, -1]], "center")
    assert [math.copysign(1, value) for value in points[1]] == [1, 1]


@pytest.mark.parametrize(
    ("num_param", "shape", "origin", "error", "message"),
    [
        (5, "crss", "corner", ValueError, "unknown shape 'crss': use one of default, row.*or a list"),
        (5, "", "corner", ValueError, "unknown shape ''"),
        (6, "paper_a", "corner", ValueError, "'paper_a' has 5 points, num_param is 6"),
        (3, [[0, 0], [0, 1]], "corner", ValueError, r"num_param=3 \[row, col\] points, got 2"),
        (2, [[0, 0], [0, 0.0]], "corner", ValueError, r"must differ, got \[0, 0.0\] twice"),
        (2, [[0.0, 0], [-0.0, 0]], "corner", ValueError, "must differ"),
        (1, [[math.nan, 0]], "corner", ValueError, r"finite and within 4096 px, got \[nan, 0\]"),
        (1, [[0, math.inf]], "corner", ValueError, "finite and within 4096 px"),
        (1, [[0, 1e5]], "corner", ValueError, "finite and within 4096 px"),
        (1, [[10**400, 0]], "corner", ValueError, "finite and within 4096 px"),
        (1, [[0, 0, 0]], "corner", ValueError, r"a \[row, col\] pair, got \[0, 0, 0\]"),
        (1, ["ab"], "corner", ValueError, "pair, got 'ab'"),
        (1, [["0", 0]], "corner", TypeError, r"coordinates of a shape must be numbers, got \['0', 0\]"),
        (1, [[True, 0]], "corner", TypeError, "must be numbers"),
        (1, [[[[[]]]]], "corner", ValueError, "pair"),
        (1, {"a": 1}, "corner", TypeError, r"a name or a list of .*got \{'a': 1\} \(dict\)"),
        (1, None, "corner", TypeError, "got None"),
        (5, "default", "middle", ValueError, "origin must be one of corner, center, got 'middle'"),
        (5, "default", None, ValueError, "origin must be one of"),
        (0, "default", "corner", ValueError, "from 1 to 1024, got 0"),
        (-3, "default", "corner", ValueError, "got -3"),
        (10**9, "ring", "corner", ValueError, "from 1 to 1024, got 1000000000"),
        (2.0, "default", "corner", TypeError, r"must be an int, got 2.0 \(float\)"),
        ("5", "default", "corner", TypeError, r"must be an int, got '5' \(str\)"),
        (True, "default", "corner", TypeError, "must be an int, got True"),
    ],
)
def test_bad_input_is_refused_with_what_is_allowed(num_param, shape, origin, error, message):
    with pytest.raises(error, match=message):
        sampling_points(num_param, shape, origin)


def test_a_million_points_are_refused_before_they_are_read():
    class Unreadable(list):
        def __iter__(self):
            raise AssertionError("was read")

    with pytest.raises(ValueError, match="got 1000000"):
        sampling_points(5, Unreadable([[0, 0]] * 1_000_000))
