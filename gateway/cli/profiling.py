"""Asks the experts gradable probes and builds an outcome table from the answers.

Every answer is written to disk at once, so that an interrupted run continues where it stopped. Probes and
graders come through entry points (`thalamus.probes`, `thalamus.graders`): the gateway may not import evals.
"""

import asyncio
import json
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np

from routers import ExpertProfile, OutcomeTable, Provenance, estimate_tokens

from ..experts import Call, Expert, UpstreamError
from ..openai.answers import Price, Usage, cost_usd


class GradableProbe(Protocol):
    """A prompt whose answer can be graded."""

    id: str
    kind: str
    family: str
    prompt: str
    max_tokens: int


GradeFunction = Callable[[str, Any], float]


@dataclass(frozen=True, slots=True)
class GradedAnswer:
    """One expert's answer to one probe; `error` in place of a score where there was none.

    `prompt` and `model` tell whether the answer is still valid: another prompt is sent again.
    """

    probe: str
    expert: str
    model: str
    prompt: str
    score: float | None = None
    text: str | None = None
    cost_usd: float | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    latency_s: float | None = None
    confidence: float | None = None
    declined: float | None = None
    error: str | None = None


def load_entry_point(group: str) -> Callable[..., Any]:
    """Return the object that a package registered at an entry point.

    Raises:
        LookupError: no package has registered one.
    """
    for entry in entry_points(group=group):
        found: Callable[..., Any] = entry.load()
        return found
    raise LookupError(f"no package provides the entry point {group}; install thalamus-gateway again")


def upper_cost_usd(
    probes: Iterable[GradableProbe], profiles: Iterable[ExpertProfile]
) -> dict[str, float | None]:
    """Return the highest possible cost of each expert in USD, None where its price is unknown."""
    sizes = [(estimate_tokens(probe.prompt), probe.max_tokens) for probe in probes]
    n_in, n_out = (sum(column) for column in zip(*sizes, strict=True)) if sizes else (0, 0)
    return {
        p.name: None
        if p.input_usd_per_token is None or p.output_usd_per_token is None
        else n_in * p.input_usd_per_token + n_out * p.output_usd_per_token
        for p in profiles
    }


