// Asks the server what its model says of one sentence or two, and draws it. Text only ever becomes text (textContent).

import { drawTree, phrase } from "./tree.js";

const KINDS = { // by the model's task: what the fields are called, and sentences to try
  pair: {
    names: ["Premise", "Hypothesis"],
    examples: [
      ["A man is playing a guitar.", "The man is asleep."],
      ["Two girls are running in a park.", "Some children are outdoors."],
      ["all dogs that hug some children run", "all poodles move"], // of the generated corpus
    ],
  },
  sentence: {
    names: ["Sentence", "Another one, to compare"],
    examples: [["It is not a bad film, and it is never dull."], ["A joy to watch.", "No joy to watch."]],
  },
  parse: {
    names: ["Sentence", "Another one, to compare"],
    examples: [
      ["I saw the man with the telescope."],
      ["The old man the boats."],
      ["We saw her duck.", "We saw her fall."],
    ],
  },
};
const MOST_LABELS = 8;
const UNKNOWN = 1; // the id of all words that the model does not know

const at = (id) => document.getElementById(id);
const fields = [at("text-0"), at("text-1")];
let info = null; // what the server says of its model
let shown = null; // what was drawn of what the server said: panels, last step, texts
let step = 0; // how many transitions are done
let timer = 0; // of playing
let asking = null; // the request on its way

// elements

function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children); // strings become text
  return element;
}

function percent(share) {
  if (share > 0.9995 && share < 1) return ">\u00a099.9\u00a0%";
  if (share < 0.0005 && share > 0) return "<\u00a00.1\u00a0%";
  return `${(100 * share).toFixed(share === 1 ? 0 : 1)}\u00a0%`;
}

// the server

async function ask(path, body, signal) {
  const headers = { "Content-Type": "application/json" };
  if (at("key").value) headers.Authorization = `Bearer ${at("key").value}`;
  let response, answer;
  try {
    response = await fetch(path, { method: body ? "POST" : "GET", headers, signal, body: body && JSON.stringify(body) });
    answer = await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error(response ? `The server's answer cannot be read (${response.status}).` : "The server cannot be reached.");
  }
  if (response.ok) return answer;
  if (response.status === 401) {
    at("key-field").hidden = false;
    at("key").focus();
    throw new Error(at("key").value ? "That is not the server’s key." : "This server asks for its key.");
  }
  throw Object.assign(new Error(answer.error || `The server refuses (${response.status}).`), { status: response.status });
}

async function learn() {
  info = await ask("info");
  const { names, examples: all } = KINDS[info.task];
  const tokens = await Promise.all(all.map((texts) => ask("tokenize", { inputs: texts })));
  const known = all.filter((texts, i) => tokens[i].flat().every(({ id }) => id !== UNKNOWN));
  const examples = (KINDS[info.task].examples = known.length ? known : all);
  names.forEach((name, i) => { document.querySelector(`label[for=text-${i}]`).textContent = name; });
  at("model").textContent = `${info.model_id} · ${info.encoder}, ${info.task} · spinn_tensor ${info.version}`;
  for (const texts of examples) {
    const button = make("button", { type: "button" }, texts.join(" / "));
    button.addEventListener("click", () => { fill(texts); read(); });
    at("examples").append(button);
  }
  at("examples").hidden = false;
}

async function start() {
  try {
    if (!info) await learn();
  } catch (error) {
    fail(error.message);
    if (error.status === 503) setTimeout(start, 1000); // the model is being loaded
    return;
  }
  follow();
}

function fill(texts) {
  fields.forEach((field, i) => { field.value = texts[i] ?? ""; });
}

