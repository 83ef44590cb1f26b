"""Replaying an outcome table through the engine that serves: the offline driver of `Engine.route`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from policies import Decision, Engine, Fleet, Policy, Scale
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

from .panels import replay_plan


class Recorded:
    """An extractor that has already read every text it will be asked for: folds embed nothing again."""

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
    ) -> "Recorded":
        """Read every distinct text once, on every tier the extractor has."""
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
    """What came of deciding every query of a table. Arrays are (n_queries,).

    picks:     column of the expert that was chosen, or whose answer a panel gave
    score:     what it scored; cost_usd what it cost, a panel's members together, NaN where nobody measured
    consulted: whether the encoder was looked at
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
    for n, e in np.argwhere(table.declined == 1).tolist():
        queries[n] = replace(queries[n], declined=queries[n].declined | {table.experts[e]})
    return queries


def replay(table: OutcomeTable, artifact: Artifact, extractor: Extractor, policy: Policy) -> Replay:
    """Decide every query as the server would with every expert idle, and look up the outcome."""
    pool = pool_of(table)
    forecaster = Forecaster(pool, artifact)
    engine = Engine(pool, Scale.of(forecaster.mean_cost_usd, forecaster.mean_latency_s), forecaster.sweep)
    decisions = drive(engine, forecaster, extractor, policy, queries_of(table))
    column = {name: n for n, name in enumerate(table.experts)}
    picks = np.array([column[decision.chosen] for decision in decisions], np.int64)
    rows = np.arange(len(table))
    score, cost_usd = table.score[rows, picks], table.cost_usd[rows, picks]
    by_proxy = np.zeros(len(table), bool)
    for n in rows[[not decision.plan.is_sequential for decision in decisions]].tolist():
        came = replay_plan(decisions[n].plan, table, n)
        picks[n], score[n], cost_usd[n], by_proxy[n] = came.pick, came.score, came.cost_usd, came.by_proxy
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
    """Answer what the engine wants to know until it has decided."""
    tiers = [tier for tier in forecaster.tiers if tier in extractor.fingerprints]
    deciding = engine.route(
        policy, queries, Fleet.idle(len(engine.pool)), tiers=tiers, margin=forecaster.margin
    )
    consult = next(deciding)
    while True:
        asked = [queries[n] for n in consult.rows.tolist()]
        features = None if consult.tier == "prior" else extractor.extract(asked, consult.tier)
        try:
            consult = deciding.send(forecaster.predict(asked, features))
        except StopIteration as done:
            decided: list[Decision] = done.value
            return decided
