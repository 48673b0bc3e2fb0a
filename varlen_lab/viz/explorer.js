// The mask explorer in the browser: draws one packed row on a canvas and says what lies under the pointer.
//
// `model` holds `row` (lengths, names, window, causal, tokens, words), `mode`, `dark`, the colours and the `table` of
// words that explorer_words.py makes. In a notebook it is anywidget's and the kernel fills it; in a page it is
// explorer_page.js's. Everything else happens here: counts, zoom, hover and keyboard need no kernel. A view is
// {key, query, size}: the square of tokens that is shown. Cost is the documents in view, never tokens squared.
// `canvas.dataset.state` tells what is on the screen, as JSON.

const GAP = 26, LEFT = 8, HEAD = 30, STRIP = 16, STROKE = 1.4, STAIRS = 2.5; // CSS pixels; STAIRS: pixels per token
const BESIDE = 560; // CSS pixels: in less room the squares stand below each other
const KINDS = ["own", "cross", "empty"]; // the legend
const BUTTONS = [["-", "−", "zoom out"], ["0", "⤢", "whole row"], ["+", "+", "zoom in"]];
const MARKS = { " ": "␣", "\n": "↵", "\t": "⇥" }; // in the text of a token
const MOVES = { ArrowLeft: ["key", -1], ArrowRight: ["key", 1], ArrowUp: ["query", -1], ArrowDown: ["query", 1] };
const PAGES = { PageUp: -1, PageDown: 1 }; // documents