async function read(keepLink = false, atStep = null) {
  stop();
  asking?.abort();
  const mine = (asking = new AbortController());
  fail("");
  at("read").setAttribute("aria-busy", "true");
  try {
    const texts = fields.map((field) => field.value.trim());
    while (info.task !== "pair" && texts.length > 1 && !texts.at(-1)) texts.pop();
    const answer = await ask("detail", { inputs: texts }, mine.signal);
    draw(answer, texts);
    if (!keepLink) link(null, true);
    settle();
    go(atStep ?? shown.last);
    if (answer.labels) at("told").prepend(`${answer.labels[0].label}, ${percent(answer.labels[0].score)}. `);
  } catch (error) {
    if (error.name !== "AbortError") fail(error.message);
  } finally {
    if (mine === asking) at("read").removeAttribute("aria-busy");
  }
}

function fail(reason) {
  fields.forEach((field, i) => field.setAttribute("aria-invalid", String(reason.startsWith(`inputs[${i}]`))));
  const names = info ? KINDS[info.task].names : [];
  at("error").textContent = reason.replace(/^inputs(?:\[(\d)\])?/, (all, i) => names[i ?? 0] ?? all);
  if (reason) at("result").hidden = true;
}

// links: what was asked is behind the #, which no browser sends and no server logs

function link(here, isNew) {
  const parameters = new URLSearchParams(shown.texts.map((text) => ["text", text]));
  if (here !== null) parameters.set("step", here);
  const hash = `#${parameters}`;
  if (hash !== location.hash) history[isNew ? "pushState" : "replaceState"](null, "", hash);
}

function keepStep() {
  link(step < shown.last ? step : null, false);
}

async function follow() {
  const parameters = new URLSearchParams(location.hash.slice(1));
  const texts = parameters.getAll("text").slice(0, 2);
  if (texts.length) fill(texts);
  const isBlank = fields.every((field) => !field.value.trim());
  if (isBlank) fill(KINDS[info.task].examples[0]);
  const given = parameters.get("step");
  await read(true, given === null ? null : Number(given) || 0);
  if (isBlank && !at("result").hidden && !matchMedia("(prefers-reduced-motion: reduce)").matches) play(); // who opens the page sees a tree grow
}

// what is drawn once

function draw(answer, texts) {
  const names = KINDS[info.task].names;
  at("result").hidden = false;
  at("answer").replaceChildren();
  at("sentences").replaceChildren();
  at("sentences").classList.toggle("alone", answer.sentences.length === 1);
  if (answer.labels) at("answer").append(make("div", {}, make("p", { class: "kind" }, "Label"), bars(answer.labels)));
  if (answer.similarity !== null) at("answer").append(similarity(answer.similarity));
  const titles = answer.sentences.length === 1 || info.task === "pair" ? names : ["First sentence", "Second sentence"];
  const panels = answer.sentences.map((sentence, i) => panel(sentence, titles[i]));
  const last = Math.max(...answer.sentences.map((sentence) => sentence.steps?.length ?? 0));
  shown = { panels, last, texts };
  at("player").hidden = !last;
  at("step").max = last;
}

function bars(labels, written = percent) {
  const list = make("ol", { class: "bars", role: "list" });
  for (const [i, { label, score }] of labels.slice(0, MOST_LABELS).entries()) {
    const filled = make("span");
    filled.style.width = `${100 * Math.max(score, 0)}%`;
    const bar = make("span", { class: "bar", "aria-hidden": "true" }, filled);
    list.append(make("li", i ? {} : { class: "first" }, make("span", {}, label), bar, make("span", {}, written(score))));
  }
  const more = labels.length - MOST_LABELS;
  return more > 0 ? make("div", {}, list, make("p", { class: "note" }, `and ${more} more`)) : list;
}

function similarity(cosine) {
  const element = make("div", {}, make("p", { class: "kind" }, "Similarity"));
  element.append(bars([{ label: "cosine of the vectors", score: cosine }], (value) => value.toFixed(3).replace("-", "−")));
  if (info.task === "parse") element.append(make("p", { class: "note" }, "This model learnt to parse, not what sentences mean."));
  return element;
}

