"use strict";
(() => {
  const { charts, themes } = JSON.parse(document.getElementById("payload").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const places = [...document.querySelectorAll(".chart")];
  const views = new Map();

  /* ast: expressions are interpreted, not compiled, so the page needs no unsafe-eval. */
  async function draw(place) {
    const spec = charts[place.dataset.figure][Number(place.dataset.panel)];
    views.get(place)?.finalize();
    const options = {
      mode: "vega-lite", renderer: "svg", actions: false, ast: true, defaultStyle: false,
      config: themes[dark.matches ? "dark" : "light"],
      tooltip: { disableDefaultStyle: true },
    };
    const drawn = await vegaEmbed(place, structuredClone(spec), options);
    views.set(place, drawn);
    await drawn.view.resize().runAsync(); /* once more: legends wrap by the width that the first pass found */
  }

  async function drawAll() {
    await Promise.all(places.map(draw));
    document.documentElement.dataset.drawn = String(places.length);
  }

  function key(row, column) {
    const cell = row.cells[column];
    const text = cell.textContent.trim();
    if (cell.dataset.value !== undefined) return Number(cell.dataset.value);
    return text === "" || text === "–" ? null : text;
  }

  function compare(a, b) {
    return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
  }

  /* Rows without a value stay last in both directions. */
  function sort(button) {
    const header = button.closest("th");
    const rising = header.getAttribute("aria-sort") !== "ascending";
    for (const other of header.parentElement.cells) other.setAttribute("aria-sort", "none");
    header.setAttribute("aria-sort", rising ? "ascending" : "descending");
    const body = header.closest("table").tBodies[0];
    const rows = [...body.rows].map((row) => [key(row, header.cellIndex), row]);
    const known = rows.filter(([value]) => value !== null);
    known.sort(([a], [b]) => (rising ? compare(a, b) : compare(b, a)));
    body.append(...[...known, ...rows.filter(([value]) => value === null)].map(([, row]) => row));
  }

  for (const button of document.querySelectorAll("button[data-sort]")) {
    button.addEventListener("click", () => sort(button));
  }

  /* A link to a protocol opens the list it stands in. */
  addEventListener("hashchange", () => {
    const target = document.getElementById(location.hash.slice(1));
    const list = target?.closest("details");
    if (list) { list.open = true; target.scrollIntoView({ block: "center" }); }
  });

  dark.addEventListener("change", drawAll);
  drawAll();
})();
