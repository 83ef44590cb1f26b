"""What a tool gives, and how it says that a question is not for it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Answer:
    """The text to reply with, and the tool that worked it out: arithmetic, units or dates."""

    text: str
    tool: str


@dataclass(frozen=True, slots=True)
class Directives:
    """How the asker wants the answer written.

    `n_places` are digits after the point, negative ones before it (−2: to the nearest hundred).
    """

    n_places: int | None = None
    n_significant: int | None = None
    number_only: bool = False
    iso_dates: bool = False
    as_fraction: bool = False

    @property
    def is_rounded(self) -> bool:
        return self.n_places is not None or self.n_significant is not None


class NotComputable(Exception):  # noqa: N818  not an error: another expert's question
    """The text is not wholly a computation."""


class Refused(Exception):  # noqa: N818  becomes the answer
    """It is a computation, but one without a result that could be given; the message says why."""
