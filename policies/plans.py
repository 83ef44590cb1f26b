"""Plans as values: which calls to make, described without making them.

`attempts()` yields a step, is sent its result, and ends when no step is left. The gateway drives it with
calls, replay with recorded outcomes, a test with a list, so that all take the same path.
"""

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal, Protocol, Self

Verdict = Literal["answered", "moved_on", "refused"]
"""answered: an expert answered; moved_on: it failed and another may not; refused: the request is at fault."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One call to one expert, whose answer goes to the client. `last`: no other follows if this one fails.

    `answers`, by expert, are the answers to aggregate; None sends the query as it is.
    """

    expert: str
    last: bool
    answers: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Gather:
    """Calls to several experts at once, each for the whole query; nothing goes to the client yet."""

    experts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GatherResult:
    """The result of a `Gather`: each answer, by expert; `refused` where the request was at fault."""

    answers: Mapping[str, str] = field(default_factory=dict)
    refused: bool = False


Step = Attempt | Gather
StepResult = Verdict | GatherResult
"""A `Verdict` on an `Attempt`, a `GatherResult` on a `Gather`."""


class Plan(Protocol):
    """Which experts are asked for one request, and in which order.

    A new plan implements this and is registered with `register_plan`; no other code tests for its class.
    """

    @property
    def kind(self) -> str:
        """The name it is written down and decoded by."""

    @property
    def experts(self) -> tuple[str, ...]:
        """The experts that the plan may call, in order."""

    @property
    def aggregator(self) -> str | None:
        """The expert called with the answers of the first calls; None if there is no such call."""

    @property
    def is_sequential(self) -> bool:
        """Whether each step is one call with the query as it is, so that no step needs earlier answers."""

    def parts(self) -> dict[str, Any]:
        """Its fields as values that msgpack and JSON can hold."""

    @classmethod
    def from_parts(cls, parts: Mapping[str, Any]) -> Self:
        """The plan whose `parts` were written down; sequences may have become lists."""

    def summary(self) -> dict[str, Any]:
        """Its part of a decision record."""

    def attempts(self) -> Generator[Step, StepResult, str | None]:
        """Yield one step, receive its result, yield the next.

        Returns:
            None after an attempt was answered, or when no expert is left; the name of a gathered expert
            where its answer is the plan's answer.
        """


PLANS: dict[str, type[Plan]] = {}
"""The class of each kind of plan, by which plans in the journal and in batches are decoded."""


def register_plan(kind: str, plan: type[Plan]) -> None:
    """Make plans of this kind decodable."""
    PLANS[kind] = plan


def decode_plan(kind: str, parts: Mapping[str, Any]) -> Plan:
    """The plan of this kind with these parts. Raises: KeyError if no class is registered for the kind."""
    return PLANS[kind].from_parts(parts)


class PlanBase:
    """What plans that are dataclasses share: their parts are their fields."""

    __slots__ = ()

    def parts(self) -> dict[str, Any]:
        # Not `asdict`, which copies what is in each field, and took longer than packing all else.
        return {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]

    @classmethod
    def from_parts(cls, parts: Mapping[str, Any]) -> Self:
        # msgpack and JSON know no tuples; a frozen plan holds no lists.
        return cls(**{name: tuple(part) if isinstance(part, list) else part for name, part in parts.items()})


@dataclass(frozen=True, slots=True)
class Single(PlanBase):
    """One expert, then its fallbacks, until one answers or the request itself is refused."""

    kind: ClassVar[str] = "single"
    aggregator: ClassVar[None] = None
    is_sequential: ClassVar[bool] = True

    experts: tuple[str, ...]

    def summary(self) -> dict[str, Any]:
        return {"experts": list(self.experts)}

    def attempts(self) -> Generator[Attempt, StepResult, None]:
        for n, expert in enumerate(self.experts, start=1):
            verdict = yield Attempt(expert, last=n == len(self.experts))
            if verdict != "moved_on":
                return


register_plan("single", Single)
