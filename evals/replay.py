"""Replays an outcome table through the engine that serves; plans run on recorded outcomes only."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from msgspec.structs import replace

from policies import (
    Attempt,
    DecidingHead,
    Decision,
    Engine,
    Fleet,
    Gather,
    GatherResult,
    HeadNeeds,
    Plan,
    Policy,
    StepResult,
)
from policies.types import TOOL_DECLINED
from routers import (
    Artifact,
    Bools,
    ExpertProfile,
    Extractor,
    Features,
    Floats,
    Forecaster,
    Ints,
    OutcomeTable,
    Query,
    Tier,
    query_of,
)
from routers.skills import NamedSkills


class RecordedExtractor:
    """An extractor that embedded every text in advance, so that folds embed nothing again."""

    def __init__(
        self, features: Mapping[Tier, Features], row_of: Mapping[str, int], fingerprints: dict[Tier, str]
    ) -> None:
        self._features = features
        self._row_of = row_of
        self._fingerprints = fingerprints

    @classmethod
    def of(
        cls,
        texts: Sequence[str],
        extractor: Extractor,
        progress: Callable[[str, int, int], None] = lambda what, done, total: None,
        chunk: int = 128,
    ) -> "RecordedExtractor":
        """Read every distinct text once, on every tier the extractor has."""
        # Texts repeat across folds and seeds; one row per distinct text is embedded once.
        row_of = {text: n for n, text in enumerate(dict.fromkeys(texts))}
        queries = [query_of(text) for text in row_of]
        cheap = extractor.extract(queries, "static")
        features: dict[Tier, Features] = {"static": cheap}
        if "encoder" in extractor.fingerprints:
            dense = []
            for start in range(0, len(queries), chunk):
                progress("embedding", start, len(queries))
                block = slice(start, start + chunk)
                dense.append(extractor.extract(queries[block], "encoder", cheap.take(block)).dense)
            # dense (n_texts, dim)
            features["encoder"] = Features("encoder", np.concatenate(dense), cheap.lexical, cheap.form)
        return cls(features, row_of, dict(extractor.fingerprints))

    @property
    def fingerprints(self) -> dict[Tier, str]:
        return self._fingerprints

    def extract(self, queries: Sequence[Query], tier: Tier, reuse: Features | None = None) -> Features:
        """Features as they were read."""
        rows = np.array([self._row_of[query.text] for query in queries], np.int64)
        return self._features[tier].take(rows)


@dataclass(frozen=True, slots=True)
class Replay:
    """The decisions and outcomes of every query of a table. Arrays are (n_queries,).

    picks:     column of the expert that was chosen, or whose answer a panel gave
    score:     what it scored; cost_usd what it cost, a panel's members together, NaN where unmeasured
    consulted: whether the encoder was used
    by_proxy:  whether the score stands for a panel's vote on answers that were not recorded
    """

    decisions: tuple[Decision, ...]
    picks: Ints
    score: Floats
    cost_usd: Floats
    consulted: Bools
    by_proxy: Bools


def pool_of(table: OutcomeTable) -> tuple[ExpertProfile, ...]:
    """The table's experts as a pool, with nothing known but what was measured."""
    return tuple(ExpertProfile(name, model) for name, model in zip(table.experts, table.models, strict=True))


def queries_of(table: OutcomeTable) -> list[Query]:
    """The queries as the server would see them, the tools named that had no answer."""
    queries = [query_of(text) for text in table.texts]
    # A tool that declined has no answer to give; online the gateway learns this before it routes.
    for n, e in np.argwhere(table.declined == 1).tolist():
        queries[n] = replace(queries[n], declined={**queries[n].declined, table.experts[e]: TOOL_DECLINED})
    return queries


def replay(
    table: OutcomeTable,
    artifact: Artifact,
    extractor: Extractor,
    policy: Policy,
    skills: NamedSkills | None = None,
) -> Replay:
    """Decide every query as the server would with every expert idle, and look up the outcome.

    skills: the named skills beside the artifact, for panels that read them

    Raises:
        ArtifactError: the artifact lacks the head that the policy names.
    """
    pool = pool_of(table)
    head = DecidingHead.of(pool, artifact, HeadNeeds.of(policy), skills)
    decisions = drive(head.engine, head.forecaster, extractor, policy, queries_of(table))
    column = {name: n for n, name in enumerate(table.experts)}
    picks = np.array([column[decision.chosen] for decision in decisions], np.int64)
    rows = np.arange(len(table))
    score, cost_usd = table.score[rows, picks], table.cost_usd[rows, picks]  # (n_queries,) each
    by_proxy = np.zeros(len(table), bool)
    # Sequential plans end at their first expert when every expert is idle and healthy, so the lookup above
    # is exact; only panels need their plan to be driven.
    for n in rows[[not decision.plan.is_sequential for decision in decisions]].tolist():
        outcome = replay_plan(decisions[n].plan, table, n)
        picks[n], score[n], cost_usd[n], by_proxy[n] = (
            outcome.pick,
            outcome.score,
            outcome.cost_usd,
            outcome.by_proxy,
        )
    return Replay(
        decisions=tuple(decisions),
        picks=picks,
        score=score,
        cost_usd=cost_usd,
        consulted=np.array([decision.tier == "encoder" for decision in decisions], bool),
        by_proxy=by_proxy,
    )


