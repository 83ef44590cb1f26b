"""Time of the stages of a decision: `python benchmarks/stages.py [--against CHECKOUT] [--data TABLE]`.

From the text to the plan, on one thread, with an artifact fitted on TABLE (the bundled outcomes), for its
prompts and for texts of 5,000 characters joined from them: a query alone, and each of sixteen at once. CPU
microseconds, the tenth percentile, which a busy machine hardly changes. `--heads` fits further heads that no
decision asks. `--against` runs the same in another checkout, turn by turn. The figures are kept; what got
slower than in the runs before is named.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evals.datasets import read_outcomes
from evals.probes.files import load_bundled_outcomes
from policies import Engine, Fleet, Policy
from routers import (
    Artifact,
    ExpertProfile,
    FeatureExtractor,
    FitSettings,
    Forecaster,
    Query,
    StaticEmbedder,
    fit_artifact,
    query_of,
)
from routers.features import form_features, lexical_slots

N_TEXTS = 400
LONG_CHARS = 5000
TOGETHER = 16
ROUNDS = 3
ALONE, MANY = "alone", f"of {TOGETHER}"


def join_texts(texts: Sequence[str], n: int) -> list[str]:
    """Texts of `LONG_CHARS` characters, each begins with another one."""
    joined = []
    for first in range(n):
        text = ""
        while len(text) < LONG_CHARS:
            text += texts[(first + len(text)) % len(texts)] + "\n"
        joined.append(text[:LONG_CHARS])
    return joined


class Stages:
    """The stages of a decision by one artifact."""

    def __init__(self, artifact: Artifact) -> None:
        self._static = StaticEmbedder()
        self._extractor = FeatureExtractor(self._static)
        pool = [ExpertProfile(expert.name, expert.model, 1e-6, 2e-6) for expert in artifact.experts]
        # As the gateway does for a policy without a mapping; checkouts from before heads know no such option.
        alone: dict[str, Any] = {"categories": False} if getattr(artifact, "others", None) else {}
        self._forecaster = Forecaster(pool, artifact, **alone)
        self._engine, self._fleet = Engine(pool), Fleet.idle(len(pool))
        self._policy = Policy("auto", encoder="never")

    def run(self, texts: Sequence[str], took: dict[str, list[float]]) -> None:
        """Add each stage's microseconds a query for these texts at once."""

        def measure(stage: str, call: Callable[[], object]) -> object:
            began = time.thread_time_ns()
            result = call()
            took.setdefault(stage, []).append((time.thread_time_ns() - began) / 1e3 / len(texts))
            return result

        measure("query", lambda: [query_of(text) for text in texts])
        queries = [query_of(text) for text in texts]
        measure("  tokens", lambda: [self._static.ids(text) for text in texts])
        ids = [self._static.ids(text) for text in texts]
        measure("  words", lambda: lexical_slots(ids, texts))
        measure("  form", lambda: form_features(texts))
        measure("  vector", lambda: self._static.embed_ids(ids))
        measure("features", lambda: self._extractor.extract(queries, "static"))
        features = self._extractor.extract(queries, "static")
        prediction = self._forecaster.predict(queries, features)
        fresh = features.take(slice(None))  # nothing derived is remembered
        measure("predict", lambda: self._forecaster.predict(queries, fresh))
        measure("engine", lambda: self._engine.decide(self._policy, queries, prediction, self._fleet))
        measure("whole decision", lambda: self._decide([query_of(text) for text in texts]))

    def _decide(self, queries: list[Query]) -> object:
        prediction = self._forecaster.predict(queries, self._extractor.extract(queries, "static"))
        return self._engine.decide(self._policy, queries, prediction, self._fleet)


