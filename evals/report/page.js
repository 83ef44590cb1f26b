const facts = JSON.parse(document.getElementById("facts").textContent);
const routers = Object.keys(facts.routers);
const allRouters = { ...facts.routers, ...facts.baselines };
const kindOf = (name) => (name in facts.routers ? "router" : facts.references.includes(name) ? "reference" : "baseline");
const short = (name) => name.replace(/^single:/, "");
let chosen = routers[0];
const wide = () => Math.min(1040, document.getElementById("frontier-chart").clientWidth || 1040);

function card(value, text, mood = "") {
  return el("div", { class: `card ${mood}` }, el("b", {}, value), el("span", {}, text));
}
function lead(other, measure) {
  const found = (facts.comparisons[chosen] || {})[other]?.[measure];
  if (!found) return null;
  const mood = found.low > 0 ? "good" : found.high < 0 ? "bad" : "";
  return card(`${points(found.value)} points`, `${measure}${facts.measures[measure].of_costs ? basis : ""} against ${other.replaceAll("_", " ")}, 95 %: ${points(found.low)} to ${points(found.high)}`, mood);
}
const basis = facts.data.cost_label ? ` (${facts.data.cost_label})` : "";
function cards() {
  const own = facts.routers[chosen];
  const saved = own.cost_saved, score = own.cost_saved_score;
  put("cards",
    card(percent(own.accuracy.value), `accuracy of ${chosen}; the oracle's is ${percent(facts.baselines.oracle?.accuracy?.value)}`),
    lead("best_single", "accuracy"), lead("mean_of_four", "area") || lead("mean_of_four", "accuracy"),
    own.apgr ? card(own.apgr.value.toFixed(3), `of the strong expert's lead recovered (APGR), 95 %: ${own.apgr.low.toFixed(3)} to ${own.apgr.high.toFixed(3)}`) : null,
    saved ? card(percent(saved.value), `of the best single expert's cost saved${basis}, at ${points(score.value)} points of its score (${points(score.low)} to ${points(score.high)})`,
      score.high < 0 ? "bad" : "good") : null,
    own.accuracy_in_domain ? card(`${percent(own.accuracy_in_domain.value)}`, `macro average in domain; out of domain ${percent(own.accuracy_out_of_domain?.value)}`) : null,
    own.decisions_per_s ? card(Math.round(own.decisions_per_s.value).toLocaleString("en"), "decisions a second in one process, embedding apart") : null);
}

