// SPDX-License-Identifier: AGPL-3.0-or-later
// The page docs/playground.md: what a reader drags, types and chooses changes a state, which stands in the address. See
// playground-view.js for what is drawn.
"use strict";

(() => {
  const root = document.getElementById("akconv-playground");
  if (!root) return;

  const STEP = 0.1; // px, an arrow key
  const PAUSE = 400; // ms, between changes of the address
  const { MAP, range, clamp } = AKConv;
  const { UNIT, anchor, initial, place, samples } = AKConvView;
  const { cells, draw: show, find, form, points, svg } = AKConvView.create(root, { choose, type });
  let state = AKConvState.start();
  let pixel = null; // [row, col] whose readers are shown
  let drag = null;
  let keeping = null; // the timer of a change of the address

  const rounded = (v) => Math.round(v * 100) / 100 + 0;

  function draw() {
    show(state, pixel, drag !== null);
    root.dataset.state = AKConvState.formatState(state);
  }

  function complain(text) {
    const error = find(".ak-error");
    error.textContent = text ? `${text[0].toUpperCase()}${text.slice(1)}.` : "";
    error.hidden = !text;
  }

  function changed() {
    complain("");
    draw();
    keep();
  }

  const link = () => location.pathname + location.search + AKConvState.formatState(state);

  // Put the state into the address, without an entry in the history, and not for every pixel of a drag: browsers refuse
  // more than some hundred changes in half a minute.
  function keep() {
    if (keeping) return;
    keeping = setTimeout(() => {
      keeping = null;
      history.replaceState(null, "", link());
    }, PAUSE);
  }

  function choose(k) {
    if (k === state.point) return;
    state.point = k;
    changed();
  }

  // Take an offset as it was typed.
  function type(k, axis, text) {
    const most = AKConv.MOST_OFFSET;
    if (text === "" || !(Math.abs(Number(text)) <= most)) {
      complain(`an offset must be a number from -${most} to ${most}, got ${text || "nothing"}`);
      return draw();
    }
    state.offsets[k][axis] = Number(text);
    state.point = k;
    return changed();
  }

  // Move a point by [rows, columns] from where it was: its offset, or its start in the shape.
  function move({ k, offset, begin }, by) {
    if (form.elements.moves.value === "offsets") {
      state.offsets[k] = offset.map((v, axis) => rounded(clamp(v + by[axis], -AKConv.MOST_OFFSET, AKConv.MOST_OFFSET)));
      return changed();
    }
    const most = AKConv.MOST_COORDINATE;
    const shape = initial(state);
    shape[k] = begin.map((v, axis) => rounded(clamp(v + by[axis], -most, most)));
    const taken = shape.some((p, m) => m !== k && p[0] === shape[k][0] && p[1] === shape[k][1]);
    if (taken) return complain(`the points of a shape must differ, and another lies at ${place(shape[k])}`);
    state.shape = shape;
    state.origin = "corner"; // a list is taken as it is, so nothing jumps
    return changed();
  }

  const held = (k) => ({ k, offset: [...state.offsets[k]], begin: initial(state)[k] });

  // Take over a state as if it stood in an address, whose rules are the page's.
  function take(change) {
    try {
      state = AKConvState.parseState(AKConvState.formatState({ ...state, ...change }));
    } catch (error) {
      if (!(error instanceof AKConvState.StateError)) throw error;
      complain(error.message);
      return draw();
    }
    return changed();
  }

  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("change", (event) => {
    const { name, value } = event.target;
    const last = (stride) => AKConv.outputs(MAP, stride) - 1;
    if (name === "n") {
      const n = Number(value);
      const kept = { n: value, point: Math.min(state.point, Math.max(n - 1, 0)) };
      const whole = Number.isInteger(n) && n >= 1 && n <= AKConv.MOST_POINTS;
      if (whole) kept.offsets = range(n).map((k) => state.offsets[k] || [0, 0]);
      if (typeof state.shape !== "string" && whole) kept.shape = resized(state.shape, n);
      if (AKConv.FIXED[state.shape] && whole && n !== 5) kept.shape = "default";
      take(kept);
    } else if (name === "shape") {
      take({ shape: value === "own" ? initial(state) : value, ...(value === "own" ? { origin: "corner" } : {}) });
    } else if (name === "own") {
      try {
        take({ shape: AKConvState.ownShape(value, state.n) });
      } catch (error) {
        if (!(error instanceof AKConvState.StateError)) throw error;
        complain(error.message);
      }
    } else if (name === "stride") {
      take({ stride: Number(value), at: state.at.map((v) => Math.min(v, last(Number(value)))) });
    } else if (name === "row" || name === "col") {
      take({ at: [form.elements.row.value, form.elements.col.value] });
    } else if (name === "origin" || name === "border") {
      take({ [name]: value });
    }
  });

  // Return a shape of the reader's own with another number of points: new ones follow below.
  function resized(shape, n) {
    const below = Math.ceil(Math.max(...shape.map((p) => p[0]))) + 1;
    return range(n).map((k) => shape[k] || [below + k - shape.length, 0]);
  }

  form.addEventListener("click", (event) => {
    const what = event.target.dataset.do;
    if (what === "zero") state.offsets = range(state.n).map(() => [0, 0]);
    else if (what === "random")
      state.offsets = range(state.n).map(() => [0, 1].map(() => rounded(Math.random() * 2 - 1)));
    else return;
    changed();
  });

  const underPointer = (event) => {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    return [at.y / UNIT, at.x / UNIT];
  };

  svg.addEventListener("pointerdown", (event) => {
    const at = underPointer(event);
    inspect(at);
    if (!event.target.closest(".ak-points") || event.button !== 0) return;
    // Targets are as large as a fingertip and overlap: the nearest is meant.
    const far = samples(state).map((s) => Math.hypot(s.position[0] - at[0], s.position[1] - at[1]));
    const k = far.indexOf(Math.min(...far));
    event.preventDefault();
    points.children[k].focus({ preventScroll: true });
    choose(k);
    drag = { ...held(k), at };
    svg.setPointerCapture(event.pointerId);
  });
  // `touch-action` does not reach into a drawing in every browser: without this the page scrolls instead.
  points.addEventListener("touchstart", (event) => event.preventDefault(), { passive: false });
  svg.addEventListener("pointermove", (event) => {
    const at = underPointer(event);
    if (drag)
      move(
        drag,
        at.map((v, axis) => v - drag.at[axis]),
      );
    else if (event.pointerType !== "touch") inspect(at);
  });
  for (const name of ["pointerup", "pointercancel"]) {
    svg.addEventListener(name, () => {
      if (!drag) return;
      drag = null;
      draw();
    });
  }
  svg.addEventListener("pointerleave", (event) => {
    if (!drag && event.pointerType !== "touch" && pixel) {
      pixel = null;
      draw();
    }
  });

  function inspect(at) {
    const next = at.map((v) => Math.round(v));
    const on = next.every((v) => v >= 0 && v < MAP);
    if (on ? pixel && next[0] === pixel[0] && next[1] === pixel[1] : !pixel) return;
    pixel = on ? next : null;
    draw();
  }

  const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

  points.addEventListener("keydown", (event) => {
    const k = [...points.children].indexOf(event.target.closest("g[role=slider]"));
    if (k < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
    const arrow = ARROWS[event.key];
    const step = event.shiftKey ? 1 : STEP;
    if (!arrow && event.key !== "Home") return;
    event.preventDefault();
    if (arrow)
      return move(
        held(k),
        arrow.map((v) => v * step),
      );
    state.offsets[k] = [0, 0];
    changed();
  });
  cells.addEventListener("keydown", (event) => {
    const arrow = ARROWS[event.key];
    if (!arrow || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    inspect((pixel || anchor(state)).map((v, axis) => clamp(v + arrow[axis], 0, MAP - 1)));
  });

  root.addEventListener("click", async (event) => {
    const what = event.target.dataset.do;
    if (what !== "copy" && what !== "link") return;
    const text = what === "copy" ? AKConvState.yamlRow(state) : new URL(link(), location.href).href;
    find(".ak-copied").textContent = (await copied(text)) ? "Copied." : `This browser does not copy by itself: ${text}`;
  });

  // Copy a text; pages that come without TLS have no clipboard of the new kind.
  async function copied(text) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      const area = document.createElement("textarea");
      area.value = text;
      document.body.append(area);
      area.select();
      const done = document.execCommand("copy");
      area.remove();
      return done;
    }
  }

  function readAddress() {
    clearTimeout(keeping);
    keeping = null;
    try {
      state = AKConvState.parseState(location.hash);
      complain("");
    } catch (error) {
      if (!(error instanceof AKConvState.StateError)) throw error;
      state = AKConvState.start();
      complain(`this link cannot be shown, and the page begins anew: ${error.message}`);
    }
    draw();
  }

  window.addEventListener("hashchange", readAddress);
  readAddress();
})();
