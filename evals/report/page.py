"""A report as one HTML page that needs nothing else: no network, no fonts, no libraries."""

import json
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from typing import Any

from .exports import citation, export_files
from .facts import PAIRED, Facts
from .fronts import SHOWN_WEIGHTS, explain_gap
from .markdown import (
    SHOWN,
    describe_settings,
    format_difference,
    format_value,
    label_measure,
    list_front_rows,
)

_PARTS = ("page.css", "charts.js", "page.js")


def page_of(facts: Facts) -> str:
    """The whole page. What comes from data is escaped; facts that scripts read are JSON without `<`."""
    css, charts, script = (_part(name) for name in _PARTS)
    fields = {
        "title": escape(facts["title"]),
        "about": _about(facts),
        "figures": _figures(facts),
        "differences": _differences(facts),
        "fronts": _fronts(facts),
        "made_with": _versions(facts),
        "citation": escape(citation(facts)),
        "files": ", ".join(f"<code>{escape(name)}</code>" for name in export_files(facts)),
        "costs": escape(facts["data"]["cost_label"]),
        "notes": "".join(f"<li>{escape(note)}</li>" for note in facts["notes"]),
        "origin": _origin(facts),
        "css": css,
        "script": charts + script,
        # `</script>` inside a prompt would end the script element; JSON reads \u003c back as `<`.
        "facts": json.dumps(facts, ensure_ascii=False).replace("<", "\\u003c"),
    }
    page = _part("page.html")
    # Filled from the template's pieces, never from the result: data that contains `{{` stays text.
    pieces = page.split("{{")
    filled = [pieces[0]]
    for piece in pieces[1:]:
        name, _, rest = piece.partition("}}")
        filled += [fields[name], rest]
    return "".join(filled)


def _part(name: str) -> str:
    return files("evals.report").joinpath(name).read_text("utf-8")


def _about(facts: Facts) -> str:
    data, protocol = facts["data"], facts["protocol"]
    parts = (
        f"{data['n_tested']:,} queries tested",
        f"{len(data['experts'])} experts",
        f"protocol {protocol['name']}",
        f"{_pluralize(protocol['n_cuts'], 'split')}, {_pluralize(len(protocol['seeds']), 'seed')}",
    )
    return " · ".join(map(escape, parts))


def _pluralize(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _figures(facts: Facts) -> str:
    """The headline table, readable without scripts."""
    all_routers = {**facts["routers"], **facts["baselines"]}
    columns = [name for name in SHOWN if any(figures.get(name) for figures in all_routers.values())]
    heads = "".join(_head(facts, key) for key in columns)
    rows = "".join(_row(facts, name, figures, columns) for name, figures in all_routers.items())
    return f'<thead><tr><th scope="col">router</th>{heads}</tr></thead><tbody>{rows}</tbody>'


def _fronts(facts: Facts) -> str:
    """A table per goal, and what is not known."""
    parts = []
    for goal, front in facts["fronts"].items():
        if front["routers"]:
            heads = [f"{goal}, {front['unit']}", *(f"weight {weight:g}" for weight in SHOWN_WEIGHTS)]
            head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
            rows = "".join(
                f'<tr><th scope="row">{escape(name)}</th>'
                + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
                + "</tr>"
                for name, *cells in list_front_rows(front)
            )
            parts.append(f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>")
        if gap := explain_gap(goal, front):
            parts.append(f"<p>{escape(gap)}</p>")
    return "".join(parts)


def _head(facts: Facts, measure: str) -> str:
    words = escape(label_measure(facts, measure))
    return f'<th scope="col" title="{escape(_explain(facts, measure))}">{words}</th>'


def _explain(facts: Facts, measure: str) -> str:
    if measure == "decisions_per_s":
        return "Decisions a second in one process, features read beforehand; median of the splits, and range."
    return str(facts["measures"][measure]["about"])


def _row(facts: Facts, name: str, figures: Mapping[str, Any], columns: list[str]) -> str:
    kind = "router" if name in facts["routers"] else "baseline"
    kind = "reference" if name in facts["references"] else kind
    kind = "single" if name.startswith("single:") else kind
    reason = facts["unavailable"].get(name)
    label = escape(name.removeprefix("single:") + (f" ({reason})" if reason else ""))
    cells = "".join(_cell(facts, key, figures.get(key)) for key in columns)
    return f'<tr class="{kind}"><th scope="row">{label}</th>{cells}</tr>'


def _cell(facts: Facts, measure: str, found: Mapping[str, float] | None) -> str:
    if found is None:
        return '<td class="none">–</td>'
    unit = facts["measures"].get(measure, {}).get("unit", "number")
    value, low, high = (escape(format_value(unit, found[key])) for key in ("value", "low", "high"))
    interval = "" if low == high else f"<small>{low} – {high}</small>"
    return f"<td>{value}{interval}</td>"


def _differences(facts: Facts) -> str:
    """Every pair, readable without scripts; a script shows the rows of one router or baseline."""
    measures = [name for name in PAIRED if any(pair["differences"].get(name) for pair in facts["pairs"])]
    heads = "".join(f'<th scope="col">{escape(label_measure(facts, name))}, points</th>' for name in measures)
    rows = []
    for pair in facts["pairs"]:
        first, second = escape(pair["first"]), escape(pair["second"])
        cells = "".join(
            f"<td>{escape(format_difference(pair['differences'].get(name)))}</td>" for name in measures
        )
        names = f'<th scope="row">{first}</th><td class="name">{second}</td>'
        rows.append(f'<tr data-first="{first}" data-second="{second}">{names}{cells}</tr>')
    head = f'<thead><tr><th scope="col">first</th><th scope="col">less second</th>{heads}</tr></thead>'
    return f"{head}<tbody>{''.join(rows)}</tbody>"


def _versions(facts: Facts) -> str:
    made = facts["made_with"]
    settings = {name: describe_settings(own) for name, own in made["settings"]["routers"].items()}
    common = {"bootstrap draws": made["settings"]["n_draws"], "encoder": made["settings"]["encoder"]}
    pairs = {**made["versions"], **common, **settings}.items()
    return "".join(f"<dt>{escape(key)}</dt><dd>{escape(str(value))}</dd>" for key, value in pairs)


def _origin(facts: Facts) -> str:
    data = facts["data"]
    parts = {
        "data": data["source"],
        "licence": data["licence"],
        "costs": data["cost_basis"],
        "about the data": data["notes"],
        "SHA-256": data["fingerprint"],
        "made": facts["created"],
        "by": facts["command"],
        "schema": facts["schema"],
    }
    pairs = ((escape(key), escape(str(value))) for key, value in parts.items() if value)
    return "".join(f"<dt>{key}</dt><dd>{value}</dd>" for key, value in pairs)
