"""A panel that is recruited by skills, live, beside the routed single: `python -m studies.panels ANSWERS`.

The bundled experts answer every held-out probe behind a real gateway: the one that routing asks, and a panel
of three recruited by named skills. ANSWERS keeps each answer at once; the same command goes on where it was
stopped. The single experts' answers are those on record. Everything was fitted on the other families.
"""

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp
import click
import numpy as np
import yaml

from evals.console import progress_bar, report_errors
from evals.grading import grade
from evals.measures.bootstrap import interval_of_difference
from evals.probes import Probe, load_probes
from evals.probes.files import load_bundled_outcomes
from gateway.config.discovery import BUNDLED
from routers import OutcomeTable

ONE, SKILLED, WEIGHED = "one", "skilled", "weighed"
PANEL = {"k": 3, "keywords": "text"}
ARMS: Mapping[str, Mapping[str, Any]] = {
    ONE: {"encoder": "always"},
    SKILLED: {"encoder": "always", "plan": {"panel": PANEL}},
    WEIGHED: {"encoder": "always", "plan": {"panel": {**PANEL, "aggregator": "smollm2"}}},
}
"""The routed single, a panel that votes or asks whom trials make worth asking, and one that always asks."""


@dataclass(frozen=True, slots=True)
class LiveAnswer:
    """What a client got of one policy for one probe; tokens are of all who were asked."""

    probe: str
    arm: str
    status: int
    text: str
    score: float
    input_tokens: int
    output_tokens: int
    took_s: float
    plan: Mapping[str, Any]
    skills: Sequence[str]


@contextmanager
def serve(folder: Path, artifact: Path, port: int) -> Any:
    """A gateway with the bundled experts, the engine on one thread."""
    experts = yaml.safe_load(BUNDLED)
    for expert in experts:
        if "runner" in expert:
            expert["runner"]["n_threads"] = 1
    config = {
        "experts": experts,
        "policies": ARMS,
        "routing": {"artifact": str(artifact), "load_budget": "off"},
        "journal": {"path": str(folder / "journal.sqlite3")},
        "timeouts": {"total_s": 600},
    }
    (folder / "thalamus.yaml").write_text(json.dumps(config), "utf-8")  # JSON is YAML
    command = [str(Path(sys.executable).with_name("thalamus")), "serve", "--config", "thalamus.yaml"]
    with (folder / "gateway.log").open("wb") as log:
        child = subprocess.Popen([*command, "--port", str(port)], cwd=folder, stdout=log, stderr=log)  # noqa: S603
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            child.terminate()
            child.wait(30)


async def wait_until_ready(http: aiohttp.ClientSession, url: str) -> None:
    """Wait until the gateway has loaded its engine."""
    for _ in range(300):
        try:
            async with http.get(f"{url}/health/ready") as reply:
                if reply.status == 200:
                    return
        except aiohttp.ClientError:
            pass
        await asyncio.sleep(1)
    raise click.ClickException("the gateway is not ready after five minutes")


async def ask(http: aiohttp.ClientSession, url: str, arm: str, probe: Probe) -> LiveAnswer:
    """One probe, as a client asks it."""
    body = {
        "model": f"auto:{arm}",
        "max_tokens": probe.max_tokens,
        "messages": list(probe.messages) or [{"role": "user", "content": probe.prompt}],
    }
    start = time.perf_counter()
    headers = {"x-thalamus-debug": "true"}
    async with http.post(f"{url}/v1/chat/completions", json=body, headers=headers) as reply:
        content = await reply.json()
    took_s = time.perf_counter() - start
    decision = json.loads(reply.headers.get("x-thalamus-decision", "{}"))
    usage = content.get("usage") or {}
    text = content["choices"][0]["message"]["content"] or "" if reply.status == 200 else ""
    return LiveAnswer(
        probe.id,
        arm,
        reply.status,
        text,
        await asyncio.to_thread(grade, text, probe),
        usage.get("prompt_tokens", 0),
        usage.get("completion_tokens", 0),
        took_s,
        decision.get("plan", {}),
        decision.get("skills", ()),
    )


async def ask_all(path: Path, artifact: Path, arms: Sequence[str], port: int, n: int | None) -> None:
    """Ask what is not answered yet, in a drawn order, so that any part of the run is a sample."""
    done = {(answer.probe, answer.arm) for answer in read_answers(path)}
    _, test = load_bundled_outcomes()
    probes = {probe.id: probe for probe in load_probes()}
    order = [test.ids[row] for row in np.random.default_rng(0).permutation(len(test)).tolist()][:n]
    left = [(key, arm) for key in order for arm in arms if (key, arm) not in done]
    with (
        tempfile.TemporaryDirectory() as scratch,
        progress_bar() as on_progress,
        serve(Path(scratch), artifact, port) as url,
    ):
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=900)) as http:
            await wait_until_ready(http, url)
            for n_done, (key, arm) in enumerate(left, 1):
                answer = await ask(http, url, arm, probes[key])
                with path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(asdict(answer), ensure_ascii=False) + "\n")
                on_progress("asking", n_done, len(left))


