"""A model compares answers that no code can grade, and its verdicts become scores with their uncertainty.

Two answers to the same prompt are shown in both orders. A verdict is worth 1 to the better answer and ½ to
each in a tie. An answer with w points from n verdicts scores w / n; how sure that is follows from Jeffreys'
posterior Beta(w + ½, n − w + ½), whose standard deviation is kept as `score_std`.

Pairs that code has graded differently are compared too: they tell how far the judge can be trusted, and how
much it prefers what it reads first.

Reference: pairwise comparison in both orders, Zheng et al., arXiv 2306.05685, sections 3.1 and 3.4.
Differs: no Bradley-Terry model: a win rate is a score in [0, 1] for each prompt, as code graders give.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from routers import OutcomeTable, rate_interval, rate_std, show_rate

from ..config import ExpertConfig
from .profiling import JUDGE, AnswerStore, GradableProbe

MAX_ANSWER_CHARS = 6000
"""Of each answer; more would cost more than it tells."""
VERDICT_TOKENS = 512
"""Room for a model that thinks before it says one letter."""
LOCAL_VERDICT_TOKENS = 16
RUBRIC = (
    "Prefer the answer that is correct, does what was asked and is useful to the person who asked."
    " Length and tone alone are no merit."
)
TEMPLATE = """\
Two assistants were given the same request. Decide which answer is better.
{rubric}

--- Request ---
{prompt}
{reference}
--- Answer A ---
{first}

--- Answer B ---
{second}

