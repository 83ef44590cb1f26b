"""Flags: short requests, `[Flag: Smallest model]` in a prompt or `flags` beside it, and their effects.

    flag ::= "[Flag: " name ( " = " value )? "]"          in any case

A flag in a text counts only at its very start or end, separated from the rest by white space, and outside
code and quotes: quoting a text must not apply its flags. Everywhere else it stays text.

Reference: Tryage (arXiv 2308.11601), whose flags these are; it gives neither grammar nor weights.
Differs: "smallest" and its like are lexicographic among the nearly best, not a weight without bound; weights
are of ranks, so that a flag means the same in every pool.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
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
    """A text without its flags, and the flags from its two ends, in order; `n_last` of them are its end's."""

    text: str
    flags: tuple[Flag, ...]
    n_last: int = 0


_FLAG = r"\[flag:[ \t]*(\w[\w -]{0,39}?)[ \t]*(?:=[ \t]*([\w .%-]{1,40}?)[ \t]*)?\]"
_AT_START = re.compile(rf"\s*{_FLAG}(?=\s|\[flag:|\Z)", re.IGNORECASE)
_AT_END = re.compile(rf"(?:(?<=\s)|(?<=\])|\A){_FLAG}\s*\Z", re.IGNORECASE)
_FENCE = re.compile(r"^[ ]{0,3}(?:>[ ]?)*(```+|~~~+)", re.MULTILINE)
_INDENT = re.compile(r"[\r\n]*(?:[ ]{4}|[ ]{0,3}\t)")
_QUOTES: tuple[tuple[str, str], ...] = (("“", "”"), ("«", "»"), ("‹", "›"), ("「", "」"), ("『", "』"))
_QUOTING_TAGS = ("blockquote", "q", "pre", "code")
MAX_FLAGS = 16
"""At an end of a text; what follows is text."""
MAX_CHARS = 200_000
"""A longer text has flags at its start only: to know whether its end is quoted, all of it must be read."""
_LONGEST = 120
"""No flag is longer."""
_END_CHARS = MAX_FLAGS * 2 * _LONGEST
"""Flags and the white space between them are looked for in so much of a text's end."""


def extract_flags(text: str, start: bool = True, end: bool = True) -> FlaggedText:
    """The flags at the ends of a text, and the text without them; a text without flags comes back as it is.

    The text is read once, however many flags it has. start, end: whether that end of the text is an end of
    the message.
    """
    if "[" not in text:
        return FlaggedText(text, ())
    first: list[Flag] = []
    place = 0
    if start and not _is_indented(text):
        while len(first) < MAX_FLAGS and (found := _AT_START.match(text, place)):
            first.append(Flag.of(found[1], found[2] or ""))
            place = found.end()
    rest = text[place:].lstrip() if first else text
    last: list[Flag] = []
    for found in reversed(_match_flags_at_end(rest)) if end else ():
        last.insert(0, Flag.of(found[1], found[2] or ""))
        place = found.start()
    if last:
        rest = rest[:place].rstrip()
    return FlaggedText(rest, (*first, *last), len(last)) if first or last else FlaggedText(text, ())


def _match_flags_at_end(text: str) -> list[re.Match[str]]:
    """The flags that end a text, in order, as far as they stand neither in code nor in a quotation."""
    stop = len(text.rstrip())
    if text[stop - 1 : stop] != "]" or stop > MAX_CHARS:
        return []
    lowest = max(0, stop - _END_CHARS)
    found: list[re.Match[str]] = []
    while len(found) < MAX_FLAGS and text[stop - 1 : stop] == "]":
        flag = _AT_END.search(text, max(lowest, stop - _LONGEST), stop)
        if flag is None:
            break
        found.insert(0, flag)
        stop = flag.start()
        while stop > lowest and text[stop - 1].isspace():
            stop -= 1
    if not found:
        return []
    # Between the flags stands only white space: what is before the first of them tells of them all.
    before = text[: found[0].start()]
    if _is_in_fence(before) or _is_in_quotation(before):
        return []
    line, paragraph = before[before.rfind("\n") + 1 :], before[before.rfind("\n\n") + 1 :]
    is_code, is_quoted = _is_code_line(line), paragraph.count('"') % 2 == 1
    free: list[re.Match[str]] = []
    for flag in found:
        between = text[len(before) : flag.start()]
        if (end := between.rfind("\n")) >= 0:
            is_code = _is_code_line(between[end + 1 :])
            is_quoted = is_quoted and "\n\n" not in between
        free = [] if is_code or is_quoted else [*free, flag]
    return free


