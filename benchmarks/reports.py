"""What a report on 20,000 queries and 30 experts takes: seconds, and peak memory of all processes together.

`python benchmarks/reports.py [N_QUERIES [N_EXPERTS [ROUTER]]]`. Texts are made up; a hashing embedder stands
in for the encoder, whose time is measured by benchmarks/embedders.py.
"""

import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from evals.evaluate import parse_router_specs
from evals.replay import RecordedExtractor
from evals.report import ReportRequest, facts_of, page_of
from evals.run_all import aggregate_runs, build_context, list_jobs, run_jobs
from evals.splits import holdout
from routers import FeatureExtractor, HashingEmbedder, OutcomeTable

N_WORKERS = 2
SUBJECTS = ("sum", "poem", "river", "proof", "recipe", "bug", "letter", "star")


def synthetic(n_queries: int, n_experts: int) -> OutcomeTable:
    """Each expert is good at some subjects, and the dearer the better."""
    rng = np.random.default_rng(0)
    subject = rng.integers(len(SUBJECTS), size=n_queries)
    words = rng.integers(5000, size=(n_queries, 40))
    texts = [
        f"{SUBJECTS[s]} " + " ".join(f"w{w}" for w in row) for s, row in zip(subject, words, strict=True)
    ]
    skill = rng.uniform(0.2, 0.9, (len(SUBJECTS), n_experts))
    return OutcomeTable.build(
        texts,
        [f"expert{e}" for e in range(n_experts)],
        {
            "score": (rng.random((n_queries, n_experts)) < skill[subject]).astype(float),
            "cost_usd": np.tile(skill.mean(axis=0) ** 4, (n_queries, 1)),
            "output_tokens": rng.integers(1, 400, (n_queries, n_experts)).astype(float),
        },
        tasks=[SUBJECTS[s] for s in subject],
        bucket=rng.integers(100, size=n_queries),
    )


def main(n_queries: int = 20_000, n_experts: int = 30, router: str = "blend") -> None:
    started = time.perf_counter()
    protocol = holdout(synthetic(n_queries, n_experts), [0], range(80, 100))
    read = RecordedExtractor.of(
        protocol.table.texts, FeatureExtractor(HashingEmbedder(64), HashingEmbedder(384))
    )
    lap("table and features", started)
    jobs = list_jobs(protocol, parse_router_specs(router, ["static", "encoder"]))
    done = []
    for job, result in run_jobs(protocol, read, jobs, lambda *printed: None, N_WORKERS):
        done.append((job, result))
        if job.router_spec is not None or job.name == "mean_of_four":
            lap(f"{job.name} (of {len(jobs)} jobs)", started)
    context, runs = build_context(protocol), aggregate_runs(protocol, jobs, done)
    facts = facts_of(protocol, context, runs, ReportRequest("bench", "bench", "", "hashing"))
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "report.html").write_text(page_of(facts), "utf-8")
    lap("intervals and page", started)
    for name, figures in ((router, facts["routers"]), ("best_single", facts["baselines"])):
        print(f"          {name} {figures[name]['accuracy']}")
    own, worker = (peak_gib(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(f"peak memory: {own:.2f} GiB here, {worker:.2f} GiB the larger of {N_WORKERS} workers")
    print(f"             {own + N_WORKERS * worker:.2f} GiB at most together")


def peak_gib(who: int) -> float:
    return resource.getrusage(who).ru_maxrss / 2**20


def lap(what: str, started: float) -> None:
    print(f"{time.perf_counter() - started:7.1f} s  {what}", flush=True)


if __name__ == "__main__":
    numbers: list[Any] = [int(text) for text in sys.argv[1:3]]
    main(*numbers, *sys.argv[3:4])
