"""A report as Markdown: the headline figures, per task, and what to bear in mind."""

from collections.abc import Mapping, Sequence
from typing import Any

from .facts import COMPARED, Facts
from .fronts import SHOWN_WEIGHTS, explain_gap

SHOWN = (
    "accuracy",
    "gain",
    "accuracy_in_domain",
    "accuracy_out_of_domain",
    "area",
    "cost_saved",
    "cost_saved_score",
    "apgr",
    "apgr_10",
    "router_arena",
    "optimal",
    "optimal_strict",
    "regret",
    "brier",
    "calibration_error",
    "decisions_per_s",
)


def label_measure(facts: Facts, name: str) -> str:
    """The name of a measure in heads, with what costs mean where it rests on them."""
    label = facts["data"]["cost_label"]
    is_about_costs = facts["measures"].get(name, {}).get("of_costs")
    return f"{name.replace('_', ' ')} ({label})" if label and is_about_costs else name.replace("_", " ")


def markdown_of(facts: Facts) -> str:
    """The whole page, tables in pipes."""
    parts = [
        f"# {facts['title']}",
        _summary(facts),
        "## Figures",
        _figures(facts),
        "## Differences, paired",
        "Points and their 95 % intervals; ▲ ▼ the interval lies above, below 0. All pairs: differences.csv.",
        _comparisons(facts),
        *_fronts(facts),
        "## Tasks",
        _tasks(facts),
        "## Notes",
        "\n".join(f"- {note}" for note in facts["notes"]),
        "## Made with",
        _versions(facts),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def list_front_rows(front: Mapping[str, Any]) -> list[list[str]]:
    """A row per router: its name, then score and value at each weight shown."""
    return [
        [
            name,
            *(
                f"{format_value('share', point['score'])} at {point['value']:.3g}"
                for point in points
                if point["weight"] in SHOWN_WEIGHTS
            ),
        ]
        for name, points in front["routers"].items()
    ]


def _fronts(facts: Facts) -> list[str]:
    parts = ["## Size, recency, latency", "Mean score at a mean value, as the weight on the goal grows."]
    for goal, front in facts["fronts"].items():
        if front["routers"]:
            heads = [f"{goal}, {front['unit']}", *(f"weight {weight:g}" for weight in SHOWN_WEIGHTS)]
            rows = [heads, ["---"] * len(heads), *list_front_rows(front)]
            parts.append("\n".join("| " + " | ".join(map(_escape_cell, row)) + " |" for row in rows))
        if gap := explain_gap(goal, front):
            parts.append(gap)
    return parts


def _escape_cell(text: str) -> str:
    return text.replace("|", "\\|")


def _summary(facts: Facts) -> str:
    data, protocol = facts["data"], facts["protocol"]
    lines = [
        f"- data: {data['source'] or 'unnamed'}, {data['n_queries']} queries × {len(data['experts'])} "
        f"experts, {data['n_tested']} tested; SHA-256 {data['fingerprint'][:16]}…",
        f"- protocol: {protocol['name']}, seeds {', '.join(map(str, protocol['seeds']))}, "
        f"{protocol['n_cuts']} splits, encoder {protocol['encoder']}",
        f"- licence: {data['licence']}" if data["licence"] else "",
        f"- made {facts['created']} by `{facts['command']}`",
    ]
    return "\n".join(line for line in lines if line)


def _versions(facts: Facts) -> str:
    made = facts["made_with"]
    lines = [f"- {name} {number}" for name, number in made["versions"].items()]
    settings = made["settings"]["routers"].items()
    return "\n".join([*lines, *(f"- `{name}`: {describe_settings(own)}" for name, own in settings)])


def describe_settings(settings: Mapping[str, Any]) -> str:
    """The settings of a router in one line."""
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def _figures(facts: Facts) -> str:
    all_routers = {**facts["routers"], **facts["baselines"]}
    shown = [name for name in SHOWN if any(figures.get(name) for figures in all_routers.values())]
    rows = [
        [_name(facts, name), *(_cell(facts, key, figures.get(key)) for key in shown)]
        for name, figures in all_routers.items()
    ]
    return _table(["", *(label_measure(facts, name) for name in shown)], rows)


def _name(facts: Facts, name: str) -> str:
    if name in facts["references"]:
        return f"*{name}*"
    if reason := facts["unavailable"].get(name):
        return f"{name} ({reason})"
    return f"**{name}**" if name in facts["routers"] else name


def _cell(facts: Facts, measure: str, found: Mapping[str, float] | None) -> str:
    if found is None:
        return "–"
    unit = facts["measures"].get(measure, {}).get("unit", "number")
    value, low, high = (format_value(unit, found[key]) for key in ("value", "low", "high"))
    return value if found["low"] == found["high"] else f"{value} [{low}, {high}]"


def format_value(unit: str, value: float) -> str:
    """A figure as people read it: shares in percent, dollars in what a thousand queries cost.

    The only rounding of reports: pages, tables, charts and the terminal show a figure alike.
    """
    if unit == "share":
        return f"{_round(100 * value, 1):.1f} %"
    if unit == "points":
        return f"{_round(100 * value, 1):+.1f}".replace("-", "−")
    if unit == "usd":
        return f"${float(f'{1000 * value:.3g}'):g}/1k"
    return f"{_round(value, 3):.3f}".replace("-", "−") if unit == "score" else f"{value:,.0f}"


def _round(value: float, digits: int) -> float:
    return round(value, digits) + 0.0  # no −0.0


def _comparisons(facts: Facts) -> str:
    """Every pair once: a router against the learned baselines and the routers after it."""
    compared = facts["comparisons"]
    pairs = [
        (router, other)
        for n, (router, others) in enumerate(compared.items())
        for other in others
        if other not in list(compared)[:n] and not other.startswith("single:")
    ]
    known = [name for pair in pairs for name, found in compared[pair[0]][pair[1]].items() if found]
    shown = [name for name in COMPARED if name in known]
    rows = [
        [router, other, *(format_difference(compared[router][other].get(name)) for name in shown)]
        for router, other in pairs
    ]
    return (
        _table(["router", "against", *(label_measure(facts, name) for name in shown)], rows) if rows else ""
    )


def format_difference(found: Mapping[str, float] | None) -> str:
    """In points with its interval; an arrow where that lies above or below 0."""
    if found is None:
        return "–"
    value, low, high = (format_value("points", found[key]) for key in ("value", "low", "high"))
    mark = " ▲" if found["low"] > 0 else " ▼" if found["high"] < 0 else ""
    return f"{value} [{low}, {high}]{mark}"


def _tasks(facts: Facts) -> str:
    routers = list(facts["routers"])
    heads = ["task", "n", *(f"{name}, against best single: won/tied/lost" for name in routers)]
    rows = []
    for row in facts["tasks"]:
        cells = []
        for name in routers:
            against = row["against_best_single"][name]
            lead = "–" if against["value"] is None else format_value("points", against["value"])
            counts = "/".join(str(against[key]) for key in ("n_won", "n_tied", "n_lost"))
            cells.append(f"{lead} {against['verdict']} ({counts})")
        rows.append([row["task"], str(row["n"]), *cells])
    return _table(heads, rows)


def _table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [_line(heads), "|" + "---|" * len(heads)]
    return "\n".join([*lines, *map(_line, rows)])


def _line(cells: Sequence[Any]) -> str:
    # A pipe or a line break in a task's name would break the table.
    return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
