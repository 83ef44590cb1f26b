"""Flags: short requests, `[Flag: Smallest model]` in a prompt or `flags` beside it, and their effects.

    flag ::= "[Flag: " name ( " = " value )? "]"          in any case

A flag in a text counts only at its very start or end, separated from the rest by white space, and outside
code and quotes: quoting a text must not apply its flags. Everywhere else it stays text.

Reference: Tryage (arXiv 2308.11601), whose flags these are; it gives neither grammar nor weights.
Differs: "smallest" and its like are lexicographic among the nearly best, not a weight without bound; weights
are of ranks, so that a flag means the same in every pool.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

from .errors import UnknownFlag
from .types import Goal, Objective, PriorityGoal, Require, RoutingHints, tighten

SOFT_WEIGHT = 0.1
"""What going from the worst to the best of the pool is worth, in quality, where a flag names no weight."""
WEIGHTS: Mapping[str, float] = {"low": 0.05, "medium": 0.1, "high": 0.3}


class Flag(NamedTuple):
    """A flag by name, in lower case with single spaces; its value as written, "" where there is none."""

    name: str
    value: str = ""

    @classmethod
    def of(cls, name: str, value: str = "") -> "Flag":
        return cls(" ".join(re.split(r"[\s_-]+", name.strip().lower())), value.strip())

    @classmethod
    def read(cls, written: str) -> "Flag":
        """From `name` or `name = value`."""
        name, _, value = written.partition("=")
        return cls.of(name, value)


@dataclass(frozen=True, slots=True)
class FlaggedText:
    """A text without its flags, and the flags from its two ends, in order."""

    text: str
    flags: tuple[Flag, ...]


_FLAG = r"\[flag:[ \t]*(\w[\w -]{0,39}?)[ \t]*(?:=[ \t]*([\w .%-]{1,40}?)[ \t]*)?\]"
_AT_START = re.compile(rf"\s*{_FLAG}(?=\s|\[flag:|\Z)", re.IGNORECASE)
_AT_END = re.compile(rf"(?:(?<=\s)|(?<=\])|\A){_FLAG}\s*\Z", re.IGNORECASE)
_FENCE = re.compile(r"^[ ]{0,3}(?:>[ ]?)*(```+|~~~+)", re.MULTILINE)
_INDENT = re.compile(r"[\r\n]*(?:[ ]{4}|[ ]{0,3}\t)")
_QUOTES = (("“", "”"), ("«", "»"))
MAX_FLAGS = 16
"""At an end of a text; what follows is text."""
MAX_CHARS = 200_000
"""A longer text has flags at its start only: to know whether its end is quoted, all of it must be read."""
_LONGEST = 120
"""No flag is longer."""


def extract_flags(text: str, start: bool = True, end: bool = True) -> FlaggedText:
    """The flags at the ends of a text, and the text without them; a text without flags comes back as it is.

    start, end: whether that end of the text is an end of the message.
    """
    if "[" not in text:
        return FlaggedText(text, ())
    first: list[Flag] = []
    last: list[Flag] = []
    rest = text
    while start and len(first) < MAX_FLAGS and not _is_indented(rest) and (found := _AT_START.match(rest)):
        first.append(Flag.of(found[1], found[2] or ""))
        rest = rest[found.end() :].lstrip()
    while end and len(last) < MAX_FLAGS and (found := _match_flag_at_end(rest)):
        last.insert(0, Flag.of(found[1], found[2] or ""))
        rest = rest[: found.start()].rstrip()
    return FlaggedText(rest, (*first, *last)) if first or last else FlaggedText(text, ())


def _match_flag_at_end(text: str) -> re.Match[str] | None:
    bare = len(text.rstrip())
    if text[bare - 1 : bare] != "]" or bare > MAX_CHARS:
        return None
    found = _AT_END.search(text, bare - _LONGEST, bare)
    return None if found is None or _is_in_code_or_quote(text[: found.start()]) else found


def _is_in_code_or_quote(before: str) -> bool:
    """Whether what follows this text stands in code or in a quotation."""
    # CommonMark 0.31: block quotes (5.1), indented code (4.4), code spans (6.1): an odd backtick opens one.
    line = before[before.rfind("\n") + 1 :]
    if line.lstrip(" ").startswith(">") or _is_indented(line) or line.count("`") % 2:
        return True
    return _is_in_fence(before) or _is_in_quotes(before)


def _is_indented(text: str) -> bool:
    """Whether it begins as a line of code does."""
    return _INDENT.match(text) is not None


def _is_in_fence(text: str) -> bool:
    """Whether a fence is open at the end: it closes by one of its own kind, at least as long."""
    # CommonMark 0.31, 4.5: a closing fence has the character and at least the length of the opening one.
    fence = ""
    for mark in _FENCE.findall(text):
        if not fence:
            fence = mark
        elif mark.startswith(fence):  # a mark is one character, repeated
            fence = ""
    return bool(fence)


def _is_in_quotes(text: str) -> bool:
    """Whether a quotation is open at the end; straight quotes count within the paragraph."""
    paragraph = text[text.rfind("\n\n") + 1 :]
    if paragraph.count('"') % 2:
        return True
    return any(text.rfind(opening) > text.rfind(closing) for opening, closing in _QUOTES)


FlagEffect = Callable[[RoutingHints, str], RoutingHints]
"""Applies a flag with this value to hints; raises ValueError, in one line, for an invalid value."""


def apply_flags(hints: RoutingHints, flags: Sequence[Flag]) -> RoutingHints:
    """The hints with the flags applied; the flags add to `hints.objective`.

    Raises:
        UnknownFlag: there is no such flag, or it does not take that value.
    """
    for flag in flags:
        if flag.name not in FLAGS:
            raise UnknownFlag(flag.name, f"there is no flag '{flag.name}'; there are: {', '.join(FLAGS)}")
        try:
            hints = FLAGS[flag.name](hints, flag.value)
        except ValueError as error:
            raise UnknownFlag(flag.name, f"the flag '{flag.name}' {error}") from None
    return hints


def check_flags(flags: Sequence[Flag]) -> tuple[tuple[Flag, ...], list[str]]:
    """The valid flags, and for each invalid one the reason."""
    valid: list[Flag] = []
    complaints: list[str] = []
    for flag in flags:
        try:
            apply_flags(RoutingHints(), [flag])
        except UnknownFlag as error:
            complaints.append(str(error))
        else:
            valid.append(flag)
    return tuple(valid), complaints


def _set_priority(goal: PriorityGoal, hints: RoutingHints, value: str) -> RoutingHints:
    """Put this goal before all weights, among experts within a distance of the best."""
    objective = hints.objective or Objective()
    within = (
        _parse_number(value, "how far from the best quality is near enough") if value else objective.within
    )
    first = (*(other for other in objective.first if other != goal), goal)
    return replace(hints, objective=replace(objective, first=first, within=within))


def _clear_objective(hints: RoutingHints, value: str) -> RoutingHints:
    """Rank by quality only."""
    if value:
        raise ValueError("takes no value")
    return replace(hints, objective=Objective())


def _set_weight(goal: str, hints: RoutingHints, value: str) -> RoutingHints:
    """Put a weight on cost or latency."""
    weight = _parse_weight(value)
    objective = hints.objective or Objective()
    if goal == "latency":
        return replace(hints, objective=replace(objective, latency=weight))
    # A weight on cost replaces targets: both set the same λ.
    changed = replace(objective, cost=weight, max_usd_per_1k=None, target_quality=None)
    return replace(hints, objective=changed)


def _set_goal(goal: Goal, hints: RoutingHints, value: str) -> RoutingHints:
    """Put a weight on a goal measured by rank."""
    objective = hints.objective or Objective()
    goals = (*(item for item in objective.goals if item[0] != goal), (goal, _parse_weight(value)))
    return replace(hints, objective=replace(objective, goals=goals))


def _set_security(hints: RoutingHints, value: str) -> RoutingHints:
    """Put a weight on the operator's rating; a word that is not a weight is a label the expert must have."""
    if not value or value.lower() in WEIGHTS or _is_number(value):
        return _set_goal("security", hints, value)
    label = Require(labels=frozenset({("security", value)}))
    return replace(hints, require=tighten(hints.require, label))


