"""A user's turn without what programs wrap around it: reminders, environment, files, templates, summaries.

Wrappings are recognised as a grammar, not by a list of programs: elements with tags of any case, with
attributes, nested or never closed, and templates with headings or labels. The lists of names are in
`wrappings.toml`; the key `routing.wrappings` adds to them.

What users mark up themselves stays: HTML, code, XML that the text around it speaks of. An element is dropped
only where a request remains. Every step is linear in the length of the text.
"""

import re
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files
from typing import Literal

import msgspec

from ..config import Config

Kind = Literal["request", "request_or_text", "context", "instructions", "material", "unknown", "text"]

MAX_CHARS = 200_000
"""Of a longer turn the middle is not read."""
MAX_DEPTH = 4
"""How deep wrappings inside of wrappings are opened."""
PARAGRAPH = "\n\n"

_TOKEN = re.compile(
    r"^[ \t]*+(?P<fence>```|~~~)"
    r"|<(?P<end>/?)(?P<name>[A-Za-z][\w.:-]{0,63})(?P<rest>(?:\s[^<>]{0,400})?/?)>"
    r"|^\[(?P<end2>/?)(?P<name2>[A-Za-z][\w -]{1,40})\][ \t]*$"
    r"|^[ \t]*+[-=#*~<>+]{2,12}[ \t]*+(?P<word>BEGIN|START|END)(?:[ \t]OF)?[ \t:]"
    r"(?P<name3>[A-Za-z][A-Za-z_ -]{1,40})[-=#*~<>+ \t]*$",
    re.MULTILINE,
)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_NOT_WORD = re.compile(r"[\W_]+")
_WORD = re.compile(r"\w")
_NAMES = re.compile(r"[\w-]+")
_MEANT = re.compile(r"\b(?:following|above|below|these|this|attached|provided|given) (\w+)")
_MARKUP_WORDS = re.compile(r"\b(?:xml|html|markup|tags?|jsx|xpath|xslt|dom)\b", re.IGNORECASE)
_NOTE = re.compile(r"^[ \t]*+\[(?![ \t]*flag)([^\[\]\n]{3,300})\][ \t]*$", re.MULTILINE | re.IGNORECASE)
_HOOK = re.compile(r"^[ \t]*+[\w.:-]{0,40} ?hook\b[\w .()-]{0,60}:.*$", re.MULTILINE | re.IGNORECASE)
_HEADING = re.compile(r"^[ \t]*+#{1,6}[ \t]+(.{1,120})$", re.MULTILINE)
_FILE_FENCE = re.compile(
    r"^```[ \t]*(?:[\w+#-]+[ \t]+)?[\w.@~-]*/?[\w./@~-]*\.\w{1,8}(?:[ \t(:#].{0,60})?$", re.MULTILINE
)
_PART = re.compile(r"```|#{1,6} |[-*] |\d{1,2}\. |Analysis:|Summary:|[\w./-]+\n```|<")
_TOOL_OUTPUT = re.compile(
    r"\[[\w-]{1,60}(?: for '[^\n]{0,300}')?\] Result:|EXECUTION RESULT of \[|OBSERVATION:\n"
)


class Opening(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"start": "from"}):
    """The first words of a paragraph that a program writes, and how far it goes."""

    start: str
    to: str = ""
    parts: bool = False
    line: bool = False
    instructions: bool = False


class Templates(msgspec.Struct, frozen=True):
    """The labels of prompt templates, in lower case."""

    begin: tuple[str, ...]
    request: tuple[str, ...]
    own_request: tuple[str, ...]
    end: tuple[str, ...]


class Markup(msgspec.Struct, frozen=True):
    """Names of elements that are never a wrapping."""

    names: frozenset[str]


class WrappingLists(msgspec.Struct, frozen=True):
    """The data file: names and phrases by what they stand for."""

    request: frozenset[str]
    request_or_text: frozenset[str]
    context: frozenset[str]
    instructions: frozenset[str]
    material: frozenset[str]
    context_words: frozenset[str]
    instruction_words: frozenset[str]
    request_words: frozenset[str]
    neutral_words: frozenset[str]
    notes: tuple[str, ...]
    openings: tuple[Opening, ...]
    templates: Templates
    markup: Markup


@dataclass(frozen=True, slots=True)
class CleanText:
    """A turn without wrappings; `asks_more` where what was dropped tells how to answer."""

    text: str
    asks_more: bool = False


@dataclass(slots=True)
class _Element:
    """An element of the turn: text[start:end], its content text[inner:inner_end]."""

    name: str
    kind: Kind
    start: int
    inner: int
    inner_end: int = -1
    end: int = -1
    listed: bool = False
    children: list["_Element"] = field(default_factory=list)


