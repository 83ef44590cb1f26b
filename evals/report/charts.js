"use strict";
// Drawing: elements from plain values, never from markup, so that nothing in the data can become code.
const NS = "http://www.w3.org/2000/svg";
const el = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const draw = (tag, attributes = {}, ...children) => fill(document.createElementNS(NS, tag), attributes, children);
function fill(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined) node.setAttribute(key, value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}
const put = (id, ...children) => document.getElementById(id).replaceChildren(...children.filter((child) => child !== null));
const colour = (n) => `var(--s${n % 12})`;
const percent = (value, digits = 1) => (value === null || value === undefined ? "–" : `${(100 * value + 0).toFixed(digits)} %`);
// As `format_value` of markdown.py rounds: a figure reads alike wherever it stands.
const points = (value) => `${value > -5e-4 ? "+" : "−"}${Math.abs(100 * value).toFixed(1)}`;
const dollars = (value) => `$${Number((1000 * value).toPrecision(3))}/1k`;

const tip = document.getElementById("tip");
function tell(event, text) {
  tip.textContent = text;
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(8, Math.min(event.clientX + 14, innerWidth - box.width - 8))}px`;
  tip.style.top = `${Math.max(8, event.clientY - box.height - 12)}px`;
}
const hush = () => { tip.hidden = true; };

function scale(low, high, from, to, log) {
  const at = log ? Math.log : (value) => value;
  const span = at(high) - at(low) || 1;
  return (value) => from + ((at(value) - at(low)) / span) * (to - from);
}
function ticks(low, high, count = 5) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((n) => n * power).find((n) => n >= rough);
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-9; value += step) found.push(value);
  return found;
}
function logTicks(low, high) {
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += 1) {
    for (const n of [1, 2, 5]) {
      const value = n * 10 ** power;
      if (value >= low && value <= high) found.push(value);
    }
  }
  return found.length > 1 ? found : [low, high];
}
function frame(width, height, x, y, box, names) {
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": names.label });
  for (const value of names.yTicks) {
    svg.append(draw("line", { class: "grid", x1: box.left, x2: box.right, y1: y(value), y2: y(value) }),
      draw("text", { x: box.left - 8, y: y(value) + 4, "text-anchor": "end" }, names.yText(value)));
  }
  let last = -Infinity;
  for (const value of names.xTicks) {
    if (x(value) - last < 56) continue;
    last = x(value);
    svg.append(draw("line", { class: "grid", x1: x(value), x2: x(value), y1: box.top, y2: box.bottom }),
      draw("text", { x: x(value), y: box.bottom + 18, "text-anchor": "middle" }, names.xText(value)));
  }
  svg.append(draw("text", { x: (box.left + box.right) / 2, y: height - 4, "text-anchor": "middle" }, names.x));
  svg.append(draw("text", { x: box.left, y: box.top - 10, "text-anchor": "start" }, names.y));
  return svg;
}
function legend(id, names, off, redraw) {
  put(id, ...names.map((name, n) => el("button", {
    type: "button", "aria-pressed": String(!off.has(name)), style: `--c:${colour(n)}`,
    onclick: () => { if (off.has(name)) off.delete(name); else off.add(name); redraw(); },
  }, el("i"), name)));
}