def _set_verbosity(hints: RoutingHints, value: str) -> RoutingHints:
    """Ask for a short answer, or with `high` for a long one."""
    if value.lower() not in ("", "low", "high"):
        raise ValueError("takes low or high")
    return _set_goal("detail" if value.lower() == "high" else "brevity", hints, "")


def _parse_weight(value: str) -> float:
    if value.lower() in WEIGHTS:
        return WEIGHTS[value.lower()]
    return _parse_number(value, f"a weight, or {', '.join(WEIGHTS)}") if value else SOFT_WEIGHT


def _parse_number(value: str, what: str) -> float:
    if not _is_number(value) or float(value) > 1:
        raise ValueError(f"takes a number from 0 to 1: {what}")
    return float(value)


def _is_number(value: str) -> bool:
    return re.fullmatch(r"\d{0,9}\.?\d{1,9}", value) is not None


FLAGS: Mapping[str, FlagEffect] = {
    "smallest model": partial(_set_priority, "smallest"),
    "smallest": partial(_set_priority, "smallest"),
    "latest model": partial(_set_priority, "latest"),
    "latest": partial(_set_priority, "latest"),
    "cheapest": partial(_set_priority, "cheapest"),
    "fastest": partial(_set_priority, "fastest"),
    "best": _clear_objective,
    "cost": partial(_set_weight, "cost"),
    "latency": partial(_set_weight, "latency"),
    "size": partial(_set_goal, "size"),
    "recency": partial(_set_goal, "recency"),
    "security": _set_security,
    "readability": partial(_set_goal, "readability"),
    "verbosity": _set_verbosity,
    "concise": partial(_set_goal, "brevity"),
    "detailed": partial(_set_goal, "detail"),
}
"""Every flag by name."""
