"""What routing is worth on template families that no router was fitted on: `python -m studies.heldout`.

The bundled experts answered the bundled probes; an artifact is fitted on 70 % of the template families of
every kind, and the engine that serves decides the rest. Beside it: every single expert, hand-written
keyword rules, and the oracle, which picks the best expert for each query.
"""

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path

import click
import numpy as np

from evals.console import progress_bar, report_errors
from evals.measures.bootstrap import interval, interval_of_difference
from evals.probes.files import load_bundled_outcomes
from evals.replay import RecordedExtractor, queries_of, replay
from policies import Policy
from routers import FeatureExtractor, Floats, OutcomeTable, StaticEmbedder, fit_artifact, load_embedder

from .svg_chart import bar_chart

RULES = (
    (r"\d\s*[-+*/×÷^]\s*\d|%|\bdays?\b.*\b(between|after|before)\b|\bconvert\b", "calculator"),
    (r"\bhow many \w+ (are )?(there )?(in|is|are|make)\b.*\d", "calculator"),
    (r"\b(plus|minus|times|divided|square root|leap year|weekday)\b", "calculator"),
    (r"\b(function|python|code|explain|list|describe|write)\b", "smollm2"),
    (r"\b(one word|yes or no|true or false|only|opposite|capital)\b", "smollm2-brief"),
)
"""First match wins; what matches nothing goes to the expert that answers in sentences."""
OTHERWISE = "smollm2-sentence"


def by_keywords(text: str, declined: Collection[str] = ()) -> str:
    """The expert that keyword rules pick; a tool without an answer is skipped."""
    matching = (name for rule, name in RULES if re.search(rule, text.casefold()))
    return next((name for name in matching if name not in declined), OTHERWISE)


@click.command()
@click.option("--svg", type=click.Path(path_type=Path), help="Draw the totals into this file.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
@click.option(
    "--unseen",
    is_flag=True,
    help="Leave out items 01 and 02 of each family, read while the probes were written.",
)
@report_errors
def main(svg: Path | None, as_json: bool, unseen: bool) -> None:
    """Accuracy on the held-out families: every single expert, keyword rules, the routed mix, the oracle."""
    train, test = load_bundled_outcomes()
    if unseen:
        test = test.take(np.array([not key.endswith(("/01", "/02")) for key in test.ids]))
    extractor = FeatureExtractor(StaticEmbedder(), load_embedder("minilm", n_threads=2))
    with progress_bar() as on_progress:
        # Both parts at once: each text is embedded once for the fit and the three replays.
        read = RecordedExtractor.of([*train.texts, *test.texts], extractor, on_progress)
        artifact = fit_artifact(train, read, progress=on_progress)
    scores = compare(
        test,
        {
            use: replay(test, artifact, read, Policy("auto", encoder=use)).score
            for use in ("adaptive", "always", "never")
        },
    )
    figures = summarize(test, scores)
    click.echo(json.dumps(figures, indent=1) if as_json else render(test, scores, figures))
    if svg is not None:
        svg.write_text(bar_chart({name: row["accuracy"] for name, row in figures.items()}), "utf-8")


def compare(test: OutcomeTable, routed: Mapping[str, Floats]) -> dict[str, Floats]:
    """Per router the (n_queries,) scores, singles first, the oracle last."""
    columns = {name: n for n, name in enumerate(test.experts)}
    picked = [columns[by_keywords(query.text, query.declined)] for query in queries_of(test)]
    rules = test.score[np.arange(len(test)), picked]  # (n_queries,)
    singles = {name: test.score[:, n] for name, n in columns.items()}  # (n_queries,) each
    mixes = {f"Thalamus ({use})": score for use, score in routed.items()}
    return {**singles, "keyword rules": rules, **mixes, "oracle": test.oracle()}


def summarize(test: OutcomeTable, scores: Mapping[str, Floats]) -> dict[str, dict[str, float]]:
    """Accuracy with its interval, and by how much the adaptive mix is better, in pairs."""
    mix = scores["Thalamus (adaptive)"]
    figures = {}
    for name, score in scores.items():
        # In pairs: both sides answered the same queries, so that hard queries cancel out.
        own, behind = interval(score), interval_of_difference(mix, score)
        figures[name] = {
            "accuracy": own.value,
            "low": own.low,
            "high": own.high,
            "mix_over": behind.value,
            "mix_over_low": behind.low,
            "mix_over_high": behind.high,
        }
    return figures


def render(
    test: OutcomeTable, scores: Mapping[str, Floats], figures: Mapping[str, Mapping[str, float]]
) -> str:
    """Markdown: accuracy per kind and in all, in percent, and the mix's lead over each with its interval."""
    kinds = sorted(set(test.tasks))
    tasks = np.array(test.tasks)
    lines = ["| kind | n | " + " | ".join(scores) + " |", "|---|---:|" + "---:|" * len(scores)]
    for kind in kinds:
        cells = [f"{100 * score[tasks == kind].mean():.0f}" for score in scores.values()]
        lines.append(f"| {kind} | {(tasks == kind).sum()} | " + " | ".join(cells) + " |")
    lines.append(
        f"| **all** | {len(test)} | "
        + " | ".join(f"**{100 * f['accuracy']:.1f}**" for f in figures.values())
        + " |"
    )
    leads = [
        f"{100 * f['mix_over']:+.1f} [{100 * f['mix_over_low']:+.1f}, {100 * f['mix_over_high']:+.1f}]"
        for f in figures.values()
    ]
    lines.append("| adaptive mix over it, 95 % | | " + " | ".join(leads) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
