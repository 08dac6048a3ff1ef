// SPDX-License-Identifier: AGPL-3.0-or-later
// The arithmetic of the page docs/playground.md: shapes, positions, bilinear samples, and the map that it shows.
// No document and no network: `node` runs it in the tests, against the package.
"use strict";

const AKConv = (() => {
  const BORDERS = ["paper", "clamp", "zeros"];
  const ORIGINS = ["corner", "center"];
  const MOST_POINTS = 25; // of the page; the package has 1024
  const MOST_OFFSET = 8; // px, of the page
  const MOST_COORDINATE = 32; // px, of a shape of the reader's own; the package has 4096
  const STRIDES = [1, 2, 3, 4];
  const MAP = 8; // pixels a side of the map on the page
  const REACH = 2 ** 22; // px; an offset beyond is off every map

  const range = (n) => Array.from({ length: n }, (_, i) => i);
  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

  // ---- Initial shapes, as in ultralytics_akconv/shapes.py -----------------------------------------------------------

  const FAMILIES = {
    default: (n) => {
      const columns = Math.round(Math.sqrt(n));
      return range(n).map((k) => [Math.floor(k / columns), k % columns]);
    },
    row: (n) => range(n).map((k) => [0, k]),
    column: (n) => range(n).map((k) => [k, 0]),
    diagonal: (n) => range(n).map((k) => [k, k]),
    cross: (n) => {
      const arms = [
        [-1, 0],
        [0, -1],
        [0, 1],
        [1, 0],
      ];
      const arm = (k) => arms[k % 4].map((v) => v * (Math.floor(k / 4) + 1));
      return [[0, 0], ...range(n - 1).map(arm)].sort(byRowAndColumn);
    },
    ring: (n) => {
      const radius = Math.max(1, n / (2 * Math.PI));
      const round = (v) => Number(v.toFixed(6));
      const angles = range(n).map((k) => (2 * Math.PI * k) / n);
      return angles.map((a) => [round(radius * Math.sin(a)), round(radius * Math.cos(a))]);
    },
    disk: (n) => {
      const reach = Math.floor(Math.sqrt(n));
      const side = range(2 * reach + 1).map((k) => k - reach);
      const cells = side.flatMap((r) => side.map((c) => [r, c]));
      const far = ([r, c]) => r * r + c * c;
      return cells
        .sort((a, b) => far(a) - far(b) || byRowAndColumn(a, b))
        .slice(0, n)
        .sort(byRowAndColumn);
    },
  };
  const FIXED = {
    paper_a: [
      [0, 0],
      [0, 2],
      [1, 1],
      [2, 0],
      [2, 2],
    ],
    paper_b: [
      [0, 0],
      [0, 1],
      [0, 2],
      [1, 0],
      [1, 2],
    ],
    paper_c: [
      [0, 0],
      [0, 1],
      [0, 2],
      [0, 3],
      [1, 2],
    ],
    paper_d: [
      [0, 0],
      [1, 1],
      [2, 2],
      [3, 3],
      [4, 4],
    ],
    paper_e: [
      [0, 0],
      [1, 1],
      [1, 2],
      [1, 3],
      [2, 0],
    ],
  };
  const SHAPES = [...Object.keys(FAMILIES), ...Object.keys(FIXED)];

  function byRowAndColumn(a, b) {
    return a[0] - b[0] || a[1] - b[1];
  }

  const least = (points, axis) => Math.min(...points.map((p) => p[axis]));
  const most = (points, axis) => Math.max(...points.map((p) => p[axis]));
  const roundHalfAway = (v) => Math.sign(v) * Math.floor(Math.abs(v) + 0.5);
  const shifted = (points, by) => points.map(([r, c]) => [r - by[0] + 0, c - by[1] + 0]); // + 0: no -0

  // Return the N initial [row, col] points of a shape, a name or a list of points.
  function samplingPoints(n, shape, origin) {
    let points = shape;
    if (typeof shape === "string") {
      points = FIXED[shape] || FAMILIES[shape](n);
      points = shifted(points, [least(points, 0), least(points, 1)]);
    }
    if (origin === "corner") return points.map((p) => [...p]);
    return shifted(
      points,
      [0, 1].map((axis) => roundHalfAway((least(points, axis) + most(points, axis)) / 2)),
    );
  }

  // ---- Samples, as in ultralytics_akconv/functional/taps.py ---------------------------------------------------------

  // Return the two pixels an axis of a sample lies between and their weights. `base` is where the output pixel lies,
  // `point` and `offset` move the sample from there. `at` are the pixels before the border rule, `low` and `high` after.
  function axisTaps(base, point, offset, size, border) {
    const held = clamp(offset, -REACH, REACH);
    const whole = Math.floor(point);
    const moved = held + (point - whole); // as the package does: the fraction is taken of small numbers alone
    const floor = Math.floor(moved);
    const fraction = moved - floor;
    const at = [base + whole + floor, base + whole + floor + 1];
    const [low, high] = at.map((pixel) => clamp(pixel, 0, size - 1));
    let weights = [1 - fraction, fraction];
    let factor = 1;
    if (border === "zeros") weights = weights.map((w, k) => (at[k] === [low, high][k] ? w : 0 * w));
    if (border === "paper" && low === high) factor = 2;
    return { at, low, high, fraction, factor, weights: weights.map((w) => w * factor) };
  }

  // Return one sample of a map (rows of numbers): its position, the four pixels it reads with their weights, its value.
  function sample(map, base, point, offset, border) {
    const size = [map.length, map[0].length];
    const [row, col] = [0, 1].map((axis) => axisTaps(base[axis], point[axis], offset[axis], size[axis], border));
    const reads = [0, 1].flatMap((k) =>
      [0, 1].map((m) => {
        const [r, c] = [[row.low, row.high][k], [col.low, col.high][m]];
        const weight = row.weights[k] * col.weights[m];
        return { row: r, col: c, at: [row.at[k], col.at[m]], weight, pixel: Number.isNaN(weight) ? NaN : map[r][c] };
      }),
    );
    const position = [0, 1].map((axis) => base[axis] + point[axis] + offset[axis]);
    return { position, row, col, reads, value: reads.reduce((sum, read) => sum + read.weight * read.pixel, 0) };
  }

  // Return how many output pixels an axis of a map has.
  const outputs = (size, stride) => Math.floor((size - 1) / stride) + 1;

  // ---- The map that the page shows ----------------------------------------------------------------------------------

  // A bright spot on a slope: whole numbers from 0 to 99, so that samples can be checked by hand.
  const picture = () =>
    range(MAP).map((r) =>
      range(MAP).map((c) => Math.round(12 + 3 * r + 2 * c + 58 * Math.exp(-((r - 2.6) ** 2 + (c - 4.2) ** 2) / 5))),
    );

  return {
    BORDERS,
    FIXED,
    MAP,
    MOST_COORDINATE,
    MOST_OFFSET,
    MOST_POINTS,
    ORIGINS,
    SHAPES,
    STRIDES,
    axisTaps,
    clamp,
    outputs,
    picture,
    range,
    sample,
    samplingPoints,
  };
})();

if (typeof module !== "undefined") module.exports = AKConv;