--- Verdict ---
Which answer is better? Reply with one letter: A, B, or T for a tie."""
_LETTER = r"(A|B|TIE|T)"
_ALONE = re.compile(rf"\W*(?:(?:THE )?ANSWER\W+)?(?:IS\W+)?{_LETTER}\W*")
_STATED = re.compile(
    rf"\b(?:VERDICT|WINNER|BETTER|CHOICE|ANSWER)\W+(?:IS\W+)?(?:ANSWER\W+)?{_LETTER}\b(?!\s+\w)"
)
_BETTER = re.compile(
    r"(?:\bANSWER\W+|^\W*)(A|B)\W+IS\W+(?:MUCH\W+|SLIGHTLY\W+|CLEARLY\W+)?(?:THE\W+)?"
    r"(?:BETTER|BEST|CORRECT|RIGHT)\b",
    re.MULTILINE,
)
_LEADING = re.compile(rf"\W*{_LETTER}(?=[.:;)\]*\n]|$)")
POINTS = {"A": 1.0, "B": 0.0, "T": 0.5, "TIE": 0.5}


def read_verdict(text: str, question: Any = None) -> float | None:
    """The points of the first answer: 1, 0, or ½ for a tie; None where the judge has not decided."""
    lines = [line for line in text.upper().splitlines() if line.strip()]
    if not lines:
        return None
    # Judges that explain themselves put the verdict last, judges that obey put it alone.
    for line in (lines[-1], lines[0]):
        if found := _ALONE.fullmatch(line):
            return POINTS[found[1]]
    whole = "\n".join(lines)
    said = {found[1] for pattern in (_BETTER, _STATED) for found in pattern.finditer(whole)}
    # Two different letters in the text are an argument, not a verdict.
    if len(said) == 1:
        return POINTS[said.pop()]
    leading = _LEADING.match(whole)
    return POINTS[leading[1]] if leading and not said else None


@dataclass(frozen=True, slots=True)
class Judge:
    """Who compares answers, by what, and how many pairs that code has graded."""

    expert: ExpertConfig
    rubric: str
    n_checks: int

    @property
    def max_tokens(self) -> int:
        # A local model of a few hundred million parameters does not think; it rambles.
        return LOCAL_VERDICT_TOKENS if self.expert.runner else VERDICT_TOKENS


@dataclass(frozen=True, slots=True)
class JudgeQuestion:
    """One comparison as a prompt for the judge; `row`, `first` and `second` say of what."""

    row: int
    first: int
    second: int
    id: str
    prompt: str
    max_tokens: int
    kind: str = "comparison"
    family: str = ""
    grader: str = "verdict"
    expected: Any = None
    messages: Sequence[Mapping[str, Any]] = ()


def build_questions(
    table: OutcomeTable, probes: Sequence[GradableProbe], rubric: str, n_checks: int, max_tokens: int
) -> list[JudgeQuestion]:
    """Every pair of answers to an open-ended prompt, and `n_checks` pairs that code graded differently.

    Each in both orders, one after the other. Equal answers are a tie without a question.
    """
    rows = {key: n for n, key in enumerate(table.ids)}
    open_ended: list[tuple[GradableProbe, int, int, int]] = []
    checks: list[tuple[GradableProbe, int, int, int]] = []
    for probe in probes:
        row = rows.get(probe.id)
        if row is None:
            continue
        for first, second in combinations(_find_columns(table, row), 2):
            pair = (probe, row, first, second)
            if probe.grader == JUDGE:
                if _answer(table, row, first) != _answer(table, row, second):
                    open_ended.append(pair)
            # Only a clear difference can show whether the judge sees it.
            elif abs(table.score[row, first] - table.score[row, second]) > 0.5:
                checks.append(pair)
    # By a hash: of all kinds of probes, and the same ones in every run.
    checks.sort(key=lambda pair: hashlib.sha256(f"{pair[0].id} {pair[2]} {pair[3]}".encode()).digest())
    return [
        question
        for probe, row, first, second in open_ended + checks[:n_checks]
        for question in (
            _question(table, probe, row, first, second, rubric, max_tokens),
            _question(table, probe, row, second, first, rubric, max_tokens),
        )
    ]


def _find_columns(table: OutcomeTable, row: int) -> list[int]:
    """Columns with an answer to this prompt; a tool that declined has given none."""
    return [
        column
        for column in range(table.n_experts)
        if _answer(table, row, column) is not None and table.declined[row, column] != 1
    ]


def _answer(table: OutcomeTable, row: int, column: int) -> str | None:
    return None if table.answers is None else table.answers[row][column]


def _question(
    table: OutcomeTable,
    probe: GradableProbe,
    row: int,
    first: int,
    second: int,
    rubric: str,
    max_tokens: int,
) -> JudgeQuestion:
    def show(column: int) -> str:
        return (_answer(table, row, column) or "").strip()[:MAX_ANSWER_CHARS] or "(no answer)"

    # A check with the right answer in the prompt would measure reading, not judging.
    reference = getattr(probe, "reference", "") if probe.grader == JUDGE else ""
    prompt = TEMPLATE.format(
        rubric=rubric,
        prompt=_conversation(probe),
        reference=f"\n--- An answer that was given as right ---\n{reference}\n" if reference else "",
        first=show(first),
        second=show(second),
    )
    key = f"{probe.id}: {table.experts[first]} | {table.experts[second]}"
    return JudgeQuestion(row, first, second, key, prompt, max_tokens)


def _conversation(probe: GradableProbe) -> str:
    if not probe.messages:
        return probe.prompt
    return "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in probe.messages)


def price_questions(
    probes: Sequence[GradableProbe], n_experts: int, n_checks: int, rubric: str, max_tokens: int
) -> list[JudgeQuestion]:
    """As many questions as the judge may be asked, as long as they may be: to know the price beforehand."""
    n_pairs = n_experts * (n_experts - 1) // 2
    open_ended = [probe for probe in probes if probe.grader == JUDGE]
    # The longest first: the price that is shown must hold for whichever pairs are chosen later.
    graded = sorted(
        (p for p in probes if p.grader != JUDGE), key=lambda p: -len(_conversation(p)) - p.max_tokens
    )
    pairs = [probe for probe in open_ended for _ in range(n_pairs)]
    pairs += [probe for probe in graded for _ in range(n_pairs)][: n_checks if n_pairs else 0]
    return [_longest(probe, rubric, max_tokens) for probe in pairs for _ in range(2)]


def _longest(probe: GradableProbe, rubric: str, max_tokens: int) -> JudgeQuestion:
    # Four characters a token, and an answer cut at its limit.
    answer = "word" * min(probe.max_tokens, MAX_ANSWER_CHARS // 4)
    prompt = TEMPLATE.format(
        rubric=rubric,
        prompt=_conversation(probe),
        reference=getattr(probe, "reference", ""),
        first=answer,
        second=answer,
    )
    return JudgeQuestion(0, 0, 0, "", prompt, max_tokens)


def _find_equal_pairs(table: OutcomeTable, probes: Sequence[GradableProbe]) -> Iterator[tuple[int, int, int]]:
    """Row and columns of every pair of equal answers to an open-ended prompt."""
    open_ended = {probe.id for probe in probes if probe.grader == JUDGE}
    for row, key in enumerate(table.ids):
        if key in open_ended:
            for first, second in combinations(_find_columns(table, row), 2):
                if _answer(table, row, first) == _answer(table, row, second):
                    yield row, first, second


def apply_verdicts(
    table: OutcomeTable,
    probes: Sequence[GradableProbe],
    questions: Sequence[JudgeQuestion],
    points: Mapping[JudgeQuestion, float],
) -> OutcomeTable:
    """The table with the scores of its open-ended prompts and their deviations."""
    won = np.zeros_like(table.score)  # (n_queries, n_experts) points
    n = np.zeros_like(table.score)  # and verdicts
    open_ended = {probe.id for probe in probes if probe.grader == JUDGE}
    for question in questions:
        if question in points and table.ids[question.row] in open_ended:
            for column, share in (
                (question.first, points[question]),
                (question.second, 1 - points[question]),
            ):
                won[question.row, column] += share
                n[question.row, column] += 1
    for row, first, second in _find_equal_pairs(table, probes):
        # As many verdicts as were asked for elsewhere: one in each order.
        won[row, [first, second]] += 1
        n[row, [first, second]] += 2
    score, score_std = table.score.copy(), table.score_std.copy()
    judged = n > 0
    score[judged] = won[judged] / n[judged]
    score_std[judged] = rate_std(score[judged], n[judged])
    # A tool that declined scores 0, as where code grades: reports leave out prompts that lack an outcome.
    was_compared = judged.any(axis=1, keepdims=True)
    score[was_compared & (table.declined == 1) & np.isnan(score)] = 0.0
    return replace(table, score=score, score_std=score_std)


@dataclass(frozen=True, slots=True)
class JudgeReport:
    """How far a judge can be trusted, in counts; `agreed` is the points of what code graded higher."""

    n_questions: int
    n_unread: int
    n_decided: int
    n_first: int
    n_pairs: int
    n_consistent: int
    n_checks: int
    agreed: float
    n_equal: int
    cost_usd: float | None

    def facts(self) -> dict[str, Any]:
        """The figures as JSON."""
        return {
            "comparisons": self.n_questions,
            "unread": self.n_unread,
            "first_preferred": _share(self.n_first, self.n_decided),
            "decided": self.n_decided,
            "consistent": _share(self.n_consistent, self.n_pairs),
            "pairs": self.n_pairs,
            "agreement": _share(self.agreed, self.n_checks),
            "checked_pairs": self.n_checks,
            "equal_pairs": self.n_equal,
            "cost_usd": self.cost_usd,
        }

    def lines(self, name: str) -> Iterator[str]:
        """The report in words."""
        cost = "price unknown" if self.cost_usd is None else f"${self.cost_usd:.4f}"
        yield f"judge {name}: {self.n_questions} comparisons, {self.n_unread} without a verdict; {cost}"
        if self.n_equal:
            pairs = "1 pair" if self.n_equal == 1 else f"{self.n_equal} pairs"
            yield f"  {pairs} of equal answers counted as {'a tie' if self.n_equal == 1 else 'ties'}, unasked"
        if not self.n_questions and not self.n_equal:
            yield "  no open-ended prompt has answers of two experts"
        if self.n_checks:
            yield (
                f"  agreement with the code graders: {show_rate(self.agreed / self.n_checks, self.n_checks)}"
                f" over {self.n_checks} pairs, ties count half; guessing gives 0.50"
            )
        else:
            yield (
                "  agreement with the code graders: unknown, no pair that code graded differently has"
                " a verdict in both orders"
            )
        if self.n_decided:
            first = show_rate(self.n_first / self.n_decided, self.n_decided)
            yield f"  position: the first answer wins {first} of {self.n_decided} decided comparisons"
        if self.n_pairs:
            same = show_rate(self.n_consistent / self.n_pairs, self.n_pairs)
            yield f"  consistency: both orders give the same verdict for {same} of {self.n_pairs} pairs"
        if self.n_checks and not self.is_better_than_guessing:
            yield f"  warning: {name} is not shown to judge better than guessing; its scores say little"

    @property
    def is_better_than_guessing(self) -> bool:
        """Whether the interval of the agreement lies above one half."""
        return self.n_checks > 0 and rate_interval(self.agreed / self.n_checks, self.n_checks)[0] > 0.5


def _share(part: float, n: int) -> float | None:
    return round(part / n, 4) if n else None


def report_judge(
    table: OutcomeTable,
    probes: Sequence[GradableProbe],
    questions: Sequence[JudgeQuestion],
    points: Mapping[JudgeQuestion, float],
    cost_usd: float | None,
) -> JudgeReport:
    """What the verdicts say of the judge itself. Questions come in pairs, one for each order."""
    open_ended = {probe.id for probe in probes if probe.grader == JUDGE}
    # A tie prefers neither place, so it says nothing of position bias.
    decided = [p for p in points.values() if p != 0.5]
    both = [
        (one, points[one], 1 - points[other])  # in points of the first of `one`
        for one, other in zip(questions[::2], questions[1::2], strict=True)
        if one in points and other in points
    ]
    checks = [
        (mean if table.score[q.row, q.first] > table.score[q.row, q.second] else 1 - mean)
        for q, mean in ((one, (a + b) / 2) for one, a, b in both)
        if table.ids[q.row] not in open_ended
    ]
    return JudgeReport(
        n_questions=len(questions),
        n_unread=len(questions) - len(points),
        n_decided=len(decided),
        n_first=sum(p == 1 for p in decided),
        n_pairs=len(both),
        n_consistent=sum(a == b for _, a, b in both),
        n_checks=len(checks),
        agreed=float(sum(checks)),
        n_equal=sum(1 for _ in _find_equal_pairs(table, probes)),
        cost_usd=cost_usd,
    )


def find_verdicts(
    questions: Sequence[JudgeQuestion], store: AnswerStore, name: str, model: str
) -> tuple[dict[JudgeQuestion, float], float | None]:
    """The points of the questions that were decided, and what all cost; None where that is unknown."""
    points: dict[JudgeQuestion, float] = {}
    total: float | None = 0.0
    for question in questions:
        answer = store.find(question, name, model)
        if answer is None:
            continue
        total = None if total is None or answer.cost_usd is None else total + answer.cost_usd
        if answer.score is not None:
            points[question] = answer.score
    return points, total
