"""Panels of the bundled experts, live: `python benchmarks/panels.py [--only failures,quality] [--n 360]`.

failures  what a client of a panel gets, whole and streamed, when members, the aggregator or the money fail
quality   held-out probes, answered by every single expert, by the one that routing chooses, by a panel of
          three that votes, and by one whose answers an expert weighs (an hour on two idle cores)

The gateway is a real process, and the engine real llama.cpp. Ctrl-C ends the asking and shows what was
measured. An artifact is fitted on the other families (about a minute) unless --artifact names one.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from openai import APIStatusError, AsyncOpenAI

from benchmarks.resilience import gateway
from evals.console import progress_bar
from evals.grading import grade
from evals.measures.bootstrap import interval_of_difference
from evals.probes import Probe, choose_held_out_families, load_probes
from evals.probes.files import load_bundled_outcomes
from gateway.config.discovery import BUNDLED
from routers import FeatureExtractor, StaticEmbedder, fit_artifact, load_embedder

MODELS = ("smollm2", "smollm2-sort", "smollm2-clerk", "smollm2-label", "smollm2-reckon")
AGGREGATOR = "smollm2"
N_THREADS = 1
"""Of the engine: threads that wait for each other on a busy machine cost more than they save."""
DEAD = "http://127.0.0.1:9/v1"
QUESTIONS = (
    "What is the capital of France? Answer in one word.",
    "What is 4817*392?",
    "Is a whale a fish? Answer yes or no.",
)


@dataclass(frozen=True, slots=True)
class PanelAnswer:
    """What a client got. tokens: read and written by all who were asked, 0 where unknown."""

    status: int
    text: str
    facts: Mapping[str, str]
    tokens: tuple[int, int] = (0, 0)
    took_s: float = 0.0


async def ask(
    client: AsyncOpenAI, model: str, prompt: str, max_tokens: int, stream: bool = False
) -> PanelAnswer:
    """One question as the official client asks it."""
    messages: Any = [{"role": "user", "content": prompt}]
    began = time.monotonic()
    try:
        raw = await client.chat.completions.with_raw_response.create(
            model=model, messages=messages, max_tokens=max_tokens, stream=stream
        )
        said: Any = raw.parse()
        if stream:
            parts = [part.choices[0].delta.content or "" async for part in said if part.choices]
            text, tokens = "".join(parts), (0, 0)
        else:
            text = said.choices[0].message.content or ""
            tokens = (said.usage.prompt_tokens, said.usage.completion_tokens) if said.usage else (0, 0)
        headers, status = raw.headers, raw.status_code
    except APIStatusError as error:
        text, tokens = error.response.json()["error"]["message"], (0, 0)
        headers, status = error.response.headers, error.status_code
    prefix = "x-thalamus-"
    facts = {key.removeprefix(prefix): value for key, value in headers.items() if key.startswith(prefix)}
    return PanelAnswer(status, text, facts, tokens, time.monotonic() - began)


def panel(aggregator: str, **more: Any) -> dict[str, Any]:
    return {"encoder": "always", "plan": {"panel": {"k": 3, "aggregator": aggregator, **more}}}


def config_of(artifact: Path, folder: Path, changes: Mapping[str, Any], policies: Any) -> dict[str, Any]:
    """The bundled experts, some of them changed or others beside them."""
    experts = {expert["name"]: expert for expert in yaml.safe_load(BUNDLED)}
    for expert in experts.values():
        if "runner" in expert:
            expert["runner"]["n_threads"] = N_THREADS
    for name, change in changes.items():
        if "api_base" in change:
            # What has an address of its own is no adapter of a model that runs here.
            for expert in experts.values():
                expert.get("runner", {}).get("adapters", {}).pop(name, None)
        experts[name] = {"name": name, **({} if "api_base" in change else experts[name]), **change}
    return {
        "experts": list(experts.values()),
        "policies": policies,
        "routing": {"artifact": str(artifact), "load_budget": "off"},
        "journal": {"path": str(folder / "journal.sqlite3")},
    }


async def quality(artifact: Path, n: int, at_once: int) -> None:
    """Ask every expert every probe, `at_once` probes at a time, and show what it was worth."""
    held = choose_held_out_families(load_probes())
    probes = [probe for probe in load_probes() if probe.family in held]
    drawn = np.random.default_rng(0).permutation(len(probes))[:n]
    train, _ = load_bundled_outcomes()
    asked = [*train.experts, "auto:one", "auto:vote", f"auto:{AGGREGATOR}"]
    policies = {"one": {"encoder": "always"}, "vote": panel("vote"), AGGREGATOR: panel(AGGREGATOR)}
    rows: list[list[tuple[float, PanelAnswer]]] = []
    with tempfile.TemporaryDirectory() as scratch, progress_bar() as on_progress:
        config = config_of(artifact, Path(scratch), {}, policies)
        with gateway(Path(scratch), config) as (url, _):
            async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
                for name in asked:
                    await ask(client, name, "Hello", 4)
                waiting = drawn.tolist()

                async def work() -> None:
                    while waiting:
                        probe = probes[waiting.pop()]
                        rows.append([await grade_answer(client, name, probe) for name in asked])
                        on_progress("asking", len(rows), len(drawn))

                try:
                    await asyncio.gather(*(work() for _ in range(at_once)))
                except asyncio.CancelledError:
                    print(f"stopped after {len(rows)} of {len(drawn)} probes")
    show(asked, rows, train.experts[train.best_single()])


async def grade_answer(client: AsyncOpenAI, name: str, probe: Probe) -> tuple[float, PanelAnswer]:
    answer = await ask(client, name, probe.prompt, probe.max_tokens)
    return (await asyncio.to_thread(grade, answer.text, probe) if answer.status == 200 else 0.0), answer


def show(asked: Sequence[str], rows: Sequence[Sequence[tuple[float, PanelAnswer]]], single: str) -> None:
    """Markdown, one line for each that was asked; cost in tokens and seconds: nothing here costs money."""
    if not rows:
        return
    score = np.array([[right for right, _ in row] for row in rows])
    base = score[:, asked.index(single)]
    print(f"n = {len(rows)}; {single} is the best single expert on the families fitted on\n")
    print(f"| asked | right | over {single}, 95 % | tokens in / out | seconds, median / mean | panels |")
    print("|---|---:|---:|---:|---:|---:|")
    for n, name in enumerate(asked):
        answers = [row[n][1] for row in rows]
        by = interval_of_difference(score[:, n], base)
        tokens = np.array([answer.tokens for answer in answers]).mean(axis=0)
        took = [answer.took_s for answer in answers]
        panels = statistics.mean(answer.facts.get("plan") == "panel" for answer in answers)
        print(
            f"| {name} | {100 * score[:, n].mean():.1f} "
            f"| {100 * by.value:+.1f} [{100 * by.low:+.1f}, {100 * by.high:+.1f}] "
            f"| {tokens[0]:.0f} / {tokens[1]:.0f} "
            f"| {statistics.median(took):.2f} / {statistics.mean(took):.2f} | {100 * panels:.0f} % |"
        )
    print(f"| *oracle of the singles* | {100 * score[:, : len(asked) - 3].max(axis=1).mean():.1f} | | | | |")


def dead(guess: float) -> dict[str, Any]:
    """An expert at a dead address, and how good it is believed to be."""
    return {"model": "openai/gone", "api_base": DEAD, "quality": guess}


# Adapters have the prices of their base.
PRICED = {"input_cost_per_token": 1e-6, "output_cost_per_token": 1e-6}
FAILURES: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
    "all well": ({}, panel("vote")),
    "a member fails": ({"smollm2-clerk": dead(0.9)}, panel("vote")),
    "all but one fail": (
        {**dict.fromkeys(MODELS[1:], dead(0.9)), "calculator": dead(0.1)},
        panel("vote"),
    ),
    "all fail": (dict.fromkeys((*MODELS, "calculator"), dead(0.9)), panel("vote")),
    "the aggregator fails": ({"judge": dead(0.01)}, panel("judge")),
    "the money is for one": ({"smollm2": PRICED}, panel("vote", max_cost_usd=1e-4)),
    "the money is for none": ({"smollm2": PRICED}, panel("vote", max_cost_usd=1e-9)),
}
"""Per case the experts that are changed, and the policy asked for."""


async def failures(artifact: Path) -> None:
    for case, (changes, policy) in FAILURES.items():
        print(f"\n{case}")
        with tempfile.TemporaryDirectory() as scratch:
            config = config_of(artifact, Path(scratch), changes, {"panel": policy})
            with gateway(Path(scratch), config) as (url, _):
                async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
                    for question in QUESTIONS:
                        for stream in (False, True):
                            check_answer_text(
                                question, await ask(client, "auto:panel", question, 24, stream), stream
                            )


def check_answer_text(question: str, answer: PanelAnswer, stream: bool) -> None:
    facts = ", ".join(
        f"{key} {answer.facts[key]}" for key in ("plan", "expert", "reason") if key in answer.facts
    )
    print(
        f"  {question[:24]!r:28} {'stream' if stream else 'whole ':6} {answer.status} {answer.text[:110]!r}"
    )
    print(f"  {'':35} {facts}")


def fit_artifact_at(path: Path) -> None:
    extractor = FeatureExtractor(StaticEmbedder(), load_embedder("minilm", n_threads=2))
    with progress_bar() as on_progress:
        fit_artifact(load_bundled_outcomes()[0], extractor, progress=on_progress).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="failures", help="failures, quality, or both")
    parser.add_argument(
        "--at-once", type=int, default=1, help="probes under way; seconds are then under load"
    )
    parser.add_argument("--n", type=int, default=360, help="how many of the held-out probes, drawn")
    parser.add_argument(
        "--artifact", type=Path, help="of the bundled experts, as `thalamus fit bundled` makes it"
    )
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        artifact = asked.artifact or Path(scratch, "artifact")
        if not artifact.exists():
            fit_artifact_at(artifact)
        if "failures" in asked.only:
            asyncio.run(failures(artifact))
        if "quality" in asked.only:
            asyncio.run(quality(artifact, asked.n, asked.at_once))


if __name__ == "__main__":
    main()
