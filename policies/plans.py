"""Plans as values: what to do, said without doing it.

A plan is driven: `attempts()` yields a step, is sent what came of it, and ends when there is nothing more to
try. The gateway drives it with calls, replay with recorded outcomes, a test with a list, so that all walk
the same way.
"""

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

Verdict = Literal["answered", "moved_on", "refused"]
"""answered: an expert spoke; moved_on: it failed as another may not; refused: the request is at fault."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One call to one expert, whose answer goes to the client. `last`: no other follows if this one fails.

    `answers`, by expert, are what it is to make one answer of; None asks it the query as it is.
    """

    expert: str
    last: bool
    answers: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Gather:
    """Calls to several experts at once, each for the whole query; nothing goes to the client yet."""

    experts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Gathered:
    """What came of a `Gather`: the text of whoever answered; `refused` where the request was at fault."""

    answers: Mapping[str, str] = field(default_factory=dict)
    refused: bool = False


Step = Attempt | Gather
Heard = Verdict | Gathered
"""A `Verdict` on an `Attempt`, a `Gathered` on a `Gather`."""


class Plan(Protocol):
    """Which experts are asked for one request, and in which order."""

    @property
    def kind(self) -> str: ...

    @property
    def experts(self) -> tuple[str, ...]:
        """Whom the plan may call, in order."""

    def attempts(self) -> Generator[Step, Heard, str | None]:
        """Ends once an attempt was answered, or with the name of a gathered expert whose answer it is to be,
        or, with None and nothing answered, because nobody is left."""


@dataclass(frozen=True, slots=True)
class Single:
    """One expert, then its fallbacks, until one answers or the request itself is refused."""

    experts: tuple[str, ...]

    @property
    def kind(self) -> str:
        return "single"

    def attempts(self) -> Generator[Attempt, Heard, None]:
        for n, expert in enumerate(self.experts, start=1):
            verdict = yield Attempt(expert, last=n == len(self.experts))
            if verdict != "moved_on":
                return
