"""A probe: one prompt whose answers code can grade."""

from dataclasses import dataclass, field
from typing import Any


class ProbeError(ValueError):
    """A probe file is not usable; the message names file, line and field."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One gradable prompt.

    `family` is the template it was made from, `kind` the ability it asks for; `expected` is JSON-able and
    read by the grader of that name; `reference` is an answer that scores 1. Ids are unique in a set.
    """

    id: str
    kind: str
    family: str
    prompt: str
    grader: str
    expected: Any = field(hash=False)
    max_tokens: int = 64
    reference: str = ""
