// Draws a sentence under its tree: words in a row below it where they fit, else one below the other, beside it.

const SVG = "http://www.w3.org/2000/svg";
const GAP = 18, LINE = 25, EDGE = 4; // between words in a row; of a word below another; around the tree

export function phrase({ tokens }, { first, end }) {
  return tokens.slice(first, end).join(" ");
}

export function drawTree(svg, sentence) {
  const nodes = sentence.steps.map((step, t) => node(sentence, step, t));
  svg.replaceChildren(...nodes.filter((group) => group.matches(".joined")), ...nodes.filter((group) => group.matches(".word")));
  const widths = nodes.map((group) => group.querySelector("text")?.getComputedTextLength() ?? 0);
  const { places, width, height, isBeside } = layout(sentence.steps, widths, svg.parentElement.clientWidth);
  set(svg, { viewBox: `0 0 ${width} ${height}`, width, height });
  sentence.steps.forEach((step, t) => {
    const [x, y] = places[t];
    if (step.transition === "SHIFT") {
      const place = isBeside ? { x: x + 8, y: y + 5, "text-anchor": "start" } : { x, y: y + 20, "text-anchor": "middle" };
      set(nodes[t].querySelector("text"), place);
      return;
    }
    const [left, right] = [places[step.left], places[step.right]];
    const line = isBeside ? `M${left}H${x}V${right[1]}H${right[0]}` : `M${left}L${[x, y]}L${right}`;
    set(nodes[t].querySelector("path"), { d: line });
    set(nodes[t].querySelector("circle"), { cx: x, cy: y });
  });
  return nodes; // one of each step
}

function node(sentence, step, t) {
  if (step.transition === "REDUCE") {
    const title = make("title", {}, phrase(sentence, step));
    return make("g", { "data-step": t + 1, class: "joined" }, make("path"), make("circle", { r: 2.4 }), title);
  }
  const kind = sentence.unknown[step.first] ? "word unknown" : "word";
  return make("g", { "data-step": t + 1, class: kind }, make("text", {}, sentence.tokens[step.first]));
}

function layout(steps, widths, room) {
  const heights = [];
  steps.forEach(({ transition, left, right }, t) => { heights[t] = transition === "SHIFT" ? 0 : 1 + Math.max(heights[left], heights[right]); });
  const levels = heights.at(-1);
  const words = widths.filter((_, t) => steps[t].transition === "SHIFT");
  const across = words.reduce((sum, width) => sum + width + GAP, 2 * EDGE - GAP);
  const isBeside = across > room;
  const widest = Math.max(...words) + 8 + EDGE;
  const most = (isBeside ? Math.max(room - widest - EDGE, room / 3) : 480) / Math.max(levels, 1);
  const level = isBeside ? Math.min(26, most) : Math.max(8, Math.min(32, most));
  let along = isBeside ? LINE / 2 : EDGE;
  const middles = [];
  const places = steps.map(({ transition, left, right }, t) => {
    if (transition === "SHIFT") {
      middles[t] = isBeside ? along : along + widths[t] / 2;
      along += isBeside ? LINE : widths[t] + GAP;
    } else {
      middles[t] = (middles[left] + middles[right]) / 2;
    }
    const depth = (levels - heights[t]) * level + EDGE;
    return isBeside ? [depth, middles[t]] : [middles[t], depth];
  });
  const deep = levels * level + EDGE;
  const [width, height] = isBeside ? [deep + widest, along - LINE / 2 + EDGE] : [across, deep + 24 + EDGE];
  return { places, width, height, isBeside };
}

function make(name, attributes = {}, ...children) {
  const element = set(document.createElementNS(SVG, name), attributes);
  element.append(...children); // strings become text
  return element;
}

function set(element, attributes) {
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}