def drive(
    engine: Engine, forecaster: Forecaster, extractor: Extractor, policy: Policy, queries: Sequence[Query]
) -> list[Decision]:
    """Answer the engine's questions until it has decided."""
    tiers = [tier for tier in forecaster.tiers if tier in extractor.fingerprints]
    deciding = engine.route(
        policy, queries, Fleet.idle(len(engine.pool)), tiers=tiers, margin=forecaster.margin
    )
    # The engine is a generator: it yields which rows it needs predictions for, and we send them back.
    consult = next(deciding)
    while True:
        batch = [queries[n] for n in consult.rows.tolist()]
        features = None if consult.tier == "prior" else extractor.extract(batch, consult.tier)
        try:
            consult = deciding.send(forecaster.predict(batch, features))
        except StopIteration as done:
            decided: list[Decision] = done.value
            return decided


RIGHT = 0.5
"""A score from here on counts as a right answer where answers themselves were not recorded."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one plan. `cost_usd` is of every call; NaN where the cost of one call is not known.

    pick: column of the expert whose answer it is; of the first member where that is unknown
    by_proxy: whether the score stands for a vote on answers that were not recorded
    """

    pick: int
    score: float
    cost_usd: float
    by_proxy: bool = False


def replay_plan(plan: Plan, table: OutcomeTable, row: int) -> Outcome:
    """Drive a plan with the outcomes recorded for one query; one without a measurement failed.

    An aggregator's answer was never recorded: it fails, and the vote counts. Where answers were not
    recorded either, a panel scores 1 if more than half of its members' scores are at least 0.5, else 0.
    """
    column = {name: n for n, name in enumerate(table.experts)}
    steps = plan.attempts()
    spent = 0.0
    try:
        step = next(steps)
        while True:
            # An attempt without a recorded outcome failed: the plan goes on to its next expert.
            reply: StepResult = "moved_on"
            if isinstance(step, Gather):
                columns = [column[name] for name in step.experts if _is_measured(table, row, column[name])]
                # All members are paid for, also those outvoted; one unknown cost makes the sum NaN.
                spent += float(table.cost_usd[row, columns].sum())
                answers = _answers(table, row, columns)
                if answers is None:
                    times = plan.parts().get("votes") or [1] * len(step.experts)
                    of = dict(zip(step.experts, times, strict=True))
                    votes = np.zeros((1, table.n_experts), np.int64)
                    votes[0, columns] = [of[table.experts[e]] for e in columns]
                    return Outcome(
                        columns[0], float(majority_right(table.score[[row]], votes)[0]), spent, True
                    )
                reply = GatherResult({table.experts[e]: text for e, text in answers.items()})
            elif _is_answered(step, table, row, column[step.expert]):
                e = column[step.expert]
                return Outcome(e, float(table.score[row, e]), spent + float(table.cost_usd[row, e]))
            step = steps.send(reply)
    except StopIteration as done:
        if done.value is None:
            return Outcome(column[plan.experts[0]], np.nan, np.nan)
        return Outcome(column[done.value], float(table.score[row, column[done.value]]), spent)


def _is_measured(table: OutcomeTable, row: int, e: int) -> bool:
    return not np.isnan(table.score[row, e])


def _is_answered(step: Attempt, table: OutcomeTable, row: int, e: int) -> bool:
    return step.answers is None and _is_measured(table, row, e)


def _answers(table: OutcomeTable, row: int, columns: Sequence[int]) -> dict[int, str] | None:
    """Answers by column; None where one is missing."""
    recorded = table.answers[row] if table.answers is not None else (None,) * table.n_experts
    found = {e: recorded[e] for e in columns}
    texts = {e: text for e, text in found.items() if text is not None}
    return texts if len(texts) == len(found) else None


def majority_right(score: Floats, votes: Floats | Ints | Bools) -> Floats:
    """(n_queries,) 1 where more than half of the votes score at least 0.5: the proxy for a vote on answers.

    votes: (n_queries, n_experts) how often each is called; an expert without a measurement has none
    """
    # Worked case: scores 1, 1, 0 give 2 · 2 > 3, so 1; a tie of 1, 0 gives 2 > 2, false, so 0.
    counted = np.where(np.isnan(score), 0, votes)
    right = np.where(score >= RIGHT, counted, 0).sum(axis=1)
    most: Floats = (2 * right > counted.sum(axis=1)).astype(np.float64)
    return most


def oracle_of(score: Floats, votes: Floats | Ints) -> Floats:
    """(n_queries,) the best score among the experts called; NaN where none of them was measured."""
    # -inf instead of NaN, because nanmax warns on rows without a single measurement.
    best = np.where((votes > 0) & ~np.isnan(score), score, -np.inf).max(axis=1)
    return np.where(np.isinf(best), np.nan, best)