@lru_cache(maxsize=1)
def read_lists() -> WrappingLists:
    """The lists of the data file in this package."""
    text = files(__package__).joinpath("wrappings.toml").read_text(encoding="utf-8")
    return msgspec.convert(tomllib.loads(text), WrappingLists)


class WrappingGrammar:
    """Takes wrappings off the turns of users."""

    def __init__(
        self,
        request: Iterable[str] = (),
        context: Iterable[str] = (),
        instructions: Iterable[str] = (),
        openings: Iterable[str] = (),
    ) -> None:
        """Args: names of elements, and openings of paragraphs, that are added to the bundled lists."""
        own = read_lists()
        self._added: dict[str, Kind] = {}
        for kind, names in (("request", request), ("context", context), ("instructions", instructions)):
            self._added |= dict.fromkeys(map(normalize_name, names), kind)  # type: ignore[arg-type]
        self._lists = own
        self._openings = {
            opening.start.lower(): opening for opening in (*own.openings, *map(Opening, openings))
        }
        labels = own.templates
        starts = (*self._openings, *(begin.rstrip(":") for begin in labels.begin), *labels.own_request)
        # Possessive: lines of blanks or rules are passed once.
        self._marks = re.compile(
            rf"[<\[]|^[ \t]*+(?:```|[-=#*~]{{2}})|^[#*=~ \t-]{{0,40}}+(?:{_either(starts)})|\bhook\b",
            re.MULTILINE | re.IGNORECASE,
        )
        begins = "|".join(_begin_pattern(begin) for begin in labels.begin)
        self._begin = re.compile(rf"\s*+[#*=~ \t-]{{0,40}}+(?:{begins})", re.IGNORECASE | re.MULTILINE)
        self._label = _label_pattern(labels.request)
        self._own_label = _label_pattern(labels.own_request)
        self._end = re.compile(rf"\n[ \t]*(?:{_either(labels.end)})[ \t]*$", re.IGNORECASE)
        self._opening = re.compile(rf"[ \t]*({_either(self._openings)})", re.IGNORECASE)
        self._note = re.compile(_either(own.notes), re.IGNORECASE)

    def clean(self, text: str) -> CleanText:
        """The request in a turn: empty where all of it is wrapping, the turn itself where nothing is."""
        # Some agents send a tool's output as a user turn of its own: no part of it is a person's request.
        if _TOOL_OUTPUT.match(text):
            return CleanText("")
        if len(text) <= MAX_CHARS:
            return self._clean(text, MAX_DEPTH)
        half = MAX_CHARS // 2
        ends = f"{text[:half]}\n{text[-half:]}"
        found = self._clean(ends, MAX_DEPTH)
        return CleanText(text, found.asks_more) if found.text == ends else found

    def join(self, parts: Sequence[str]) -> CleanText:
        """The request in a turn of several texts: a wrapping that is never closed ends with its text."""
        if len(parts) == 1:
            return self.clean(parts[0])
        kept = [part for part in parts if not _TOOL_OUTPUT.match(part)]
        whole = PARAGRAPH.join(kept)
        found = self.clean(whole)
        return CleanText("\n".join(kept), found.asks_more) if found.text == whole else found

    def _clean(self, text: str, depth: int) -> CleanText:
        if not depth or not self._marks.search(text):
            return CleanText(text)
        elements = self._find_elements(text) if "<" in text or "[" in text or "BEGIN" in text else []
        requests = [element for element in elements if element.kind == "request"]
        if requests and (inside := self._open(text, requests, depth)).text:
            around = self._clean_lines(_without(text, elements))
            asks = inside.asks_more or around.asks_more or _has_word(around.text)
            return CleanText(inside.text, asks or any(e.kind == "instructions" for e in elements))
        dropped = self._choose_dropped(text, elements)
        asks = any(element.kind == "instructions" for element in dropped)
        material = [element for element in elements if element.kind == "material"]
        maybe = [element for element in elements if element.kind == "request_or_text"]
        if maybe:
            outside = self._clean_lines(_without(text, [*dropped, *material, *maybe]))
            is_template = bool(material) or bool(self._begin.match(text))
            if (not _has_word(outside.text) or is_template) and (
                inside := self._open(text, maybe, depth)
            ).text:
                return CleanText(inside.text, asks or is_template or inside.asks_more)
        if not dropped:
            return self._clean_lines(text)
        rest = _without(text, dropped, with_headings=True)
        prose = _without(text, elements, with_headings=True)
        # "Convert this to JSON:" leads to the element: it is what the user asks about.
        if prose.endswith(":") and "\n" not in prose and _is_introduced(text, dropped[0]):
            return CleanText(text)
        if _has_word(prose):
            left = self._clean_lines(rest)
            return CleanText(left.text, left.asks_more or asks)
        # Nothing else is said: a wrapping that is listed is no request, another may be one.
        is_noise = len(dropped) == len(elements) and any(element.listed for element in dropped)
        return CleanText("", asks) if is_noise else CleanText(text)

    def _open(self, text: str, elements: Sequence[_Element], depth: int) -> CleanText:
        """What is in these elements, cleaned in turn."""
        inside = [self._clean(text[e.inner : e.inner_end].strip(), depth - 1) for e in elements]
        texts = [one.text for one in inside if _has_word(one.text)]
        return CleanText(PARAGRAPH.join(texts), any(one.asks_more for one in inside))

    def _find_elements(self, text: str) -> list[_Element]:
        """The outermost elements, in order; fenced code and markup are looked over, not into."""
        matched, unclosed = self._match_tags(text)
        found: list[_Element] = []
        end = 0
        for element in sorted((*matched, *unclosed), key=lambda e: (e.start, -e.end)):
            if element.start < end:
                continue
            if element.kind == "text":
                # Markup around all of the turn may hold a wrapping; inside other markup nothing is one.
                if element.start > len(text) - len(text.lstrip()) or element.end < len(text.rstrip()):
                    end = element.end
                    found.append(element)
                continue
            found.append(element)
            end = element.end
        return found

    def _match_tags(self, text: str) -> tuple[list[_Element], list[_Element]]:
        """Elements with both tags, and those that are never closed as far as they count as wrappings."""
        matched: list[_Element] = []
        stacks: dict[str, list[_Element]] = {}
        fence: int | None = None
        for token in _TOKEN.finditer(text):
            start, end = token.span()
            if token["fence"]:
                if fence is None:
                    fence = end
                else:
                    line_end = text.find("\n", end)
                    stop = end if line_end < 0 else line_end
                    matched.append(_Element("```", "text", fence - 3, fence, start, stop))
                    fence = None
                continue
            if start and text[start - 1] == "`":
                continue
            raw, closes = _read_tag(token)
            name = normalize_name(raw)
            stack = stacks.setdefault(name, [])
            if closes:
                if stack:
                    element = stack.pop()
                    element.inner_end, element.end = start, end
                    matched.append(element)
                continue
            kind, listed = self._classify(raw, name)
            if kind == "unknown" and not _starts_line(text, start):
                kind = "text"
            # `List<UserInfo>` is code.
            if not listed and start and (text[start - 1].isalnum() or text[start - 1] == "_"):
                continue
            element = _Element(name, kind, start, end, listed=listed)
            if token["rest"] and token["rest"].endswith("/"):
                element.inner_end = element.end = end
                matched.append(element)
            else:
                stack.append(element)
        for element in matched:
            if element.kind == "unknown" and not _ends_line(text, element.end):
                element.kind = "text"
        left = [element for stack in stacks.values() for element in stack if element.kind != "text"]
        return matched, list(_close_open_elements(text, sorted(left, key=lambda e: e.start)))

    def _classify(self, raw: str, name: str) -> tuple[Kind, bool]:
        """What an element of this name is, and whether the name itself is in a list."""
        lists = self._lists
        if name in self._added:
            return self._added[name], True
        if name in lists.markup.names:
            return "text", False
        for kind, names in (
            ("request", lists.request),
            ("context", lists.context),
            ("instructions", lists.instructions),
            ("request_or_text", lists.request_or_text),
            ("material", lists.material),
        ):
            if name in names:
                return kind, True  # type: ignore[return-value]
        words = name.split("-")
        # `<UserStatus>` is a component of a page, `<userStatus>` and `<user_status>` may be a wrapping.
        if len(words) < 2 or (raw[0].isupper() and not raw.isupper()):
            return "text", False
        if lists.instruction_words.intersection(words):
            return "instructions", False
        if lists.context_words.intersection(words):
            return "context", False
        if lists.request_words.intersection(words) and lists.request_or_text.intersection(words):
            return "request", False
        return ("unknown" if "_" in raw or "-" in raw else "text"), False

    def _choose_dropped(self, text: str, elements: Sequence[_Element]) -> list[_Element]:
        """The elements that are wrappings, as far as the text around them does not speak of them."""
        may = [e for e in elements if e.kind in ("context", "instructions", "unknown")]
        if not may:
            return []
        around = _Surroundings(_without(text, may).lower())
        return [e for e in may if not around.mention(e, "</" in text[e.inner : e.inner_end])]

    def _clean_lines(self, text: str) -> CleanText:
        """The text without templates, paragraphs and lines that programs write."""
        found = self._take_template(text)
        kept, asks = found.text, found.asks_more
        for drop in (self._drop_paragraphs, self._drop_lines, _drop_file_fences):
            left = drop(kept)
            asks |= left.asks_more
            kept = left.text
        return CleanText(kept if kept == text else kept.strip(), asks)

    def _take_template(self, text: str) -> CleanText:
        """The request of a template: what follows its label."""
        own = self._own_label.search(text)
        if own and (
            own[0].lstrip().startswith("#")
            or not text[: own.start()].strip()
            or _HEADING.match(text.lstrip())
            or self._begin.match(text)
        ):
            return CleanText(self._cut_end(text[own.end() :]) or text, bool(self._begin.match(text)))
        begin = self._begin.match(text)
        if not begin:
            return CleanText(text)
        labels = list(self._label.finditer(text, begin.end()))
        if not labels:
            return CleanText(text)
        # A history has the same labels as the request, which comes last; other templates have one.
        label = (
            labels[-1] if "history" in begin[0].lower() or "conversation" in begin[0].lower() else labels[0]
        )
        request = self._cut_end(text[label.end() :])
        return CleanText(request, True) if _has_word(request) else CleanText(text)

    def _cut_end(self, text: str) -> str:
        """A request without the lines of its template that follow."""
        for heading in _HEADING.finditer(text):
            words = frozenset(normalize_name(heading[1]).split("-"))
            if heading.start() and words & (self._lists.context_words | self._lists.instruction_words):
                text = text[: heading.start()]
                break
        return self._end.sub("", text.rstrip()).strip()

    def _drop_paragraphs(self, text: str) -> CleanText:
        """The text without paragraphs that begin as a program's do."""
        if not self._opening.search(text):
            return CleanText(text)
        kept: list[str] = []
        asks = in_parts = False
        paragraphs = text.split(PARAGRAPH)
        place = 0
        for n, paragraph in enumerate(paragraphs):
            start, place = place, place + len(paragraph) + len(PARAGRAPH)
            if start < 0:
                continue
            found = self._opening.match(paragraph.lstrip("\n"))
            opening = self._openings[found[1].lower()] if found else None
            if opening is not None and opening.line:
                first, _, more = paragraph.strip().partition("\n")
                opening, paragraph = (None, more) if len(first) <= 120 else (None, paragraph)
                if not paragraph:
                    continue
            if opening is not None:
                asks |= opening.instructions
                if opening.to and (stop := text.rfind(opening.to)) >= start:
                    tail = text[stop + len(opening.to) :].strip()
                    return CleanText(PARAGRAPH.join([*kept, tail]).strip(), asks)
                in_parts = opening.parts
                continue
            if in_parts and n < len(paragraphs) - 1 and _PART.match(paragraph.lstrip("\n")):
                continue
            in_parts = False
            kept.append(paragraph)
        return CleanText(PARAGRAPH.join(kept), asks)

    def _drop_lines(self, text: str) -> CleanText:
        """The text without notes in brackets and lines of hooks, where something is left."""

        def note(found: re.Match[str]) -> str:
            return "" if self._note.search(found[1]) else found[0]

        left = _NOTE.sub(note, text) if "[" in text else text
        if "hook" in left.lower():
            left = _HOOK.sub("", left)
        return CleanText(left.strip() if left != text else text)


