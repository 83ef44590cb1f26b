"""Flags in the last user message: taken out before anybody reads it, whether router or expert.

Those of earlier turns had their say then: they are taken out too, and not followed. Only a message that bears
a flag is written anew; everything else stays as it came.
"""

from dataclasses import dataclass, replace
from typing import Any

import msgspec
from msgspec import Raw

from policies import Flag, Policy, RoutingHints, UnknownFlag, apply_flags, check_flags, extract_flags, tighten

from ..errors import InvalidField
from ..openai.messages import (
    TEXT_PARTS,
    Fields,
    decode_list,
    decode_object,
    decode_raw_content,
    decode_raw_message,
    decode_raw_part,
    encode,
)
from .options import RoutingOptions
from .user_text import strip_noise

MARKS = (b"[F", b"[f")
"""One of these stands in every body that bears a flag."""


@dataclass(frozen=True, slots=True)
class ExtractedFlags:
    """What is asked of the router in all, the body without its flags, and what could not be followed."""

    fields: Fields
    hints: RoutingHints | None
    warnings: tuple[str, ...] = ()


def extract_prompt_flags(fields: Fields, asked: RoutingOptions, policy: Policy) -> ExtractedFlags:
    """The flags of a chat's last message and those beside it, added to what else is asked for.

    What the request says of its goals outside of its text wins over what the text says of them; constraints
    add up.

    Raises:
        InvalidField: a flag beside the text cannot be followed; one in the text, where the policy refuses it.
    """
    found: tuple[Flag, ...] = ()
    warnings: list[str] = []
    if policy.in_band_flags and "messages" in fields and _may_contain_flags(fields["messages"]):
        fields, found, warnings = _strip_flags(fields, policy)
    if not found and not asked.flags:
        return ExtractedFlags(fields, asked.hints, tuple(warnings))
    own = asked.hints or RoutingHints()
    inside = apply_flags(RoutingHints(objective=policy.objective), found)
    beside = _beside(replace(own, objective=own.objective or policy.objective), asked.flags)
    spoken = own.objective is not None or bool(asked.flags)
    objective = beside.objective if spoken else inside.objective
    hints = replace(beside, require=tighten(beside.require, inside.require), objective=objective)
    return ExtractedFlags(fields, hints, tuple(warnings))


def _beside(hints: RoutingHints, flags: tuple[Flag, ...]) -> RoutingHints:
    try:
        return apply_flags(hints, flags)
    except UnknownFlag as error:
        raise InvalidField(f"router.flags: {error}", param="router.flags") from None


def _may_contain_flags(messages: Raw) -> bool:
    text = bytes(messages)
    return any(mark in text for mark in MARKS)


def _strip_flags(fields: Fields, policy: Policy) -> tuple[Fields, tuple[Flag, ...], list[str]]:
    """The body without flags, those of the last message that are followed, and complaints of the others.

    Where one cannot be followed nothing is taken out of its message: whoever wrote it may have meant no flag.
    """
    try:
        messages = decode_list(fields["messages"])
        users = [n for n, raw in enumerate(messages) if decode_raw_message(raw).role == "user"]
        told = {n: decode_object(messages[n]) for n in users}
        taken = {n: _strip_content(message.get("content")) for n, message in told.items()}
        last = max(users)
    except (msgspec.MsgspecError, ValueError):
        return fields, (), []  # whoever reads the query says what is wrong
    left = {n: content for n, (content, flags) in taken.items() if flags and not check_flags(flags)[1]}
    good, complaints = check_flags(taken[last][1])
    where = f"messages[{last}].content"
    if complaints and policy.unknown_flags == "refuse":
        raise InvalidField(f"{where}: {complaints[0]}", param=where)
    if last in left and left[last] is None:
        raise InvalidField(f"{where}: nothing is left of the message without its flags", param=where)
    for n, content in left.items():
        if content is not None:
            messages[n] = Raw(encode({**told[n], "content": content}))
    changed = {**fields, "messages": Raw(encode(messages))} if left else fields
    return changed, () if complaints else good, complaints


def _strip_content(content: Raw | None) -> tuple[Any, tuple[Flag, ...]]:
    """Content without flags, None where nothing is left; and the flags."""
    value = decode_raw_content(content) if content is not None else None
    if isinstance(value, str):
        if not strip_noise(value):
            return value, ()
        taken = extract_flags(value)
        return taken.text or None, taken.flags
    return _strip_parts(value) if value else (value, ())


def _strip_parts(parts: list[Raw]) -> tuple[Any, tuple[Flag, ...]]:
    """The first text may begin with flags, the last end with them; a text with nothing else goes."""
    texts = [n for n, raw in enumerate(parts) if decode_raw_part(raw).type in TEXT_PARTS]
    left: dict[int, Raw | None] = {}
    flags: list[Flag] = []
    for n in dict.fromkeys((*texts[:1], *texts[-1:])):
        text = decode_raw_part(parts[n]).text or ""
        taken = extract_flags(text, start=n == texts[0], end=n == texts[-1]) if strip_noise(text) else None
        if taken is not None and taken.flags:
            flags += taken.flags
            left[n] = Raw(encode({**decode_object(parts[n]), "text": taken.text})) if taken.text else None
    kept = [part for n, raw in enumerate(parts) if (part := left.get(n, raw)) is not None]
    return kept or None, tuple(flags)
