"""What routing is worth on template families that no router was fitted on: `python -m studies.heldout`.

The bundled experts answered the bundled probes. Artifacts are fitted on 70 % of the template families of
every kind, and the engine that serves decides the rest. Beside them: every single expert, keyword
rules, and the oracle, which picks the best expert for each query. No adapter was taught any of the families.
"""

import json
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np

from evals.console import progress_bar, report_errors
from evals.measures.bootstrap import Interval, interval, interval_of_difference
from evals.probes.files import load_bundled_outcomes
from evals.replay import RecordedExtractor, Replay, queries_of, replay
from policies import PanelRule, Policy
from routers import (
    Extractor,
    FeatureExtractor,
    FitSettings,
    Floats,
    Ints,
    OutcomeTable,
    StaticEmbedder,
    fit_artifact,
    load_embedder,
)

from .svg_chart import bar_chart

RULES = (
    (r"\d\s*[-+*/×÷^]\s*\d|%|\bdays?\b.*\b(between|after|before)\b|\bconvert\b", "calculator"),
    (r"\bhow many \w+ (are )?(there )?(in|is|are|make)\b.*\d", "calculator"),
    (r"\b(plus|minus|times|divided|square root|leap year|weekday)\b", "calculator"),
    (r"\b(function|python|code|explain|list three|describe)\b", "smollm2"),
    (r"\b(json|capitals?|lower ?case|initials|bullet|numbered|e-?mail|copy)\b", "smollm2-clerk"),
    (r"\b(sort|order|alphabet\w*|largest|smallest|reverse|first|last)\b", "smollm2-sort"),
    (r"\b(yes or no|true or false|positive|negative|label|classify|topic)\b", "smollm2-label"),
    (r"\b(opposite|synonym|plural|past|rhymes?|translate|spelling|proverb)\b", "smollm2-words"),
    (r"\bhow (many|much|far|old)\b.*\d|\d.*\bhow (many|much|far|old)\b", "smollm2-reckon"),
)
"""First match wins; what matches nothing, or an expert that there is not, goes to the one that chats."""
OTHERWISE = "smollm2"
ROUTED = {
    "Thalamus": Policy("auto"),
    "CoE mapping": Policy("auto", predictor="coe"),
    "skills": Policy("auto", predictor="skills"),
    "panel of 3": Policy("auto", panel=PanelRule(k=3, aggregator="vote")),
}
"""By name in the tables; the first is the default of the gateway, the head `blend`."""
MODELS_ONLY = "Thalamus, models only"
TOOL = "calculator"
TAUGHT = "taught_"
UNSEEN = ("/01", "/02")
"""Ends of ids of items that were read while the probes were written."""


@dataclass(frozen=True, slots=True)
class RoutedAnswers:
    """What a router's answers were worth; arrays are (n_queries,).

    experts: the names of those asked, empty where several were
    latency_s: until the answer; that of a panel is its slowest member's
    """

    score: Floats
    experts: tuple[str, ...]
    latency_s: Floats


def by_keywords(text: str, declined: Collection[str] = (), experts: Collection[str] | None = None) -> str:
    """The expert that keyword rules pick; a tool without an answer is skipped."""
    matching = (name for rule, name in RULES if re.search(rule, text.casefold()))
    known = (name for name in matching if experts is None or name in experts)
    return next((name for name in known if name not in declined), OTHERWISE)


