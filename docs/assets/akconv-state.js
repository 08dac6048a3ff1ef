// SPDX-License-Identifier: AGPL-3.0-or-later
// What the page docs/playground.md shows, as a state: from the address and into it, and as the row of a model YAML.
// No document and no network: `node` runs it in the tests, against the package.
"use strict";

const AKConvState = ((AKConv) => {
  const { BORDERS, FIXED, MAP, MOST_COORDINATE, MOST_OFFSET, MOST_POINTS } = AKConv;
  const { ORIGINS, SHAPES, STRIDES, outputs, range } = AKConv;

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

  return { StateError, formatState, ownShape, parseState, start, yamlRow };
})(typeof module === "undefined" ? AKConv : require("./akconv.js"));

if (typeof module !== "undefined") module.exports = AKConvState;
