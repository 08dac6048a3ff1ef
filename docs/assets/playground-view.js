// SPDX-License-Identifier: AGPL-3.0-or-later
// What the page docs/playground.md looks like for a state: the drawing, the words and the controls. playground.js changes
// the state. See playground-page.js for what stands there at first, akconv.js for the arithmetic.
"use strict";

const AKConvView = (() => {
  const UNIT = 40; // of the drawing, a pixel of the map
  const { MAP, range } = AKConv;
  const map = AKConv.picture();

  const number = (v, digits = 4) => String(Number(v.toFixed(digits)) + 0).replace("-", "−");
  const place = (p, digits = 2) => `(${number(p[0], digits)}, ${number(p[1], digits)})`;
  const outside = (p) => p.some((v) => v < 0 || v > MAP - 1);
  const initial = (state) => AKConv.samplingPoints(state.n, state.shape, state.origin);
  const anchor = (state) => state.at.map((v) => v * state.stride);
  const weightOf = (sample, [r, c]) =>
    sample.reads.reduce((sum, read) => sum + (read.row === r && read.col === c ? read.weight : 0), 0);

  // Return what the points of an output pixel read, which is the one shown unless another is named.
  function samples(state, at = anchor(state)) {
    return initial(state).map((point, k) => AKConv.sample(map, at, point, state.offsets[k], state.border));
  }

  function make(name, attributes, parent, text) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== undefined) element.textContent = text;
    parent.append(element);
    return element;
  }

  // Return the page's view in an element. `on.choose(k)` is called where point k gets the focus, and `on.type(k, axis,
  // text)` where an offset is typed.
  function create(root, on) {
    root.innerHTML = AKConvPage;
    const find = (selector) => root.querySelector(selector);
    const svg = find("svg");
    const form = find("form");
    const [cells, taps, starts, points] = ["cells", "taps", "starts", "points"].map((name) => find(`.ak-${name}`));
    let state = null;
    let pixel = null; // [row, col] whose readers are shown

    // ---- Drawing ------------------------------------------------------------------------------------------------------

    function drawCells() {
      for (const r of range(MAP)) {
        for (const c of range(MAP)) {
          const light = 35 + Math.round(map[r][c] * 2.1);
          const box = { x: (c - 0.5) * UNIT, y: (r - 0.5) * UNIT, width: UNIT, height: UNIT };
          make("rect", { ...box, fill: `rgb(${light},${light},${light})`, class: "ak-cell" }, cells);
          const at = {
            x: (c + 0.44) * UNIT,
            y: (r + 0.44) * UNIT,
            class: light > 135 ? "ak-value ak-on-light" : "ak-value",
          };
          make("text", at, cells, map[r][c]);
        }
      }
    }

    // Show the map and all points, in steps of a pixel: the view stays while a point moves a little.
    function drawView(all) {
      const side = (axis) => all.map((s) => s.position[axis]);
      const low = [0, 1].map((axis) => Math.floor(Math.min(-0.9, ...side(axis)) - 0.1) - 0.65);
      const high = [0, 1].map((axis) => Math.ceil(Math.max(MAP - 0.1, ...side(axis)) + 0.1) + 0.65);
      svg.setAttribute("viewBox", [low[1], low[0], high[1] - low[1], high[0] - low[0]].map((v) => v * UNIT).join(" "));
    }

    function drawTaps(shown) {
      taps.replaceChildren();
      const total = new Map();
      for (const read of shown.reads) {
        const key = `${read.row},${read.col}`;
        total.set(key, (total.get(key) || 0) + read.weight);
        if (read.at[0] === read.row && read.at[1] === read.col) continue;
        // The pixel that is asked for lies beyond the map: which one is read in its place?
        const box = {
          x: (read.at[1] - 0.46) * UNIT,
          y: (read.at[0] - 0.46) * UNIT,
          width: 0.92 * UNIT,
          height: 0.92 * UNIT,
        };
        make("rect", { ...box, class: "ak-beyond" }, taps);
        if (state.border === "zeros") {
          make("text", { x: read.at[1] * UNIT, y: (read.at[0] + 0.1) * UNIT, class: "ak-beyond-text" }, taps, "0");
        } else {
          const line = { x1: read.at[1] * UNIT, y1: read.at[0] * UNIT, x2: read.col * UNIT, y2: read.row * UNIT };
          make("line", { ...line, class: "ak-moved" }, taps);
        }
      }
      for (const [key, weight] of total) {
        const [r, c] = key.split(",").map(Number);
        if (state.border === "zeros" && weight === 0) continue;
        const box = { x: (c - 0.47) * UNIT, y: (r - 0.47) * UNIT, width: 0.94 * UNIT, height: 0.94 * UNIT };
        make("rect", { ...box, class: "ak-tap", "fill-opacity": 0.12 + 0.4 * Math.min(weight, 1) }, taps);
        make("text", { x: (c - 0.43) * UNIT, y: (r - 0.24) * UNIT, class: "ak-weight" }, taps, number(weight, 2));
      }
      if (pixel) {
        const box = { x: (pixel[1] - 0.5) * UNIT, y: (pixel[0] - 0.5) * UNIT, width: UNIT, height: UNIT };
        make("rect", { ...box, class: "ak-cursor" }, taps);
      }
    }

    function drawPoints(all) {
      const [row, col] = anchor(state);
      const shape = initial(state);
      const readers = pixel ? all.map((s) => weightOf(s, pixel) !== 0) : [];
      starts.replaceChildren();
      make(
        "path",
        {
          d: `M${(col - 0.3) * UNIT} ${row * UNIT}h${0.6 * UNIT}M${col * UNIT} ${(row - 0.3) * UNIT}v${0.6 * UNIT}`,
          class: "ak-anchor",
        },
        starts,
      );
      shape.forEach(([r, c], k) => {
        const [y, x] = [(row + r) * UNIT, (col + c) * UNIT];
        make(
          "line",
          { x1: x, y1: y, x2: all[k].position[1] * UNIT, y2: all[k].position[0] * UNIT, class: "ak-way" },
          starts,
        );
        make("circle", { cx: x, cy: y, r: 6, class: "ak-start" }, starts);
      });
      while (points.children.length > state.n) points.lastChild.remove();
      while (points.children.length < state.n) {
        const point = make(
          "g",
          { tabindex: 0, role: "slider", "aria-roledescription": "point that arrow keys move" },
          points,
        );
        make("circle", { r: 18, class: "ak-hit" }, point);
        make("circle", { r: 9.5, class: "ak-dot" }, point);
        make("text", { y: 4, class: "ak-name" }, point, points.children.length);
        point.addEventListener("focus", () => on.choose([...points.children].indexOf(point)));
      }
      [...points.children].forEach((point, k) => {
        const { position, value } = all[k];
        point.setAttribute("transform", `translate(${position[1] * UNIT} ${position[0] * UNIT})`);
        point.classList.toggle("ak-outside", outside(position));
        point.classList.toggle("ak-chosen", k === state.point);
        point.classList.toggle("ak-reader", Boolean(readers[k]));
        point.setAttribute("aria-label", `Point ${k + 1} of ${state.n}`);
        point.setAttribute("aria-valuemin", -AKConv.MOST_OFFSET);
        point.setAttribute("aria-valuemax", AKConv.MOST_OFFSET);
        point.setAttribute("aria-valuenow", state.offsets[k][1]);
        const off = state.offsets[k].map((v) => number(v, 2));
        point.setAttribute(
          "aria-valuetext",
          `offset ${off[0]} rows, ${off[1]} columns; at row ${number(position[0], 2)}, column ${number(position[1], 2)}; sample ${number(value)}`,
        );
      });
    }

    // ---- Words --------------------------------------------------------------------------------------------------------

    function paragraph(parent, text, name) {
      const element = document.createElement("p");
      element.textContent = text;
      if (name) element.className = name;
      parent.append(element);
    }

    // Say which two pixels an axis lies between, and what the border rule makes of them.
    function axisWords(name, axis) {
      const [a, b] = axis.at;
      const between = `${name}s ${number(a)} and ${number(b)}, weights ${number(axis.weights[0])} and ${number(axis.weights[1])}`;
      if (axis.at[0] === axis.low && axis.at[1] === axis.high) return between;
      if (state.border === "zeros") return `${between}: what lies beyond the map is zero`;
      const twice = state.border === "paper" ? ", and counts twice" : "";
      return `${between}: both are ${name} ${axis.low}${twice}`;
    }

    function drawSum(shown) {
      const sum = find(".ak-sum");
      const k = state.point;
      sum.replaceChildren();
      const title = document.createElement("h3");
      title.textContent = `Point ${k + 1} of ${state.n}`;
      sum.append(title);
      const parts = `${place(anchor(state))} + ${place(initial(state)[k])} + ${place(state.offsets[k])}`;
      paragraph(sum, `position = output pixel × stride + start + offset = ${parts} = ${place(shown.position)}`);
      paragraph(sum, `${axisWords("row", shown.row)}; ${axisWords("column", shown.col)}`);
      const terms = shown.reads.map((read) => `${number(read.weight)} · ${read.pixel}`).join(" + ");
      paragraph(sum, `sample = ${terms} = ${number(shown.value)}`, "ak-value-line");
    }

    function drawReads(all) {
      const line = find(".ak-reads");
      if (!pixel) {
        line.textContent = "Point at a pixel, or tap it: this line says which samples read it.";
        return;
      }
      const [r, c] = pixel;
      const here = all.flatMap((s, k) => {
        const weight = weightOf(s, pixel);
        return weight ? [`point ${k + 1} with weight ${number(weight)}`] : [];
      });
      const side = AKConv.outputs(MAP, state.stride);
      const elsewhere = range(side * side).flatMap((o) => {
        const at = [Math.floor(o / side), o % side];
        return samples(
          state,
          at.map((v) => v * state.stride),
        )
          .filter((s) => weightOf(s, pixel) !== 0)
          .map(() => o);
      });
      const of = `${elsewhere.length} sample${elsewhere.length === 1 ? "" : "s"} of ${new Set(elsewhere).size} output pixels`;
      line.textContent =
        `Pixel (${r}, ${c}) holds ${map[r][c]} and is read by ${here.length ? here.join(", ") : "no point here"}. ` +
        `Were these the offsets everywhere, ${of} would read it.`;
      line.dataset.readers = elsewhere.length;
    }

    function drawTable(all) {
      const body = find("tbody");
      const shape = initial(state);
      while (body.children.length > state.n) body.lastChild.remove();
      while (body.children.length < state.n) {
        const k = body.children.length;
        const row = body.insertRow();
        row.innerHTML = `<th scope="row"></th><td></td>${["row", "column"]
          .map(
            (axis) =>
              `<td><input type="number" step="0.1" min="-${AKConv.MOST_OFFSET}" max="${AKConv.MOST_OFFSET}" aria-label="Offset of point ${k + 1}, ${axis}"></td>`,
          )
          .join("")}<td></td><td></td>`;
        row
          .querySelectorAll("input")
          .forEach((input, axis) => input.addEventListener("change", () => on.type(k, axis, input.value)));
      }
      [...body.children].forEach((row, k) => {
        const { position, value } = all[k];
        row.classList.toggle("ak-chosen", k === state.point);
        row.dataset.value = value;
        row.dataset.position = position.join();
        const texts = [k + 1, place(shape[k]), null, null, place(position), number(value)];
        texts.forEach((text, i) => text !== null && (row.cells[i].textContent = text));
        row.querySelectorAll("input").forEach((input, axis) => {
          if (input !== document.activeElement || Number(input.value) !== state.offsets[k][axis])
            input.value = state.offsets[k][axis];
        });
      });
    }

    function drawForm() {
      const own = typeof state.shape !== "string";
      for (const name of ["n", "stride", "origin", "border"]) form.elements[name].value = state[name];
      form.elements.shape.value = own ? "own" : state.shape;
      for (const name of Object.keys(AKConv.FIXED)) {
        [...form.elements.shape.options].find((o) => o.value === name).disabled = state.n !== 5;
      }
      find("[data-own]").hidden = !own;
      if (own && form.elements.own !== document.activeElement) form.elements.own.value = JSON.stringify(state.shape);
      form.elements.row.value = state.at[0];
      form.elements.col.value = state.at[1];
      for (const name of ["row", "col"]) form.elements[name].max = AKConv.outputs(MAP, state.stride) - 1;
    }

    // Show a state; `still` leaves what part of the plane is seen, which would run away under a finger.
    function draw(next, inspected, still) {
      [state, pixel] = [next, inspected];
      const all = samples(state);
      if (!still) drawView(all);
      drawTaps(all[state.point]);
      drawPoints(all);
      drawSum(all[state.point]);
      drawReads(all);
      drawTable(all);
      drawForm();
      find(".ak-yaml").textContent = AKConvState.yamlRow(state);
    }

    drawCells();
    return { cells, draw, find, form, points, svg };
  }

  return { UNIT, anchor, create, initial, place, samples };
})();
