"""Secrets, which are never printed, and the references (`os.environ/NAME`) that stand for them."""

import os
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Annotated, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from msgspec import Meta

REFERENCE = re.compile(r"os\.environ/(\w+)\b(?!-\w)|\$\{(\w+)\}")
# What other tools take for a reference. Sent as it stands it would be a wrong key, and nothing would say why.
SHELL_REFERENCE = re.compile(r"\$\{(\w*)[^}]*\}?")
SHELL_VARIABLE = re.compile(r"(?<![\w$\\])\$[A-Za-z_]\w*")
FOREIGN_REFERENCE = re.compile(r"\$\(|os\.environ\b|os\.getenv\b|process\.env\b|\{\{|\{env:")
FOREIGN_KEY = re.compile(r"%\w+%|(?i:env)[:./]\w+|(?i:env)\[.*\]|<[^<>]*>")
"""Only a whole key can be one of these: in an address `%NAME%` is an escape."""


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


MAX_VALUES = 4
OneOrMoreSecrets = Annotated[
    tuple[Secret, ...],
    Meta(
        min_length=1,
        max_length=MAX_VALUES,
        description="secret, or list of secrets",
        extra_json_schema={"x-or-one": True},
    ),
]
"""A file may have a single secret in place of the list."""


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


SECRET_SHAPE = re.compile(
    r"\b(?:sk|pk|rk|gsk|xai|nvapi|hf|r8|tgp|fw|csk|pplx)[-_][\w.*-]{8,}|\bAIza[\w-]{10,}|\bA[KS]IA[0-9A-Z]{12,}"
    r"|\b(?:gh[opsur]_|github_pat_|glpat-|xox[abprs]-|ya29\.|dapi)[\w.-]{10,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----[^\"]*"
    r"|\beyJ[\w-]{8,}\.[\w-]+(?:\.[\w-]*)?"
    r"|\bBearer\s+[\w.-]{8,}|\bBasic\s+(?=[a-z+/]*[\d=])[\w+/=]{8,}|(?<=://)[^/@\s\"'\\]+(?=@)"
    r"|(?<=[?&])(?:api[-_]?key|key|[a-z_]*token|sig|signature|code|password|secret)=[^&\s\"'#\\]+",
    re.IGNORECASE,
)
# A word for a key, and one with a digit: `api_key: abc123def`, `"x-api-key": "abc123def"`; the word stays.
NAMED_SECRET = re.compile(
    r"(\b(?:api[-_ ]?key|access[-_ ]?key|key|token|secret|password|authorization)(?:\s+provided)?[\"'`\\]*"
    r"\s*[:=]\s*[\"'`\\]*(?:token\s+)?)(?=[\w.+/~*-]*\d)[\w.+/=~*-]{8,}",
    re.IGNORECASE,
)
SECRET_VARIABLE = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)
MIN_HIDDEN_CHARS = 8


def hide_secrets(text: str) -> str:
    """The text without what looks like a key, a password or a token."""
    return NAMED_SECRET.sub(r"\1[key]", SECRET_SHAPE.sub("[key]", text))


def list_secrets(config: Any) -> frozenset[str]:
    """What must not be printed: every secret of a configuration, and what the environment calls one."""
    variables = (
        value
        for name, value in os.environ.items()
        if SECRET_VARIABLE.search(name) and len(value) >= MIN_HIDDEN_CHARS and "/" not in value[:1]
    )
    return frozenset({*variables, *_walk_secrets(config)} - {""})


def _walk_secrets(value: Any) -> Iterator[str]:
    if isinstance(value, Secret):
        yield value.reveal()
    elif isinstance(value, str):
        if "://" in value:
            yield from _secrets_of_address(value)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _walk_secrets(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _walk_secrets(item)
    elif fields := getattr(value, "__struct_fields__", ()):
        for name in fields:
            yield from _walk_secrets(getattr(value, name))


def _secrets_of_address(text: str) -> Iterator[str]:
    """The password of an address, and the values of its query."""
    try:
        parts = urlsplit(text)
        if parts.password:
            yield from (parts.password, unquote(parts.password))
    except ValueError:
        return
    yield from (value for _, value in parse_qsl(parts.query) if len(value) >= MIN_HIDDEN_CHARS)