class AnswerStore:
    """Answers on disk as JSON lines, appended one by one; a stored answer is not asked for again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._answers: dict[tuple[str, str], GradedAnswer] = {}
        self._cut_short = False  # the file ends in half a line, so that the next one needs a line break first
        if path.exists():
            text = path.read_text(encoding="utf-8", errors="replace")
            self._cut_short = bool(text) and not text.endswith("\n")
            for line in text.splitlines():
                self._read(line)

    def _read(self, line: str) -> None:
        try:
            answer = GradedAnswer(**json.loads(line))
        except (ValueError, TypeError):
            return  # a killed run may leave half a line at the end
        self._answers[answer.probe, answer.expert] = answer

    def add(self, answer: GradedAnswer) -> None:
        self._answers[answer.probe, answer.expert] = answer
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            start = "\n" if self._cut_short else ""
            file.write(start + json.dumps(asdict(answer), ensure_ascii=False) + "\n")
        self._cut_short = False

    def find(self, probe: GradableProbe, candidate: "ExpertUnderTest") -> GradedAnswer | None:
        """Return the graded answer of this model to this prompt, or None."""
        answer = self._answers.get((probe.id, candidate.expert.name))
        same = answer and answer.model == candidate.model and answer.prompt == probe.prompt
        return answer if same and answer and answer.error is None else None

    def errors(self) -> list[GradedAnswer]:
        """Return the answers that failed; the next run repeats them."""
        return [answer for answer in self._answers.values() if answer.error]


@dataclass(frozen=True, slots=True)
class ExpertUnderTest:
    """An expert with the model that its outcomes belong to and its price.

    `logprobs` is true if it returns token log-probabilities. Experts of one `lane` share an engine and are
    asked one after another, because they would slow each other down and evict each other's prompt cache.
    """

    expert: Expert
    model: str
    price: Price
    logprobs: bool = False
    lane: Hashable = None


async def ask_all(
    probes: Sequence[GradableProbe],
    candidates: Sequence[ExpertUnderTest],
    grade: GradeFunction,
    store: AnswerStore,
    *,
    n_parallel: int = 1,
    timeout_s: float = 120.0,
    on_answer: Callable[[GradedAnswer], None] = lambda answer: None,
) -> None:
    """Ask every expert the probes it has not answered, `n_parallel` at a time, lanes in parallel."""

    async def drain_probes(candidate: ExpertUnderTest, todo: list[GradableProbe]) -> None:
        while todo:
            probe = todo.pop()
            answer = await _ask(probe, candidate, timeout_s)
            if answer.error is None:
                # In a thread: grading code starts a child process and would block the other calls.
                score = await asyncio.to_thread(grade, answer.text or "", probe)
                answer = replace(answer, score=score)
            store.add(answer)
            on_answer(answer)

    async def ask_lane(lane: Sequence[ExpertUnderTest]) -> None:
        for candidate in lane:
            # Reversed, because `drain_probes` takes from the end: probes are asked in the order of the file.
            todo = [probe for probe in reversed(probes) if store.find(probe, candidate) is None]
            async with asyncio.TaskGroup() as tasks:
                for _ in range(n_parallel):
                    tasks.create_task(drain_probes(candidate, todo))

    lanes: dict[Hashable, list[ExpertUnderTest]] = {}
    for candidate in candidates:
        lanes.setdefault(candidate.lane or candidate.expert.name, []).append(candidate)
    async with asyncio.TaskGroup() as tasks:
        for lane in lanes.values():
            tasks.create_task(ask_lane(lane))


async def _ask(probe: GradableProbe, candidate: ExpertUnderTest, timeout_s: float) -> GradedAnswer:
    body = {"messages": [{"role": "user", "content": probe.prompt}], "max_tokens": probe.max_tokens}
    if candidate.logprobs:
        body["logprobs"] = True
    fields = {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in body.items()}
    blank = GradedAnswer(probe.id, candidate.expert.name, candidate.model, probe.prompt)
    start = time.perf_counter()
    try:
        async with asyncio.timeout(timeout_s):
            reply = await candidate.expert.call(Call("chat/completions", fields))
        latency_s = time.perf_counter() - start
        completion = msgspec.json.decode(reply.body, type=AnswerCompletion)
        choice = completion.choices[0]
    except UpstreamError as error:
        if error.kind == "declined":  # a tool that cannot answer counts as an empty answer, which is graded
            took_s = time.perf_counter() - start
            return replace(blank, text="", cost_usd=0.0, latency_s=took_s, declined=1.0)
        return replace(blank, error=error.message)
    except TimeoutError:
        return replace(blank, error=f"no answer within {timeout_s:g} s")
    except (msgspec.MsgspecError, IndexError) as error:
        return replace(blank, error=f"not a chat completion: {error}")
    usage = completion.usage
    return replace(
        blank,
        text=choice.message.content or "",
        cost_usd=cost_usd(usage, candidate.price),
        input_tokens=usage.prompt_tokens if usage else None,
        output_tokens=usage.output_tokens if usage else None,
        latency_s=latency_s,
        confidence=choice.confidence(),
    )


class TokenLogprob(msgspec.Struct):
    logprob: float


class AnswerLogprobs(msgspec.Struct):
    content: list[TokenLogprob] | None = None


class ScoredMessage(msgspec.Struct):
    content: str | None = None


class ScoredChoice(msgspec.Struct):
    message: ScoredMessage
    logprobs: AnswerLogprobs | None = None

    def confidence(self) -> float | None:
        """Return the mean token log-probability, ≤ 0."""
        values = [token.logprob for token in (self.logprobs.content if self.logprobs else None) or ()]
        # Rounding in an engine can give a log-probability slightly above 0.
        return min(0.0, sum(values) / len(values)) if values else None


class AnswerCompletion(msgspec.Struct):
    """The fields of a chat completion that grading needs."""

    choices: list[ScoredChoice]
    usage: Usage | None = None


def build_outcome_table(
    probes: Sequence[GradableProbe],
    candidates: Sequence[ExpertUnderTest],
    store: AnswerStore,
    provenance: Provenance,
) -> OutcomeTable:
    """Build the outcome table of these probes and experts; missing answers are NaN."""
    rows = [[store.find(probe, candidate) for candidate in candidates] for probe in probes]

    def measure(name: str) -> Any:
        values = [[None if a is None else getattr(a, name) for a in row] for row in rows]
        return np.array(values, dtype=np.float64).reshape(len(probes), len(candidates))

    measures = ("score", "cost_usd", "input_tokens", "output_tokens", "latency_s", "confidence", "declined")
    return OutcomeTable.build(
        [probe.prompt for probe in probes],
        [candidate.expert.name for candidate in candidates],
        {name: measure(name) for name in measures},
        ids=[probe.id for probe in probes],
        tasks=[probe.kind for probe in probes],
        families=[probe.family for probe in probes],
        models=[candidate.model for candidate in candidates],
        answers=[[None if a is None else a.text for a in row] for row in rows],
        provenance=provenance,
    )
