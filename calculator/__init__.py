"""Deterministic tools: what can be worked out exactly is not left to a language model."""

from collections.abc import Callable
from datetime import date

from .arithmetic import answer_arithmetic
from .dates import answer_date
from .types import Answer, NotComputable, Refused
from .units import answer_units
from .wording import extract_question

__all__ = ["Answer", "answer", "calculator"]


def answer(text: str, today: date) -> Answer | None:
    """The answer to a question that is wholly a computation; None for everything else.

    A word problem, a question with a second part, or anything with a word that the tools do not know is left
    to other experts. A computation without a result (a division by zero, a huge number) is answered by
    saying so. Pure, and bounded in time for any text.
    """
    try:
        core, directives = extract_question(text)
    except NotComputable:
        return None
    tools: tuple[tuple[str, Callable[[], str]], ...] = (
        ("dates", lambda: answer_date(core, directives, today)),
        ("units", lambda: answer_units(core, directives)),
        ("arithmetic", lambda: answer_arithmetic(core, directives)),
    )
    for name, work_out in tools:
        try:
            return Answer(work_out(), name)
        except Refused as refusal:
            return Answer(str(refusal), name)
        except NotComputable:
            continue
    return None


def calculator(text: str) -> str | None:
    """The answer as of today, by this machine's calendar; None for a question that is not a computation."""
    found = answer(text, date.today())
    return found.text if found else None
