"""Time of one prediction, features at hand: `python benchmarks/predict.py [--rows 5500] [--experts 9]`.

CPU time of this thread per query, batches of one, best of several rounds; made-up features of real shape.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np

from policies import Engine, Fleet, Policy
from routers import (
    Artifact,
    Estimate,
    ExpertProfile,
    Features,
    Forecaster,
    OutcomeTable,
    Query,
    fit_artifact,
    make_predictor,
)


class MadeUp:
    """Features of the static tier's shape, from a seed per text."""

    fingerprints = {"static": "made up"}  # noqa: RUF012

    def extract(self, queries: list[Query], tier: str, reuse: Features | None = None) -> Features:
        rows = [self._one(int(query.text)) for query in queries]
        dense, lexical, form = (np.stack(part) for part in zip(*rows, strict=True))
        return Features("static", dense, lexical, form)

    def _one(self, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        dense = rng.normal(size=256).astype(np.float32)
        return dense / np.linalg.norm(dense), np.sort(rng.zipf(1.3, 120) % 32768), rng.random(21)


def made_up_artifact(n_rows: int, n_experts: int) -> tuple[Artifact, list[ExpertProfile]]:
    rng = np.random.default_rng(0)
    names = [f"expert-{n}" for n in range(n_experts)]
    shape = (n_rows, n_experts)
    measures = {
        "score": (rng.random(shape) < 0.5).astype(float),
        "cost_usd": rng.random(shape),
        "output_tokens": rng.integers(1, 500, shape).astype(float),
        "latency_s": rng.random(shape),
    }
    table = OutcomeTable.build([str(n) for n in range(n_rows)], names, measures)
    pool = [ExpertProfile(name, name, 1e-6, 2e-6) for name in names]
    return fit_artifact(table, MadeUp()), pool


def cpu_us(call: Callable[[int], object], n: int = 50, rounds: int = 60) -> float:
    best = float("inf")
    for _ in range(rounds):
        start = time.thread_time()
        for i in range(n):
            call(i)
        best = min(best, (time.thread_time() - start) / n * 1e6)
    return best


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=5500)
    parser.add_argument("--experts", type=int, default=9)
    asked = parser.parse_args()
    artifact, pool = made_up_artifact(asked.rows, asked.experts)
    forecaster, engine = Forecaster(pool, artifact), Engine(pool)
    fleet, policy = Fleet.idle(len(pool)), Policy("auto", encoder="never")
    queries = [Query(str(10**6 + n), 100) for n in range(300)]
    features = [MadeUp().extract([query], "static") for query in queries]
    head = artifact.heads["static"]

    def decide(i: int) -> object:
        return engine.decide(policy, [queries[i]], forecaster.predict([queries[i]], features[i]), fleet)

    print(
        f"forecast                {cpu_us(lambda i: forecaster.predict([queries[i]], features[i])):7.1f} µs"
    )
    print(f"forecast + decide       {cpu_us(decide):7.1f} µs")
    parts = {"blend": head.quality, **{type(m).__name__: m for m in head.quality.members_}}  # type: ignore[attr-defined]
    for name, part in {**parts, "tokens": head.tokens}.items():
        print(f"  {name:22s}{cpu_us(lambda i, part=part: part.predict(features[i])):7.1f} µs")
    known: Estimate = head.quality.predict(features[0])
    print(f"  {'calibration':22s}{cpu_us(lambda i: head.calibration.apply(known)):7.1f} µs")
    full = make_predictor("constant").fit(features[0], np.zeros((1, asked.experts)))
    print(f"  {'constant':22s}{cpu_us(lambda i: full.predict(features[i])):7.1f} µs")


if __name__ == "__main__":
    main()
