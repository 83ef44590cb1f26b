"""The panel: several experts answer at once, and a vote or an aggregator makes one answer."""

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any

from .plans import Attempt, Gather, GatherResult, PlanBase, Single, Step, StepResult, register_plan
from .voting import Form, Vote, vote


@dataclass(frozen=True, slots=True)
class Panel(PlanBase):
    """Members answer in parallel; a vote where it decides, else an aggregator, makes the one answer.

    No member is asked twice. Failed members are left out; a single answer is given as it is. If the
    aggregator fails, the answer that several members agree on counts, else the best member's. Where every
    member fails the fallbacks are asked in turn.

    quality:    expected of each member, in [0, 1]
    aggregator: makes one answer of the members', a call of its own even where it is a member; None votes only
    ballot:     whether a vote that decides goes before the aggregator
    form:       the form of answer that the question asks for
    votes:      of each member, where one was drawn more than once; empty where each has one

    Reference: Symbolic-MoE (arXiv 2503.05641), section 3.3: k recruited experts, one aggregator, one round.
    Differs: members are asked once each (the paper asks again whom it draws again; here the vote counts
    again); where answers can be read and agree, no aggregator is called.
    """

    members: tuple[str, ...]
    quality: tuple[float, ...]
    aggregator: str | None = None
    fallbacks: tuple[str, ...] = ()
    ballot: bool = True
    form: Form | None = None
    votes: tuple[int, ...] = ()

    @property
    def kind(self) -> str:
        return "panel"

    @property
    def is_sequential(self) -> bool:
        return False

    def summary(self) -> dict[str, Any]:
        said: dict[str, Any] = {
            "experts": list(self.experts),
            "members": list(self.members),
            "aggregator": self.aggregator,
        }
        return {**said, "votes": list(self.votes)} if self.votes else said

    @property
    def experts(self) -> tuple[str, ...]:
        last = () if self.aggregator is None else (self.aggregator,)
        return tuple(dict.fromkeys((*self.members, *last, *self.fallbacks)))

    def attempts(self) -> Generator[Step, StepResult, str | None]:
        step_result = yield Gather(self.members)
        result = step_result if isinstance(step_result, GatherResult) else GatherResult()
        answers = {name: result.answers[name] for name in self._rank_members() if name in result.answers}
        if not answers:
            # A refused request is at fault itself: the fallbacks would refuse it too.
            if not result.refused:
                yield from Single(self.fallbacks).attempts()
            return None
        # One answer left: an aggregator could only repeat it.
        if len(answers) == 1:
            return next(iter(answers))
        times = dict(zip(self.members, self.votes, strict=True)) if self.votes else {}
        count = vote(answers, self._quality_by_member(), self.form, times)
        if self.aggregator is None or (self.ballot and count is not None and is_decisive(count)):
            return choose_winner(count, answers)
        # `last=False`: if the aggregator fails, a member's answer is already there.
        verdict = yield Attempt(self.aggregator, last=False, answers=answers)
        return None if verdict == "answered" else choose_winner(count, answers)

    def _quality_by_member(self) -> dict[str, float]:
        return dict(zip(self.members, self.quality, strict=True))

    def _rank_members(self) -> list[str]:
        quality = self._quality_by_member()
        return sorted(self.members, key=lambda name: -quality[name])


register_plan("panel", Panel)


def is_decisive(count: Vote) -> bool:
    """Whether more than half of the weight of all who answered stands behind one answer."""
    return count.share > 0.5


def choose_winner(count: Vote | None, answers: Mapping[str, str]) -> str:
    """The expert whose answer is given: the best voter where the vote decides or voters agree, else the best.

    An answer is no better for being one that can be read.
    """
    if count is not None and (is_decisive(count) or len(count.voters) > 1):
        return count.voters[0]
    return next(iter(answers))
