"""Time of one prediction and one decision, features at hand: `python benchmarks/predict.py [--rows 20000]`.

Batches of one, turn by turn in one run with the same decided exactly (every training query looked at, not
those in near cells alone): medians of wall and of CPU time per query, and the share of equal decisions.
Made-up features of real shape around topics whose sizes and spreads differ as those of real prompts do, or,
with `--texts FILE`, static features of the texts in an outcome table; outcomes are made up either way.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from policies import Decision, Engine, Fleet, Policy
from routers import (
    Artifact,
    ExpertProfile,
    Extractor,
    FeatureExtractor,
    Features,
    FitSettings,
    Forecaster,
    OutcomeTable,
    Predictor,
    Query,
    StaticEmbedder,
    Tier,
    fit_artifact,
    query_of,
)

N_ASKED = 1000
_BLOCK, _ROUNDS = 50, 3
_N_TOPICS = 400


class MadeUp:
    """Features of the static tier's shape, from a seed per text: topics, large and small, wide and narrow."""

    fingerprints: dict[Tier, str] = {"static": "made up"}  # noqa: RUF012

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        falling = 1 / np.sqrt(1 + np.arange(256) / 4)  # the spectrum of a text embedder
        self._fields = rng.normal(size=(20, 256)) * falling
        self._topics = self._fields[rng.integers(20, size=_N_TOPICS)] + rng.normal(size=(_N_TOPICS, 256)) * (
            falling * 0.7
        )
        self._forms = rng.random((_N_TOPICS, 21))
        self._falling = falling

    def extract(self, queries: Sequence[Query], tier: Tier, reuse: Features | None = None) -> Features:
        rows = [self._one(int(query.text)) for query in queries]
        dense, lexical, form = (np.stack(part) for part in zip(*rows, strict=True))
        return Features("static", dense, lexical, form)

    def _one(self, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        topic = int(_N_TOPICS * rng.random() ** 2)
        dense = self._topics[topic] + rng.normal(size=256) * self._falling * rng.uniform(0.3, 1.0)
        form = np.clip(self._forms[topic] + rng.normal(size=21) * 0.15, 0, 1)
        lexical = np.sort((rng.zipf(1.3, 120) + 97 * (topic % 50)) % 32768)
        return (dense / np.linalg.norm(dense)).astype(np.float32), lexical, form


def outcomes(texts: Sequence[str], features: Features, n_experts: int) -> OutcomeTable:
    """Experts that differ by content and by form, as dice that fall so."""
    rng = np.random.default_rng(1)
    shape = (len(texts), n_experts)
    content = features.dense @ rng.normal(size=(features.dense.shape[1], n_experts)) * 2
    form = (features.form - features.form.mean(axis=0)) @ rng.normal(size=(features.form.shape[1], n_experts))
    chance = 1 / (1 + np.exp(-content - form - rng.normal(size=(len(texts), 1))))
    measures = {
        "score": (rng.random(shape) < chance).astype(float),
        "cost_usd": rng.random(shape),
        "output_tokens": rng.integers(1, 500, shape).astype(float),
        "latency_s": rng.random(shape),
    }
    return OutcomeTable.build(list(texts), [f"expert-{n}" for n in range(n_experts)], measures)


def exactly(artifact: Artifact) -> Artifact:
    """The same, but every training query is looked at."""
    head = artifact.tiers["static"]
    blend = copy(head.quality)
    neighbours = copy(blend.members_[1])  # type: ignore[attr-defined]
    if neighbours.cells_ is not None:
        neighbours.columns_ = np.ascontiguousarray(neighbours.cells_.rows.T)
        neighbours.cells_ = None
    members = list(blend.members_)  # type: ignore[attr-defined]
    members[1] = neighbours
    return replace(artifact, tiers={"static": replace(head, quality=blend._take(members))})  # type: ignore[attr-defined]


Call = Callable[[int, Features], object]


def median_us(calls: dict[str, Call], features: Sequence[Features]) -> dict[str, tuple[float, float]]:
    """Median wall and CPU microseconds of each, turn by turn in blocks of queries never read before."""
    n = len(features)
    took: dict[str, list[tuple[int, int]]] = {name: [] for name in calls}
    for block in [range(start, min(start + _BLOCK, n)) for start in range(0, n, _BLOCK)] * _ROUNDS:
        for name, call in calls.items():
            for i in block:
                fresh = replace(features[i])
                wall, cpu = time.perf_counter_ns(), time.thread_time_ns()
                call(i, fresh)
                took[name].append((time.perf_counter_ns() - wall, time.thread_time_ns() - cpu))
    medians = {name: np.median(each, axis=0) / 1e3 for name, each in took.items()}
    return {name: (float(wall), float(cpu)) for name, (wall, cpu) in medians.items()}


def predict_with(predictor: Predictor, i: int, read: Features) -> object:
    return predictor.predict(read)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=20000)
    parser.add_argument("--experts", type=int, default=10)
    parser.add_argument("--texts", type=Path, help="an outcome table, with at least 1,000 texts to spare")
    asked = parser.parse_args()
    texts = [str(n) for n in range(asked.rows + N_ASKED)]
    extractor: Extractor = MadeUp()
    if asked.texts:
        texts = list(dict.fromkeys(OutcomeTable.load(asked.texts).texts))[: asked.rows + N_ASKED]
        extractor = FeatureExtractor(StaticEmbedder())
    queries = [query_of(text) for text in texts]
    seen = extractor.extract(queries, "static")
    table = outcomes(texts, seen, asked.experts).take(np.arange(len(texts) - N_ASKED))
    artifact = fit_artifact(table, extractor, FitSettings(tiers=("static",)))
    pool = [ExpertProfile(name, name, 1e-6, 2e-6) for name in table.experts]
    engine, fleet, policy = Engine(pool), Fleet.idle(len(pool)), Policy("auto", encoder="never")
    queries = queries[-N_ASKED:]
    features = [extractor.extract([query], "static") for query in queries]
    near, exact = Forecaster(pool, artifact), Forecaster(pool, exactly(artifact))

    def decide(forecaster: Forecaster, i: int, read: Features) -> Decision:
        return engine.decide(policy, [queries[i]], forecaster.predict([queries[i]], read), fleet)[0]

    head = artifact.tiers["static"]
    calls: dict[str, Call] = {
        "predict + decide": lambda i, read: decide(near, i, read),
        "predict + decide, exact": lambda i, read: decide(exact, i, read),
        "predict": lambda i, read: near.predict([queries[i]], read),
        "  blend": lambda i, read: head.quality.predict(read),
    }
    for n, member in enumerate(head.quality.members_):  # type: ignore[attr-defined]
        calls[f"    {n} {type(member).__name__}"] = partial(predict_with, member)
    print(f"{len(table)} training queries, {asked.experts} experts, batches of one, median µs (wall, CPU)")
    for name, (wall, cpu) in median_us(calls, features).items():
        print(f"{name:28s}{wall:8.1f}{cpu:8.1f}")
    equal = np.mean(
        [decide(near, *each).chosen == decide(exact, *each).chosen for each in enumerate(features)]
    )
    print(f"decisions equal to the exact ones: {equal:.1%}")


if __name__ == "__main__":
    main()