def measure_here(artifact: Path) -> dict[str, dict[str, float]]:
    """Microseconds by column and stage."""
    held = Artifact.load(artifact)
    stages = Stages(held)
    texts: list[str] = json.loads((artifact / "texts.json").read_text())
    short, long = texts[:N_TEXTS], join_texts(texts, N_TEXTS // 4)
    columns: dict[str, dict[str, list[float]]] = {}
    for _ in range(ROUNDS):
        for name, these in (("prompts", short), ("5,000 characters", long)):
            for size, label in ((1, ALONE), (TOGETHER, MANY)):
                took = columns.setdefault(f"{name}, {label}", {})
                for start in range(0, len(these) - size + 1, size):
                    stages.run(these[start : start + size], took)
    return {
        column: {stage: float(np.percentile(each, 10)) for stage, each in took.items()}
        for column, took in columns.items()
    }


def fit(folder: Path, table_path: Path | None, heads: Sequence[str]) -> Path:
    """An artifact of the cheap tier, with the texts to ask about beside it."""
    more: dict[str, Any] = {"heads": tuple(heads)} if heads else {}
    table = read_outcomes(table_path) if table_path else load_bundled_outcomes()[0]
    artifact = folder / "artifact"
    settings = FitSettings(tiers=("static",), **more)
    fit_artifact(table, FeatureExtractor(StaticEmbedder()), settings).save(artifact)
    texts = list(dict.fromkeys(table.texts))
    (artifact / "texts.json").write_text(json.dumps(texts[: 2 * N_TEXTS]))
    return artifact


def run_in(checkout: Path, *arguments: str) -> str:
    """What this script prints when it runs with the packages of a checkout."""
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__).resolve()), *arguments]
    done = subprocess.run(
        command, cwd=checkout, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout.splitlines()[-1]


def main() -> None:
    import tempfile

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="an outcome table in any form that `thalamus import` reads")
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="measure another checkout beside it")
    parser.add_argument("--heads", nargs="*", default=[], metavar="NAME", help="heads beside blend")
    parser.add_argument("--turns", type=int, default=2, help="turns of each checkout")
    parser.add_argument("--fit", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.fit:
        print(fit(asked.fit, asked.data, asked.heads))
    elif asked.measure:
        print(json.dumps(measure_here(asked.measure)))
    else:
        checkouts = [Path(__file__).resolve().parent.parent, *([asked.against] if asked.against else [])]
        data = ["--data", str(asked.data.resolve())] if asked.data else []
        data += ["--heads", *asked.heads] if asked.heads else []
        with tempfile.TemporaryDirectory() as scratch:
            compare(checkouts, Path(scratch), data, asked.turns)


def compare(checkouts: Sequence[Path], scratch: Path, data: list[str], turns: int) -> None:
    """Print the stages of every checkout, and keep those of the first; each fits its own artifact."""
    from benchmarks.history import record

    artifacts = []
    for n, checkout in enumerate(checkouts):
        folder = scratch / str(n)
        folder.mkdir()
        artifacts.append(run_in(checkout, "--fit", str(folder), *data))
    least: list[dict[str, dict[str, float]]] = [{} for _ in checkouts]
    for _ in range(turns):
        for checkout, artifact, best in zip(checkouts, artifacts, least, strict=True):
            for column, stages in json.loads(run_in(checkout, "--measure", artifact)).items():
                kept = best.setdefault(column, stages)
                best[column] = {stage: min(value, kept[stage]) for stage, value in stages.items()}
    for column in least[0]:
        print(f"{column:28}" + "".join(f"{checkout.name[-14:]:>15}" for checkout in checkouts))
        for stage, now in least[0][column].items():
            ratio = f"{now / least[1][column][stage]:10.2f}" if len(least) > 1 else ""
            print(f"  {stage:26}" + "".join(f"{best[column][stage]:15.1f}" for best in least) + ratio)
    figures = {
        f"{column}: {stage}": value for column in least[0] for stage, value in least[0][column].items()
    }
    print(*record("stages", figures), sep="\n")


if __name__ == "__main__":
    main()
