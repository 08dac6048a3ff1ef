// SPDX-License-Identifier: AGPL-3.0-or-later
// The page docs/try.md: what trained models find in an image, and where their AKConv layers look. See try-page.js for what
// stands there at first, try-models.js for what is loaded and run, and image.js for the arithmetic.
"use strict";

(() => {
  const root = document.getElementById("akconv-try");
  if (!root) return;

  const FILES = new URL("assets/try/", new URL(root.dataset.base, location.href)).href;
  const RUNS = 7; // of each model when both are timed
  const TITLES = { akconv: "With AKConv", plain: "The plain model" };
  const { outputPixel, points, through, toImage } = AKConvImage;
  const { Told, megabytes } = AKConvModels;

  root.innerHTML = AKConvPage;

  const find = (selector) => root.querySelector(selector);
  const form = find("form");
  let loaded = null; // what AKConvModels.open returns
  let demo = null;
  let models = {};
  let image = null; // bitmap, view, input
  let at = null; // [row, column] of the image
  let busy = false;

  const milliseconds = (time) => `${time.toFixed(0)} ms`;

  function complain(text) {
    find(".ak-error").textContent = text;
    find(".ak-error").hidden = !text;
  }

  function say(text) {
    find(".ak-status").textContent = text;
  }

  function progress(done, total) {
    find("progress").hidden = false;
    find("progress").value = done / total;
    say(done < total ? `Loading: ${megabytes(done)} of ${megabytes(total)}` : "Preparing the model");
  }

  async function loadModel(name) {
    find("progress").value = 0;
    find("progress").hidden = false;
    await loaded.load(name);
  }

  // Do something that takes a while; what goes wrong is said, and nothing else starts meanwhile.
  async function during(text, work) {
    if (busy) return;
    busy = true;
    root.setAttribute("aria-busy", "true");
    root.querySelectorAll("button, input[type=file]").forEach((button) => (button.disabled = true));
    complain("");
    say(text);
    try {
      await work();
      say("");
    } catch (error) {
      say("");
      complain(error instanceof Told ? error.message : `This did not work here: ${error.message || error}.`);
    }
    find("progress").hidden = true;
    root.querySelectorAll("button, input[type=file]").forEach((button) => (button.disabled = false));
    root.removeAttribute("aria-busy");
    busy = false;
  }

  // ---- Images -------------------------------------------------------------------------------------------------------

  async function use(next) {
    for (const name of Object.keys(models)) await loaded.run(name, next);
    image = next;
    delete root.dataset.timed;
    const [best] = models.akconv.boxes;
    const { size } = image.view;
    at = best ? [(best.box[1] + best.box[3]) / 2, (best.box[0] + best.box[2]) / 2] : size.map((n) => n / 2);
    at = at.map((v, axis) => Math.min(Math.floor(v), size[axis] - 1));
    draw();
  }

  // ---- Drawing ------------------------------------------------------------------------------------------------------

  const chosen = () => demo.layers.find((layer) => layer.name === form.elements.layer.value);
  const onImage = ({ step }, reads) => reads.map(([row, col]) => toImage(image.view, [row * step, col * step]));
  const shown = (model) => model.boxes.filter((box) => box.confidence >= Number(form.elements.confidence.value));

  // Return the points of the chosen layer, in image pixels as all but `moved` and `outside`.
  function look() {
    const layer = chosen();
    const offsets = models.akconv.outputs;
    const pixel = outputPixel(image.view, layer, offsets[layer.name], at);
    const reads = points(layer, offsets[layer.name], pixel);
    const starts = layer.points.map((p) => p.map((v, axis) => pixel[axis] * layer.stride + v));
    const size = image.view.input.map((n) => Math.ceil(n / layer.step));
    return {
      layer,
      pixel,
      starts: onImage(layer, starts),
      reads: onImage(layer, reads),
      moved: reads.map((p, k) => Math.hypot(p[0] - starts[k][0], p[1] - starts[k][1])),
      outside: reads.map((p) => p.some((v, axis) => v < 0 || v > size[axis] - 1)),
      faint: through(demo.layers, offsets, layer.name, pixel).map((seen) => onImage(seen.layer, seen.points)),
    };
  }

  function caption(name, model) {
    const count = shown(model).length;
    const time = root.dataset.timed
      ? `${milliseconds(model.median)} an image (median of ${RUNS})`
      : `${milliseconds(model.time)} for this image`;
    return `${name}: ${count} ${count === 1 ? "box" : "boxes"}, ${time}`;
  }

  function draw() {
    if (!image || !models.akconv) return;
    const seen = look();
    find(".ak-least").textContent = Number(form.elements.confidence.value).toFixed(2);
    for (const name of Object.keys(models)) find(`figure[data-model=${name}]`).hidden = false; // all, before they are measured
    for (const [name, model] of Object.entries(models)) {
      const figure = find(`figure[data-model=${name}]`);
      const drawing = AKConvDrawing.prepared(figure.querySelector("canvas"), image);
      figure.toPixel = drawing.toPixel;
      if (form.elements.boxes.checked) AKConvDrawing.boxes(drawing, shown(model), demo.names);
      if (name === "akconv") AKConvDrawing.points(drawing, seen, at, form.elements.through.checked);
      figure.querySelector("figcaption").textContent = caption(TITLES[name], model);
      figure
        .querySelector("canvas")
        .setAttribute("aria-label", `${image.name} and its boxes, ${TITLES[name].toLowerCase()}`);
      figure.dataset.boxes = JSON.stringify(model.boxes);
    }
    const canvas = find("figure[data-model=akconv] canvas");
    canvas.setAttribute(
      "aria-label",
      `${canvas.getAttribute("aria-label")}; arrow keys move the chosen pixel, now row ${at[0]}, column ${at[1]}`,
    );
    tell(seen);
  }

  // Say in words what the picture shows, and hold it in full figures.
  function tell(seen) {
    const [row, col] = at;
    const { layer, pixel } = seen;
    const faint = seen.faint.flat().length;
    const earlier = faint ? ` Through earlier layers they look at ${faint} places.` : "";
    find(".ak-sum").textContent =
      `Image pixel x ${col}, y ${row}: output pixel (${pixel.join(", ")}) of ${layer.name}, whose ${seen.reads.length} points ` +
      `moved by ${(seen.moved.reduce((a, b) => a + b) / seen.moved.length).toFixed(2)} map pixels on average.${earlier} The same by `;
    const command = document.createElement("code");
    command.textContent = `akconv plot offsets best.pt ${image.name} --layer ${layer.name} --at ${col},${row}`;
    find(".ak-sum").append(command);
    const body = find("tbody");
    body.replaceChildren();
    seen.reads.forEach((p, k) => {
      const line = body.insertRow();
      line.dataset.at = p.join();
      const texts = [
        k + 1,
        p[0].toFixed(1),
        p[1].toFixed(1) + (seen.outside[k] ? ", off the map" : ""),
        seen.moved[k].toFixed(2),
      ];
      texts.forEach((text) => (line.insertCell().textContent = text));
    });
    Object.assign(root.dataset, {
      at: at.join(),
      faint: JSON.stringify(seen.faint),
      image: image.name,
      size: JSON.stringify(image.view.size),
    });
  }

  // ---- The reader ---------------------------------------------------------------------------------------------------

  function choose(pixel) {
    at = pixel;
    draw();
  }

  async function timed() {
    const times = { akconv: [], plain: [] };
    for (let k = 0; k < RUNS; k += 1) {
      say(`Timing: round ${k + 1} of ${RUNS}`);
      for (const name of Object.keys(times)) times[name].push(await loaded.run(name, image)); // in turn: both meet the same machine
    }
    for (const name of Object.keys(times)) models[name].median = times[name].sort((a, b) => a - b)[(RUNS - 1) / 2];
    root.dataset.timed = "true";
    draw();
  }

  const ACTIONS = {
    akconv: async () => {
      await loadModel("akconv");
      find("[data-do=akconv]").hidden = true;
      find("[data-do=plain]").hidden = false;
      find(".ak-work").hidden = false;
      await bundled(demo.images[0]);
    },
    plain: async () => {
      await loadModel("plain");
      find("[data-do=plain]").hidden = true;
      find("[data-do=time]").hidden = false;
      if (!image) return;
      await loaded.run("plain", image);
      draw();
    },
    time: timed,
  };

  async function bundled(file) {
    await use(await loaded.decoded(await (await loaded.fetched(file)).blob(), file));
    root
      .querySelectorAll(".ak-bundled button")
      .forEach((b) => b.setAttribute("aria-pressed", b.dataset.image === file));
  }

  root.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    if (button.dataset.image) during("Looking at the image", () => bundled(button.dataset.image));
    else during("Working", ACTIONS[button.dataset.do]);
  });

  find("input[type=file]").addEventListener("change", (event) => {
    const [file] = event.target.files;
    if (!file) return;
    during("Looking at the image", async () => {
      await use(await loaded.decoded(file, file.name));
      root.querySelectorAll(".ak-bundled button").forEach((b) => b.setAttribute("aria-pressed", false));
    });
    event.target.value = ""; // the same file can be chosen again
  });

  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", draw);
  for (const figure of root.querySelectorAll("figure")) {
    figure.querySelector("canvas").addEventListener("click", (event) => {
      if (!figure.toPixel) return;
      const { width, clientWidth } = event.currentTarget;
      choose(figure.toPixel(event.offsetX * (width / clientWidth), event.offsetY * (width / clientWidth)));
    });
  }
  find("figure[data-model=akconv] canvas").addEventListener("keydown", (event) => {
    const arrow = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!arrow || !at || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    choose(
      at.map((v, axis) =>
        Math.min(Math.max(v + arrow[axis] * (event.shiftKey ? 20 : 4), 0), image.view.size[axis] - 1),
      ),
    );
  });
  window.addEventListener("resize", draw);

  async function begin() {
    loaded = await AKConvModels.open(FILES, progress);
    ({ demo, models } = loaded);
    for (const { name, step } of demo.layers)
      form.elements.layer.append(new Option(`${name}, map pixel = ${step} px`, name));
    form.elements.layer.value = demo.layer;
    for (const file of demo.images) {
      const button = document.createElement("button");
      Object.assign(button, { type: "button" }).dataset.image = file;
      const picture = Object.assign(document.createElement("img"), { src: FILES + file, alt: `Bundled image ${file}` });
      button.append(picture);
      find(".ak-bundled").append(button);
    }
    const both = demo.models.akconv.bytes + demo.runtime.wasm.bytes;
    const packed = demo.models.akconv.gzipped + demo.runtime.wasm.gzipped;
    const first = find("[data-do=akconv]");
    first.textContent = `Load runtime and model: ${megabytes(both)} (${megabytes(packed)} from a server that compresses)`;
    first.disabled = false;
    find("[data-do=plain]").textContent = `Load the plain model beside it: ${megabytes(demo.models.plain.bytes)}`;
  }

  begin().catch((error) =>
    complain(error instanceof Told ? error.message : `This page does not work here: ${error.message}.`),
  );
})();
