// SPDX-License-Identifier: AGPL-3.0-or-later
// From an image to the input of a network and back, as Ultralytics and `image_samples` do it, to the last bit: OpenCV's
// resizing in whole numbers, Python's rounding of halves to the even one. `node` runs it in the tests.
"use strict";

const AKConvImage = (() => {
  const PADDING = 114; // the grey of the host's letterbox
  const LARGE = 2048; // OpenCV's weights of 8 bit images are whole 2048ths

  // Round halves to the even neighbour, as Python does.
  function roundEven(value) {
    const floor = Math.floor(value);
    const rest = value - floor;
    if (rest !== 0.5) return Math.round(value) + 0;
    return floor % 2 === 0 ? floor : floor + 1;
  }

  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

  // Return, for every pixel of a resized axis, the two it is made of and their weights in 2048ths. Beyond the border
  // OpenCV repeats the pixel of columns and the pixel of rows in different places, which rounds differently.
  function axisWeights(size, from, heldAtBorder) {
    const scale = from / size;
    return Array.from({ length: size }, (_, i) => {
      const at = Math.fround((i + 0.5) * scale - 0.5);
      let low = Math.floor(at);
      let rest = Math.fround(at - low);
      if (heldAtBorder && (low < 0 || low >= from - 1)) {
        low = clamp(low, 0, from - 1);
        rest = 0;
      }
      const weights = [roundEven(Math.fround(1 - rest) * LARGE), roundEven(rest * LARGE)];
      return [clamp(low, 0, from - 1), clamp(low + 1, 0, from - 1), ...weights];
    });
  }

  // Resize RGBA pixels as cv2.resize with INTER_LINEAR does; returns RGB.
  function resize(pixels, width, height, newWidth, newHeight) {
    const out = new Uint8Array(newWidth * newHeight * 3);
    const halved = width === 2 * newWidth && height === 2 * newHeight; // OpenCV takes the mean of four there
    const rows = axisWeights(newHeight, height, false);
    const cols = axisWeights(newWidth, width, true);
    for (let y = 0, to = 0; y < newHeight; y += 1) {
      const [top, bottom, above, below] = halved ? [2 * y, 2 * y + 1] : rows[y];
      for (let x = 0; x < newWidth; x += 1) {
        const [left, right, before, after] = halved ? [2 * x, 2 * x + 1] : cols[x];
        const corners = [top * width + left, top * width + right, bottom * width + left, bottom * width + right];
        for (let channel = 0; channel < 3; channel += 1, to += 1) {
          const [a, b, c, d] = corners.map((corner) => pixels[4 * corner + channel]);
          if (halved) {
            out[to] = (a + b + c + d + 2) >> 2;
          } else {
            const upper = ((a * before + b * after) >> 4) * above;
            const lower = ((c * before + d * after) >> 4) * below;
            out[to] = ((upper >> 16) + (lower >> 16) + 2) >> 2;
          }
        }
      }
    }
    return out;
  }

  // Return how an image lies on the network's input: both in [rows, columns].
  function place(height, width, side, stride) {
    const ratio = Math.min(side / height, side / width);
    const [rows, cols] = [height, width].map((n) => Math.max(roundEven(n * ratio), 1));
    const spare = [rows, cols].map((n) => (side - n) % stride);
    const before = spare.map((n) => roundEven(n / 2 - 0.1));
    const after = spare.map((n) => roundEven(n / 2 + 0.1));
    return {
      size: [height, width],
      resized: [rows, cols],
      input: [rows + before[0] + after[0], cols + before[1] + after[1]],
      gain: [rows / height, cols / width],
      pad: before.map((n) => n + 0),
    };
  }

  // Return the network's input, (3, h, w) from 0 to 1, of RGBA pixels.
  function asInput(pixels, view) {
    const [rows, cols] = view.resized;
    const [height, width] = view.input;
    const small = resize(pixels, view.size[1], view.size[0], cols, rows);
    const input = new Float32Array(3 * height * width).fill(PADDING / 255);
    for (let y = 0, from = 0; y < rows; y += 1) {
      for (let x = 0; x < cols; x += 1) {
        const to = (y + view.pad[0]) * width + x + view.pad[1];
        for (let channel = 0; channel < 3; channel += 1, from += 1)
          input[channel * height * width + to] = small[from] / 255;
      }
    }
    return input;
  }

  const toImage = (view, input) => input.map((q, axis) => (q + 0.5 - view.pad[axis]) / view.gain[axis] - 0.5);
  const toInput = (view, image) => image.map((p, axis) => (p + 0.5) * view.gain[axis] + view.pad[axis] - 0.5);

  // Return the output pixel of a layer whose anchor lies nearest to an image pixel [row, column].
  function outputPixel(view, layer, offsets, image) {
    return toInput(view, image).map((q, axis) =>
      clamp(roundEven(q / (layer.step * layer.stride)), 0, offsets.dims[2 + axis] - 1),
    );
  }

  // Return where the points of an output pixel read, in pixels of the layer's map. `offsets` are (1, 2N, h, w).
  function points(layer, offsets, [i, j]) {
    const [, channels, height, width] = offsets.dims;
    const n = channels / 2;
    return layer.points.map(([row, col], k) => [
      i * layer.stride + row + offsets.data[(k * height + i) * width + j],
      j * layer.stride + col + offsets.data[((n + k) * height + i) * width + j],
    ]);
  }

  // Return what the points of an output pixel see through earlier layers, by layer from the nearest on, in map pixels of
  // each: every point is followed to the output pixel nearest to it of the layer before, and on to that one's points.
  function through(layers, offsets, name, pixel) {
    const by = new Map(layers.map((layer) => [layer.name, layer]));
    const seen = [];
    let layer = by.get(name);
    let reads = points(layer, offsets[name], pixel);
    while (layer.parent) {
      layer = by.get(layer.parent);
      const { dims } = offsets[layer.name];
      const pixels = new Set(reads.map((p) => p.map((v, axis) => clamp(roundEven(v), 0, dims[2 + axis] - 1)).join()));
      reads = [...pixels].flatMap((key) => points(layer, offsets[layer.name], key.split(",").map(Number)));
      seen.push({ layer, points: reads });
    }
    return seen;
  }

  // Return the boxes of a network's output, (1, boxes, 6), on the image, the surest first.
  function boxes(output, view) {
    const found = [];
    const [, count, width] = output.dims;
    for (let k = 0; k < count; k += 1) {
      const [left, top, right, bottom, confidence, kind] = output.data.subarray(k * width, (k + 1) * width);
      if (!(confidence > 0)) continue; // the output is filled up with zeros
      const [x, y] = [1, 0].map((axis) => (v) => clamp((v - view.pad[axis]) / view.gain[axis], 0, view.size[axis]));
      found.push({ box: [x(left), y(top), x(right), y(bottom)], confidence, kind });
    }
    return found.sort((a, b) => b.confidence - a.confidence);
  }

  return { asInput, boxes, outputPixel, place, points, resize, roundEven, through, toImage, toInput };
})();

if (typeof module !== "undefined") module.exports = AKConvImage;
