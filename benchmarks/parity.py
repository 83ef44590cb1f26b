"""Whether the gateway decides as a report does: `python benchmarks/parity.py DATA [--vectors FILE]`.

An artifact is fitted on buckets 0-79 of DATA. The real gateway then routes prompts of all buckets over HTTP,
in front of fakes that are named like DATA's experts and answer from its table; `evals` replays the same
prompts. Compared are who is chosen, why, the tier, the order of all others, and which expert answered.
"""

import argparse
import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
from aiohttp import web

from benchmarks.resilience import gateway
from evals.console import OnProgress, progress_bar
from evals.datasets import read_outcomes
from evals.replay import replay
from evals.vectors import VectorCache
from policies import Objective, Policy, decision_record
from routers import (
    Artifact,
    FeatureExtractor,
    FitSettings,
    OutcomeTable,
    StaticEmbedder,
    fit_artifact,
    load_embedder,
)

POLICIES = {
    "always": Policy("always", encoder="always"),
    "never": Policy("never", encoder="never"),
    "frugal": Policy("frugal", Objective(cost=0.5), encoder="always"),
}
CONNECTIONS = 16


def config_of(table: OutcomeTable, upstream: str, artifact: Path, folder: Path) -> dict[str, Any]:
    """A configuration with the table's experts, all played by one fake, and nothing known of their prices."""
    return {
        "experts": [
            {"name": name, "model": f"openai/{model}", "api_base": upstream}
            for name, model in zip(table.experts, table.models, strict=True)
        ],
        "policies": {
            name: {"encoder": policy.encoder, "objective": {"cost": policy.objective.cost}}
            for name, policy in POLICIES.items()
        },
        "routing": {"artifact": str(artifact), "load_budget": "off"},
        "journal": {"path": str(folder / "journal.sqlite3")},
    }