function panel(sentence, name) {
  const article = at("sentence").content.cloneNode(true).firstElementChild;
  at("sentences").append(article);
  const one = { sentence, article, title: article.querySelector("h2"), nodes: [], cells: [] };
  one.title.textContent = name;
  article.setAttribute("aria-label", name);
  const unknown = sentence.tokens.filter((_, i) => sentence.unknown[i]);
  note(article.querySelector(".note"), unknown.length && `Not in the model’s vocabulary: ${[...new Set(unknown)].join(" · ")}`);
  if (sentence.labels) article.querySelector(".labels").append(bars(sentence.labels));
  if (!sentence.steps) {
    article.querySelector("figure").replaceChildren(make("p", {}, sentence.tokens.join(" ")), make("p", { class: "note" }, "This model looks at no tree."));
    article.querySelector(".machine").remove();
    return one;
  }
  article.querySelector(".brackets").textContent = sentence.tree;
  article.querySelector(".tree").setAttribute("aria-label", `Tree: ${sentence.tree}`);
  one.nodes = drawTree(article.querySelector(".tree"), sentence);
  drawTransitions(one);
  article.querySelector(".save").addEventListener("click", () => save(shown.panels.indexOf(one)));
  article.addEventListener("click", (event) => {
    const target = event.target.closest("[data-step]");
    if (target) jump(Number(target.dataset.step));
  });
  return one;
}

async function save(number) {
  try {
    const [picture] = await ask("parse", { inputs: [shown.texts[number]], format: "svg" });
    const address = URL.createObjectURL(new Blob([picture], { type: "image/svg+xml" }));
    make("a", { href: address, download: "tree.svg" }).click();
    setTimeout(() => URL.revokeObjectURL(address), 1000);
  } catch (error) {
    at("error").textContent = error.message;
  }
}

function note(element, text) {
  element.hidden = !text;
  element.textContent = text || "";
}

function inShort(words) {
  const all = words.split(" ");
  return all.length > 6 ? [...all.slice(0, 3), "…", ...all.slice(-2)].join(" ") : words;
}

function drawTransitions({ sentence, article, cells }) {
  const strip = article.querySelector(".transitions");
  strip.setAttribute("aria-label", `Transitions: ${sentence.steps.map((one) => one.transition).join(", ")}`);
  sentence.steps.forEach((one, t) => {
    const bar = make("i");
    bar.style.setProperty("--share", `${100 * (one.probability ?? 0)}%`);
    const cell = make("span", { "data-step": t + 1, title: `${t + 1}. ${one.transition} ${chance(one)}` }, bar, one.transition[0]);
    if (one.is_forced) cell.classList.add("forced");
    cells.push(cell);
  });
  strip.replaceChildren(...cells);
  const isUntold = sentence.steps.every((one) => one.probability === null);
  strip.classList.toggle("untold", isUntold);
  const whole = sentence.log_probability === null ? "" : `; that of the whole tree is ${percent(Math.exp(sentence.log_probability))}`;
  article.querySelector(".odds").textContent = isUntold ? "Transitions" : `Transitions and their probabilities${whole}`;
  note(article.querySelector(".why"), isUntold && (info.encoder === "spinn"
    ? "This export was made by an earlier version, which does not tell how probable transitions are."
    : "The model composes by this tree; it does not choose the transitions itself."));
}

function chance({ probability, is_forced }) {
  if (is_forced) return "the only choice";
  return probability === null ? "" : `probability ${percent(probability)}`;
}

// what changes with each step

function go(to) {
  step = Math.max(0, Math.min(shown.last, to));
  at("step").value = step;
  at("step").setAttribute("aria-valuetext", `${step} of ${shown.last}`);
  at("count").textContent = `${step} of ${shown.last}`;
  at("back").setAttribute("aria-disabled", step === 0); // "disabled" would take the focus away
  at("forward").setAttribute("aria-disabled", step === shown.last);
  const told = shown.panels.map((one) => {
    const text = show(one);
    return shown.panels.length === 1 ? text : `${one.title.textContent}: ${text}`;
  });
  if (!timer) at("told").textContent = told.join(". ");
}

