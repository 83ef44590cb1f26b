"""Secrets, which are never printed, and the references (`os.environ/NAME`) that stand for them."""

import re
from collections.abc import Mapping

REFERENCE = re.compile(r"os\.environ/(\w+)|\$\{(\w+)\}")
WELL_KNOWN_KEYS = frozenset(
    {
        *(
            "changeme",
            "change-me",
            "password",
            "secret",
            "supersecret",
            "default",
            "admin",
            "letmein",
            "thalamus",
        ),
        *(
            "master-key",
            "masterkey",
            "my-master-key",
            "your-master-key",
            "your-secret-key",
            "test-key",
            "master",
        ),
        *("test", "1234", "12345", "123456", "12345678", "1234567890"),
    }
)
MIN_KEY_CHARS = 16
MIN_DISTINCT_CHARS = 6


class Secret:
    """A value that prints as `***`; `literal` is true if it stands in the file itself."""

    __slots__ = ("_value", "literal")

    def __init__(self, value: str, *, literal: bool = False) -> None:
        self._value = value
        self.literal = literal

    def reveal(self) -> str:
        """Return the value: for calls, never for a log or a message."""
        return self._value

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)


class MissingVariableError(Exception):
    """A reference names an environment variable that is not set; `args[0]` is its name."""


def expand_references(text: str, env: Mapping[str, str]) -> tuple[str, bool]:
    """Return the text with its references replaced, and whether it had any.

    Raises:
        MissingVariableError: a variable is not set, or empty.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if not env.get(name):
            raise MissingVariableError(name)
        return env[name]

    expanded, n_references = REFERENCE.subn(value, text)
    return expanded, n_references > 0


def find_weakness(key: str) -> str | None:
    """Return why the key is easy to guess, or None."""
    if key.lower() in WELL_KNOWN_KEYS or key.lower().removeprefix("sk-") in WELL_KNOWN_KEYS:
        return "is a well-known example key"
    if len(key) < MIN_KEY_CHARS:
        return f"is shorter than {MIN_KEY_CHARS} characters"
    # `sk-` is OpenAI's prefix and adds nothing that is hard to guess.
    if len(set(key.lower().removeprefix("sk-"))) < MIN_DISTINCT_CHARS:
        return "repeats a few characters"
    if (
        key.lower().removeprefix("sk-")
        in "01234567890123456789012345678901234567890abcdefghijklmnopqrstuvwxyz"
    ):
        return "is a run of consecutive characters"
    return None
