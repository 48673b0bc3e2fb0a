// The explorer in a page, without a kernel: every container that `fragment` wrote gets controls, and the canvas of
// explorer.js, from the plain arrays it holds. This file and explorer.js are one script (explorer_page.py: SCRIPT).

const MODES = { both: "both", full: "full causal", varlen: "varlen" };

function start(place) {
  const holder = place.querySelector('script[type="application/json"]');
  if (!holder) return;
  const data = JSON.parse(holder.textContent);
  const values = { mode: data.mode, dark: data.dark, colours: COLOURS }, news = new EventTarget();
  const model = {
    get: (name) => values[name],
    set: (name, value) => { values[name] = value; news.dispatchEvent(new Event(`change:${name}`)); },
    on: (name, action) => news.addEventListener(name, action),
    off: (name, action) => news.removeEventListener(name, action),
  };

  const bar = element(place, "div", "varlen-bar");
  const rows = data.rows || counts(data.lengths.length).map((documents) => data.lengths.slice(0, documents));
  const now = rows.findIndex((row) => row.length === data.lengths.length);
  const documents = slider(bar, "documents", rows, now, (row) => row.length.toLocaleString("en"));
  const reaches = windows(data.lengths.reduce((sum, length) => sum + length, 0), data.window);
  const reach = slider(bar, "window", reaches, reaches.indexOf(data.window || 0), (tokens) => (
    tokens ? count(tokens, "token") : "off"
  ));
  const modes = element(bar, "fieldset", "varlen-modes"), group = `varlen-mode-${started++}`;
  element(modes, "legend", "varlen-live").textContent = "masks";
  for (const [mode, words] of Object.entries(MODES)) {
    const radio = option(modes, "radio", words, mode === data.mode);
    radio.name = group;
    radio.addEventListener("change", () => model.set("mode", mode));
  }
  const causal = option(bar, "checkbox", "causal", data.causal);
  const summary = element(place, "p", "varlen-summary");
  summary.setAttribute("aria-live", "polite");

  function update() { // the row of the controls' positions
    const lengths = documents.value(), row = { lengths, window: reach.value() || null, causal: causal.checked };
    summary.textContent = summarize(row);
    model.set("row", { ...row, names: data.names, tokens: data.tokens, words: describe(row) });
  }
  for (const control of [documents.input, reach.input, causal]) control.addEventListener("input", update);
  update();
  render({ model, el: element(place, "div", "varlen-drawn") });
  if (data.tokens.length && data.tokens.length < data.total) {
    const kept = data.tokens.length.toLocaleString("en");
    const words = `This page holds the text of the first ${kept} of ${count(data.total, "token")}.`;
    element(place, "p", "varlen-note").textContent = words;
  }
  for (const fallback of place.querySelectorAll(".varlen-fallback")) fallback.remove();
}

function counts(documents) { // steps of the slider: every number at first, then doubling, and all
  const steps = [];
  for (let step = 1; step < documents; step += step < 64 ? 1 : step) steps.push(step);
  return [...steps, documents];
}

function windows(total, given) { // 0 is off; then the powers of two below the row, at most ten
  const powers = [];
  for (let power = 2; power < total; power *= 2) powers.push(power);
  return [...new Set([0, ...powers.slice(-10), given || 0])].sort((a, b) => a - b);
}

function slider(bar, name, values, at, words) {
  const label = element(bar, "label", "varlen-slider");
  element(label, "span", "").textContent = name;
  const input = element(label, "input", ""), told = element(label, "span", "varlen-value");
  Object.assign(input, { type: "range", min: 0, max: values.length - 1, value: at });
  const value = () => values[Number(input.value)];
  const tell = () => {
    told.textContent = words(value());
    input.setAttribute("aria-valuetext", told.textContent);
  };
  told.style.minWidth = `${Math.max(...values.map((each) => words(each).length))}ch`; // what follows stays where it is
  input.addEventListener("input", tell);
  label.hidden = values.length < 2;
  tell();
  return { input, value };
}

function option(bar, type, words, checked) {
  const label = element(bar, "label", `varlen-${type}`), input = element(label, "input", "");
  Object.assign(input, { type, checked });
  element(label, "span", "").textContent = words;
  return input;
}

// ------------------------------------------------------------------------------ the words of PackedRow (masks.py)

function decimals(value, places) { // as Python writes it: a half goes to the even neighbour
  const digits = { minimumFractionDigits: places, maximumFractionDigits: places };
  return value.toLocaleString("en", { ...digits, roundingMode: "halfEven" });
}

function percent(share) {
  const value = 100 * share;
  if (value === 0 || value === 100) return `${value} %`;
  if (value < 0.1) return "<0.1 %";
  if (value > 99.9) return value < 99.95 ? "99.9 %" : ">99.9 %";
  return `${decimals(value, value < 1 || value >= 99 ? 1 : 0)} %`;
}

function factor(value) {
  if (value < 1.1) return value === 1 ? "1" : decimals(Math.max(value, 1.01), 2);
  return decimals(value, value < 9.95 ? 1 : 0);
}

function measure({ lengths, window: reach, causal }) {
  const cells = countCells(lengths, reach, causal), full = Number(cells.full), own = Number(cells.own);
  const total = lengths.reduce((sum, length) => sum + length, 0);
  return {
    cells, crosses: cells.full > cells.own, saving: factor(full / own), kind: causal ? "Full causal" : "Full",
    crossing: percent(Number(cells.full - cells.own) / full),
    counts: `${count(lengths.length, "document")}, ${count(total, "token")}`,
  };
}

function summarize(row) {
  const { cells, crosses, saving, kind, crossing, counts: said } = measure(row);
  if (!crosses) return `${said}: ${kind.toLowerCase()} and varlen are the same ${count(cells.own, "cell")}`;
  return `${said}. ${kind}: ${crossing} of what a token sees is another document. Varlen: attention ÷ ${saving}`;
}

function describe(row) { // what a reader hears who does not see the squares
  const { cells, saving, kind, crossing, counts: said } = measure(row);
  const reach = row.window ? ` with a window of ${count(row.window, "token")}` : "";
  const full = `${kind}: ${count(cells.full, "cell")}, ${crossing} of them look into another document`;
  return `Two attention masks${reach} of one row of ${said}. ${full}. Varlen: ${count(cells.own, "cell")}, ${saving} times fewer.`;
}

let started = 0;
const startAll = () => document.querySelectorAll(".varlen-page").forEach(start);
if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", startAll);
else startAll();