function render({ model, el }) {
  const table = model.get("table"), say = (name, values) => fill(table[name], values);
  const box = element(el, "div", "varlen-explorer");
  const canvas = element(box, "canvas", "varlen-canvas");
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "application");
  canvas.setAttribute("aria-roledescription", say("role"));
  const tip = element(box, "div", "varlen-tip");
  const live = element(box, "div", "varlen-live");
  live.setAttribute("aria-live", "polite");
  const legend = element(box, "div", "varlen-legend");
  for (const kind of KINDS) element(legend, "span", `varlen-kind varlen-${kind}`).textContent = say(kind);
  const buttons = element(legend, "span", "varlen-buttons"); // a finger has no keys
  const help = element(box, "div", "varlen-help");
  help.textContent = say("help");
  canvas.setAttribute("aria-description", help.textContent);

  const paper = matchMedia("print"); // is white

  let row, view, cell = null, drag = null, panels = [], draws = 0, milliseconds = 0;

  function take() { // a new row
    const { lengths, names, window: reach, causal, tokens, words } = model.get("row");
    const ends = [];
    lengths.reduce((sum, length) => (ends.push(sum + length), sum + length), 0);
    const total = ends[ends.length - 1], cells = countCells(lengths, reach, causal);
    if (!row || row.total !== total) { // another window or direction of the same row is looked at where one is
      view = { key: 0, query: 0, size: total };
      cell = null;
      tip.hidden = true;
    }
    row = { lengths, names, ends, total, tokens, words, causal, cells, reach: reach || total };
    if (cell) tip.textContent = sentence(cell);
    canvas.setAttribute("aria-label", words);
    draw();
  }

  const start = (d) => row.ends[d] - row.lengths[d];
  const called = (d, most = 80) => (
    row.names[d] ? shown(row.names[d], most) : say("document", { number: (d + 1).toLocaleString("en") })
  );
  const owner = (token) => { // the document a token belongs to: binary search
    let low = 0, high = row.ends.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (row.ends[middle] > token) high = middle; else low = middle + 1;
    }
    return low;
  };
  const dark = () => {
    if (paper.matches) return false;
    const asked = model.get("dark");
    if (asked !== null) return asked;
    for (let node = box; node; node = node.parentElement) { // the first background that is not see-through
      const [r, g, b, a = 1] = (getComputedStyle(node).backgroundColor.match(/[\d.]+/g) || [255, 255, 255]).map(Number);
      if (a > 0) return r + g + b < 384;
    }
    return false;
  };

  function draw() {
    const began = performance.now();
    const colours = model.get("colours")[dark() ? "dark" : "light"];
    const mode = model.get("mode"), both = mode === "both";
    const room = box.clientWidth || 830, beside = both && room >= BESIDE;
    const width = Math.max(240, Math.min(room, beside ? 960 : 520));
    const side = Math.floor(beside ? (width - 2 * LEFT - GAP) / 2 : width - 2 * LEFT), tall = HEAD + side + STRIP + 12;
    const ratio = globalThis.devicePixelRatio || 1, height = both && !beside ? 2 * tall : tall;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      [canvas.width, canvas.height] = [Math.round(width * ratio), Math.round(height * ratio)];
      [canvas.style.width, canvas.style.height] = [`${width}px`, `${height}px`];
    }
    const pen = canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    for (const [name, value] of Object.entries(colours)) box.style.setProperty(`--varlen-${name}`, value);
    const kinds = both ? ["full", "varlen"] : [mode];
    box.style.background = model.get("dark") === null ? "" : colours.page; // asked for, on whatever page
    panels = kinds.map((kind, n) => (
      beside ? { kind, x: LEFT + n * (side + GAP), y: HEAD, side } : { kind, x: LEFT, y: HEAD + n * tall, side }
    ));
    for (const panel of panels) drawPanel(pen, panel, colours);
    draws += 1;
    milliseconds = performance.now() - began;
    tell();
  }

  function drawPanel(pen, { kind, x, y, side }, colours) {
    const scale = side / view.size;
    pen.fillStyle = colours.ink;
    pen.font = "600 14px sans-serif";
    pen.textBaseline = "alphabetic";
    pen.textAlign = "left";
    const name = say(kind === "varlen" ? "Varlen" : row.causal ? "Full causal" : "Full");
    const named = x + 14 + pen.measureText(name).width;
    pen.fillText(name, x, y - 11);
    pen.fillStyle = colours.quiet;
    pen.font = "12px sans-serif";
    const cells = count(table, kind === "varlen" ? row.cells.own : row.cells.full, "cell"), axes = say("axes");
    if (named + pen.measureText(axes + cells).width + 14 < x + side) pen.fillText(axes, named, y - 11);
    pen.textAlign = "right";
    pen.fillText(cells, x + side, y - 11);
    pen.save();
    pen.beginPath();
    pen.rect(x, y, side, side);
    pen.clip();
    pen.fillStyle = colours.empty;
    pen.fillRect(x, y, side, side);
    pen.translate(x - view.key * scale, y - view.query * scale);
    if (kind === "full") {
      band(pen, 0, row.total, scale);
      pen.fillStyle = colours.cross;
      pen.fill();
      pen.fillStyle = hatch(pen, colours.cross_ink);
      pen.fill();
    }
    const first = owner(Math.min(row.total - 1, Math.max(0, Math.floor(view.query))));
    const last = owner(Math.min(row.total - 1, Math.ceil(view.query + view.size) - 1));
    pen.fillStyle = pen.strokeStyle = colours.own;
    pen.lineWidth = STROKE;
    for (let d = first; d <= last; d++) {
      band(pen, start(d), row.ends[d], scale);
      pen.fill();
      if (Math.min(row.lengths[d], row.reach) * scale < STROKE) pen.stroke();
    }
    pen.restore();
    pen.strokeStyle = colours.line;
    pen.lineWidth = 1;
    pen.strokeRect(x + 0.5, y + 0.5, side - 1, side - 1);
    drawStrip(pen, x, y + side + 6, side, colours);
    if (cell) drawCell(pen, x, y, side, colours);
  }

  function band(pen, from, to, scale) { // outline of the cells of tokens from..to, the part in view
    const low = Math.max(from, Math.floor(view.query)), high = Math.min(to, Math.ceil(view.query + view.size));
    const reach = Math.min(row.reach, to - from);
    pen.beginPath();
    if (scale >= STAIRS) { // cell by cell
      for (let q = low; q < high; q++) {
        const left = Math.max(from, q - reach + 1);
        const right = row.causal ? q + 1 : Math.min(to, q + reach);
        pen.rect(left * scale, q * scale, (right - left) * scale, scale);
      }
      return;
    }
    const corners = [[from, from], [from, from + reach], [to - reach, to], [to, to]];
    if (!row.causal) corners.push([to, to - reach], [from + reach, from]);
    corners.forEach(([key, query], n) => pen[n ? "lineTo" : "moveTo"](key * scale, query * scale));
    pen.closePath();
  }

  function drawStrip(pen, x, y, side, colours) { // whose keys these are, under the square
    const scale = side / view.size;
    pen.save();
    pen.beginPath();
    pen.rect(x, y, side, STRIP);
    pen.clip();
    pen.font = "11px sans-serif";
    pen.textAlign = "center";
    const last = owner(Math.min(row.total - 1, Math.ceil(view.key + view.size) - 1));
    for (let d = owner(Math.max(0, Math.floor(view.key))); d <= last; d++) {
      const left = Math.max(0, (start(d) - view.key) * scale), right = Math.min(side, (row.ends[d] - view.key) * scale);
      pen.fillStyle = d % 2 ? colours.own_soft : colours.own;
      pen.fillRect(x + left, y, Math.max(right - left, 0.5), STRIP);
      if (right - left < 14) continue;
      const words = pen.measureText(called(d)).width < right - left - 6 ? called(d) : `${d + 1}`;
      if (pen.measureText(words).width > right - left - 4) continue;
      pen.fillStyle = d % 2 ? colours.on_soft : colours.on_own;
      pen.fillText(words, x + (left + right) / 2, y + STRIP - 4.5);
    }
    pen.restore();
  }

  function drawCell(pen, x, y, side, colours) { // cross hairs and a frame around the cell that is spoken of
    const scale = side / view.size, span = Math.max(scale, 4), grow = (span - scale) / 2;
    const left = (cell.key - view.key) * scale, top = (cell.query - view.query) * scale;
    pen.save();
    pen.beginPath();
    pen.rect(x, y, side, side);
    pen.clip();
    pen.strokeStyle = colours.ink;
    pen.globalAlpha = 0.35;
    pen.strokeRect(x - 2, y + top, side + 4, scale);
    pen.strokeRect(x + left, y - 2, scale, side + 4);
    pen.globalAlpha = 1;
    pen.lineWidth = 2;
    pen.strokeRect(x + left - grow, y + top - grow, span, span);
    if (drag && drag.size > 1) {
      pen.lineWidth = 1.5;
      pen.setLineDash([5, 3]);
      const [key, query] = [drag.key - view.key, drag.query - view.query];
      pen.strokeRect(x + key * scale, y + query * scale, drag.size * scale, drag.size * scale);
    }
    pen.restore();
  }

  function sentence({ query, key }) {
    const who = (token) => {
      const d = owner(token), offset = token - start(d);
      const place = { token: token.toLocaleString("en"), document: called(d, 32), offset };
      if (!row.tokens[token]) return say("place", place);
      return say("place with text", { ...place, text: shown(row.tokens[token], 40, MARKS) });
    };
    const why = row.causal && key > query ? "later" : Math.abs(query - key) >= row.reach ? "outside" : "";
    const varlen = why ? "varlen blocked" : owner(query) === owner(key) ? "varlen sees" : "stranger";
    const told = { full: say(why || "full sees"), varlen: say(varlen) };
    return say("cell", { query: who(query), key: who(key), ...told });
  }

  function area() { // what a zoom left on the screen, for those who do not see it
    const low = (axis) => Math.floor(view[axis]).toLocaleString("en");
    const high = (axis) => (Math.ceil(view[axis] + view.size) - 1).toLocaleString("en");
    return say("in view", { top: low("query"), bottom: high("query"), left: low("key"), right: high("key") });
  }

  function point(next, aloud, zoomed = false) { // the cell under the pointer or the keyboard's cursor
    cell = next;
    tip.hidden = !cell;
    if (cell) tip.textContent = sentence(cell);
    if (aloud) live.textContent = [...(zoomed ? [area()] : []), ...(cell ? [tip.textContent] : [])].join(" ");
    draw();
    if (!cell) return;
    const panel = panels.find((p) => p.kind === cell.panel) || panels[0], scale = panel.side / view.size;
    const x = panel.x + (cell.key + 1 - view.key) * scale, y = panel.y + (cell.query + 1 - view.query) * scale;
    tip.style.left = `${Math.max(0, Math.min(x + 12, canvas.clientWidth - tip.offsetWidth - 4))}px`;
    tip.style.top = `${y + 14}px`;
  }

  function zoom(key, query, size) {
    size = Math.max(4, Math.min(row.total, size));
    const inside = (low) => Math.max(0, Math.min(low, row.total - size));
    view = { key: inside(key), query: inside(query), size };
  }

  function follow(next) { // the view goes where the cursor is
    const low = (axis) => {
      const inside = next[axis] >= view[axis] && next[axis] < view[axis] + view.size;
      return inside ? view[axis] : next[axis] - view.size / 2;
    };
    zoom(low("key"), low("query"), view.size);
  }

  function at(event) { // the cell at a mouse position, or null between the panels
    const area = canvas.getBoundingClientRect(), x = event.clientX - area.left, y = event.clientY - area.top;
    const panel = panels.find((p) => x >= p.x && x < p.x + p.side && y >= p.y && y < p.y + p.side);
    if (!panel) return null;
    const token = (pixels, low) => Math.min(row.total - 1, Math.floor(low + (pixels / panel.side) * view.size));
    return { key: token(x - panel.x, view.key), query: token(y - panel.y, view.query), panel: panel.kind };
  }

  function tell() { // what is on the screen, for tests and for the curious
    canvas.dataset.state = JSON.stringify({
      mode: model.get("mode"), documents: row.lengths.length, total: row.total, reach: row.reach, causal: row.causal,
      cells: { full: `${row.cells.full}`, own: `${row.cells.own}` }, view, cell, says: cell ? sentence(cell) : "",
      dark: dark(), panels, draws, milliseconds,
    });
  }

  const on = (target, name, action) => target.addEventListener(name, action);
  on(canvas, "pointermove", (event) => {
    const here = at(event);
    if (drag && here) {
      const axes = ["key", "query"];
      drag.size = 1 + Math.max(...axes.map((axis) => Math.abs(here[axis] - drag.from[axis])));
      [drag.key, drag.query] = axes.map((axis) => Math.min(drag.from[axis], here[axis]));
    }
    point(here, false);
  });
  on(canvas, "pointerleave", (event) => { drag = null; if (event.pointerType !== "touch") point(null, false); });
  on(canvas, "pointercancel", () => { drag = null; }); // a finger scrolls the page
  on(canvas, "pointerdown", (event) => {
    const from = at(event);
    drag = event.pointerType !== "touch" && from && { from, ...from, size: 1 };
    canvas.focus({ preventScroll: true });
  });
  on(canvas, "pointerup", (event) => {
    const done = drag;
    drag = null;
    if (done && done.size >= Math.max(4, view.size / 50)) zoom(done.key, done.query, done.size);
    point(at(event), true);
  });
  on(canvas, "dblclick", () => { zoom(0, 0, row.total); point(null, false); });
  function press(key, far) { // a key of the canvas or a button below it; false: not one of ours
    const first = { key: Math.floor(view.key), query: Math.floor(view.query), panel: panels[0].kind };
    let next = cell;
    if (MOVES[key]) {
      const [axis, by] = MOVES[key];
      next = cell ? { ...cell, [axis]: Math.max(0, Math.min(row.total - 1, cell[axis] + by * far)) } : first;
      follow(next);
    } else if (key === "Home" || key === "End") { // along the keys of a query
      next = { ...(cell || first), key: key === "Home" ? 0 : row.total - 1 };
      follow(next);
    } else if (PAGES[key]) { // to the first token of another document
      const here = cell || first, other = owner(here.query) + PAGES[key] * far;
      const seam = start(Math.max(0, Math.min(row.lengths.length - 1, other)));
      next = { ...here, key: seam, query: seam };
      follow(next);
    } else if (key === "+" || key === "=" || key === "-") { // around the cell, or the middle
      const size = key === "-" ? view.size * 2 : view.size / 2;
      const middle = (axis) => (cell ? cell[axis] : view[axis] + view.size / 2);
      zoom(middle("key") - size / 2, middle("query") - size / 2, size);
    } else if (key === "0" || key === "Escape") {
      zoom(0, 0, row.total);
      if (key === "Escape") next = null;
    } else return false;
    point(next, true, next === cell || !next);
    return true;
  }
  on(canvas, "keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !press(event.key, event.shiftKey ? 10 : 1)) return;
    event.preventDefault();
    event.stopPropagation(); // in JupyterLab these keys move between cells
  });
  for (const [key, sign, name] of BUTTONS) {
    const words = say(name);
    const button = element(buttons, "button", "");
    button.type = "button";
    button.textContent = sign;
    button.title = words;
    button.setAttribute("aria-label", words);
    on(button, "click", () => press(key, 1));
  }

  const leave = (event) => { // words under the pointer go without the pointer's going
    if (event.key === "Escape" && cell && document.activeElement !== canvas) point(null, false);
  };
  document.addEventListener("keydown", leave);

  const redraw = () => draw(), sizes = new ResizeObserver(redraw);
  const media = [paper, matchMedia("(prefers-color-scheme: dark)")];
  const news = [["change:row", take], ["change:mode", redraw], ["change:dark", redraw]];
  for (const [name, action] of news) model.on(name, action);
  for (const query of media) query.addEventListener("change", redraw);
  take();
  sizes.observe(box);
  return () => {
    sizes.disconnect();
    document.removeEventListener("keydown", leave);
    for (const [name, action] of news) model.off(name, action);
    for (const query of media) query.removeEventListener("change", redraw);
  };
}

