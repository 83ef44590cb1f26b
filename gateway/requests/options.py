"""What one request asks of the router: the body's `router` object, headers, and what clients of others send.

The body wins where body and headers name different things; limits of both hold, and only ever tighten what
the policy requires.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Raw

from policies import (
    Draw,
    Flag,
    Objective,
    PanelSize,
    Policy,
    Require,
    RoutingHints,
    UnknownFlag,
    apply_flags,
    check_flags,
    extract_flags,
    looks_pasted,
    tighten,
)

from ..config import Weights
from ..errors import InvalidField
from ..openai.messages import (
    BAD_JSON,
    TEXT_PARTS,
    Fields,
    decode_list,
    decode_object,
    decode_raw_content,
    decode_raw_message,
    decode_raw_part,
    encode,
)
from ..prompts.lists import PARAGRAPH
from ..prompts.wrappings import WrappingGrammar
from .bodies import INLINE_BYTES, MESSAGE_LIMITS, ShortJson, shorten

T = TypeVar("T")
NotNegative = Annotated[float, Meta(ge=0)]
Positive = Annotated[float, Meta(gt=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
Dial = Annotated[float, Meta(ge=0, le=10)]
Text = Annotated[str, Meta(min_length=1, max_length=256)]
Names = Annotated[tuple[Text, ...], Meta(max_length=1000)]
FlagValue = bool | float | Text

PREFIX = b"x-thalamus-"
SESSION_HEADERS = (
    b"x-thalamus-session-id",
    b"x-session-id",
    b"x-litellm-session-id",
    b"x-claude-code-session-id",
    b"session-id",  # Codex
)
DEBUG_HEADER = b"x-thalamus-debug"
DIAL_TOP = 10.0
OTHER_AGGREGATORS = ("auto", "vote")
"""What an aggregator can be beside an expert."""


class PanelField(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The `panel` of the body's `router` object: what one request changes of its policy's panel.

    It can ask fewer experts than the policy, never more; `k` of 1 asks one.
    """

    k: Annotated[int, Meta(ge=1, le=16)] | None = None
    aggregator: Text | None = None
    size: PanelSize | None = None
    mass: Share | None = None
    min_gain: Share | None = None
    draw: Draw | None = None

    def apply(self, policy: Policy, experts: Collection[str]) -> Policy:
        """The policy with its panel changed.

        Raises:
            InvalidField: it has no panel, or a smaller one; or there is no such aggregator.
        """
        rule = policy.panel
        if rule is None:
            raise InvalidField(
                f"router.panel: the policy '{policy.name}' has no panel; ask for one that has",
                param="router.panel",
            )
        if self.k is not None and self.k > rule.k:
            raise InvalidField(
                f"router.panel.k: the policy '{policy.name}' asks at most {rule.k} experts",
                param="router.panel.k",
            )
        if self.aggregator is not None and self.aggregator not in (*OTHER_AGGREGATORS, *experts):
            raise InvalidField(
                f"router.panel.aggregator: there is no expert '{self.aggregator}'; name one, or auto or vote",
                param="router.panel.aggregator",
            )
        given = {name: value for name, value in msgspec.structs.asdict(self).items() if value is not None}
        changed = replace(rule, **given)
        if changed.draw == "with_replacement" and changed.size != "fixed":
            raise InvalidField(
                "router.panel.size: who is drawn with replacement makes a panel of fixed size; send fixed",
                param="router.panel.size",
            )
        return replace(policy, panel=changed)


