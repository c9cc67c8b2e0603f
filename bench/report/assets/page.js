"use strict";
(async () => {
  /* Letters and digits to bytes, unzipped by the browser, to JSON. */
  async function unpacked(text) {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  }

  const { charts, themes, files } = await unpacked(document.getElementById("payload").textContent);
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
    light();
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

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-sort]");
    if (button) sort(button);
  });

  for (const link of document.querySelectorAll("a[data-file]")) {
    link.href = URL.createObjectURL(new Blob([files[link.dataset.file]], { type: link.dataset.kind }));
  }

  /* The table of all records is long: it is made when it is opened. */
  function made(tag, text, attributes = {}) {
    const element = document.createElement(tag);
    element.textContent = text ?? "";
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  }

  function listRecords(place) {
    const rows = JSON.parse(files["results.json"]);
    const table = made("table", "", { class: "sortable full" }), head = table.createTHead().insertRow();
    table.createCaption().append(made("span", "All records"));
    for (const name of Object.keys(rows[0] ?? {})) {
      const header = made("th", "", { scope: "col", "aria-sort": "none" });
      const button = made("button", name, { type: "button", "data-sort": "" });
      button.append(made("span", "", { class: "arrow", "aria-hidden": "true" }));
      header.append(button);
      head.append(header);
    }
    const body = table.createTBody();
    for (const row of rows) {
      const line = body.insertRow();
      for (const value of Object.values(row)) {
        const cell = line.insertCell();
        if (typeof value === "number") {
          cell.className = "num";
          cell.dataset.value = value;
          cell.textContent = Number(value.toPrecision(5)).toLocaleString("en");
        } else cell.textContent = value ?? "";
      }
    }
    place.append(table);
  }

  document.getElementById("all-records")?.addEventListener("toggle", (event) => {
    const place = event.target.querySelector(".scroll");
    if (event.target.open && !place.firstChild) listRecords(place);
  });

  /* Lighting up a model: rows by their attribute, panels of one model as a whole, marks by what they show. */
  const chooser = document.getElementById("light");
  const models = new Set([...(chooser?.options ?? [])].map((option) => option.value).filter(Boolean));

  function modelOf(element) {
    const datum = element.__data__?.datum ?? element.__data__?.items?.[0]?.datum;
    if (datum?.model !== undefined) return datum.model;
    /* The name on an axis; one in a legend may be a sampler's. */
    const named = models.has(datum?.value) && element.closest(".role-axis-label");
    return named ? datum.value : undefined;
  }

  function light() {
    const chosen = chooser?.value ?? "";
    for (const row of document.querySelectorAll("tr[data-model]")) {
      row.classList.toggle("lit", chosen !== "" && row.dataset.model === chosen);
    }
    for (const place of places) {
      const own = place.dataset.model;
      place.classList.toggle("dim", chosen !== "" && own !== undefined && own !== chosen);
      if (own !== undefined) continue;
      for (const mark of place.querySelectorAll("svg path, svg line, svg text")) {
        const model = modelOf(mark);
        if (model !== undefined) mark.classList.toggle("dim", chosen !== "" && model !== chosen);
      }
    }
    document.documentElement.dataset.lit = chosen;
  }

  if (chooser) {
    chooser.closest(".toolbar").hidden = false;
    chooser.addEventListener("change", light);
    addEventListener("keydown", (event) => {
      if (event.key === "Escape" && chooser.value) { chooser.value = ""; light(); }
    });
    for (const name of document.querySelectorAll("tr[data-model] > th")) {
      name.addEventListener("click", () => {
        const model = name.parentElement.dataset.model;
        chooser.value = chooser.value === model ? "" : model;
        light();
      });
    }
  }

  /* Filters of all cells; `best` keeps the first row of every model in the order that is shown. */
  const form = document.querySelector(".filters");
  function filter() {
    const body = document.querySelector("#cells table").tBodies[0];
    const wanted = Object.fromEntries(new FormData(form));
    const seen = new Set();
    let count = 0;
    for (const row of body.rows) {
      const data = row.dataset;
      const named = ["family", "sampler", "dtype"].every((name) => !wanted[name] || data[name] === wanted[name]);
      const within = !wanted.nfe || (data.nfe !== undefined && Number(data.nfe) <= Number(wanted.nfe));
      const first = !wanted.best || !seen.has(data.model);
      row.hidden = !(named && within && first);
      if (!row.hidden) { seen.add(data.model); count += 1; }
    }
    form.querySelector("output").textContent = `${count} of ${body.rows.length} cells`;
  }
  if (form) {
    form.hidden = false;
    form.addEventListener("change", filter);
    form.addEventListener("submit", (event) => event.preventDefault());
    document.getElementById("cells").addEventListener("click", (event) => {
      if (event.target.closest("button[data-sort]")) filter();
    });
    filter();
  }

  /* Two sheets in one place: the other one while it is pointed at, focused or held. */
  const duel = document.querySelector(".duel");
  if (duel) {
    const sheets = new Map([...document.querySelectorAll(".sheet")].map((sheet) =>
      [sheet.dataset.sheet, sheet.querySelector("img").src]));
    const [one, other] = duel.querySelectorAll("select");
    const button = duel.querySelector("button"), image = new Image();
    button.append(image);
    const caption = duel.querySelector("figcaption");
    const show = (chosen) => {
      image.src = sheets.get(chosen.value);
      image.alt = caption.textContent = chosen.value;
    };
    for (const name of sheets.keys()) { one.add(new Option(name)); other.add(new Option(name)); }
    one.selectedIndex = Math.min(1, sheets.size - 1);
    other.selectedIndex = sheets.size > 2 ? 2 : 0;
    for (const select of [one, other]) select.addEventListener("change", () => show(select));
    for (const type of ["pointerenter", "focus"]) button.addEventListener(type, () => show(other));
    for (const type of ["pointerleave", "blur"]) button.addEventListener(type, () => show(one));
    duel.hidden = false;
    show(one);
  }

  /* Where the clipboard is closed to pages, the text is selected for the keyboard to copy. */
  for (const button of document.querySelectorAll("button.copy")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      const text = document.getElementById(button.dataset.copy);
      try {
        await navigator.clipboard.writeText(text.textContent);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(text);
        button.textContent = "Selected: copy it with the keyboard";
      }
    });
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