function bandCells(length, reach, causal) { // cells of one block: exact, as PackedRow counts them
  const seen = reach && reach < length ? BigInt(reach) : BigInt(length), all = BigInt(length);
  const triangle = (seen * (seen + 1n)) / 2n + (all - seen) * seen;
  return causal ? triangle : 2n * triangle - all;
}

function countCells(lengths, reach, causal) { // of the row as one document, and of each document alone
  const add = (sum, part) => sum + part;
  const own = lengths.map((length) => bandCells(length, reach, causal)).reduce(add, 0n);
  return { full: bandCells(lengths.reduce(add, 0), reach, causal), own };
}

function fill(template, values = {}) { // a template of the table with its {names} filled in
  return template.replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

function count(table, number, noun) { // 1 cell, 1,000 cells
  const [one, several] = table[`# ${noun}`];
  return fill(Number(number) === 1 ? one : several, { count: number.toLocaleString("en") });
}

function shown(text, most, marks = { " ": " " }) { // somebody else's text, its controls and odd blanks written out
  const signs = [...text.slice(0, 2 * most + 2)], cut = signs.length > most;
  return (cut ? `${signs.slice(0, most).join("")}…` : text).replace(/[\p{C}\p{Z}]/gu, (sign) => marks[sign] || `\\u{${sign.codePointAt(0).toString(16)}}`);
}

function element(parent, kind, name) {
  const made = document.createElement(kind);
  made.className = name;
  parent.appendChild(made);
  return made;
}

function hatch(pen, colour) { // diagonal lines as a pattern, as in the figures
  const tile = document.createElement("canvas");
  tile.width = tile.height = 12;
  const ink = tile.getContext("2d");
  ink.strokeStyle = colour;
  ink.lineWidth = 1.2;
  for (const shift of [-6, 0, 6, 12, 18]) {
    ink.moveTo(shift - 12, 12);
    ink.lineTo(shift, 0);
  }
  ink.stroke();
  return pen.createPattern(tile, "repeat");
}

export default { render };
