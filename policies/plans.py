"""Plans as values: what to do, said without doing it.

A plan is driven: `attempts()` yields an `Attempt`, is sent what came of it, and ends when there is nothing
more to try. The gateway drives it with calls, replay with recorded outcomes, a test with a list, so that all
three walk the same ladder.
"""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Literal, Protocol

Verdict = Literal["answered", "moved_on", "refused"]
"""answered: an expert spoke; moved_on: it failed as another may not; refused: the request is at fault."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One call to one expert. `last` says that no other follows if this one fails."""

    expert: str
    last: bool


class Plan(Protocol):
    @property
    def kind(self) -> str: ...

    @property
    def experts(self) -> tuple[str, ...]:
        """Whom the plan may call, in order."""

    def attempts(self) -> Generator[Attempt, Verdict, None]: ...


@dataclass(frozen=True, slots=True)
class Single:
    """One expert, then its fallbacks, until one answers or the request itself is refused."""

    experts: tuple[str, ...]

    @property
    def kind(self) -> str:
        return "single"

    def attempts(self) -> Generator[Attempt, Verdict, None]:
        for n, expert in enumerate(self.experts, start=1):
            verdict = yield Attempt(expert, last=n == len(self.experts))
            if verdict != "moved_on":
                return
