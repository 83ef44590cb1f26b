"""How many rewordings of a prompt keep its expert: `python -m studies.rephrasing`.

`rewordings.jsonl` has three rewordings, written by hand, of one probe from each of 71 template families that
are fitted on. The engine that serves decides the probe and its rewordings. What is decided otherwise matters
only as far as the experts differ, so the score that the probe's own outcomes give is printed beside it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import click
import msgspec
import numpy as np

from calculator import answer
from evals.console import progress_bar, report_errors
from evals.probes.files import load_bundled_outcomes
from evals.replay import RecordedExtractor, drive, pool_of
from policies import DecidingHead, HeadNeeds, Policy
from routers import (
    Artifact,
    DataError,
    Extractor,
    FeatureExtractor,
    OutcomeTable,
    Query,
    StaticEmbedder,
    fit_artifact,
    load_embedder,
    query_of,
)
from routers.calibration import show_rate

from .heldout import TOOL, split_families

REWORDINGS = Path(__file__).with_name("rewordings.jsonl")


@dataclass(frozen=True, slots=True)
class KeptExpert:
    """What became of one rewording.

    row: of the probe in the table; before, after: the experts that the probe and the rewording go to
    """

    row: int
    text: str
    before: str
    after: str


@click.command()
@click.option("--unfitted", is_flag=True, help="Leave out the families asked, a fifth at a time.")
@click.option("--tier", type=click.Choice(["static", "adaptive"]), default="adaptive", show_default=True)
@click.option("--moved", is_flag=True, help="List the rewordings that change the expert.")
@report_errors
def main(unfitted: bool, tier: str, moved: bool) -> None:
    """Share of rewordings that go to the expert of their probe, by kind, with 95 % intervals."""
    table, _ = load_bundled_outcomes()
    asked = read_rewordings(table)
    parts = split_families(table) if unfitted else [np.arange(len(table))]
    encoder = load_embedder("minilm", n_threads=2) if tier == "adaptive" else None
    with progress_bar() as on_progress:
        texts = [*table.texts, *(text for rewordings in asked.values() for text in rewordings)]
        read = RecordedExtractor.of(texts, FeatureExtractor(StaticEmbedder(), encoder), on_progress)
        found: list[KeptExpert] = []
        for n, rows in enumerate(parts):
            on_progress("fits", n, len(parts))
            left = np.setdiff1d(np.arange(len(table)), rows) if unfitted else rows
            here = {row: asked[row] for row in rows.tolist() if row in asked}
            found += compare_choices(table, here, fit_artifact(table.take(left), read), read)
    click.echo(render(table, found))
    for one in found if moved else ():
        if one.after != one.before:
            click.echo(f"{one.before} -> {one.after}: {table.texts[one.row]!r} -> {one.text!r}")


def read_rewordings(table: OutcomeTable, path: Path = REWORDINGS) -> dict[int, list[str]]:
    """The rewordings by row of the table that has their probe.

    Raises:
        DataError: a probe is not in the table, or a rewording is its own text.
    """
    rows = {key: n for n, key in enumerate(table.ids)}
    found: dict[int, list[str]] = {}
    for line, text in enumerate(path.read_text("utf-8").splitlines(), start=1):
        entry = json.loads(text)
        if entry["probe"] not in rows:
            raise DataError(f"{path}, line {line}: probe {entry['probe']!r} is not in the table")
        row = rows[entry["probe"]]
        if table.texts[row] in entry["texts"]:
            raise DataError(f"{path}, line {line}: a rewording of {entry['probe']!r} is its own text")
        found[row] = entry["texts"]
    return found


def compare_choices(
    table: OutcomeTable, asked: dict[int, list[str]], artifact: Artifact, read: Extractor
) -> list[KeptExpert]:
    """Decide every probe that is asked, by row, and its rewordings."""
    policy = Policy("auto", encoder="adaptive" if "encoder" in artifact.tiers else "never")
    head = DecidingHead.of(pool_of(table), artifact, HeadNeeds.of(policy))
    pairs = [(row, text) for row, rewordings in asked.items() for text in rewordings]
    texts = [table.texts[row] for row, _ in pairs] + [text for _, text in pairs]
    queries = [make_query(text, table.experts) for text in texts]
    chosen = [one.chosen for one in drive(head.engine, head.forecaster, read, policy, queries)]
    before, after = chosen[: len(pairs)], chosen[len(pairs) :]
    return [
        KeptExpert(row, text, was, now) for (row, text), was, now in zip(pairs, before, after, strict=True)
    ]


def make_query(text: str, experts: Sequence[str]) -> Query:
    """The query as the gateway sees it: the calculator is asked before anything is decided."""
    query = query_of(text)
    if TOOL not in experts or answer(text, date(2024, 1, 1)) is not None:
        return query

    return msgspec.structs.replace(query, declined={TOOL: "no computation"})


def render(table: OutcomeTable, found: Sequence[KeptExpert]) -> str:
    """A row per kind: how many keep their expert, and the score of the one and the other on the probe."""
    column = {name: n for n, name in enumerate(table.experts)}
    score = np.nan_to_num(table.score)  # a tool that declined has no score
    lines = ["| kind | rewordings | keep their expert | score before | after |", "|---|---:|---:|---:|---:|"]
    kinds = list(dict.fromkeys(table.tasks[one.row] for one in found))
    for kind in [*kinds, "all"]:
        here = [one for one in found if kind in (table.tasks[one.row], "all")]
        kept = float(np.mean([one.before == one.after for one in here]))
        before = float(np.mean([score[one.row, column[one.before]] for one in here]))
        after = float(np.mean([score[one.row, column[one.after]] for one in here]))
        lines.append(f"| {kind} | {len(here)} | {show_rate(kept, len(here))} | {before:.2f} | {after:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
