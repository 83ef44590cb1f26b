"""What one request asks of the router: the body's `router` object, headers, and what clients of others send.

The body wins where body and headers name different things; limits of both hold, and only ever tighten what
the policy requires.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from policies import Flag, Objective, Require, RoutingHints, tighten

from ..config import Weights
from ..errors import InvalidField

T = TypeVar("T")
NotNegative = Annotated[float, Meta(ge=0)]
Positive = Annotated[float, Meta(gt=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
Dial = Annotated[float, Meta(ge=0, le=10)]
Text = Annotated[str, Meta(min_length=1, max_length=256)]
Names = Annotated[tuple[Text, ...], Meta(max_length=1000)]
FlagValue = bool | float | Text

PREFIX = b"x-thalamus-"
SESSION_HEADERS = (b"x-thalamus-session-id", b"x-session-id", b"x-litellm-session-id")
DIAL_TOP = 10.0


class RouterField(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body's `router` object.

    `flags` are names, or `name = value`, or a mapping of both. `cost_quality_tradeoff`: 0 is quality alone,
    10 the cheapest; `max_usd_per_1k` and `target_quality` set that dial by what it buys. `fallbacks` stand
    behind an expert asked for by name. `explain` puts the decision's facts on a stream's last chunk.
    """

    policy: Text | None = None
    flags: Names | dict[Text, FlagValue] | None = None
    weights: Weights | None = None
    max_cost_usd: NotNegative | None = None
    max_latency_ms: Positive | None = None
    min_quality: Share | None = None
    models: Names | None = None
    exclude: Names | None = None
    session_id: Text | None = None
    cost_quality_tradeoff: Dial | None = None
    max_usd_per_1k: NotNegative | None = None
    target_quality: Share | None = None
    fallbacks: Names | None = None
    explain: bool = False


class AutoRouterPlugin(msgspec.Struct, frozen=True):
    """An entry of OpenRouter's `plugins` list; only its dial is ours to read."""

    id: str = ""
    cost_quality_tradeoff: Dial | None = None


@dataclass(frozen=True, slots=True)
class RoutingOptions:
    """What was asked for; `hints` is None when nothing was."""

    policy: str | None = None
    hints: RoutingHints | None = None
    session_id: str | None = None
    debug: bool = False
    fallbacks: tuple[str, ...] = ()
    explain: bool = False
    flags: tuple[Flag, ...] = ()


NO_OPTIONS = RoutingOptions()
_body = msgspec.json.Decoder(RouterField | None)
_plugins = msgspec.json.Decoder(list[AutoRouterPlugin] | None)


def parse_routing_options(
    fields: Mapping[str, msgspec.Raw], headers: Mapping[bytes, bytes]
) -> RoutingOptions:
    """What the request asks for, from its body's fields and its headers (names in lower case).

    Raises:
        InvalidField: something is unknown or of the wrong kind; `param` is `router.…` or the header's name.
    """
    body = _from_body(fields) if "router" in fields or "plugins" in fields else None
    head = _from_headers(headers)
    session = next((headers[name] for name in SESSION_HEADERS if name in headers), None)
    debug = headers.get(b"x-thalamus-debug", b"").lower() in (b"true", b"1")
    if body is None and head is None:
        if session is None and not debug:
            return NO_OPTIONS
        return RoutingOptions(session_id=_session(session), debug=debug)
    given = [field for field in (body, head) if field is not None]
    require = Require()
    for field in given:
        require = tighten(require, _require(field))
    objective = next((wish for field in given if (wish := _objective(field)) is not None), None)
    return RoutingOptions(
        policy=next((field.policy for field in given if field.policy), None),
        hints=RoutingHints(require, objective),
        session_id=(body.session_id if body else None) or _session(session),
        debug=debug,
        fallbacks=(body.fallbacks if body else None) or (),
        explain=body is not None and body.explain,
        flags=next((flags for field in given if (flags := _flags(field))), ()),
    )


def _require(field: RouterField) -> Require:
    return Require(
        max_cost_usd=field.max_cost_usd,
        max_latency_s=None if field.max_latency_ms is None else field.max_latency_ms / 1000,
        min_quality=field.min_quality,
        models=None if field.models is None else frozenset(field.models),
        exclude=frozenset(field.exclude or ()),
    )


