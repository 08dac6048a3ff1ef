// SPDX-License-Identifier: AGPL-3.0-or-later
// What the page docs/try.md draws over an image, in the colours of `akconv plot offsets`.
"use strict";

const AKConvDrawing = (() => {
  const COLOURS = ["#e8384f", "#2d9c5a", "#9b5de5", "#f28c28", "#1f9bd1", "#b8860b"]; // of the classes, in turn
  const WAYS = [
    [1, 0],
    [-1, 0],
    [0, 1],
    [0, -1],
  ];

  // Draw an image on a canvas, and return what else is drawn with; `toPixel` tells which image pixel lies under a place.
  function prepared(canvas, image) {
    const [height, width] = image.view.size;
    const margin = Math.round(0.04 * Math.max(height, width)); // samples lie beside the image, too
    const ratio = (height + 2 * margin) / (width + 2 * margin);
    const across = Math.max(1, Math.round((canvas.clientWidth || 400) * (window.devicePixelRatio || 1)));
    Object.assign(canvas, { width: across, height: Math.max(1, Math.round(across * ratio)) });
    const context = canvas.getContext("2d");
    const scale = across / (width + 2 * margin);
    const unit = across / canvas.clientWidth || 1; // a pixel of the page
    const to = ([row, col]) => [(col + 0.5 + margin) * scale, (row + 0.5 + margin) * scale]; // pixel centres are whole
    context.drawImage(image.bitmap, margin * scale, margin * scale, width * scale, height * scale);
    // A click beside the image means the pixel nearest to it.
    const nearest = (v, axis) => Math.min(Math.max(Math.floor(v / scale - margin), 0), image.view.size[axis] - 1);
    return { context, to, unit, toPixel: (x, y) => [y, x].map(nearest) };
  }

  function boxes({ context, to, unit }, found, names) {
    context.font = `${12 * unit}px sans-serif`;
    context.lineWidth = 1.5 * unit;
    for (const { box, confidence, kind } of found) {
      const [left, top] = to([box[1] - 0.5, box[0] - 0.5]);
      const [right, bottom] = to([box[3] - 0.5, box[2] - 0.5]);
      const text = `${names[kind]} ${confidence.toFixed(2)}`;
      context.strokeStyle = context.fillStyle = COLOURS[kind % COLOURS.length];
      context.strokeRect(left, top, right - left, bottom - top);
      context.fillRect(left - unit, top, context.measureText(text).width + 4 * unit, 14 * unit);
      context.fillStyle = "#fff";
      context.fillText(text, left + unit, top + 11 * unit);
    }
  }

  // Draw where a layer looks for the output pixel nearest to the image pixel `at`.
  function points({ context, to, unit }, seen, at, through) {
    const dot = (p, radius, fill, stroke, width = 1.5) => {
      context.beginPath();
      context.arc(...to(p), radius * unit, 0, 2 * Math.PI);
      context.lineWidth = width * unit;
      if (fill) Object.assign(context, { fillStyle: fill }).fill();
      if (stroke) Object.assign(context, { strokeStyle: stroke }).stroke();
    };
    if (through) {
      seen.faint.forEach((reads, depth) =>
        reads.forEach((p) =>
          dot(p, Math.max(2.6 - 0.6 * depth, 1.2), `rgba(255, 176, 0, ${Math.max(0.9 - 0.25 * depth, 0.3)})`),
        ),
      );
    }
    const strongest = Math.max(...seen.layer.norms);
    seen.starts.forEach((p, k) => {
      context.beginPath();
      context.moveTo(...to(p));
      context.lineTo(...to(seen.reads[k]));
      Object.assign(context, { strokeStyle: "#2f9bff", lineWidth: 1.5 * unit }).stroke();
      dot(p, 4, null, "#000a", 3.5);
      dot(p, 4, null, "#fff", 2);
    });
    seen.reads.forEach((p, k) =>
      dot(p, 3 + (3 * seen.layer.norms[k]) / strongest, seen.outside[k] ? "#e02020" : "#1768bd", "#fff"),
    );
    const [x, y] = to(at);
    context.beginPath();
    for (const [dx, dy] of WAYS) {
      context.moveTo(x + 4 * dx * unit, y + 4 * dy * unit);
      context.lineTo(x + 11 * dx * unit, y + 11 * dy * unit);
    }
    Object.assign(context, { strokeStyle: "#ffb000", lineWidth: 2.5 * unit }).stroke();
  }

  return { boxes, points, prepared };
})();