def read_answers(path: Path) -> list[LiveAnswer]:
    """The answers of a file."""
    if not path.exists():
        return []
    return [LiveAnswer(**json.loads(line)) for line in path.read_text("utf-8").split("\n") if line.strip()]


@click.command()
@click.argument("answers", type=click.Path(path_type=Path))
@click.option(
    "--artifact",
    type=click.Path(path_type=Path, exists=True),
    help="Of `thalamus fit --skills`.",
)
@click.option("--arms", default=f"{ONE},{SKILLED}", show_default=True, help=f"Of {', '.join(ARMS)}.")
@click.option("--port", type=int, default=18931, show_default=True)
@click.option("-n", "n", type=click.IntRange(1), help="Only so many probes, drawn.")
@report_errors
def main(answers: Path, artifact: Path | None, arms: str, port: int, n: int | None) -> None:
    """Ask, where an artifact is given, and show what ANSWERS has."""
    if artifact is not None:
        asyncio.run(ask_all(answers, artifact.resolve(), arms.split(","), port, n))
    click.echo(render(read_answers(answers)))


def render(answers: Sequence[LiveAnswer]) -> str:
    """Markdown: each arm, what the recorded answers of its members say of a vote, and whom skills recruit."""
    _, test = load_bundled_outcomes()
    by_arm: dict[str, dict[str, LiveAnswer]] = {}
    for answer in answers:
        by_arm.setdefault(answer.arm, {})[answer.probe] = answer
    base = by_arm.get(ONE, {})
    lines = [
        "| policy | n | right | over routed, 95 % | tokens in / out | seconds, median / mean | calls |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for arm, found in by_arm.items():
        shared = [key for key in found if key in base]
        score = np.array([found[key].score for key in shared])
        by = interval_of_difference(score, np.array([base[key].score for key in shared]))
        took = [found[key].took_s for key in shared]
        read, written = (
            np.mean([getattr(found[key], name) for key in shared])
            for name in ("input_tokens", "output_tokens")
        )
        calls = np.mean([len(found[key].plan.get("members") or [1]) for key in shared])
        lines.append(
            f"| {arm} | {len(shared)} | {100 * score.mean():.1f} "
            f"| {100 * by.value:+.1f} [{100 * by.low:+.1f}, {100 * by.high:+.1f}] "
            f"| {read:.0f} / {written:.0f} | {np.median(took):.1f} / {np.mean(took):.1f} | {calls:.2f} |"
        )
    return "\n".join([*lines, *render_members(test, by_arm.get(SKILLED, {}))])


def render_members(test: OutcomeTable, answers: Mapping[str, LiveAnswer]) -> list[str]:
    """What the recorded answers of those recruited say, and whom each skill recruits most often."""
    row_of = {key: row for row, key in enumerate(test.ids)}
    lines: list[str] = []
    column = {name: e for e, name in enumerate(test.experts)}
    sets: dict[str, Counter[str]] = {}
    oracle, same = [], []
    for key, answer in answers.items():
        members = list(answer.plan.get("members") or answer.plan.get("experts", ())[:1])
        row = row_of[key]
        oracle.append(max(test.score[row, column[name]] for name in members))
        given = [test.answers[row][column[name]] for name in members] if test.answers else []
        same.append(answer.text.strip() in {(text or "").strip() for text in given})
        for skill in list(answer.skills)[:1] or ["(none)"]:
            sets.setdefault(skill, Counter())[" + ".join(sorted(members))] += 1
    if oracle:
        lines += ["", f"Best of those recruited, by the answers on record: {100 * np.mean(oracle):.1f}"]
        lines += [f"The panel's answer is one on record of its members: {100 * np.mean(same):.1f} %", ""]
        lines += ["| first skill | n | most often recruited |", "|---|---:|---|"]
        often = sorted(sets.items(), key=lambda pair: -pair[1].total())[:14]
        lines += [
            f"| {skill} | {n.total()} | {n.most_common(1)[0][0]} ({n.most_common(1)[0][1]}) |"
            for skill, n in often
        ]
    return lines


if __name__ == "__main__":
    main()
