"""A report for papers and spreadsheets: figures as CSV and LaTeX, charts as SVG, and how to cite it."""

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from math import log10
from typing import Any

from .facts import Facts
from .markdown import SHOWN, format_difference, format_value, label_measure

WIDTH = 760
ROW = 24
COLOURS = ("#0b63ce", "#c2570c", "#14804a", "#8a3ffc", "#b3246b", "#0f7c85", "#7a6200", "#5a6472")
_LATEX = {
    "\\": r"\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "−": "$-$",
    "▲": r"$\uparrow$",
    "▼": r"$\downarrow$",
    "–": "--",
    "λ": r"$\lambda$",
}


def export_files(facts: Facts) -> dict[str, str]:
    """Every file that lies beside the page, by its name."""
    files = {
        "figures.csv": figures_csv(facts),
        "differences.csv": differences_csv(facts),
        "tasks.csv": tasks_csv(facts),
        "fronts.csv": fronts_csv(facts),
        "figures.tex": figures_latex(facts),
        "accuracy.svg": accuracy_svg(facts),
        "citation.bib": citation(facts) + "\n",
    }
    return {**files, **({"frontier.svg": frontier_svg(facts)} if facts["frontier"] else {})}


def _csv(rows: Iterable[Sequence[Any]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()


def _runs(facts: Facts) -> dict[str, Facts]:
    return {**facts["routers"], **facts["baselines"]}


def _kind(facts: Facts, name: str) -> str:
    if name in facts["references"]:
        return "reference"
    return "router" if name in facts["routers"] else "baseline"


def fronts_csv(facts: Facts) -> str:
    """A line per goal, router and weight on the goal; and one per goal and expert, whose value it tells."""
    rows: list[Sequence[Any]] = [("goal", "unit", "name", "weight", "score", "value")]
    for goal, front in facts["fronts"].items():
        for name, points in front["routers"].items():
            rows += [(goal, front["unit"], name, one["weight"], one["score"], one["value"]) for one in points]
        rows += [(goal, front["unit"], f"expert:{name}", "", "", v) for name, v in front["experts"].items()]
    return _csv(rows)


def figures_csv(facts: Facts) -> str:
    """A line per router and measure, unrounded; costs with what they mean."""
    basis = facts["data"]["cost_label"]
    rows: list[list[Any]] = [["name", "kind", "measure", "unit", "value", "low", "high", "costs"]]
    for name, figures in _runs(facts).items():
        for measure, found in figures.items():
            about = facts["measures"].get(measure, {})
            if found is not None:
                bounds = [found[key] for key in ("value", "low", "high")]
                unit, costs = about.get("unit", "number"), basis if about.get("of_costs") else ""
                rows.append([name, _kind(facts, name), measure, unit, *bounds, costs])
    return _csv(rows)


def differences_csv(facts: Facts) -> str:
    """A line per pair and measure: first less second, paired."""
    rows: list[list[Any]] = [["first", "second", "measure", "value", "low", "high"]]
    for pair in facts["pairs"]:
        for measure, found in pair["differences"].items():
            bounds = [found[key] for key in ("value", "low", "high")]
            rows.append([pair["first"], pair["second"], measure, *bounds])
    return _csv(rows)


def tasks_csv(facts: Facts) -> str:
    """A line per task and router: mean score."""
    rows: list[list[Any]] = [["task", "n", "name", "score"]]
    for task in facts["tasks"]:
        rows += [[task["task"], task["n"], name, score] for name, score in task["scores"].items()]
    return _csv(rows)


def figures_latex(facts: Facts) -> str:
    """The table of figures and that of the differences between routers, for the package booktabs."""
    runs = {name: own for name, own in _runs(facts).items() if not name.startswith("single:")}
    columns = [name for name in SHOWN if any(figures.get(name) for figures in runs.values())]
    figures = [
        [name, *(_latex_cell(facts, measure, own.get(measure)) for measure in columns)]
        for name, own in runs.items()
    ]
    pairs = [
        [pair["first"], pair["second"], format_difference(pair["differences"].get("accuracy"))]
        for pair in facts["pairs"]
        if pair["first"] in facts["routers"] and not pair["second"].startswith("single:")
    ]
    heads = ["router", *(label_measure(facts, name) for name in columns)]
    note = f"% {facts['title']}; {facts['created']}; \\usepackage{{booktabs}}"
    tables = [
        _latex_table(heads, figures),
        _latex_table(["router", "against", "accuracy, points [95 %]"], pairs),
    ]
    return "\n\n".join([" ".join(note.split()), *tables]) + "\n"


def _latex_cell(facts: Facts, measure: str, found: Mapping[str, float] | None) -> str:
    if found is None:
        return "–"
    unit = facts["measures"].get(measure, {}).get("unit", "number")
    value, low, high = (format_value(unit, found[key]) for key in ("value", "low", "high"))
    return value if low == high else f"{value} [{low}, {high}]"


def _latex_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [" & ".join(map(_escape_latex, row)) + r" \\" for row in (heads, *rows)]
    return "\n".join(
        [
            r"\begin{tabular}{l" + "r" * (len(heads) - 1) + "}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}",
        ]
    )


def _escape_latex(text: str) -> str:
    # One pass, so that the escapes are not escaped again.
    return re.sub(r"[\\&%$#_{}~^−▲▼–λ]", lambda found: _LATEX[found[0]], " ".join(text.split()))


def citation(facts: Facts) -> str:
    """A BibTeX entry that names the version, the data and the command."""
    versions, data = facts["made_with"]["versions"], facts["data"]
    year = facts["created"][:4]
    source = data["source"] or "unnamed"
    note = (
        f"Made by Thalamus {versions['thalamus']} with {facts['command']}; data: {source},"
        f" SHA-256 {data['fingerprint']}"
    )
    fields = {"title": facts["title"], "author": "{Thalamus}", "year": year, "note": note}
    lines = [
        f"  {name:6} = {{{value if name == 'author' else _escape_latex(value)}}},"
        for name, value in fields.items()
    ]
    return "\n".join([f"@misc{{thalamus-report-{data['fingerprint'][:8]},", *lines, "}"])


def accuracy_svg(facts: Facts) -> str:
    """Accuracy of every router and baseline with its interval, best first."""
    runs = {name: own["accuracy"] for name, own in _runs(facts).items() if own.get("accuracy")}
    names = sorted(runs, key=lambda name: -runs[name]["value"])
    low, high = min(runs[n]["low"] for n in names), max(runs[n]["high"] for n in names)
    left, right, span = 230, WIDTH - 130, (high - low) or 1.0

    def x(value: float) -> float:
        return float(left + (value - low) / span * (right - left))

    parts = []
    for n, name in enumerate(names):
        own, y = runs[name], 34 + ROW * n
        ink = COLOURS[0] if name in facts["routers"] else COLOURS[-1]
        start, end, middle = (f"{x(own[key]):.1f}" for key in ("low", "high", "value"))
        parts += [
            _text(left - 10, y + 4, name.removeprefix("single:"), "end"),
            f'<line x1="{start}" x2="{end}" y1="{y}" y2="{y}" stroke="{ink}" stroke-width="2.5"/>',
            f'<circle cx="{middle}" cy="{y}" r="4.5" fill="{ink}"/>',
            _text(right + 10, y + 4, format_value("share", own["value"])),
        ]
    return _svg(34 + ROW * len(names), "Accuracy with its 95 % interval", parts)


def frontier_svg(facts: Facts) -> str:
    """Mean score over cost: a line per router as its weight on cost grows."""
    lines = facts["frontier"]
    points = [point for line in lines.values() for point in line]
    costs, scores = [p["cost_usd"] for p in points], [p["score"] for p in points]
    is_log = min(costs) > 0 and max(costs) / min(costs) > 4

    def place(value: float, values: Sequence[float], start: float, end: float, log: bool = False) -> float:
        at = log10 if log else float
        low, high = at(min(values)), at(max(values))
        return start + (at(value) - low) / ((high - low) or 1.0) * (end - start)

    left, right, top, bottom = 70, WIDTH - 20, 40, 400
    parts = []
    for share in (0.0, 0.5, 1.0):
        score = min(scores) + share * (max(scores) - min(scores))
        y = place(score, scores, bottom, top)
        parts += [
            f'<line x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="#dfe3e8"/>',
            _text(left - 8, y + 4, format_value("share", score), "end"),
        ]
    for cost in (min(costs), max(costs)):
        x = place(cost, costs, left, right, is_log)
        parts.append(_text(x, bottom + 20, format_value("usd", cost), "start" if x < WIDTH / 2 else "end"))
    for n, (name, line) in enumerate(lines.items()):
        places = (
            (place(p["cost_usd"], costs, left, right, is_log), place(p["score"], scores, bottom, top))
            for p in line
        )
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        ink, dash = COLOURS[n % len(COLOURS)], "" if name in facts["routers"] else ' stroke-dasharray="5 4"'
        parts.append(f'<polyline points="{path}" fill="none" stroke="{ink}" stroke-width="2"{dash}/>')
        parts.append(_text(left, bottom + 46 + 18 * n, name, ink=ink))
    label = facts["data"]["cost_label"]
    title = "Mean score over cost" + (f" ({label})" if label else "")
    return _svg(bottom + 46 + 18 * len(lines), title, parts)


def _text(x: float, y: float, text: str, anchor: str = "start", ink: str = "#1d2430") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{ink}">{escape(text)}</text>'


def _svg(height: int, title: str, parts: Sequence[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" role="img"'
    )
    body = [f"<title>{escape(title)}</title>", _text(10, 16, title), *parts]
    return f'{head} font-family="system-ui, sans-serif" font-size="13">\n' + "\n".join(body) + "\n</svg>\n"
