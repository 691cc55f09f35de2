// Draws every element with data-figure from the JSON block of that id, and draws it again when the JSON or the
// reader's colours change. Figures are built in Python; colours in them are the style sheet's: var(--series-1).
"use strict";

const CONFIG = { displayModeBar: false, responsive: true, doubleClick: false, locale: "en-US" };
const dark = window.matchMedia("(prefers-color-scheme: dark)");

function coloured(value, style) {
  if (typeof value === "string") {
    return value.replace(/var\((--[\w-]+)\)/g, (_, name) => style.getPropertyValue(name).trim());
  }
  if (Array.isArray(value)) return value.map((item) => coloured(item, style));
  if (value && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, coloured(item, style)]));
  }
  return value;
}

function draw(element, again) {
  const block = document.getElementById(element.dataset.figure);
  if (!block || (!again && element.drawnFrom === block.textContent)) return;
  element.drawnFrom = block.textContent;
  const figure = coloured(JSON.parse(block.textContent), getComputedStyle(document.documentElement));
  Plotly.react(element, figure.data, figure.layout, CONFIG);
}

function drawAll(again) {
  document.querySelectorAll("[data-figure]").forEach((element) => draw(element, again === true));
}

// A refresh morphs the page around the charts; what Plotly drew inside them is not in the new HTML, and stays.
if (window.Idiomorph) {
  Idiomorph.defaults.callbacks.beforeNodeMorphed = (node) => !(node.dataset && node.dataset.figure);
}
document.addEventListener("DOMContentLoaded", drawAll);
document.addEventListener("htmx:afterSettle", drawAll);
dark.addEventListener("change", () => drawAll(true));
