"""Asks the experts gradable probes and builds an outcome table from the answers.

Every answer is written to disk at once, so that an interrupted run continues where it stopped. Probes and
graders come through entry points (`thalamus.probes`, `thalamus.graders`): the gateway may not import evals.
"""

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np

from routers import Bools, ExpertProfile, OutcomeTable, Provenance, estimate_tokens

from ..experts import Call, Expert, UpstreamError
from ..openai.answers import Price, Usage, cost_usd
from ..requests.query import parse_chat_query


class GradableProbe(Protocol):
    """A prompt whose answer can be graded; `messages` is the conversation where it is more than one turn."""

    @property
    def id(self) -> str: ...

    @property
    def kind(self) -> str: ...

    @property
    def family(self) -> str: ...

    @property
    def prompt(self) -> str: ...

    @property
    def max_tokens(self) -> int: ...

    @property
    def grader(self) -> str: ...

    @property
    def expected(self) -> Any: ...

    @property
    def messages(self) -> Sequence[Mapping[str, Any]]: ...


GradeFunction = Callable[[str, Any], float | None]
JUDGE = "judge"
"""The grader of prompts that no code can grade."""


@dataclass(frozen=True, slots=True)
class GradedAnswer:
    """One expert's answer to one probe; `error` in place of a score where there was none.

    `prompt` and `model` tell whether the answer is still valid: another prompt is sent again. `grading` tells
    whether its score is: under another grader or expectation the kept text is graded again.
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
    grading: str | None = None
    fix: str | None = None


def request_text(probe: GradableProbe) -> str:
    """What is sent, as one text: equal texts need not be asked twice."""
    return json.dumps(list(probe.messages), ensure_ascii=False) if probe.messages else probe.prompt


def routing_text(probe: GradableProbe) -> str:
    """What the router will read of this request when it is served: what outcomes are learned under."""
    if not probe.messages:
        return probe.prompt
    return parse_chat_query({"messages": msgspec.Raw(msgspec.json.encode(list(probe.messages)))}).query.text


def grader_key(probe: GradableProbe) -> str:
    """A digest of how answers to this probe are graded."""
    how = json.dumps([probe.grader, probe.expected], sort_keys=True, default=str)
    return hashlib.sha256(how.encode()).hexdigest()[:16]


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
    sizes = [(estimate_tokens(request_text(probe)), probe.max_tokens) for probe in probes]
    n_in, n_out = (sum(column) for column in zip(*sizes, strict=True)) if sizes else (0, 0)
    return {
        p.name: None
        if p.input_usd_per_token is None or p.output_usd_per_token is None
        else n_in * p.input_usd_per_token + n_out * p.output_usd_per_token
        for p in profiles
    }


class AnswerStore:
    """Answers on disk as JSON lines, appended one by one; a stored answer is not asked for again.

    Every wording and every model keeps an answer of its own, so that going back to one costs nothing. What an
    `earlier` outcome table holds need not be asked again either.
    """

    def __init__(self, path: Path, earlier: OutcomeTable | None = None) -> None:
        self.path = path
        self._answers: dict[tuple[str, str, str, str], GradedAnswer] = {}
        self._failures: dict[tuple[str, str], GradedAnswer] = {}
        self._measured = {} if earlier is None else dict(_cells(earlier))
        self._cut_short = False  # the file ends in half a line, so that the next one needs a line break first
        if path.exists():
            text = path.read_text(encoding="utf-8", errors="replace")
            self._cut_short = bool(text) and not text.endswith("\n")
            # Not splitlines(): an answer may hold U+2028, which JSON leaves as it is.
            for line in text.split("\n"):
                self._read(line)

    def _read(self, line: str) -> None:
        try:
            answer = GradedAnswer(**json.loads(line))
        except (ValueError, TypeError):
            return  # a killed run may leave half a line at the end
        if answer.error is None:
            self._answers[answer.probe, answer.expert, answer.model, answer.prompt] = answer

    def add(self, answer: GradedAnswer) -> None:
        """Keep an answer on disk; a failure is remembered as the last of its expert and probe."""
        if answer.error is None:
            self._answers[answer.probe, answer.expert, answer.model, answer.prompt] = answer
            self._failures.pop((answer.probe, answer.expert), None)
        else:
            self._failures[answer.probe, answer.expert] = answer
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            start = "\n" if self._cut_short else ""
            file.write(start + json.dumps(asdict(answer), ensure_ascii=False) + "\n")
        self._cut_short = False

    def find(self, probe: GradableProbe, name: str, model: str) -> GradedAnswer | None:
        """Return the answer of this expert and model to this prompt, or None."""
        kept = self._answers.get((probe.id, name, model, request_text(probe)))
        return kept or self._measured.get((probe.id, name, model, routing_text(probe)))

    def failures(self, expert: str) -> list[GradedAnswer]:
        """Return what failed in this run; the next run asks it again."""
        return [answer for (_, name), answer in self._failures.items() if name == expert]


def _cells(table: OutcomeTable) -> Iterator[tuple[tuple[str, str, str, str], GradedAnswer]]:
    """Every answered cell of a table as an answer, under its id, expert, model and text."""
    # `score_std` is a verdict's and `propensity` the traffic's: neither is the answer's own.
    own = {field.name for field in fields(GradedAnswer)}
    measures = {name: of for name, of in table.measures().items() if name in own}
    for row, column in np.argwhere(mask_answered(table)).tolist():
        key = (table.ids[row], table.experts[column], table.models[column], table.texts[row])
        values = {name: float(of[row, column]) for name, of in measures.items()}
        known: dict[str, Any] = {name: value for name, value in values.items() if value == value}
        text = table.answers[row][column] if table.answers else None
        yield key, GradedAnswer(*key, **known, text=text)


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


def mask_answered(table: OutcomeTable) -> Bools:
    """(n_queries, n_experts) whether there is a score, or an answer that waits for one."""
    answered: Bools = ~np.isnan(table.score)
    if table.answers is not None:
        answered |= np.array([[text is not None for text in row] for row in table.answers])
    return answered


MAX_FAILURES = 5
"""After so many failures in a row an expert is not asked further: a refused key refuses every probe."""
MAX_WAITS = 3
MAX_WAIT_S = 60.0


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

    async def keep_graded(probe: GradableProbe, answer: GradedAnswer) -> GradedAnswer:
        score = answer.score
        if probe.grader != JUDGE:
            # In a thread: grading code starts a child process and would block the other calls.
            score = await asyncio.to_thread(grade, answer.text or "", probe)
        graded = replace(answer, score=score, grading=grader_key(probe), prompt=request_text(probe))
        store.add(graded)
        return graded

    async def drain_probes(candidate: ExpertUnderTest, todo: list[GradableProbe], failed: list[int]) -> None:
        while todo and len(failed) < MAX_FAILURES:
            probe = todo.pop()
            answer = await _ask_patiently(probe, candidate, timeout_s)
            if answer.error is None:
                failed.clear()
                answer = await keep_graded(probe, answer)
            else:
                failed.append(1)
                store.add(answer)
            on_answer(answer)

    async def ask_lane(lane: Sequence[ExpertUnderTest]) -> None:
        for candidate in lane:
            todo = []
            for probe in probes:
                if (kept := store.find(probe, candidate.expert.name, candidate.model)) is None:
                    todo.append(probe)
                # An imported score has no text that could be graded.
                elif kept.text is not None and kept.grading != grader_key(probe):
                    await keep_graded(probe, kept)
            todo.reverse()  # `drain_probes` takes from the end: probes are asked in the order of the file
            failed: list[int] = []
            async with asyncio.TaskGroup() as tasks:
                for _ in range(n_parallel):
                    tasks.create_task(drain_probes(candidate, todo, failed))

    lanes: dict[Hashable, list[ExpertUnderTest]] = {}
    for candidate in candidates:
        lanes.setdefault(candidate.lane or candidate.expert.name, []).append(candidate)
    async with asyncio.TaskGroup() as tasks:
        for lane in lanes.values():
            tasks.create_task(ask_lane(lane))


async def _ask_patiently(probe: GradableProbe, candidate: ExpertUnderTest, timeout_s: float) -> GradedAnswer:
    """Ask, and again after the wait that a rate limit asks for."""
    for n in range(MAX_WAITS):
        try:
            return await _ask(probe, candidate, timeout_s)
        except UpstreamError as error:
            if error.retry_after_s is None or error.retry_after_s > MAX_WAIT_S or n == MAX_WAITS - 1:
                blank = _blank(probe, candidate)
                return replace(blank, error=error.message, fix=_fix(error, candidate.expert.name))
            await asyncio.sleep(error.retry_after_s)
    raise AssertionError("the last attempt returns")


def _blank(probe: GradableProbe, candidate: ExpertUnderTest) -> GradedAnswer:
    return GradedAnswer(probe.id, candidate.expert.name, candidate.model, request_text(probe))


def _fix(error: UpstreamError, name: str) -> str:
    """What the user can do about a failure."""
    if error.status in (401, 403):
        return f"check the api_key of {name}"
    if error.status in (404, 405):
        return f"check model and api_base of {name}"
    if error.kind in ("connect", "reset"):
        return f"check that {name} runs at its api_base"
    if error.status == 429:
        return "wait until the rate limit allows more, then run the command again"
    if error.kind in ("timeout", "stall"):
        return f"raise the timeout of {name}, or run the command again"
    if error.kind == "refused":
        return f"change what {name} refuses in the probe or in its configuration"
    return "run the command again"


async def _ask(probe: GradableProbe, candidate: ExpertUnderTest, timeout_s: float) -> GradedAnswer:
    """Ask once.

    Raises:
        UpstreamError: there is no answer, for another reason than time or form.
    """
    turns = list(probe.messages) or [{"role": "user", "content": probe.prompt}]
    body: dict[str, Any] = {"messages": turns, "max_tokens": probe.max_tokens}
    if candidate.logprobs:
        body["logprobs"] = True
    fields = {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in body.items()}
    blank = _blank(probe, candidate)
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
        raise
    except TimeoutError:
        fix = "run the command again, or leave out what is too slow with --experts"
        return replace(blank, error=f"gave no answer within {timeout_s:g} s", fix=fix)
    except (msgspec.MsgspecError, IndexError) as error:
        fix = f"check that {candidate.expert.name} speaks OpenAI's chat completions"
        return replace(blank, error=f"answered no chat completion: {error}", fix=fix)
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
    rows = [[store.find(probe, c.expert.name, c.model) for c in candidates] for probe in probes]

    def measure(name: str) -> Any:
        values = [[None if a is None else getattr(a, name) for a in row] for row in rows]
        return np.array(values, dtype=np.float64).reshape(len(probes), len(candidates))

    measures = ("score", "cost_usd", "input_tokens", "output_tokens", "latency_s", "confidence", "declined")
    return OutcomeTable.build(
        [routing_text(probe) for probe in probes],
        [candidate.expert.name for candidate in candidates],
        {name: measure(name) for name in measures},
        ids=[probe.id for probe in probes],
        tasks=[probe.kind for probe in probes],
        families=[probe.family for probe in probes],
        models=[candidate.model for candidate in candidates],
        answers=[[None if a is None else a.text for a in row] for row in rows],
        provenance=provenance,
    )
