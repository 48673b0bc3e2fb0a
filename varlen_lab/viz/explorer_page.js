// The explorer in a page, without a kernel: every container that `fragment` wrote gets controls, and the canvas of
// explorer.js, from the plain arrays it holds. This file and explorer.js are one script (explorer_page.py: SCRIPT),
// which holds the words of every language; the arrays say which of them is theirs.

const MODES = ["both", "full", "varlen"];

function start(place) {
  const holder = place.querySelector('script[type="application/json"]');
  if (!holder) return;
  const data = JSON.parse(holder.textContent);
  const table = WORDS[data.language] || WORDS.en, say = (name, filled) => fill(table[name], filled);
  const values = { mode: data.mode, dark: data.dark, colours: COLOURS, table }, news = new EventTarget();
  const model = {
    get: (name) => values[name],
    set: (name, value) => { values[name] = value; news.dispatchEvent(new Event(`change:${name}`)); },
    on: (name, action) => news.addEventListener(name, action),
    off: (name, action) => news.removeEventListener(name, action),
  };

  const bar = element(place, "div", "varlen-bar");
  const rows = data.rows || counts(data.lengths.length).map((documents) => data.lengths.slice(0, documents));
  const now = rows.findIndex((row) => row.length === data.lengths.length);
  const documents = slider(bar, say("documents"), rows, now, (row) => row.length.toLocaleString("en"));
  const reaches = windows(data.lengths.reduce((sum, length) => sum + length, 0), data.window);
  const reach = slider(bar, say("window"), reaches, reaches.indexOf(data.window || 0), (tokens) => (
    tokens ? count(table, tokens, "token") : say("off")
  ));
  const modes = element(bar, "fieldset", "varlen-modes"), group = `varlen-mode-${started++}`;
  element(modes, "legend", "varlen-live").textContent = say("masks");
  for (const mode of MODES) {
    const radio = option(modes, "radio", say(mode), mode === data.mode);
    radio.name = group;
    radio.addEventListener("change", () => model.set("mode", mode));
  }
  const causal = option(bar, "checkbox", say("causal"), data.causal);
  const summary = element(place, "p", "varlen-summary");
  summary.setAttribute("aria-live", "polite");

  function update() { // the row of the controls' positions
    const lengths = documents.value(), row = { lengths, window: reach.value() || null, causal: causal.checked };
    summary.textContent = summarize(table, row);
    model.set("row", { ...row, names: data.names, tokens: data.tokens, words: describe(table, row) });
  }
  for (const control of [documents.input, reach.input, causal]) control.addEventListener("input", update);
  update();
  render({ model, el: element(place, "div", "varlen-drawn") });
  if (data.tokens.length && data.tokens.length < data.total) {
    const kept = data.tokens.length.toLocaleString("en"), tokens = count(table, data.total, "token");
    element(place, "p", "varlen-note").textContent = say("kept", { kept, tokens });
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
  const widest = Math.max(...values.map((each) => breadth(words(each))));
  told.style.minWidth = `${widest}ch`; // what follows stays where it is
  input.addEventListener("input", tell);
  label.hidden = values.length < 2;
  tell();
  return { input, value };
}

function breadth(text) { // in digits: a Chinese sign is as wide as two
  return [...text].reduce((sum, sign) => sum + (sign >= "\u2e80" ? 2 : 1), 0);
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

function measure(table, { lengths, window: reach, causal }) {
  const cells = countCells(lengths, reach, causal), full = Number(cells.full), own = Number(cells.own);
  const total = lengths.reduce((sum, length) => sum + length, 0);
  return {
    crosses: cells.full > cells.own, saving: factor(full / own),
    share: percent(Number(cells.full - cells.own) / full),
    full: table[causal ? "Full causal" : "Full"], within: table[causal ? "full causal within" : "full within"],
    cells: count(table, cells.full, "cell"), own: count(table, cells.own, "cell"),
    counts: fill(table.counts, {
      documents: count(table, lengths.length, "document"), tokens: count(table, total, "token")
    }),
  };
}

function summarize(table, row) {
  const found = measure(table, row);
  if (found.crosses) return fill(table.summary, found);
  return fill(table.same, { ...found, full: found.within, cells: found.own });
}

function describe(table, row) { // what a reader hears who does not see the squares
  const reach = row.window ? fill(table.reach, { tokens: count(table, row.window, "token") }) : "";
  return fill(table.described, { ...measure(table, row), reach });
}

let started = 0;
const startAll = () => document.querySelectorAll(".varlen-page").forEach(start);
if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", startAll);
else startAll();