const reach = (name) => Math.max(...facts.frontier[name].map((point) => point.score));
const worthSeeing = (facts.baselines.best_single?.accuracy?.value ?? 0) - 0.05;
const hiddenLines = new Set(Object.keys(facts.frontier).filter((name) => ["oracle", "naive_ridge"].includes(name) || reach(name) < worthSeeing));
function frontier() {
  const names = Object.keys(facts.frontier);
  if (!names.length) {
    put("frontier-lead", "The table knows no costs: there is no frontier to draw.");
    return;
  }
  legend("frontier-legend", names, hiddenLines, frontier);
  const lines = names.map((name, n) => ({ name, n, at: facts.frontier[name] })).filter((line) => !hiddenLines.has(line.name));
  const everyRing = Object.entries(facts.baselines).filter(([name, own]) => (name.startsWith("single:") || name === "random") && own.cost_usd)
    .map(([name, own]) => ({ name: short(name), score: own.accuracy.value, cost_usd: own.cost_usd.value }));
  const drawn = lines.flatMap((line) => line.at), floor = Math.min(...drawn.map((point) => point.score)) - 0.06;
  const below = everyRing.filter((ring) => ring.score < floor).map((ring) => ring.name);
  const rings = everyRing.filter((ring) => ring.score >= floor);
  const all = [...drawn, ...rings];
  const costs = all.map((point) => point.cost_usd), scores = all.map((point) => point.score);
  const low = Math.min(...costs), high = Math.max(...costs), log = low > 0 && high / low > 4;
  const width = wide(), height = width < 560 ? 340 : 430;
  const box = { left: 52, right: width - 14, top: 26, bottom: height - 42 };
  const x = log ? scale(low / 1.1, high * 1.1, box.left, box.right, true) : scale(low, high, box.left, box.right, false);
  const bottom = Math.min(...scores), top = Math.max(...scores);
  const y = scale(bottom - 0.02, top + 0.02, box.bottom, box.top);
  const svg = frame(width, height, x, y, box, {
    label: "Mean score over cost per thousand queries", x: `dollars a thousand queries${basis}${log ? ", logarithmic" : ""}`, y: "mean score",
    xTicks: log ? logTicks(low / 1.1, high * 1.1) : ticks(low, high), yTicks: ticks(bottom - 0.02, top + 0.02),
    xText: (value) => `$${Number((1000 * value).toPrecision(2))}`, yText: (value) => `${Math.round(100 * value)} %`,
  });
  for (const ring of rings) {
    const say = `${ring.name}\n${percent(ring.score)} at ${dollars(ring.cost_usd)}`;
    svg.append(draw("circle", { cx: x(ring.cost_usd), cy: y(ring.score), r: 5, fill: "var(--panel)", stroke: "var(--soft)", "stroke-width": 2,
      onpointermove: (event) => tell(event, say), onpointerleave: hush }, draw("title", {}, say)));
  }
  for (const line of lines) {
    const path = line.at.map((point, n) => `${n ? "L" : "M"}${x(point.cost_usd).toFixed(1)} ${y(point.score).toFixed(1)}`).join("");
    svg.append(draw("path", { class: "series", d: path, stroke: colour(line.n), "stroke-dasharray": kindOf(line.name) === "router" ? null : "5 4" }));
    const start = line.at[0];
    svg.append(draw("circle", { cx: x(start.cost_usd), cy: y(start.score), r: 4, fill: colour(line.n) }));
  }
  const dots = lines.map((line) => draw("circle", { r: 5, fill: colour(line.n), stroke: "var(--panel)", "stroke-width": 2, visibility: "hidden" }));
  const rule = draw("line", { class: "axis", y1: box.top, y2: box.bottom, visibility: "hidden", "stroke-dasharray": "2 3" });
  svg.append(rule, ...dots);
  const read = (place) => {
    const told = lines.map((line, n) => {
      const near = line.at.reduce((a, b) => (Math.abs(x(b.cost_usd) - place) < Math.abs(x(a.cost_usd) - place) ? b : a));
      dots[n].setAttribute("cx", x(near.cost_usd)); dots[n].setAttribute("cy", y(near.score)); dots[n].setAttribute("visibility", "visible");
      return `${line.name} ${percent(near.score)} at ${dollars(near.cost_usd)}${basis}`;
    });
    rule.setAttribute("x1", place); rule.setAttribute("x2", place); rule.setAttribute("visibility", "visible");
    put("frontier-readout", told.join(" · "));
  };
  let place = (box.left + box.right) / 2;
  const area = draw("rect", { x: box.left, y: box.top, width: box.right - box.left, height: box.bottom - box.top, fill: "transparent", tabindex: 0,
    role: "slider", "aria-label": "Cost to read the lines at", "aria-valuenow": 50, "aria-valuemin": 0, "aria-valuemax": 100,
    onpointermove: (event) => { const edge = svg.getBoundingClientRect(); place = ((event.clientX - edge.left) / edge.width) * width; read(place); },
    onkeydown: (event) => {
      const step = { ArrowLeft: -12, ArrowRight: 12 }[event.key];
      if (!step) return;
      event.preventDefault();
      place = Math.max(box.left, Math.min(box.right, place + step));
      area.setAttribute("aria-valuenow", Math.round((100 * (place - box.left)) / (box.right - box.left)));
      read(place);
    } });
  svg.insertBefore(area, svg.querySelector("circle"));
  put("frontier-chart", svg);
  put("frontier-below", below.length ? `Below the chart: ${below.join(", ")}.` : "");
}