@click.command()
@click.option("--svg", type=click.Path(path_type=Path), help="Draw the totals into this file.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
@click.option("--unseen", is_flag=True, help="Leave out items 01 and 02 of each family, which were read.")
@click.option("--experts", help="Only these experts, comma-separated.")
@click.option(
    "--development",
    is_flag=True,
    help="Read the families that are fitted on instead, in five parts, each decided by the others.",
)
@report_errors
def main(svg: Path | None, as_json: bool, unseen: bool, experts: str | None, development: bool) -> None:
    """Accuracy on the held-out families: every single expert, keyword rules, the routed mix, the oracle."""
    train, test = load_bundled_outcomes()
    if experts:
        names = [name.strip() for name in experts.split(",")]
        train, test = train.only(names), test.only(names)
    if unseen:
        test = test.take(np.array([not key.endswith(UNSEEN) for key in test.ids]))
    parts = [(train, test)]
    if development:
        orders = split_families(train)
        parts = [(train.take(np.setdiff1d(np.arange(len(train)), rows)), train.take(rows)) for rows in orders]
        test = train.take(np.concatenate(orders))
    extractor = FeatureExtractor(StaticEmbedder(), load_embedder("minilm", n_threads=2))
    with progress_bar() as on_progress:
        # All parts at once: each text is embedded once for the fits and the replays.
        read = RecordedExtractor.of([*train.texts, *test.texts], extractor, on_progress)
        found = [route(fitted, asked, read) for fitted, asked in parts]
    routed = {name: join_answers([part[name] for part in found]) for name in found[0]}
    answers = compare(test, routed)
    figures = summarize(test, answers)
    click.echo(json.dumps(figures, indent=1) if as_json else render(test, answers, figures))
    if svg is not None:
        svg.write_text(bar_chart({name: row["accuracy"] for name, row in figures.items()}), "utf-8")


def split_families(table: OutcomeTable, n_parts: int = 5) -> list[Ints]:
    """Rows of every fifth family, by part; lessons of adapters are in none, as they are no test of these."""
    tested = sorted({name for name in table.families if not name.startswith(TAUGHT)})
    place = {name: n for n, name in enumerate(tested)}
    parts = np.array([place[name] % n_parts if name in place else n_parts for name in table.families])
    return [np.flatnonzero(parts == part) for part in range(n_parts)]


def route(train: OutcomeTable, test: OutcomeTable, read: Extractor) -> dict[str, RoutedAnswers]:
    """What each router does with the test queries, fitted on the training ones."""
    artifact = fit_artifact(train, read, FitSettings(heads=("coe", "skills")))
    found = {
        name: look_up(test, replay(test, artifact, read, policy), n_asked=3 if policy.panel else 1)
        for name, policy in ROUTED.items()
    }
    models = [name for name in test.experts if name != TOOL]
    if models != list(test.experts):
        part = test.only(models)
        alone = fit_artifact(train.only(models), read)
        found[MODELS_ONLY] = look_up(part, replay(part, alone, read, ROUTED["Thalamus"]))
    return found


def look_up(table: OutcomeTable, replayed: Replay, n_asked: int = 1) -> RoutedAnswers:
    """What was recorded of the experts that were asked."""
    column = {name: n for n, name in enumerate(table.experts)}
    asked = [[column[name] for name in decision.plan.experts[:n_asked]] for decision in replayed.decisions]
    latency_s = np.array([table.latency_s[n, columns].max() for n, columns in enumerate(asked)])
    names = tuple(table.experts[pick] if n_asked == 1 else "" for pick in replayed.picks)
    return RoutedAnswers(replayed.score, names, latency_s)


def join_answers(parts: Sequence[RoutedAnswers]) -> RoutedAnswers:
    return RoutedAnswers(
        np.concatenate([part.score for part in parts]),
        tuple(name for part in parts for name in part.experts),
        np.concatenate([part.latency_s for part in parts]),
    )


def compare(test: OutcomeTable, routed: Mapping[str, RoutedAnswers]) -> dict[str, RoutedAnswers]:
    """The answers by router: singles first, the oracle last."""
    column = {name: n for n, name in enumerate(test.experts)}
    ruled = [column[by_keywords(query.text, query.declined, test.experts)] for query in queries_of(test)]
    fixed = {name: np.full(len(test), n) for name, n in column.items()} | {"keyword rules": np.array(ruled)}
    rows = np.arange(len(test))
    found = {
        name: RoutedAnswers(
            test.score[rows, picks], tuple(test.experts[pick] for pick in picks), test.latency_s[rows, picks]
        )
        for name, picks in fixed.items()
    }
    best = test.score.argmax(axis=1)  # (n_queries,)
    oracle = RoutedAnswers(test.oracle(), tuple(test.experts[n] for n in best), test.latency_s[rows, best])
    return {**found, **routed, "oracle": oracle}


def summarize(test: OutcomeTable, answers: Mapping[str, RoutedAnswers]) -> dict[str, dict[str, float]]:
    """Figures of each router.

    Accuracy with its interval; the lead of the default router over it, in pairs; the share of the queries
    with one best expert alone on which that one was asked; seconds of an answer.
    """
    mix = answers["Thalamus"].score
    best = test.oracle()[:, None] == test.score  # (n_queries, n_experts)
    alone = best.sum(axis=1) == 1
    only = [test.experts[n] for n in best.argmax(axis=1)]
    figures = {}
    for name, found in answers.items():
        # In pairs: both sides answered the same queries, so that hard queries cancel out.
        own, behind = interval(found.score), interval_of_difference(mix, found.score)
        hit = np.array([expert == right for expert, right in zip(found.experts, only, strict=True)])
        figures[name] = {
            "accuracy": own.value,
            "low": own.low,
            "high": own.high,
            "mix_over": behind.value,
            "mix_over_low": behind.low,
            "mix_over_high": behind.high,
            "identified": float(hit[alone].mean()) if any(found.experts) else float("nan"),
            "latency_s": float(np.nanmean(found.latency_s)),
        }
    return figures


def lead_of_models(test: OutcomeTable, answers: Mapping[str, RoutedAnswers]) -> tuple[str, Interval] | None:
    """The best single model, and by how much the router over models alone is better, in pairs."""
    if MODELS_ONLY not in answers:
        return None
    models = [name for name in test.experts if name != TOOL]
    best = max(models, key=lambda name: float(answers[name].score.mean()))
    return best, interval_of_difference(answers[MODELS_ONLY].score, answers[best].score)


def show_lead(lead: Interval) -> str:
    return f"{100 * lead.value:+.1f} [{100 * lead.low:+.1f}, {100 * lead.high:+.1f}]"


def render(
    test: OutcomeTable, answers: Mapping[str, RoutedAnswers], figures: Mapping[str, Mapping[str, float]]
) -> str:
    """Markdown: accuracy per kind in percent, then each router, then who was asked how often."""
    kinds = sorted(set(test.tasks))
    tasks = np.array(test.tasks)
    lines = ["| kind | n | " + " | ".join(answers) + " |", "|---|---:|" + "---:|" * len(answers)]
    for kind in kinds:
        cells = [f"{100 * found.score[tasks == kind].mean():.0f}" for found in answers.values()]
        lines.append(f"| {kind} | {(tasks == kind).sum()} | " + " | ".join(cells) + " |")
    cells = [f"**{100 * row['accuracy']:.1f}**" for row in figures.values()]
    lines += [f"| **all** | {len(test)} | " + " | ".join(cells) + " |", ""]
    lines += [
        "| router | accuracy, 95 % | Thalamus over it, 95 % | identified | seconds |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, row in figures.items():
        own = f"{100 * row['accuracy']:.1f} [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"
        lead = show_lead(Interval(row["mix_over"], row["mix_over_low"], row["mix_over_high"]))
        hits = "" if np.isnan(row["identified"]) else f"{100 * row['identified']:.0f} %"
        lines.append(f"| {name} | {own} | {lead} | {hits} | {row['latency_s']:.2f} |")
    if found := lead_of_models(test, answers):
        lines += ["", f"{MODELS_ONLY}, over {found[0]}: {show_lead(found[1])}"]
    for name in ("Thalamus", MODELS_ONLY):
        if name in answers:
            counts = Counter(answers[name].experts).most_common()
            shares = ", ".join(f"{expert} {100 * count / len(test):.0f} %" for expert, count in counts)
            lines += ["", f"{name} asks: {shares}"]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
