// The break-it lab in the browser: a board of switches, what the model hears, what it is trained on, what it costs.
//
// `model` holds `data` (page.lab_data). In a notebook it is anywidget's: the switch that is turned goes to the kernel
// as `asked`, and its own run comes back as `live`; in a page there is no kernel and the recorded runs stay. All words
// come with the data. Nothing that names a hidden bug stands in the document before it was named.

const CELL = 10, SIDE = 13, TOP = 1, GAP = 17, ROOM = 0.45; // SVG units
const OPAQUE = [0, 0.42, 0.68, 1]; // of how strongly a token is heard
const ARROWS = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
const SVG = "http://www.w3.org/2000/svg";

function render({ model, el }) {
  const data = model.get("data"), { words, switches } = data;
  const lab = Math.random().toString(36).slice(2); // of its ids: a notebook loads this module anew for every lab
  const live = {}, named = new Set();
  let on = switches.find((each) => each.name === data.on) || null, hidden = false, answer = null, last = null;

  const box = element(el, "div", "varlen-lab");
  box.lang = data.language;
  box.setAttribute("role", "group");
  box.setAttribute("aria-label", words.lab);
  box.addEventListener("keydown", (event) => { // in JupyterLab letters add, cut and delete cells
    if (!(event.ctrlKey || event.metaKey || event.altKey || event.key === "Escape")) event.stopPropagation();
  });
  const lead = element(box, "p", "varlen-lab-lead", words.lead), alone = switches.length === 1;

  const board = element(box, "div", "varlen-lab-board");
  board.setAttribute("role", "group");
  board.setAttribute("aria-label", words.board);
  const knobs = switches.map((each, at) => {
    const knob = element(board, "button", "varlen-lab-switch", each.label);
    knob.type = "button";
    knob.setAttribute("role", "switch");
    knob.addEventListener("click", () => turn(on === each ? null : each));
    knob.addEventListener("keydown", (event) => walk(event, at));
    knob.addEventListener("focus", () => stop(at));
    return knob;
  });
  const veil = element(box, "p", "varlen-lab-veil", words.hidden);
  veil.tabIndex = -1; // what is told when the board goes takes its focus
  const bar = element(box, "div", "varlen-lab-bar");
  const surprise = button(bar, words.surprise, "", hide);
  const tally = element(bar, "span", "varlen-lab-tally");

  const news = element(box, "p", "varlen-lab-news"); // the outcome in a sentence, where the board is still in sight
  news.setAttribute("role", "status");

  const scene = element(box, "div", "varlen-lab-scene");
  const right = figure(scene, words.right), now = figure(scene, words.now);
  const legend = element(box, "div", "varlen-lab-legend");
  for (const kind of ["own", "cross", "missing"]) element(legend, "span", `varlen-lab-kind varlen-lab-kind-${kind}`, words[kind]);
  element(legend, "span", "", words.pale);
  element(legend, "span", "", words.specimen.replace("{count}", data.right.heard.length));
  const tables = element(box, "div", "varlen-lab-tables");
  const losses = element(tables, "div", ""), batch = element(tables, "div", "");

  const quiz = element(box, "form", "varlen-lab-quiz");
  const label = element(quiz, "label", "", words.which), choice = element(quiz, "select", "");
  label.htmlFor = choice.id = `varlen-lab-choice-${lab}`;
  element(choice, "option", "", words.choose).value = "";
  for (const each of switches) element(choice, "option", "", each.label).value = each.name;
  button(quiz, words.name_it, "", () => {}).type = "submit";
  button(quiz, words.give_up, "varlen-lab-plain", () => reveal({ good: false, text: "" }));
  quiz.addEventListener("submit", (event) => { event.preventDefault(); judge(); });
  const says = element(box, "div", "varlen-lab-answer"), verdict = element(says, "p", "varlen-lab-verdict");
  verdict.setAttribute("role", "status");
  const facts = element(says, "dl", ""), stamp = element(says, "p", "varlen-lab-stamp");

  function turn(next) { // one switch on, or none
    [on, hidden, answer] = [next, false, null];
    ask();
    draw();
  }

  function hide() { // one is on, of those that were not named yet, and nobody says which
    const fresh = switches.filter((each) => each !== on && each !== last);
    const left = fresh.filter((each) => !named.has(each.name)), from = left.length ? left : fresh;
    on = last = from[Math.floor(Math.random() * from.length)];
    [hidden, answer] = [true, null];
    choice.value = "";
    draw();
    veil.focus();
  }

  function judge() {
    const guess = switches.find((each) => each.name === choice.value);
    if (!guess) answer = { good: false, text: words.choose_first };
    else if (guess !== on) answer = { good: false, text: guess.mistaken.replace("{sign}", () => on.sign) };
    else {
      named.add(on.name);
      reveal({ good: true, text: on.correct });
      return;
    }
    draw();
  }

  function reveal(said) {
    [hidden, answer] = [false, said];
    ask();
    draw();
    surprise.focus();
  }

  function ask() { // the kernel, where there is one, runs what the reader turned on
    if (!model.save_changes || !on) return;
    model.set("asked", on.name);
    model.save_changes();
  }

  function walk(event, at) { // arrows go from switch to switch, without end
    const last = knobs.length - 1, step = ARROWS[event.key];
    const next = step ? (at + step + knobs.length) % knobs.length : { Home: 0, End: last }[event.key];
    if (next === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    knobs[next].focus();
  }

  function stop(at) { // of all switches the one where Tab stops
    knobs.forEach((knob, n) => { knob.tabIndex = n === at ? 0 : -1; });
  }

  function draw() {
    colour();
    const run = (on && live[on.name]) || (on ? on.run : data.right);
    board.hidden = hidden || alone;
    lead.hidden = bar.hidden = alone;
    knobs.forEach((knob, n) => knob.setAttribute("aria-checked", String(!hidden && switches[n] === on)));
    if (!board.contains(document.activeElement)) stop(Math.max(0, hidden ? 0 : switches.indexOf(on)));
    veil.hidden = quiz.hidden = !hidden;
    surprise.hidden = hidden;
    tally.textContent = words.named.replace("{count}", named.size).replace("{all}", switches.length);
    paint(right, data.right, data.right, `${lab}-right`);
    paint(now, run, data.right, `${lab}-now`);
    weigh(run);
    list(run);
    answered(run);
  }

  function colour() { // light words stand on dark ground; paper is white
    const [r, g, b] = (getComputedStyle(el).color.match(/[\d.]+/g) || [0, 0, 0]).map(Number);
    const dark = r + g + b > 384 && !matchMedia("print").matches;
    const colours = data.colours[dark ? "dark" : "light"];
    for (const [name, value] of Object.entries(colours)) box.style.setProperty(`--varlen-${name}`, value);
    box.style.setProperty("--varlen-cross-wash", dark ? "#2c2110" : "#fff4e2");
  }

  function paint({ svg, caption }, run, should, id) {
    const size = run.heard.length, side = size * CELL, wide = SIDE + side + 1;
    caption.textContent = words.axes;
    svg.replaceChildren();
    svg.setAttribute("viewBox", `0 0 ${wide} ${TOP + side + 2 * (GAP + CELL) + 2}`);
    svg.setAttribute("aria-label", run.told.picture);
    hatch(svg, `varlen-lab-hatch-${id}`, "cross");
    hatch(svg, `varlen-lab-gone-${id}`, "missing");
    const fills = { cross: `url(#varlen-lab-hatch-${id})`, missing: `url(#varlen-lab-gone-${id})` };
    shape(svg, "rect", "varlen-lab-paper", { x: SIDE, y: TOP, width: side, height: side });
    const paths = {}; // one outline for all cells of a kind and strength
    run.heard.forEach((row, q) => [...row].forEach((mark, k) => {
      const kind = kindOf(mark !== "0", should.heard[q][k] !== "0");
      if (kind) (paths[`${kind} ${kind === "own" ? mark : 3}`] ||= []).push(cell(SIDE + k * CELL, TOP + q * CELL));
    }));
    for (const [name, cells] of Object.entries(paths)) {
      const [kind, level] = name.split(" ");
      if (kind !== "missing") shape(svg, "path", `varlen-lab-${kind}`, { d: cells.join(""), "fill-opacity": OPAQUE[level] });
      if (kind !== "own") shape(svg, "path", "", { d: cells.join(""), fill: fills[kind] });
    }
    let start = 0;
    for (const length of data.lengths) {
      const at = start * CELL, wide = length * CELL;
      shape(svg, "rect", "varlen-lab-document", { x: SIDE + at, y: TOP + at, width: wide, height: wide });
      start += length;
    }
    const first = TOP + side + GAP - 4, second = first + CELL + GAP - 3;
    write(svg, "varlen-lab-side", SIDE, first - 3, words.tokens);
    write(svg, "varlen-lab-side", SIDE, second - 3, words.predict);
    for (let t = 0; t < size; t++) {
      const x = SIDE + t * CELL, middle = x + CELL / 2, base = CELL - 2.6;
      write(svg, "", SIDE / 2 - 0.5, TOP + t * CELL + base, data.letters[t]);
      write(svg, "varlen-lab-on", middle, first + base, data.letters[t]);
      const kind = kindOf(run.trained[t] === "1", should.trained[t] === "1");
      shape(svg, "rect", "varlen-lab-edge", { x, y: second, width: CELL, height: CELL });
      if (!kind) continue;
      if (kind !== "missing") shape(svg, "path", `varlen-lab-${kind}`, { d: cell(x, second) });
      if (kind === "missing") shape(svg, "path", "", { d: cell(x, second), fill: fills.missing });
      if (kind === "cross") shape(svg, "path", "varlen-lab-edge", { d: cell(x, second), style: "stroke: var(--varlen-cross_ink); stroke-width: 1" });
      write(svg, kind === "own" ? "varlen-lab-on-own" : "varlen-lab-on", middle, second + base, data.letters[t + 1]);
    }
  }

  function weigh(run) { // a loss beside the truth, of each document and in all
    losses.replaceChildren();
    const body = grid(losses, words.losses, [words.document, words.alone, words.in_row, words.difference], 1);
    const most = Math.max(...switches.map((each) => Math.abs(each.run.loss - data.truth)), 0.05) * 2.5;
    const rows = [...data.lengths.map((_, n) => [`${n + 1}`, data.truths[n], run.losses[n]]), [words.all, data.truth, run.loss]];
    for (const [name, truth, loss] of rows) {
      const apart = truth !== null && loss !== null ? loss - truth : null, odd = apart === null ? loss !== truth : Math.abs(apart) >= 5e-5;
      const line = element(body, "tr", odd ? "varlen-lab-odd" : "");
      element(line, "th", "", name).scope = "row";
      for (const value of [truth, loss]) element(line, "td", "varlen-lab-number", value === null ? "–" : value.toFixed(3));
      const last = element(line, "td", "varlen-lab-number", apart === null ? (loss === null ? words.untrained : "") : signed(apart));
      if (apart === null) continue;
      const share = Math.max(-1, Math.min(1, apart / most)) * 50, bar = element(element(last, "span", "varlen-lab-gauge"), "i", "");
      bar.parentElement.setAttribute("aria-hidden", "true");
      bar.style.left = `${share < 0 ? 50 + share : 50}%`;
      bar.style.width = odd ? `${Math.max(Math.abs(share), 2)}%` : "0";
    }
  }

  function list(run) { // the batch: what it should hold, and what it held
    batch.replaceChildren();
    const body = grid(batch, words.arrived, [words.key, words.should, words.is], 3);
    for (const [key, should, is] of run.batch) {
      const line = element(body, "tr", should === is ? "" : "varlen-lab-odd");
      element(element(line, "th", ""), "code", "", key).parentElement.scope = "row";
      for (const value of [should, is]) {
        const place = element(line, "td", "", value === null ? words.absent : "");
        if (value !== null) element(place, "code", "", value);
      }
    }
    if (on && run.batch.every(([, should, is]) => should === is)) element(batch, "p", "varlen-lab-said", words.same_batch);
  }

  function answered(run) { // the sentence, and beside it what the audit says, unless that would give the bug away
    facts.replaceChildren();
    says.className = `varlen-lab-answer${answer && !answer.good && answer.text ? " varlen-lab-bad" : ""}`;
    verdict.textContent = answer ? answer.text : "";
    stamp.textContent = hidden || !on ? "" : live[on.name] ? words.live : words.recorded;
    report(!hidden && on ? run.findings.map((found) => found.kind) : [], on ? run.told.loss : words.off);
    const audit = fact(facts, words.audit, hidden ? words.covered : "");
    if (hidden) return;
    if (!run.findings.length) audit.append(words.clean);
    for (const { kind, where, what } of run.findings) { // English always, as the audit says it
      const found = element(audit, "span", "");
      found.lang = "en";
      element(found, "b", "", kind);
      found.append(`, ${where}: ${what}. `);
    }
    if (!on) return;
    for (const [name, text] of [["deed", on.deed], ["sign", sentence(on.sign)], ["mend", on.fix]]) fact(facts, words[name], text);
    const link = element(fact(facts, words.source, ""), "a", "", on.source);
    [link.href, link.rel, link.target] = [on.url, "noopener noreferrer", "_blank"];
  }

  function report(kinds, loss) { // told again only where it is news
    const before = news.textContent, made = document.createElement("p");
    if (kinds.length) made.append(`${words.audit} `);
    for (const kind of kinds) element(made, "b", "", kind).lang = "en";
    made.append(kinds.length ? words.stop : "", loss);
    if (made.textContent !== before) news.replaceChildren(...made.childNodes);
  }

  const sentence = (text) => text[0].toUpperCase() + text.slice(1) + words.stop.trim();
  const taken = () => {
    const { switch: name, run } = model.get("live") || {};
    if (!name) return;
    live[name] = run;
    if (on && on.name === name) draw();
  };
  const media = [matchMedia("print"), matchMedia("(prefers-color-scheme: dark)")];
  for (const query of media) query.addEventListener("change", colour);
  if (model.on) model.on("change:live", taken);
  draw();
  const frame = requestAnimationFrame(colour); // only what stands in the page has a colour
  return () => {
    cancelAnimationFrame(frame);
    for (const query of media) query.removeEventListener("change", colour);
    if (model.off) model.off("change:live", taken);
  };
}

function kindOf(is, should) { // of what is there and what should be
  return is ? (should ? "own" : "cross") : should ? "missing" : "";
}

function signed(value) {
  const text = Math.abs(value).toFixed(3);
  return Number(text) ? `${value < 0 ? "−" : "+"}${text}` : text;
}

function cell(x, y) { // its outline, a little smaller than its place
  const side = CELL - 2 * ROOM;
  return `M${x + ROOM} ${y + ROOM}h${side}v${side}h${-side}z`;
}

function hatch(svg, id, kind) { // diagonal lines, as in the figures
  const pattern = shape(svg, "pattern", "", { id, width: 4, height: 4, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" });
  shape(pattern, "line", `varlen-lab-${kind}-lines`, { x1: 0, y1: 0, x2: 0, y2: 4 });
}

function shape(parent, kind, name, attributes) {
  const made = document.createElementNS(SVG, kind);
  if (name) made.setAttribute("class", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  parent.appendChild(made);
  return made;
}

function write(svg, name, x, y, words) {
  shape(svg, "text", name, { x, y }).textContent = words;
}

function figure(parent, title) {
  const made = element(parent, "figure", ""), caption = element(made, "figcaption", "", title);
  const small = element(caption, "small", ""), svg = shape(made, "svg", "", { role: "img" });
  return { svg, caption: small };
}

function grid(parent, title, head, words) { // a table; columns from `words` on hold numbers
  const wide = element(parent, "div", "varlen-lab-wide"), table = element(wide, "table", "");
  element(table, "caption", "", title);
  const line = element(element(table, "thead", ""), "tr", "");
  head.forEach((name, n) => { element(line, "th", n >= words ? "varlen-lab-number" : "", name).scope = "col"; });
  return element(table, "tbody", "");
}

function fact(list, name, text) {
  element(list, "dt", "", name);
  return element(list, "dd", "", text);
}

function button(parent, words, name, action) {
  const made = element(parent, "button", `varlen-lab-button ${name}`, words);
  made.type = "button";
  made.addEventListener("click", action);
  return made;
}

function element(parent, kind, name, words = "") {
  const made = document.createElement(kind);
  made.className = name;
  made.textContent = words;
  parent.appendChild(made);
  return made;
}

export default { render };
