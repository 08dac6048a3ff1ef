// SPDX-License-Identifier: AGPL-3.0-or-later
// What stands on the page docs/playground.md before anything is drawn.
"use strict";

const AKConvPage = (() => {
  const { MAP } = AKConv;
  const options = (values) => values.map((v) => `<option>${v}</option>`).join("");
  return `
    <p class="ak-error" role="alert" hidden></p>
    <div class="ak-columns">
      <div class="ak-picture">
        <svg role="group" aria-label="The map, and the points of one output pixel">
          <g class="ak-cells" tabindex="0" role="application" aria-roledescription="map of pixels"
             aria-label="Map of ${MAP} by ${MAP} pixels: arrow keys choose one, and the line below says who reads it"></g>
          <g class="ak-taps" aria-hidden="true"></g>
          <g class="ak-starts" aria-hidden="true"></g>
          <g class="ak-points"></g>
        </svg>
        <p class="ak-legend" aria-hidden="true">
          <span><i class="ak-key ak-key-anchor"></i>output pixel</span>
          <span><i class="ak-key ak-key-start"></i>start</span>
          <span><i class="ak-key ak-key-point"></i>sample</span>
          <span><i class="ak-key ak-key-outside"></i>off the map</span>
        </p>
        <p class="ak-reads" aria-live="polite"></p>
      </div>
      <div class="ak-side">
        <form class="ak-controls" autocomplete="off">
          <label>Points N <input name="n" type="number" min="1" max="${AKConv.MOST_POINTS}" step="1"></label>
          <label>Stride <select name="stride">${options(AKConv.STRIDES)}</select></label>
          <label>Shape <select name="shape">${options(AKConv.SHAPES)}<option value="own">my own</option></select></label>
          <label>Origin <select name="origin">${options(AKConv.ORIGINS)}</select></label>
          <label>Border <select name="border">${options(AKConv.BORDERS)}</select></label>
          <label>Output row <input name="row" type="number" min="0" step="1"></label>
          <label>Output column <input name="col" type="number" min="0" step="1"></label>
          <label class="ak-wide" data-own>My own points, [row, col] <input name="own" type="text" spellcheck="false"></label>
          <fieldset class="ak-wide"><legend>Dragging moves</legend>
            <label><input type="radio" name="moves" value="offsets" checked> the offset</label>
            <label><input type="radio" name="moves" value="shape"> the shape</label>
          </fieldset>
          <div class="ak-wide ak-buttons">
            <button type="button" data-do="zero">Offsets to zero</button>
            <button type="button" data-do="random">Random offsets</button>
          </div>
        </form>
        <div class="ak-sum" aria-live="polite"></div>
        <div class="ak-row">
          <h3 id="ak-row-title">The YAML row</h3>
          <p class="ak-code"><code class="ak-yaml" aria-labelledby="ak-row-title"></code></p>
          <button type="button" data-do="copy">Copy the row</button>
          <button type="button" data-do="link">Copy the link</button>
          <span class="ak-copied" role="status"></span>
        </div>
      </div>
    </div>
    <table class="ak-table"><caption>Every point of this output pixel</caption><thead><tr>
      <th scope="col">point</th><th scope="col">start</th><th scope="col">offset row</th><th scope="col">offset column</th>
      <th scope="col">position</th><th scope="col">sample</th></tr></thead><tbody></tbody></table>`;
})();