def build_grammar(config: Config) -> WrappingGrammar:
    """The grammar with what a configuration adds to its lists."""
    added = config.routing.wrappings
    return WrappingGrammar(added.request, added.context, added.instructions, added.openings)


def normalize_name(raw: str) -> str:
    """A name in lower case, "-" between its words: `userQuery`, `USER_QUERY`, `user query` → `user-query`."""
    name = raw if raw.isupper() else _CAMEL.sub("-", raw)
    return _NOT_WORD.sub("-", name).strip("-").lower()


def _either(phrases: Iterable[str]) -> str:
    """A pattern for any of the phrases, longer ones first."""
    return "|".join(map(re.escape, sorted(phrases, key=len, reverse=True)))


def _begin_pattern(phrase: str) -> str:
    """A pattern for the beginning of a template; a label may stand as a heading without its colon."""
    return rf"{re.escape(phrase[:-1])}[ \t]*(?::|$)" if phrase.endswith(":") else re.escape(phrase)


def _label_pattern(names: Iterable[str]) -> re.Pattern[str]:
    """A line that is a heading of one of the names, or begins with one and a colon."""
    one = f"(?:{_either(names)})"
    return re.compile(
        rf"^[ \t]*+(?:#{{1,6}}[ \t]*{one}[ \t]*:?[ \t]*$|[=-]{{2,12}}[ \t]*{one}[ \t]*[=-]{{2,12}}[ \t]*$"
        rf"|(?:#{{1,6}}[ \t]*)?\*{{0,2}}{one}[ \t]*(?::\*{{0,2}}|\*\*:?)[ \t]*)",
        re.MULTILINE | re.IGNORECASE,
    )


