"""What calls of a batch came to, and what follows: the plan of a line walked from what is written down."""

from collections.abc import Sequence

import msgspec

from policies import Attempt, Gather, Heard, Plan

from ..execution.executor import gather_result
from ..execution.trace import ExecutionTrace
from ..experts.types import Reply, UpstreamError
from ..experts.upstream import FailureKind
from ..journal import AttemptRecord
from ..openai.usage import Usage


class Failure(msgspec.Struct, frozen=True, omit_defaults=True):
    """An `UpstreamError`, to be kept."""

    kind: FailureKind
    message: str
    status: int | None = None
    body: bytes | None = None
    context_too_long: bool = False

    @classmethod
    def of(cls, error: UpstreamError) -> "Failure":
        return cls(error.kind, error.message, error.status, error.body, error.context_too_long)

    def error(self) -> UpstreamError:
        return UpstreamError(
            self.kind,
            self.message,
            status=self.status,
            body=self.body,
            context_too_long=self.context_too_long,
        )


class Outcome(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one call came to: an answer, or a failure; and the tries that were made before."""

    record: AttemptRecord
    body: bytes | None = None
    usage: Usage | None = None
    failure: Failure | None = None
    tries: tuple[AttemptRecord, ...] = ()

    @property
    def reply(self) -> Reply | None:
        return None if self.body is None else Reply(body=self.body, usage=self.usage)


class Ended(msgspec.Struct, frozen=True):
    """The plan is through: whose gathered answer is given; None where it is that of the last attempt."""

    taken: str | None = None


def next_step(plan: Plan, heard: Sequence[Sequence[Outcome]]) -> Attempt | Gather | Ended:
    """What a plan wants, given what its steps so far have come to."""
    steps = plan.attempts()
    step = next(steps)
    for outcomes in heard:
        try:
            step = steps.send(_told(step, outcomes))
        except StopIteration as done:
            return Ended(done.value)
    return step


def whom(step: Attempt | Gather) -> tuple[str, ...]:
    """The experts a step calls."""
    return step.experts if isinstance(step, Gather) else (step.expert,)


def _told(step: Attempt | Gather, outcomes: Sequence[Outcome]) -> Heard:
    failures = [outcome.failure.error() for outcome in outcomes if outcome.failure is not None]
    if isinstance(step, Gather):
        replies = {outcome.record.expert: outcome.reply for outcome in outcomes}
        known = {name: reply for name in step.experts if (reply := replies.get(name)) is not None}
        return gather_result(known, min(failures, key=lambda error: error.moves_on, default=None))
    if not failures:
        return "answered"
    return "moved_on" if failures[0].moves_on else "refused"


def story_of(
    decision_id: str, heard: Sequence[Sequence[Outcome]], answered: Outcome | None
) -> ExecutionTrace:
    """The story of a line that has ended, as the journal wants it."""
    story = ExecutionTrace(decision_id)
    for outcome in (outcome for step in heard for outcome in step):
        for record in (*outcome.tries, outcome.record):
            story.records.append(record)
            story.upstream_s += record.latency_s or 0.0
        if outcome is not answered and outcome.body is not None:
            story.before[outcome.record.expert] = outcome.usage
    if answered is not None:
        story.answered, story.usage, story.status = answered.record.expert, answered.usage, 200
    return story
