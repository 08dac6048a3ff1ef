// SPDX-License-Identifier: AGPL-3.0-or-later
// The arithmetic of the two pages that show AKConv in a browser: shapes, positions, bilinear samples, the address.
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

  // ---- State and its address ----------------------------------------------------------------------------------------

  const START = { n: 5, shape: "default", origin: "corner", border: "paper", stride: 2, at: [1, 1], point: 0 };
  const start = () => ({ ...START, at: [...START.at], offsets: range(START.n).map(() => [0, 0]) });

  const short = (text) => (text.length > 40 ? `${text.slice(0, 37)}...` : text);

  class StateError extends Error {}

  function refuse(key, text, allowed) {
    throw new StateError(`${key} must be ${allowed}, got ${short(String(text))}`);
  }

  function whole(key, text, low, high) {
    const value = /^-?\d+$/.test(text) ? Number(text) : NaN;
    if (!(value >= low && value <= high)) refuse(key, text, `a whole number from ${low} to ${high}`);
    return value;
  }

  function oneOf(key, text, names) {
    if (!names.includes(text)) refuse(key, text, `one of ${names.join(", ")}`);
    return text;
  }

  // Return the pairs of numbers of a text such as [[0, 0], [0.5, 1]].
  function pairs(key, text, count, bound) {
    let list;
    try {
      list = JSON.parse(text);
    } catch {
      list = null;
    }
    const pair = (p) =>
      Array.isArray(p) && p.length === 2 && p.every((v) => typeof v === "number" && Math.abs(v) <= bound);
    const wanted = `${count} [row, col] pair${count === 1 ? "" : "s"} of numbers from -${bound} to ${bound}`;
    if (!Array.isArray(list) || list.length !== count || !list.every(pair)) refuse(key, text, wanted);
    return list.map((p) => p.map((v) => v + 0));
  }

  // Return the points of a shape of the reader's own.
  function ownShape(text, n) {
    const points = pairs("shape", text, n, MOST_COORDINATE);
    const same = points.find((p, k) => points.slice(0, k).some((q) => q[0] === p[0] && q[1] === p[1]));
    if (same) throw new StateError(`the points of a shape must differ, got [${same.join(", ")}] twice`);
    return points;
  }

  // Return the state that an address ends in; all that it leaves out is as at the start.
  function parseState(hash) {
    const state = start();
    const given = new Map();
    for (const part of hash.replace(/^#/, "").split("&").filter(Boolean)) {
      const [key, ...rest] = part.split("=");
      if (!["n", "shape", "origin", "border", "stride", "at", "point", "offsets"].includes(key) || given.has(key)) {
        throw new StateError(
          `the address may hold n, shape, origin, border, stride, at, point and offsets once each, got ${short(part)}`,
        );
      }
      given.set(key, decoded(rest.join("=")));
    }
    const text = (key, use) => given.has(key) && use(given.get(key));
    text("n", (t) => (state.n = whole("n", t, 1, MOST_POINTS)));
    text("shape", (t) => (state.shape = t.startsWith("[") ? ownShape(t, state.n) : oneOf("shape", t, SHAPES)));
    if (FIXED[state.shape] && state.n !== 5) refuse("n", state.n, `5 for shape ${state.shape}`);
    text("origin", (t) => (state.origin = oneOf("origin", t, ORIGINS)));
    text("border", (t) => (state.border = oneOf("border", t, BORDERS)));
    text("stride", (t) => (state.stride = whole("stride", t, STRIDES[0], STRIDES.at(-1))));
    const last = outputs(MAP, state.stride) - 1;
    state.at = state.at.map((v) => Math.min(v, last));
    text("at", (t) => {
      const both = t.split(",");
      if (both.length !== 2) refuse("at", t, "two whole numbers, as in 1,2");
      state.at = both.map((v) => whole("at", v, 0, last));
    });
    text("point", (t) => (state.point = whole("point", t, 0, state.n - 1)));
    state.offsets = range(state.n).map(() => [0, 0]);
    text("offsets", (t) => (state.offsets = pairs("offsets", t, state.n, MOST_OFFSET)));
    return state;
  }

  function decoded(text) {
    try {
      return decodeURIComponent(text);
    } catch {
      return text; // and is refused by what reads it
    }
  }

  const list = (points) => `[${points.map((p) => `[${p.join(",")}]`).join(",")}]`;

  // Return what an address ends in for a state: what differs from the start.
  function formatState(state) {
    const parts = [];
    const add = (key, value, usual) => value !== usual && parts.push(`${key}=${value}`);
    add("n", state.n, START.n);
    add("shape", typeof state.shape === "string" ? state.shape : list(state.shape), START.shape);
    for (const key of ["origin", "border", "stride"]) add(key, state[key], START[key]);
    const last = outputs(MAP, state.stride) - 1;
    add("at", state.at.join(), START.at.map((v) => Math.min(v, last)).join());
    add("point", state.point, START.point);
    if (state.offsets.some((p) => p[0] || p[1])) parts.push(`offsets=${list(state.offsets)}`);
    return parts.length ? `#${parts.join("&")}` : "";
  }

  // Return the row of a model YAML that builds what is seen; options that are the default are left out.
  function yamlRow(state) {
    const options = [];
    if (typeof state.shape !== "string") options.push(`shape: ${list(state.shape).replaceAll(",", ", ")}`);
    else if (state.shape !== START.shape) options.push(`shape: ${state.shape}`);
    for (const key of ["border", "origin"]) if (state[key] !== START[key]) options.push(`${key}: ${state[key]}`);
    const mapping = options.length ? `, {${options.join(", ")}}` : "";
    return `- [-1, 1, AKConv, [256, ${state.n}, ${state.stride}${mapping}]]`;
  }

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
    StateError,
    axisTaps,
    clamp,
    formatState,
    outputs,
    ownShape,
    parseState,
    picture,
    range,
    sample,
    samplingPoints,
    start,
    yamlRow,
  };
})();

if (typeof module !== "undefined") module.exports = AKConv;