function spread() {
  const names = Object.keys(allRouters).filter((name) => allRouters[name].accuracy && !facts.references.includes(name))
    .sort((a, b) => allRouters[b].accuracy.value - allRouters[a].accuracy.value).slice(0, 16);
  const width = wide(), row = 26, left = width < 560 ? 132 : 230;
  const low = Math.min(...names.map((name) => allRouters[name].accuracy.low)), high = Math.max(...names.map((name) => allRouters[name].accuracy.high));
  const height = names.length * row + 52;
  const x = scale(low, high, left, width - 16);
  const svg = frame(width, height, x, (value) => value, { left, right: width - 16, top: 8, bottom: height - 38 }, {
    label: "Accuracy of every router with its 95 % interval", x: "accuracy, 95 % interval", y: "", yTicks: [], yText: String,
    xTicks: ticks(low, high), xText: (value) => `${Math.round(1000 * value) / 10} %` });
  names.forEach((name, n) => {
    const own = allRouters[name].accuracy, middle = 8 + row * n + row / 2, mine = name in facts.routers;
    const ink = mine ? "var(--accent)" : "var(--soft)";
    const limit = Math.floor((left - 14) / 7), label = short(name);
    svg.append(draw("text", { x: left - 10, y: middle + 4, "text-anchor": "end", class: mine ? "strong" : "" },
      label.length > limit ? `${label.slice(0, limit - 1)}…` : label, draw("title", {}, label)),
      draw("line", { x1: x(own.low), x2: x(own.high), y1: middle, y2: middle, stroke: ink, "stroke-width": 2.5, "stroke-linecap": "round" }),
      draw("circle", { cx: x(own.value), cy: middle, r: 4.5, fill: ink,
        onpointermove: (event) => tell(event, `${label}\n${percent(own.value)}, 95 %: ${percent(own.low)} to ${percent(own.high)}`), onpointerleave: hush }));
  });
  put("spread-chart", svg);
}

function heat() {
  const mode = document.querySelector('input[name="heat"]:checked').value;
  const singles = document.getElementById("heat-singles").checked;
  const columns = Object.keys(allRouters).filter((name) => !["cheapest", "random"].includes(name)
    && (singles || !name.startsWith("single:")) && (mode === "score" || name !== "best_single"));
  const head = el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "task"), ...columns.map((name) => el("th", { scope: "col" }, short(name)))));
  const rows = facts.tasks.map((row) => {
    const base = row.scores.best_single;
    const cells = columns.map((name) => {
      const score = row.scores[name];
      if (score === null || score === undefined) return el("td", { class: "none" }, "–");
      const by = score - base, against = row.against_best_single[name];
      const mark = mode === "lead" && against ? { win: " ▲", loss: " ▼", tie: "" }[against.verdict] : "";
      const ink = mode === "lead" ? `rgba(var(--${by >= 0 ? "good" : "bad"}), ${Math.min(0.55, Math.abs(by) * 2.4).toFixed(2)})`
        : `rgba(var(--good), ${(0.55 * Math.max(0, score)).toFixed(2)})`;
      const more = against ? `\nwon ${against.n_won}, tied ${against.n_tied}, lost ${against.n_lost}\n95 %: ${points(against.low)} to ${points(against.high)}` : "";
      const say = `${row.task}, ${short(name)}\nscore ${percent(score)}, best single ${percent(base)}${more}`;
      return el("td", { style: `background:${ink}`, onpointermove: (event) => tell(event, say), onpointerleave: hush },
        mode === "lead" ? points(by) + mark : percent(score));
    });
    return el("tr", {}, el("th", { scope: "row", title: row.task }, row.task, " ", el("small", {}, String(row.n))), ...cells);
  });
  put("heat", head, el("tbody", {}, ...rows));
}

const hiddenCurves = new Set(Object.keys(facts.calibration).slice(4));
function calibration() {
  const names = Object.keys(facts.calibration);
  legend("calibration-legend", names, hiddenCurves, calibration);
  const size = Math.min(460, wide()), box = { left: 46, right: size - 10, top: 22, bottom: size - 44 };
  const x = scale(0, 1, box.left, box.right), y = scale(0, 1, box.bottom, box.top), fifths = [0, 0.2, 0.4, 0.6, 0.8, 1];
  const text = (value) => `${Math.round(100 * value)} %`;
  const svg = frame(size, size, x, y, box, { label: "Measured over predicted score", x: "predicted", y: "measured", xTicks: fifths, yTicks: fifths, xText: text, yText: text });
  svg.append(draw("line", { class: "axis", x1: x(0), y1: y(0), x2: x(1), y2: y(1), "stroke-dasharray": "4 4" }));
  names.forEach((name, n) => {
    if (hiddenCurves.has(name)) return;
    const bins = facts.calibration[name];
    svg.append(draw("path", { class: "series", stroke: colour(n), d: bins.map((bin, i) => `${i ? "L" : "M"}${x(bin.predicted)} ${y(bin.measured)}`).join("") }));
    for (const bin of bins) {
      svg.append(draw("circle", { cx: x(bin.predicted), cy: y(bin.measured), r: 4, fill: colour(n), onpointerleave: hush,
        onpointermove: (event) => tell(event, `${name}\npredicted ${percent(bin.predicted)}, measured ${percent(bin.measured)}\n${bin.n} outcomes`) }));
    }
  });
  put("calibration-chart", svg);
}