// The machine keeps the height that it once had, so that the tree below it does not jump from step to step.
function settle() {
  for (const { article } of shown.panels) article.querySelector(".machine")?.style.removeProperty("min-height");
  for (let quarter = 0; quarter <= 4; quarter++) {
    step = Math.round((quarter * shown.last) / 4);
    shown.panels.forEach(show);
  }
}

function show({ sentence, article, nodes, cells }) {
  if (!sentence.steps) return "";
  const done = Math.min(step, sentence.steps.length);
  const now = done === step ? done - 1 : -1; // a shorter sentence waits for the other one
  nodes.forEach((group, t) => {
    group.classList.toggle("waiting", t >= done);
    group.classList.toggle("now", t === now);
  });
  cells.forEach((cell, t) => {
    cell.classList.toggle("done", t < done);
    cell.classList.toggle("now", t === now);
    cell.classList.toggle("shifted", t === now && sentence.steps[t].transition === "SHIFT");
  });
  const stack = [];
  for (let t = done - 1; t >= 0; t = sentence.steps[t].below ?? -1) stack.unshift(t);
  const items = stack.map((t) => make("li", {}, phrase(sentence, sentence.steps[t])));
  if (items.length && sentence.steps[stack.at(-1)].transition === "SHIFT") items.at(-1).classList.add("shifted");
  const nShifted = done ? sentence.steps[done - 1].end : 0;
  const waiting = sentence.tokens.slice(nShifted).map((token) => make("li", {}, token));
  const none = () => make("li", { class: "none" }, "empty");
  article.querySelector(".stack").replaceChildren(...(items.length ? items : [none()]));
  article.querySelector(".buffer").replaceChildren(...(waiting.length ? waiting : [none()]));
  const action = article.querySelector(".action");
  action.replaceChildren(...said(sentence, done));
  const machine = article.querySelector(".machine");
  machine.style.minHeight = `${machine.offsetHeight}px`;
  return action.textContent;
}

function said(sentence, done) {
  if (!done) return ["All words wait in the buffer"];
  const node = sentence.steps[done - 1];
  const name = make("b", { class: node.transition.toLowerCase() }, node.transition.toLowerCase());
  const quoted = (t) => make("q", {}, inShort(phrase(sentence, sentence.steps[t])));
  const what = node.transition === "SHIFT"
    ? [" moves ", quoted(done - 1), " onto the stack"]
    : [" joins ", quoted(node.left), " and ", quoted(node.right)];
  const how = chance(node);
  return [name, ...what, how && ` — ${how}`];
}

function jump(to) {
  stop();
  go(to);
  keepStep();
}

function play() {
  if (timer) return jump(step);
  if (step === shown.last) go(0);
  at("play").setAttribute("aria-label", "Pause");
  timer = setInterval(() => {
    go(step + 1);
    if (step === shown.last) jump(step);
  }, Math.max(80, Math.min(750, 20000 / shown.last)));
}

function stop() {
  clearInterval(timer);
  timer = 0;
  at("play").setAttribute("aria-label", "Play");
}

// what people do

function submit(event) {
  event.preventDefault();
  if (info) read();
  else start();
}

at("form").addEventListener("submit", submit);
for (const field of fields) {
  field.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) submit(event);
  });
}
at("step").addEventListener("input", () => { stop(); go(Number(at("step").value)); });
at("step").addEventListener("change", keepStep);
at("back").addEventListener("click", () => jump(step - 1));
at("forward").addEventListener("click", () => jump(step + 1));
at("play").addEventListener("click", play);
document.addEventListener("keydown", (event) => {
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!by || !shown || at("result").hidden || event.target.matches("input, textarea") || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  jump(step + by);
});
window.addEventListener("popstate", follow);
let width = innerWidth;
window.addEventListener("resize", () => {
  if (innerWidth === width || !shown) return;
  width = innerWidth;
  for (const one of shown.panels) if (one.sentence.steps) one.nodes = drawTree(one.article.querySelector(".tree"), one.sentence);
  const here = step;
  settle();
  go(here);
});

start();
