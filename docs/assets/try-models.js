// SPDX-License-Identifier: AGPL-3.0-or-later
// What the page docs/try.md loads and runs: the files that scripts/make_demo.py writes, in ONNX Runtime. An image never
// leaves the page. See image.js for the arithmetic around a model.
"use strict";

const AKConvModels = (() => {
  const LARGEST_FILE = 50e6; // bytes
  const LARGEST_IMAGE = 64e6; // pixels
  const SMALLEST_SIDE = 8; // pixels

  // What a reader can help: its message is said on the page as it stands.
  class Told extends Error {}

  const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;

  // Return what loads from a folder and runs there; `progress(done, total)` is told of bytes.
  async function open(folder, progress) {
    if (location.protocol === "file:") {
      throw new Told(
        "A browser loads a model from a server alone: run make demo, which ends with the command that serves this page.",
      );
    }
    if (typeof WebAssembly === "undefined") {
      throw new Told("This page runs its models in WebAssembly, which is switched off in this browser.");
    }
    const response = await fetch(`${folder}demo.json`).catch(() => null);
    if (!response || !response.ok) {
      throw new Told(
        "This build of the manual holds no model and no runtime: run make demo in a checkout, and serve the site as it says at its end.",
      );
    }
    const demo = await response.json();
    const models = {}; // name -> session, what it said of the last image, how long it took

    async function fetched(file) {
      const response = await fetch(folder + file).catch(() => null);
      if (!response || !response.ok) throw new Told(`${file} could not be loaded: is the server still running?`);
      return response;
    }

    // Load files of known sizes; servers that compress do not tell the sizes.
    async function read(files) {
      const total = files.reduce((sum, { bytes }) => sum + bytes, 0);
      let done = 0;
      return Promise.all(
        files.map(async ({ file, bytes }) => {
          const reader = (await fetched(file)).body.getReader();
          const content = new Uint8Array(bytes);
          let length = 0;
          for (let part = await reader.read(); !part.done; part = await reader.read()) {
            if (length + part.value.length <= bytes) content.set(part.value, length);
            length += part.value.length;
            done += part.value.length;
            progress(done, total);
          }
          if (length !== bytes) {
            throw new Told(
              `${file} has ${length} bytes instead of ${bytes}: load the page anew, or build it anew by make demo`,
            );
          }
          return content;
        }),
      );
    }

    function script(file) {
      return new Promise((resolve, reject) => {
        const element = document.createElement("script");
        element.src = folder + file;
        element.onload = resolve;
        element.onerror = () => reject(new Told(`${file} could not be loaded: is the server still running?`));
        document.head.append(element);
      });
    }

    async function load(name) {
      const first = typeof ort === "undefined";
      const [model, wasm] = await read([demo.models[name], ...(first ? [demo.runtime.wasm] : [])]);
      if (first) {
        await script(demo.runtime.script);
        ort.env.wasm.numThreads = 1; // more need headers that static hosts do not send
        ort.env.wasm.proxy = true; // in a worker: the page stays alive
        ort.env.wasm.wasmPaths = { mjs: folder + demo.runtime.module };
        ort.env.wasm.wasmBinary = wasm.buffer;
      }
      models[name] = { session: await ort.InferenceSession.create(model, { executionProviders: ["wasm"] }) };
    }

    async function decoded(blob, name) {
      if (blob.size > LARGEST_FILE) {
        throw new Told(`${name} has ${megabytes(blob.size)}: images up to ${megabytes(LARGEST_FILE)} are read here.`);
      }
      // As the file holds it: a colour profile is not applied, the camera's orientation is.
      const options = { colorSpaceConversion: "none", imageOrientation: "from-image" };
      const bitmap = await createImageBitmap(blob, options).catch(() => null);
      if (!bitmap) throw new Told(`${name} is no image that this browser can read: use a JPEG, PNG or WebP.`);
      const { width, height } = bitmap;
      if (Math.min(width, height) < SMALLEST_SIDE) {
        const least = `${SMALLEST_SIDE} x ${SMALLEST_SIDE}`;
        throw new Told(`${name} is ${width} x ${height} pixels: at least ${least} are needed to find anything in it.`);
      }
      if (width * height > LARGEST_IMAGE) {
        const size = ((width * height) / 1e6).toFixed(0);
        throw new Told(`${name} has ${size} megapixels: up to ${LARGEST_IMAGE / 1e6} are read here.`);
      }
      const canvas = document.createElement("canvas");
      Object.assign(canvas, { width, height });
      const context = canvas.getContext("2d", { willReadFrequently: true });
      context.drawImage(bitmap, 0, 0);
      const view = AKConvImage.place(height, width, demo.imgsz, demo.stride);
      const pixels = context.getImageData(0, 0, width, height).data;
      return { bitmap, name, view, input: AKConvImage.asInput(pixels, view) };
    }

    // Run a model on an image and return how long it took, in milliseconds.
    async function run(name, image) {
      const model = models[name];
      const [height, width] = image.view.input;
      const feeds = { images: new ort.Tensor("float32", image.input.slice(), [1, 3, height, width]) };
      const begin = performance.now();
      const outputs = await model.session.run(feeds);
      model.time = performance.now() - begin;
      model.outputs = outputs;
      model.boxes = AKConvImage.boxes(outputs.output0, image.view);
      return model.time;
    }

    return { decoded, demo, fetched, load, models, run };
  }

  return { Told, megabytes, open };
})();