def _is_code_line(line: str) -> bool:
    """Whether what follows this beginning of a line stands in code or in a block quote."""
    # CommonMark 0.31: block quotes (5.1), indented code (4.4), code spans (6.1): an odd backtick opens one.
    return line.lstrip(" ").startswith(">") or _is_indented(line) or line.count("`") % 2 == 1


def _is_indented(text: str) -> bool:
    """Whether it begins as a line of code does."""
    return _INDENT.match(text) is not None


def _is_in_fence(text: str) -> bool:
    """Whether a fence is open at the end: it closes by one of its own kind, at least as long."""
    # CommonMark 0.31, 4.5: a closing fence has the character and at least the length of the opening one.
    fence = ""
    if "```" in text or "~~~" in text:
        for mark in _FENCE.findall(text):
            if not fence:
                fence = mark
            elif mark.startswith(fence):  # a mark is one character, repeated
                fence = ""
    return bool(fence)


def _is_in_quotation(text: str) -> bool:
    """Whether a quotation by two different signs, or an element that quotes, is open at the end."""
    if "„" in text:  # „so“ in German, Czech, Polish …: there “ closes
        pairs = _QUOTES[1:]
        if text.rfind("„") > max(text.rfind("“"), text.rfind("”")):
            return True
    else:
        pairs = _QUOTES
    if any(text.rfind(opening) > text.rfind(closing) for opening, closing in pairs):
        return True
    lowered = text.lower() if "<" in text else ""
    return any(lowered.rfind(f"<{tag}>") > lowered.rfind(f"</{tag}>") for tag in _QUOTING_TAGS)


MAX_TYPED_CHARS = 4000
"""A longer text has pasted text in it: few people type a page and a half into a prompt."""
_LETTER = re.compile(
    r"^[ \t]*(?:-{2,}[ ]?(?:original message|forwarded message)|begin forwarded message"
    r"|(?:from|sent|to|date|subject|cc|von|gesendet|an|datum|betreff|de|objet|asunto|para):[ \t]\S.*\n"
    r"(?:from|sent|to|date|subject|cc|von|gesendet|an|datum|betreff|de|objet|asunto|para):[ \t]\S)",
    re.MULTILINE | re.IGNORECASE,
)
_INTRODUCTION = re.compile(r"[:：][ \t*_]*\n\s*\S")
_RULE = re.compile(r"^[ \t]*(?:-{3,}|={3,}|\*{3,}|_{3,}|#{3,}|<{3,}|>{3,})[ \t]*$", re.MULTILINE)
_TAG_LINE = re.compile(r"^[ \t]*<([A-Za-z][\w-]{0,40})(?:[ ][^<>\n]{0,200})?>", re.MULTILINE)
_CLOSED_FENCE = re.compile(
    r"(?:[:：][ \t*_]*\n[ \t\r\n]*)?^[ ]{0,3}(`{3,}+|~{3,}+).*?\n[ ]{0,3}\1", re.MULTILINE | re.DOTALL
)
"""With the colon that leads to it."""


def looks_pasted(text: str) -> bool:
    """Whether the end of a text looks as if another text had been put there.

    It does where the text is long, or where what comes last was introduced: by a colon at a line's end, a
    rule, a letter's head, an element or quotes that are never closed, or a paragraph that begins as a quote.
    What stands in a closed fence is over.
    """
    if len(text) > MAX_TYPED_CHARS:
        return True
    rest = _CLOSED_FENCE.sub("", text) if "```" in text or "~~~" in text else text
    paragraph = rest[rest.rfind("\n\n") + 1 :].lstrip()
    return (
        paragraph.startswith(">")
        or rest.count('"""') % 2 == 1
        or rest.count("'''") % 2 == 1
        or _INTRODUCTION.search(rest) is not None
        or len(_RULE.findall(rest)) % 2 == 1
        or _LETTER.search(rest) is not None
        or any(f"</{name}" not in rest for name in _TAG_LINE.findall(rest))
    )


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


def check_flags(flags: Iterable[Flag]) -> tuple[tuple[Flag, ...], list[str]]:
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