def _read_tag(token: re.Match[str]) -> tuple[str, bool]:
    """The name of a tag or of a line that stands for one, and whether it closes."""
    if name := token["name"]:
        rest = (token["rest"] or "").strip("/ \t\n")
        # `<permissions instructions>`: a name of two words; attributes have values.
        raw = f"{name}_{rest}" if rest and rest.replace(" ", "").isalpha() and len(rest) < 40 else name
        return raw, bool(token["end"])
    if name := token["name2"]:
        return name.replace(" ", "_"), bool(token["end2"])
    return token["name3"].strip(" -").replace(" ", "_"), token["word"] == "END"


def _close_open_elements(text: str, elements: Sequence[_Element]) -> Iterator[_Element]:
    """Where elements without a closing tag end: at the next blank line, or with the text they follow."""
    lead = len(text) - len(text.lstrip())
    end = 0
    for element in elements:
        # In the middle of a line it is the user's own words: "What does <system-reminder> mean?"
        if (
            element.start < end
            or element.kind in ("unknown", "material", "request_or_text")
            or not _starts_line(text, element.start)
        ):
            continue
        end = len(text)
        if element.kind != "request" and element.start <= lead:
            end = text.find(PARAGRAPH, element.inner)
            if end < 0:
                end = element.inner
                continue
        element.inner_end = element.end = end
        yield element


