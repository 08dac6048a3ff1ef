// SPDX-License-Identifier: AGPL-3.0-or-later
// What stands on the page docs/try.md before anything is loaded.
"use strict";

const AKConvPage = `
  <p class="ak-error" role="alert" hidden></p>
  <p class="ak-buttons">
    <button type="button" class="ak-first" data-do="akconv" disabled>Load the model</button>
    <button type="button" data-do="plain" hidden></button>
    <button type="button" data-do="time" hidden>Time both models</button>
  </p>
  <progress hidden max="1" value="0" aria-label="Loaded so far"></progress>
  <p class="ak-status" role="status"></p>
  <div class="ak-work" hidden>
    <div class="ak-images"><span class="ak-bundled"></span>
      <label>An image of yours, which stays in this browser: <input type="file" accept="image/*"></label></div>
    <form class="ak-controls" autocomplete="off">
      <label>Layer <select name="layer"></select></label>
      <label><span>Least confidence: <b class="ak-least"></b></span><input name="confidence" type="range" min="0.1" max="0.95" step="0.01" value="0.25"></label>
      <fieldset><label><input name="boxes" type="checkbox" checked> boxes</label>
        <label><input name="through" type="checkbox" checked> through earlier layers</label></fieldset>
    </form>
    <div class="ak-views">
      <figure data-model="akconv"><canvas tabindex="0" role="application" aria-roledescription="image"></canvas><figcaption aria-live="polite"></figcaption></figure>
      <figure data-model="plain" hidden><canvas role="img"></canvas><figcaption></figcaption></figure>
    </div>
    <p class="ak-legend"><span><i class="ak-key ak-key-start"></i>where a point begins</span>
      <span><i class="ak-key ak-key-point"></i>where it has learned to look</span>
      <span><i class="ak-key ak-key-outside"></i>off the map</span>
      <span><i class="ak-key ak-key-faint"></i>what it sees through earlier layers</span></p>
    <div class="ak-sum" aria-live="polite"></div>
    <table class="ak-table"><caption>The points of this output pixel, in pixels of the image</caption>
      <thead><tr><th scope="col">point</th><th scope="col">row</th><th scope="col">column</th><th scope="col">moved, map pixels</th></tr></thead><tbody></tbody></table>
  </div>`;
