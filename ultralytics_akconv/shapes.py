# SPDX-License-Identifier: AGPL-3.0-or-later
"""Initial sampling shapes: where the N points of an AKConv lie before the offsets move them.

A point is `(row, col)` in input pixels, relative to the output pixel's anchor `(i * stride, j * stride)`; an integer is
a pixel centre. Example: N=5 with the default shape is (0,0) (0,1) (1,0) (1,1) (2,0), so output pixel (3, 4) at stride 2
starts out reading input pixels (6,8) (6,9) (7,8) (7,9) (8,8); `tests/test_shapes.py` holds this example.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Real
from reprlib import repr  # of a shape from a file: a million numbers or brackets make a short message, too

Points = tuple[tuple[float, float], ...]

MAX_NUM_PARAM = 1024  # far above any use (a 31x31 kernel has 961 weights); keeps a typo from exhausting the memory
MAX_COORDINATE = 4096.0  # input pixels; coordinates stay exact in float32 next to any image size
ORIGINS = ("corner", "center")


def _default(num_param: int) -> Points:
    """The paper's generated coordinates: a grid of about sqrt(N) columns, the remainder as one more row."""
    columns = round(math.sqrt(num_param))
    return tuple((float(n // columns), float(n % columns)) for n in range(num_param))


def _row(num_param: int) -> Points:
    """A horizontal line."""
    return tuple((0.0, float(n)) for n in range(num_param))


def _column(num_param: int) -> Points:
    """A vertical line."""
    return tuple((float(n), 0.0) for n in range(num_param))


def _diagonal(num_param: int) -> Points:
    """A line from the top left to the bottom right."""
    return tuple((float(n), float(n)) for n in range(num_param))


def _cross(num_param: int) -> Points:
    """A plus sign: the centre, then arms growing up, left, right and down in turn."""
    arms = ((-1, 0), (0, -1), (0, 1), (1, 0))
    points = [(0.0, 0.0)]
    for n in range(num_param - 1):
        row, col = arms[n % 4]
        length = n // 4 + 1
        points.append((float(row * length), float(col * length)))
    return tuple(sorted(points))


def _ring(num_param: int) -> Points:
    """A circle of points about one pixel apart (radius at least one pixel, from the right, clockwise)."""
    radius = max(1.0, num_param / (2 * math.pi))
    angles = [2 * math.pi * n / num_param for n in range(num_param)]
    return tuple((round(radius * math.sin(a), 6), round(radius * math.cos(a), 6)) for a in angles)


def _disk(num_param: int) -> Points:
    """The N pixels nearest to the centre (ties in row-major order): N=5 is a plus, N=9 the 3x3 square."""
    reach = math.isqrt(num_param)  # a disk of N pixels is narrower than a square of N
    cells = [(float(r), float(c)) for r in range(-reach, reach + 1) for c in range(-reach, reach + 1)]
    return tuple(sorted(sorted(cells, key=lambda p: (p[0] ** 2 + p[1] ** 2, p))[:num_param]))


_FAMILIES: dict[str, Callable[[int], Points]] = {
    "default": _default,
    "row": _row,
    "column": _column,
    "diagonal": _diagonal,
    "cross": _cross,
    "ring": _ring,
    "disk": _disk,
}

# The five 5-point shapes of the paper's ablation on VisDrone (arXiv 2311.11587).
_FIXED: dict[str, Points] = {
    "paper_a": ((0, 0), (0, 2), (1, 1), (2, 0), (2, 2)),
    "paper_b": ((0, 0), (0, 1), (0, 2), (1, 0), (1, 2)),
    "paper_c": ((0, 0), (0, 1), (0, 2), (0, 3), (1, 2)),
    "paper_d": ((0, 0), (1, 1), (2, 2), (3, 3), (4, 4)),
    "paper_e": ((0, 0), (1, 1), (1, 2), (1, 3), (2, 0)),
}

SHAPES: tuple[str, ...] = (*_FAMILIES, *_FIXED)


def check_int(name: str, value: int, least: int | None = None) -> int:
    """Return `value` if it is an int, and not below `least`.

    Raises:
        TypeError: If it is not an int.
        ValueError: If it is below `least`.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {value!r} ({type(value).__name__})")
    if least is not None and value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return value


def check_num_param(num_param: int) -> int:
    """Return `num_param` if it is an int from 1 to `MAX_NUM_PARAM`.

    Raises:
        TypeError: If it is not an int.
        ValueError: If it is out of range.
    """
    check_int("num_param", num_param)
    if not 1 <= num_param <= MAX_NUM_PARAM:
        raise ValueError(f"num_param must be from 1 to {MAX_NUM_PARAM}, got {num_param}")
    return num_param


def _check_points(points: Sequence, num_param: int) -> Points:
    """Return an explicit list of `[row, col]` pairs as points, or raise the error that says what is wrong with it."""
    if len(points) != num_param:
        raise ValueError(f"shape must have num_param={num_param} [row, col] points, got {len(points)}")
    checked = []
    for point in points:
        if not isinstance(point, (list, tuple)) or len(point) != 2:
            raise ValueError(f"every point of a shape must be a [row, col] pair, got {repr(point)}")
        if any(isinstance(v, bool) or not isinstance(v, Real) for v in point):
            raise TypeError(f"the coordinates of a shape must be numbers, got {repr(point)}")
        if not all(abs(v) <= MAX_COORDINATE for v in point):  # False for NaN and inf too; an int may not fit a float
            raise ValueError(
                f"the coordinates of a shape must be finite and within {MAX_COORDINATE:g} px, got {repr(point)}"
            )
        row, col = (float(v) for v in point)
        if (row, col) in checked:
            raise ValueError(f"the points of a shape must differ, got {repr(point)} twice")
        checked.append((row, col))
    return tuple(checked)


def check_points(points: Sequence) -> Points:
    """Return points given as pairs of numbers as tuples of floats.

    Raises:
        TypeError: If they are no list, or a coordinate is no number.
        ValueError: If there is none, or a pair is not allowed.
    """
    if not isinstance(points, (list, tuple)):
        raise TypeError(f"points must be a list of (row, col) pairs, got {repr(points)} ({type(points).__name__})")
    if not points:
        raise ValueError("points must hold at least one (row, col) pair, got none")
    return _check_points(points, len(points))


def _round_half_away(value: float) -> float:
    """Round to the nearest integer, halves away from zero: 0.5 -> 1, -0.5 -> -1."""
    return math.copysign(math.floor(abs(value) + 0.5), value)


def _shift(points: Points, origin: Points | tuple[float, float]) -> Points:
    """Move the points so that `origin` becomes (0, 0); adding 0.0 turns -0.0 into 0.0."""
    return tuple((row - origin[0] + 0.0, col - origin[1] + 0.0) for row, col in points)


def sampling_points(
    num_param: int, shape: str | Sequence[Sequence[float]] = "default", origin: str = "corner"
) -> Points:
    """Return the N initial sampling points of an AKConv.

    Args:
        num_param: Number of sampling points N, 1 to 1024.
        shape: A name of `SHAPES`, or N explicit `[row, col]` pairs in input pixels (floats and negatives allowed).
        origin: "corner" (the paper): a named shape's top-left lies on the anchor, an explicit list is taken as it is.
            "center": the middle of the bounding box, rounded half away from zero per axis, lies on the anchor.

    Returns:
        N pairs `(row, col)` of floats, in input pixels relative to the anchor.

    Raises:
        TypeError: If `num_param` is no int, a coordinate no number, or `shape` neither a name nor a list.
        ValueError: If a value is not allowed; the message says what is.

    Example:
        >>> sampling_points(5)
        ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0), (2.0, 0.0))
    """
    check_num_param(num_param)
    if origin not in ORIGINS:
        raise ValueError(f"origin must be one of {', '.join(ORIGINS)}, got {origin!r}")
    if isinstance(shape, str):
        points = _named_points(num_param, shape)
    elif isinstance(shape, (list, tuple)):
        points = _check_points(shape, num_param)
    else:
        raise TypeError(
            f"shape must be a name or a list of [row, col] points, got {repr(shape)} ({type(shape).__name__})"
        )
    if origin == "corner":
        return points
    rows, cols = zip(*points)
    return _shift(
        points, (_round_half_away((min(rows) + max(rows)) / 2), _round_half_away((min(cols) + max(cols)) / 2))
    )


def _named_points(num_param: int, shape: str) -> Points:
    """Return a named shape with its top-left at (0, 0)."""
    if shape in _FIXED:
        points = _FIXED[shape]
        if len(points) != num_param:
            raise ValueError(f"shape {shape!r} has {len(points)} points, num_param is {num_param}")
    elif shape in _FAMILIES:
        points = _FAMILIES[shape](num_param)
    else:
        raise ValueError(f"unknown shape {repr(shape)}: use one of {', '.join(SHAPES)}, or a list of [row, col] points")
    rows, cols = zip(*points)
    return _shift(points, (min(rows), min(cols)))