function shares() {
  const experts = facts.data.experts;
  put("shares-legend", ...experts.map((name, n) => el("span", { style: `--c:${colour(n)}` }, el("i"), name)));
  const bars = [];
  for (const [router, told] of Object.entries(facts.shares)) {
    for (const [mode, parts] of Object.entries(told)) {
      if (!parts || (mode === "saving" && !(router in facts.routers))) continue;
      const spans = experts.map((name, n) => {
        const say = `${name} ${percent(parts[name])}`;
        return parts[name] ? el("span", { style: `--c:${colour(n)};width:${100 * parts[name]}%`, title: say,
          onpointermove: (event) => tell(event, `${router}\n${say}`), onpointerleave: hush }, parts[name] > 0.06 ? `${Math.round(100 * parts[name])}` : "") : null;
      });
      const words = experts.filter((name) => parts[name] >= 0.005).sort((a, b) => parts[b] - parts[a]).map((name) => `${name} ${percent(parts[name])}`).join(", ");
      bars.push(el("div", { class: "bar" }, el("p", {}, router, " ", el("small", {}, mode === "saving" ? `saving${basis}` : "")),
        el("div", { class: "stack", role: "img", "aria-label": `${router}: ${words}` }, ...spans)));
    }
  }
  put("shares-bars", ...bars);
}

function regrets() {
  document.querySelectorAll(".chosen-router").forEach((node) => { node.textContent = chosen; });
  const list = facts.regrets[chosen] || [];
  if (!list.length) { put("regrets-list", el("p", { class: "lead" }, "None: every choice was among the best.")); return; }
  put("regrets-list", ...list.map((one) => el("details", {},
    el("summary", {}, el("b", {}, one.chosen), ` scored ${percent(one.score)} (predicted ${percent(one.predicted)}); `,
      `${one.best.slice(0, 3).join(", ")}${one.best.length > 3 ? ` and ${one.best.length - 3} more` : ""} ${percent(one.best_score)} `,
      el("small", {}, one.task || one.id)),
    el("pre", {}, one.prompt === null ? `(prompt left out) ${one.id}` : one.prompt))));
}

const pair = document.getElementById("pair");
function pairs() {
  for (const row of document.querySelectorAll(".pairs tbody tr")) {
    row.hidden = Boolean(pair.value) && ![row.dataset.first, row.dataset.second].includes(pair.value);
  }
  hints();
}
// The words stand in the page for readers without scripts; a table that fits needs none.
function hints() {
  for (const hint of document.querySelectorAll(".wide")) {
    const box = hint.nextElementSibling;
    hint.hidden = box.scrollWidth <= box.clientWidth + 1;
  }
}

function choose() { cards(); regrets(); }
function everything() { frontier(); spread(); calibration(); hints(); }
const select = document.getElementById("router");
select.append(...routers.map((name) => el("option", { value: name }, name)));
select.addEventListener("change", () => { chosen = select.value; choose(); });
select.closest("label").hidden = routers.length < 2;
document.querySelectorAll('input[name="heat"], #heat-singles').forEach((node) => node.addEventListener("change", heat));
document.getElementById("singles").addEventListener("change", (event) => {
  document.querySelector(".figures").classList.toggle("with-singles", event.target.checked);
  hints();
});
pair.append(el("option", { value: "" }, "all"), ...Object.keys(allRouters).map((name) => el("option", { value: name }, name)));
pair.addEventListener("change", pairs);
pair.closest("label").hidden = false;
let waiting = 0;
addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(everything, 120); });
choose(); everything(); heat(); shares(); pair.value = chosen; pairs();