@asynccontextmanager
async def upstream_of(table: OutcomeTable) -> AsyncIterator[str]:
    """Speaks OpenAI's protocol; what it says is who was asked and what the table has for it."""
    row = {text: n for n, text in enumerate(table.texts)}
    column = {model: e for e, model in enumerate(table.models)}

    async def answer(request: web.Request) -> web.Response:
        body = await request.json()
        model = body["model"]
        score = table.score[row[body["messages"][-1]["content"]], column[model]]
        message = {"role": "assistant", "content": f"{table.experts[column[model]]} scores {score:.4f}"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return web.json_response(
            {"id": "c", "object": "chat.completion", "created": 1, "model": model, "choices": [choice]}
        )

    app = web.Application(client_max_size=2**26)
    app.router.add_post("/v1/chat/completions", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


async def ask(http: aiohttp.ClientSession, url: str, policy: str, text: str) -> dict[str, Any]:
    """The decision as the gateway tells it, `said` with the answer; or its refusal."""
    body = {"model": f"auto:{policy}", "messages": [{"role": "user", "content": text}]}
    headers = {"x-thalamus-debug": "true"}
    async with http.post(f"{url}/v1/chat/completions", json=body, headers=headers) as response:
        printed = await response.json()
        if response.status != 200:
            return {"status": response.status, "said": printed["error"]["message"]}
        decision: dict[str, Any] = json.loads(response.headers["x-thalamus-decision"])
        return {"status": 200, **decision, "said": printed["choices"][0]["message"]["content"]}


def difference(live: Mapping[str, Any], offline: Mapping[str, Any], said: str) -> str | None:
    """What is not the same about a decision, None where all is."""
    if live["status"] != 200:
        return f"status {live['status']}: {live['said']}"
    for what in ("expert", "tier", "reason"):
        if live[what] != offline[what]:
            gap = quality_gap(live, offline)
            return f"{what} {live[what]!r}, not {offline[what]!r}, qualities {gap:.2g} apart"
    here, there = ([c["expert"] for c in printed["candidates"]] for printed in (live, offline))
    if here != there:
        return f"order {here}, not {there}, qualities {quality_gap(live, offline):.2g} apart"
    return None if live["said"] == said else f"answered {live['said']!r}, not {said!r}"


def quality_gap(live: Mapping[str, Any], offline: Mapping[str, Any]) -> float:
    """How far apart the predictions of the two are, at most."""
    here, there = ({c["expert"]: c["quality"] for c in printed["candidates"]} for printed in (live, offline))
    return float(max(abs(here[name] - there[name]) for name in here))


async def decide_live(
    url: str, policy: str, texts: list[str], on_progress: OnProgress
) -> list[dict[str, Any]]:
    """What the gateway says of every text, several at once."""
    free = asyncio.Semaphore(CONNECTIONS)
    n_done = 0

    async def one(http: aiohttp.ClientSession, text: str) -> dict[str, Any]:
        nonlocal n_done
        async with free:
            printed = await ask(http, url, policy, text)
        n_done += 1
        on_progress(f"asking auto:{policy}", n_done, len(texts))
        return printed

    async with aiohttp.ClientSession() as http:
        return await asyncio.gather(*(one(http, text) for text in texts))


async def compare(
    table: OutcomeTable,
    path: Path,
    artifact: Artifact,
    extractor: FeatureExtractor,
    on_progress: OnProgress,
) -> None:
    """Decide the table's queries both ways, and print how many decisions are equal."""
    with tempfile.TemporaryDirectory() as scratch:
        async with upstream_of(table) as upstream:
            with gateway(Path(scratch), config_of(table, upstream, path, Path(scratch))) as (url, _):
                live = {
                    name: await decide_live(url, name, list(table.texts), on_progress) for name in POLICIES
                }
    for name, policy in POLICIES.items():
        came = replay(table, artifact, extractor, policy)
        offline = [decision_record(decision) for decision in came.decisions]
        different = []
        for n, (here, there) in enumerate(zip(live[name], offline, strict=True)):
            if what := difference(here, there, f"{there['expert']} scores {came.score[n]:.4f}"):
                different.append(f"  {table.ids[n]}: {what}")
        pairs = [pair for pair in zip(live[name], offline, strict=True) if pair[0]["status"] == 200]
        gap = max((quality_gap(*pair) for pair in pairs), default=float("nan"))
        n_chosen = len({there["expert"] for there in offline})
        print(
            f"{name}: {len(table) - len(different)} of {len(table)} equal, {n_chosen} experts chosen"
            f", qualities {gap:.1g} apart at most",
            *different,
            sep="\n",
        )


def parse_arguments(description: str | None, n: int) -> argparse.Namespace:
    """The arguments of a benchmark that routes prompts of a table by an artifact fitted on part of it."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "data", nargs="?", type=Path, help="outcomes, in any form that `thalamus import` reads"
    )
    parser.add_argument("--n", type=int, default=n, help="how many prompts")
    parser.add_argument(
        "--vectors", type=Path, help="the encoder's vectors, as `thalamus eval --vectors` keeps them"
    )
    parser.add_argument("--artifact", type=Path, help="keep the artifact here, and take it if it is there")
    return parser.parse_args()


def build_extractor(vectors: Path | None) -> FeatureExtractor:
    """The features of both tiers; the encoder's vectors are kept in a file where one is named."""
    encoder = load_embedder("minilm", n_threads=2)
    return FeatureExtractor(StaticEmbedder(), VectorCache(encoder, vectors) if vectors else encoder)


def fit_training_buckets(
    table: OutcomeTable, extractor: FeatureExtractor, path: Path, on_progress: OnProgress
) -> None:
    """Fit an artifact on buckets 0-79 of a table, unless one is there."""
    if not path.exists():
        train = table.take(table.bucket < 80)
        fit_artifact(train, extractor, FitSettings("blend"), on_progress, "").save(path)


def main() -> None:
    arguments = parse_arguments(__doc__, 1000)
    if arguments.data is None:
        print("give DATA; nothing was compared")
        return
    table = read_outcomes(arguments.data)
    extractor = build_extractor(arguments.vectors)
    drawn = np.sort(np.random.default_rng(0).permutation(len(table))[: arguments.n])
    with tempfile.TemporaryDirectory() as scratch, progress_bar() as on_progress:
        path = arguments.artifact or Path(scratch, "artifact")
        fit_training_buckets(table, extractor, path, on_progress)
        artifact = Artifact.load(path, extractor.fingerprints)
        asyncio.run(compare(table.take(drawn), path, artifact, extractor, on_progress))


if __name__ == "__main__":
    main()
