"""Secrets, which are never printed, and the references (`os.environ/NAME`) that stand for them."""

import re
from collections.abc import Collection, Mapping

REFERENCE = re.compile(r"os\.environ/(\w+)\b(?!-\w)|\$\{(\w+)\}")
# What other tools take for a reference. Sent as it stands it would be a wrong key, and nothing would say why.
SHELL_REFERENCE = re.compile(r"\$\{(\w*)[^}]*\}?")
SHELL_VARIABLE = re.compile(r"(?<![\w$\\])\$[A-Za-z_]\w*")
FOREIGN_REFERENCE = re.compile(r"\$\(|os\.environ\b|os\.getenv\b|process\.env\b|\{\{|\{env:")
FOREIGN_KEY = re.compile(r"%\w+%|(?i:env)[:./]\w+|(?i:env)\[.*\]|<[^<>]*>")
"""Only a whole key can be one of these: in an address `%NAME%` is an escape."""
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
    """A value that prints as `***`; `literal` is true if it stands in the file itself.

    `variables` are the names of the environment variables that it was taken from.
    """

    __slots__ = ("_value", "literal", "variables")

    def __init__(self, value: str, *, literal: bool = False, variables: tuple[str, ...] = ()) -> None:
        self._value = value
        self.literal = literal
        self.variables = variables

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


class UnresolvedReferenceError(Exception):
    """A reference cannot be replaced; `str()` says why and what to write, without the value."""


def expand_references(text: str, env: Mapping[str, str], kept: Collection[str] = ()) -> tuple[str, bool]:
    """Return the text with its references replaced, and whether it had any.

    References to the variables in `kept` stay, as `${NAME}`: others replace them later.

    Raises:
        UnresolvedReferenceError: a variable is not set, is empty, or holds a reference itself.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if name in kept:
            return "${" + name + "}"
        found = env.get(name)
        if not found:
            raise UnresolvedReferenceError(
                f"environment variable {name} is not set; set it, or delete this key"
            )
        if is_reference(found):
            raise UnresolvedReferenceError(
                f"environment variable {name} holds a reference instead of a value; set it to the value"
            )
        return found

    expanded, n_references = REFERENCE.subn(value, text)
    return expanded, n_references > 0


def list_variables(text: str) -> tuple[str, ...]:
    """The variables that the references of a text name."""
    return tuple(match[1] or match[2] for match in REFERENCE.finditer(text))


def is_reference(text: str) -> bool:
    """Whether the whole text is a reference, as this or another tool writes them."""
    text = text.strip()
    return any(
        pattern.fullmatch(text) for pattern in (REFERENCE, SHELL_REFERENCE, FOREIGN_KEY, SHELL_VARIABLE)
    )


def check_references(text: str, *, is_secret: bool = False, in_command: bool = False) -> None:
    """Check that the text has no reference but those that `expand_references` replaces.

    In a command only `${…}` and `$NAME` are looked at: templates that it names have signs of their own.

    Raises:
        UnresolvedReferenceError: it has one; the message does not quote the value, which may be a secret.
    """
    rest = REFERENCE.sub(" ", text)
    if found := SHELL_REFERENCE.search(rest):
        name = found[1] or "NAME"
        raise UnresolvedReferenceError(
            f"'${{{found[1]}…}}' is not a reference here, and defaults are not supported; "
            f"set the variable and write ${{{name}}}"
        )
    foreign = not in_command and FOREIGN_REFERENCE.search(rest)
    if foreign or SHELL_VARIABLE.search(rest) or (is_secret and FOREIGN_KEY.fullmatch(rest.strip())):
        raise UnresolvedReferenceError(
            "looks like a reference of another tool, which is not replaced here; "
            "write os.environ/NAME or ${NAME}"
        )


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