def _starts_line(text: str, place: int) -> bool:
    line = text[text.rfind("\n", max(0, place - 80), place) + 1 : place] if place else ""
    # What stands between two elements of one line is no word.
    return not line.strip() or line.rstrip().endswith(">")


def _ends_line(text: str, place: int) -> bool:
    after = text[place : place + 80].split("\n", 1)[0].strip()
    return not after or after.startswith("<")


def _has_word(text: str) -> bool:
    return _WORD.search(text) is not None


def _without(text: str, elements: Sequence[_Element], with_headings: bool = False) -> str:
    """The text outside of the elements; a heading right above one goes with it."""
    if not elements:
        return text
    kept: list[str] = []
    end = 0
    for element in sorted(elements, key=lambda e: e.start):
        if element.start < end:
            continue
        before = text[end : element.start]
        if with_headings:
            before = _without_last_heading(before)
        kept.append(before)
        end = element.end
    kept.append(text[end:])
    return "".join(kept).strip()


def _without_last_heading(text: str) -> str:
    body = text.rstrip()
    line = body[body.rfind("\n") + 1 :]
    return body[: len(body) - len(line)] if line.startswith("#") and len(line) <= 200 else text


def _is_introduced(text: str, element: _Element) -> bool:
    """Whether the words right before the element lead to it: "Convert this:"."""
    before = text[: element.start].rstrip()
    return before.endswith(":") and not before.rsplit("\n", 1)[-1].startswith("#")


class _Surroundings:
    """The text around elements, in lower case, and what it speaks of."""

    def __init__(self, text: str) -> None:
        self._words = frozenset(_NAMES.findall(text))
        self._meant = frozenset(_MEANT.findall(text))
        self._speaks_of_markup = bool(_MARKUP_WORDS.search(text))

    def mention(self, element: _Element, has_markup: bool) -> bool:
        """Whether the text speaks of an element, by its name or as of markup."""
        if self._speaks_of_markup and (has_markup or not element.listed):
            return True
        name = element.name
        if "-" not in name:
            return name in self._meant
        return name in self._words or name.replace("-", "_") in self._words


def _drop_file_fences(text: str) -> CleanText:
    """The text without code blocks that name a file: an editor attached them."""
    if "```" not in text:
        return CleanText(text)
    kept: list[str] = []
    end = 0
    for fence in _FILE_FENCE.finditer(text):
        if fence.start() < end:
            continue
        stop = text.find("\n```", fence.end())
        if stop < 0:
            break
        kept.append(text[end : fence.start()])
        end = stop + len("\n```")
    left = "".join((*kept, text[end:])).strip() if end else text
    return CleanText(left if _has_word(left) else text)
