"""Fields that a model does not take: translated, left out with a warning, or a reason to move on.

`parameters.yaml` says which model families take what; what an expert refuses beyond that is remembered.
"""

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from time import monotonic
from typing import Any, Literal

import msgspec
from msgspec import Raw

from ..config import ExpertConfig
from ..openai.messages import BAD_JSON, decode_object
from .prompt_preset import SAME
from .types import Fields, UpstreamError

REMEMBERED_S = 3600.0
"""How long a refusal counts: a model may be replaced behind its name."""
MAX_REMEMBERED = 32
CONTENT = frozenset({"messages", "prompt", "input", "model", "stream"})
"""What a request is made of: no call can do without it."""
ONLY_DEFAULT = re.compile(r"only the default|only supports? the default|does not take", re.IGNORECASE)
SCHEMA_PROMPT = "Answer with one JSON object and nothing else. It must be valid by this JSON schema:\n"

log = logging.getLogger("thalamus.experts")
decode, encode = msgspec.json.decode, msgspec.json.encode

Form = Literal["renamed", "left_out"]
"""How the same call can be made again: with the same meaning, or without a wish."""


class ModelFamily(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a family of models takes."""

    models: str = ""
    rename: dict[str, str] = {}
    without: frozenset[str] = frozenset()
    only: dict[str, list[Any]] = {}
    most: dict[str, float] = {}
    response_format: dict[str, str] = {}
    max_stop: int | None = None


class ParameterTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All families, and the meaning of fields to all of them."""

    essential: frozenset[str]
    defaults: dict[str, Any]
    families: list[ModelFamily]

    def family_of(self, model: str) -> ModelFamily:
        """The first family that `provider/model` belongs to."""
        return next((family for family in self.families if re.search(family.models, model)), ANY_FAMILY)


ANY_FAMILY = ModelFamily()


@cache
def parameter_table() -> ParameterTable:
    """The table that the package carries."""
    import yaml  # its parser takes 20 ms to import, and most commands build no expert

    text = Path(__file__).with_name("parameters.yaml").read_text(encoding="utf-8")
    return msgspec.convert(yaml.safe_load(text), ParameterTable)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A field that an expert refused: `value` where only this one was, None where every one is."""

    until_s: float
    value: bytes | None = None
    renamed: str | None = None


class Parameters:
    """Turns the fields of a call into those that one expert takes."""

    def __init__(self, config: ExpertConfig, clock: Callable[[], float] = monotonic) -> None:
        self._name = config.name
        self._drops = config.unsupported_params == "drop"
        self._table = parameter_table()
        self._family = self._table.family_of(config.model)
        self._refusals: dict[str, Refusal] = {}
        self._clock = clock
        self.is_plain = self._family is ANY_FAMILY
        """Whether every field is sent as it is."""

    def adapt(self, fields: Fields) -> tuple[Fields, tuple[str, ...]]:
        """The fields to send, and a warning for each wish that was not kept.

        Raises:
            UpstreamError: the expert does not take what the answer depends on.
        """
        fields, warnings, family = dict(fields), list[str](), self._family
        for old, new in family.rename.items():
            _rename(fields, old, new)
        for name in family.without & fields.keys():
            self._leave_out(fields, name, warnings)
        for name, values in family.only.items():
            if name in fields and _value(fields[name]) not in values:
                self._leave_out(fields, name, warnings)
        for name in family.most.keys() & fields.keys():
            self._lower(fields, name, family.most[name], warnings)
        if family.response_format and "response_format" in fields:
            self._convert_format(fields, warnings)
        if family.max_stop is not None and "stop" in fields:
            self._shorten_stop(fields, family.max_stop, warnings)
        self._apply_refusals(fields, warnings)
        return fields, tuple(warnings)

    def leave_out(self, fields: Fields, names: Iterable[str]) -> tuple[Fields, tuple[str, ...]]:
        """The fields without some that the expert is known not to take, as `adapt`."""
        fields, warnings = dict(fields), list[str]()
        for name in sorted(fields.keys() & set(names)):
            self._leave_out(fields, name, warnings)
        return fields, tuple(warnings)

    def learn(self, error: UpstreamError, sent: Fields) -> Form | None:
        """Remember what a refusal says, and how the call can be made again; None: not to this expert."""
        found = find_refused(error, sent)
        if found is None:
            return None
        name, every_value = found
        self._forget()
        other = SAME.get(name)
        renamed = other if other is not None and other not in self._refusals else None
        value = None if every_value else bytes(sent[name])
        known = self._refusals.get(name)
        self._refusals[name] = Refusal(self._clock() + REMEMBERED_S, value, renamed)
        self.is_plain = False
        if known is None:
            what = f"sent as '{renamed}'" if renamed else "not sent again"
            log.warning("%s does not take '%s': %s for an hour", self._name, name, what)
        if renamed:
            return "renamed"
        return "left_out" if self._may_drop(name) else None

    def _forget(self) -> None:
        now = self._clock()
        live = [(name, refusal) for name, refusal in self._refusals.items() if refusal.until_s > now]
        self._refusals = dict(live[-MAX_REMEMBERED + 1 :])

    def _apply_refusals(self, fields: Fields, warnings: list[str]) -> None:
        now = self._clock()
        for name, refusal in self._refusals.items():
            if name not in fields or refusal.until_s <= now:
                continue
            if refusal.renamed:
                _rename(fields, name, refusal.renamed)
            elif refusal.value is None or refusal.value == bytes(fields[name]):
                self._leave_out(fields, name, warnings)

    def _may_drop(self, name: str) -> bool:
        return self._drops and name not in self._table.essential

    def _leave_out(self, fields: Fields, name: str, warnings: list[str]) -> None:
        value = _value(fields[name])
        if value is None or value == self._table.defaults.get(name, UNSET):
            del fields[name]
        elif self._may_drop(name):
            del fields[name]
            shown = f"{name} {value}" if isinstance(value, int | float | str) else name
            warnings.append(f"{self._name} does not take {shown[:80]}: left out")
        else:
            raise self._build_refusal(name)

    def _convert_format(self, fields: Fields, warnings: list[str]) -> None:
        asked = _value(fields["response_format"])
        kind = asked.get("type") if isinstance(asked, dict) else None
        stands_in = self._family.response_format.get(kind) if isinstance(kind, str) else None
        if stands_in == "json_schema":
            schema = {"name": "answer", "schema": {"type": "object"}}
            fields["response_format"] = Raw(encode({"type": "json_schema", "json_schema": schema}))
        elif stands_in == "json_object" and isinstance(asked, dict):
            if not self._drops or "messages" not in fields:
                raise self._build_refusal("response_format")
            fields["response_format"] = Raw(b'{"type":"json_object"}')
            schema = asked.get("json_schema", {}).get("schema", {})
            turn = encode({"role": "system", "content": SCHEMA_PROMPT + encode(schema).decode()})
            rest = bytes(fields["messages"]).lstrip()[1:].lstrip()
            between = b"" if rest.startswith(b"]") else b","
            fields["messages"] = Raw(b"[" + turn + between + rest)
            warnings.append(f"{self._name} takes no JSON schema: asked for JSON, with the schema as text")

    def _lower(self, fields: Fields, name: str, most: float, warnings: list[str]) -> None:
        value = _value(fields[name])
        if not isinstance(value, int | float) or value <= most:
            return
        if not self._drops:
            raise self._build_refusal(name)
        fields[name] = Raw(encode(most))
        warnings.append(f"{self._name} takes {name} up to {most:g}, not {value}: lowered")

    def _shorten_stop(self, fields: Fields, most: int, warnings: list[str]) -> None:
        stop = _value(fields["stop"])
        if not isinstance(stop, list) or len(stop) <= most:
            return
        if not self._drops:
            raise self._build_refusal("stop")
        fields["stop"] = Raw(encode(stop[:most]))
        warnings.append(f"{self._name} takes {most} stop sequences: {len(stop) - most} left out")

    def _build_refusal(self, name: str) -> UpstreamError:
        said = f"does not take '{name}' with this value"
        error = {"message": f"{self._name} {said}", "type": "invalid_request_error", "param": name}
        body = encode({"error": {**error, "code": "unsupported_parameter"}})
        return UpstreamError("unsupported", said, status=400, body=body)


UNSET = object()


def find_refused(error: UpstreamError, sent: Fields) -> tuple[str, bool] | None:
    """The field of a call that a refusal names, and whether every value of it is refused."""
    said = _read_envelope(error)
    text = str(said.get("message") or error.message)
    every_value = said.get("code") != "unsupported_value" or ONLY_DEFAULT.search(text) is not None
    if (param := said.get("param")) in sent and param not in CONTENT:
        return str(param), every_value
    found = [(match.start(), name) for name in sent if (match := _pattern(name).search(text))]
    return (min(found)[1], every_value) if found else None


UNKNOWN_FIELDS = re.compile(
    r"extra (?:inputs?|fields?|parameters?)|(?:unrecognized|unknown|unexpected) (?:\w+ ){0,2}"
    r"(?:fields?|parameters?|arguments?|keys?|propert)|additional propert",
    re.IGNORECASE,
)


def names_field(error: UpstreamError, name: str) -> bool:
    """Whether a refusal may be of this field: it names it, or speaks of fields that are not known."""
    text = f"{error.message} {(error.body or b'').decode('utf-8', 'replace')}"
    return name in text or UNKNOWN_FIELDS.search(text) is not None


def _pattern(name: str) -> re.Pattern[str]:
    if name in CONTENT:
        return NOTHING
    # `stop`, `n` or `user` are words too: they count where they are marked as names.
    if "_" not in name:
        return re.compile(rf"[`'\"]{re.escape(name)}[`'\".]|(?:^|body\.|: ){re.escape(name)}:")
    return re.compile(rf"(?<!\w){re.escape(name)}(?!\w)")


NOTHING = re.compile(r"(?!)")


def _read_envelope(error: UpstreamError) -> Mapping[str, Any]:
    try:
        said = decode(decode_object(error.body or b"{}").get("error", b"{}"))
    except BAD_JSON:
        return {}
    return said if isinstance(said, dict) else {}


def _rename(fields: Fields, old: str, new: str) -> None:
    if old in fields:
        value = fields.pop(old)
        fields.setdefault(new, value)


def _value(raw: Raw) -> Any:
    try:
        return decode(raw)
    except BAD_JSON:
        return UNSET