class RouterField(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body's `router` object.

    `flags` are names, or `name = value`, or a mapping of both. `cost_quality_tradeoff`: 0 is quality alone,
    10 the cheapest; `max_usd_per_1k` and `target_quality` set that dial by what it buys. `fallbacks` stand
    behind an expert asked for by name. `explain` puts the decision's facts on a stream's last chunk. `panel`
    changes the panel of the policy.
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
    panel: PanelField | None = None


class AutoRouterPlugin(msgspec.Struct, frozen=True):
    """An entry of OpenRouter's `plugins` list; only its dial is ours to read."""

    id: str = ""
    cost_quality_tradeoff: Dial | None = None


@dataclass(frozen=True, slots=True)
class RoutingOptions:
    """All that a request asks of routing beside its prompt.

    `hints` is the part that the engine reads (constraints and goals), None where the request sets none.
    """

    policy: str | None = None
    hints: RoutingHints | None = None
    session_id: str | None = None
    debug: bool = False
    fallbacks: tuple[str, ...] = ()
    explain: bool = False
    panel: PanelField | None = None
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
    if body is None and _READ_HEADERS.isdisjoint(headers):
        return NO_OPTIONS
    head = _from_headers(headers)
    session = next((headers[name] for name in SESSION_HEADERS if name in headers), None)
    debug = headers.get(DEBUG_HEADER, b"").lower() in (b"true", b"1")
    if body is None and head is None:
        return RoutingOptions(session_id=_session(session), debug=debug)
    # The body first: it was written for this request, headers may be set once for a whole client.
    given = [field for field in (body, head) if field is not None]
    require = Require()
    # Constraints of both hold: a request can tighten what its policy requires, and never loosen it.
    for field in given:
        require = tighten(require, _require(field))
    objective = next((goals for field in given if (goals := _objective(field)) is not None), None)
    return RoutingOptions(
        policy=next((field.policy for field in given if field.policy), None),
        hints=RoutingHints(require, objective),
        session_id=(body.session_id if body else None) or _session(session),
        debug=debug,
        fallbacks=(body.fallbacks if body else None) or (),
        explain=body is not None and body.explain,
        panel=body.panel if body else None,
        flags=next((flags for field in given if (flags := _flags(field))), ()),
    )


def list_ignored(options: RoutingOptions) -> tuple[str, ...]:
    """A warning that names what does not apply where the client names the expert; none where all does."""
    if options is NO_OPTIONS:
        return ()
    require = options.hints.require if options.hints is not None else Require()
    given = {
        "policy": options.policy,
        "max_cost_usd": require.max_cost_usd,
        "max_latency_ms": require.max_latency_s,
        "min_quality": require.min_quality,
        "models": require.models,
        "exclude": require.exclude or None,
        "weights and targets": options.hints.objective if options.hints is not None else None,
        "flags": options.flags or None,
        "panel": options.panel,
    }
    names = [name for name, value in given.items() if value is not None]
    if not names:
        return ()
    return (f"{', '.join(names)}: ignored for a model that is asked for by name; `auto` chooses by them",)


def _require(field: RouterField) -> Require:
    return Require(
        max_cost_usd=field.max_cost_usd,
        max_latency_s=None if field.max_latency_ms is None else field.max_latency_ms / 1000,
        min_quality=field.min_quality,
        models=None if field.models is None else frozenset(field.models),
        exclude=frozenset(field.exclude or ()),
    )


def _objective(field: RouterField) -> Objective | None:
    # A target replaces a weight: the λ table turns it into one when predictions are known.
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
        pairs = ((name, value) for name, value in field.flags.items() if value is not False)
        return tuple(
            Flag.of(name, "" if value is True else value if isinstance(value, str) else f"{value:g}")
            for name, value in pairs
        )
    return tuple(map(Flag.read, field.flags or ()))


def _from_body(fields: Mapping[str, msgspec.Raw]) -> RouterField | None:
    field = _read(lambda: _body.decode(fields["router"]), "router") if "router" in fields else None
    if "plugins" not in fields or (field and _objective(field) is not None):
        return field
    plugins = _read(lambda: _plugins.decode(fields["plugins"]), "plugins") or []
    # OpenRouter's clients send the dial as a plugin of the router `auto-router` or a version of it.
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
_READ_HEADERS = frozenset((*_HEADERS, *SESSION_HEADERS, DEBUG_HEADER))


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


_MARK = re.compile(rb"\[[Ff]")
"""Stands in every body that bears a flag."""


@dataclass(frozen=True, slots=True)
class ExtractedFlags:
    """A body without its flags, the hints that include them, and warnings for flags that are unknown.

    `short` are the messages of a large body without the middles of long strings.
    """

    fields: Fields
    hints: RoutingHints | None
    warnings: tuple[str, ...] = ()
    short: ShortJson | None = None


def extract_prompt_flags(
    fields: Fields, options: RoutingOptions, policy: Policy, grammar: WrappingGrammar
) -> ExtractedFlags:
    """Take the flags out of a chat's messages, and add those of its last user turn to the routing options.

    Goals in the routing options win over goals in the prompt; constraints of both hold.

    Raises:
        InvalidField: a flag of the options is unknown; one of the prompt, where the policy refuses it.
    """
    found: tuple[Flag, ...] = ()
    warnings: list[str] = []
    raw = fields.get("messages")
    short: ShortJson | None = None
    if raw is not None and len(memoryview(raw)) > INLINE_BYTES:
        short = shorten(raw, MESSAGE_LIMITS, "messages")
    # Most bodies hold no mark at all: a search in the raw bytes spares decoding the messages.
    if policy.in_band_flags and raw is not None and _MARK.search(short.data if short else raw):
        given_fields = fields
        fields, found, warnings = _strip_flags(fields, policy, grammar, short)
        short = short if fields is given_fields else None
    if not found and not options.flags:
        return ExtractedFlags(fields, options.hints, tuple(warnings), short)
    given = options.hints or RoutingHints()
    from_prompt = apply_flags(RoutingHints(objective=policy.objective), found)
    start = replace(given, objective=given.objective or policy.objective)
    from_options = _apply_option_flags(start, options.flags)
    has_own_goals = given.objective is not None or bool(options.flags)
    objective = from_options.objective if has_own_goals else from_prompt.objective
    require = tighten(from_options.require, from_prompt.require)
    hints = replace(from_options, require=require, objective=objective)
    return ExtractedFlags(fields, hints, tuple(warnings), short)


def _apply_option_flags(hints: RoutingHints, flags: tuple[Flag, ...]) -> RoutingHints:
    try:
        return apply_flags(hints, flags)
    except UnknownFlag as error:
        raise InvalidField(f"router.flags: {error}", param="router.flags") from None


MAX_EARLIER_TURNS = 50
"""So many turns before the last one lose the flags that were followed when they were sent."""


def _strip_flags(
    fields: Fields, policy: Policy, grammar: WrappingGrammar, short: ShortJson | None
) -> tuple[Fields, tuple[Flag, ...], list[str]]:
    """The body without flags, those of the last user turn that are followed, and complaints of the others.

    An unknown flag leaves its message unchanged: the text may not have been meant as a flag.
    """
    try:
        messages = decode_list(short.data if short else fields["messages"])
        users = _find_user_turns(messages)
        last = users[0]
        bearing = [n for n in users if n == last or _MARK.search(messages[n])]
        found = {n: _strip_message(messages[n], policy, grammar, short) for n in bearing}
    except (*BAD_JSON, IndexError):
        return fields, (), []  # `parse_chat_query` reports malformed messages, with their place
    good, complaints = check_flags(found[last].flags)
    where = f"messages[{last}].content"
    if complaints and policy.unknown_flags == "refuse":
        raise InvalidField(f"{where}: {complaints[0]}", param=where)
    if good and not complaints and found[last].content is None:
        raise InvalidField(f"{where}: nothing is left of the message without its flags", param=where)
    warnings = [*complaints, *found[last].warnings]
    left = {n: one.content for n, one in found.items() if one.flags and not check_flags({*one.flags})[1]}
    if not left:
        return fields, (), warnings
    if short is not None:
        messages = [short.restore(one) for one in messages]
    for n, content in left.items():
        if content is not None:
            messages[n] = Raw(encode({**decode_object(messages[n]), "content": content}))
    return {**fields, "messages": Raw(encode(messages))}, () if complaints else good, warnings


def _find_user_turns(messages: Sequence[Raw]) -> list[int]:
    """The places of the last turns of the user, backwards.

    Raises:
        DecodeError: a message is no object.
    """
    found: list[int] = []
    for n in range(len(messages) - 1, -1, -1):
        if decode_raw_message(messages[n]).role == "user":
            found.append(n)
            if len(found) > MAX_EARLIER_TURNS:
                break
    return found


@dataclass(frozen=True, slots=True)
class _StrippedContent:
    """Content without flags, None where nothing is left; its flags, and warnings of others."""

    content: Any
    flags: tuple[Flag, ...] = ()
    warnings: tuple[str, ...] = ()


PASTED_WARNING = (
    "a flag at the end of a text that looks pasted is not followed; put it at the beginning, or send it as "
    "router.flags (a policy's flags: {pasted: true} allows it)"
)


def _strip_message(
    message: Raw, policy: Policy, grammar: WrappingGrammar, short: ShortJson | None
) -> _StrippedContent:
    """The first text may begin with flags, the last end with them; a part with nothing else goes."""
    content = decode_raw_message(message).content
    value = decode_raw_content(content)
    parts: list[Raw] = []
    if isinstance(value, str):
        if short is not None and short.is_cut(content):
            return _StrippedContent(value)
        texts, places = [value], [0]
    else:
        parts = value or []
        places = [n for n, raw in enumerate(parts) if decode_raw_part(raw).type in TEXT_PARTS]
        # A text whose middle is not read cannot be written anew.
        if not places or (short is not None and any(short.is_cut(parts[n]) for n in places)):
            return _StrippedContent(value)
        texts = [decode_raw_part(parts[n]).text or "" for n in places]
    n_last = len(texts) - 1
    found = {n: extract_flags(texts[n], n == 0, n == n_last) for n in {0, n_last}}
    if not any(one.flags for one in found.values()) or not (question := grammar.join(texts).text):
        return _StrippedContent(value)
    warnings: tuple[str, ...] = ()
    if found[n_last].n_last and not policy.pasted_flags and not _counts_at_end(texts, question):
        warnings = (PASTED_WARNING,)
        found[n_last] = extract_flags(texts[n_last], n_last == 0, end=False)
    flags = tuple(flag for n in sorted(found) for flag in found[n].flags)
    if isinstance(value, str):
        return _StrippedContent(found[0].text or None, flags, warnings)
    left = {
        places[n]: Raw(encode({**decode_object(parts[places[n]]), "text": one.text})) if one.text else None
        for n, one in found.items()
        if one.flags
    }
    kept = [part if short is None else short.restore(part) for part in parts]
    return _StrippedContent(
        [part for n, raw in enumerate(kept) if (part := left.get(n, raw)) is not None] or None,
        flags,
        warnings,
    )


def _counts_at_end(texts: Sequence[str], question: str) -> bool:
    """Whether flags at the end were typed there: neither the message nor the request in it ends as pasted."""
    before = PARAGRAPH.join((*texts[:-1], extract_flags(texts[-1], start=False).text))
    if not looks_pasted(before):
        return True
    # A template has labels and material, too; what counts is the request in it.
    asked = extract_flags(question, start=False)
    return asked.n_last > 0 and not looks_pasted(asked.text)