def _objective(field: RouterField) -> Objective | None:
    if field.max_usd_per_1k is not None or field.target_quality is not None:
        return _target(field)
    if field.weights is not None:
        return field.weights.objective()
    if field.cost_quality_tradeoff is not None:
        return Objective(cost=field.cost_quality_tradeoff / DIAL_TOP)
    return None


def _target(field: RouterField) -> Objective:
    """A target stands for the weight on cost; the other goals keep theirs."""
    if field.cost_quality_tradeoff is not None or (field.weights is not None and field.weights.cost):
        what = "max_usd_per_1k and target_quality stand for a weight on cost; say one or the other"
        raise InvalidField(f"router: {what}", param="router")
    weighed = field.weights.objective() if field.weights is not None else Objective()
    return replace(weighed, max_usd_per_1k=field.max_usd_per_1k, target_quality=field.target_quality)


def _flags(field: RouterField) -> tuple[Flag, ...]:
    if isinstance(field.flags, dict):
        told = ((name, value) for name, value in field.flags.items() if value is not False)
        return tuple(
            Flag.of(name, "" if value is True else value if isinstance(value, str) else f"{value:g}")
            for name, value in told
        )
    return tuple(map(Flag.read, field.flags or ()))


def _from_body(fields: Mapping[str, msgspec.Raw]) -> RouterField | None:
    field = _read(lambda: _body.decode(fields["router"]), "router") if "router" in fields else None
    if "plugins" not in fields or (field and _objective(field) is not None):
        return field
    plugins = _read(lambda: _plugins.decode(fields["plugins"]), "plugins") or []
    dial = next((p.cost_quality_tradeoff for p in plugins if p.id.startswith("auto-router")), None)
    return (
        field if dial is None else msgspec.structs.replace(field or RouterField(), cost_quality_tradeoff=dial)
    )


_LISTS = frozenset({"models", "exclude", "flags"})
_NUMBERS = frozenset(
    {
        "max_cost_usd",
        "max_latency_ms",
        "min_quality",
        "cost_quality_tradeoff",
        "max_usd_per_1k",
        "target_quality",
    }
)
_HEADERS = {
    PREFIX + name.replace("_", "-").encode(): name
    for name in (*sorted(_LISTS), *sorted(_NUMBERS), "policy", "weights")
} | {b"x-router-flags": "flags"}


def _from_headers(headers: Mapping[bytes, bytes]) -> RouterField | None:
    named = _HEADERS.keys() & headers.keys()
    if not named:
        return None
    values = {_HEADERS[name]: _parse(name, headers[name].decode("latin-1").strip()) for name in named}
    try:
        return msgspec.convert(values, RouterField)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$.")
        field = where.rstrip("`").partition("[")[0].partition(".")[0]
        raise _refusal(what, (PREFIX.decode() + field.replace("_", "-")) if field else "router") from None


def _parse(header: bytes, text: str) -> Any:
    name = _HEADERS[header]
    if name in _LISTS:
        return [item.strip() for item in text.split(",") if item.strip()]
    if name in _NUMBERS:
        return _number(header, text)
    if name == "weights":
        pairs = [item.partition("=") for item in text.split(",") if item.strip()]
        return {key.strip(): _number(header, value) for key, _, value in pairs}
    return text


def _number(header: bytes, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InvalidField(
            f"{header.decode()}: {text[:40]!r} is not a number", param=header.decode()
        ) from None


def _session(value: bytes | None) -> str | None:
    return value.decode("latin-1")[:256] or None if value else None


def _read(decode: Callable[[], T], name: str) -> T:
    try:
        return decode()
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        what, _, where = str(error).partition(" - at `$")
        raise _refusal(what, name + where.rstrip("`")) from None


def _refusal(what: str, param: str) -> InvalidField:
    what = what.replace("Object contains unknown field", "unknown key").replace("`", "'")
    known = f"; known: {', '.join(RouterField.__struct_fields__)}" if what.startswith("unknown key") else ""
    return InvalidField(f"{param}: {what[0].lower()}{what[1:]}{known}", param=param)
