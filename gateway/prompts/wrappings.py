"""A user's turn without what programs wrap around it: reminders, environment, files, templates, summaries.

Wrappings are recognised as a grammar, not by a list of programs: elements with tags of any case, with
attributes, nested or never closed, and templates with headings or labels. The lists of names are in
`wrappings.toml`; the key `routing.wrappings` adds to them.

What users mark up themselves stays: HTML, code, XML that the text around it speaks of. An element is dropped
only where a request remains. Every step is linear in the length of the text.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from ..config import Config
from .lists import PARAGRAPH, CleanText, Opening, has_word, normalize_name, read_lists
from .templates import TemplateGrammar

Kind = Literal["request", "request_or_text", "context", "instructions", "material", "unknown", "text"]

MAX_CHARS = 32_000
"""Of a longer turn the middle is not read: a turn of signs alone takes some microseconds a character."""
MAX_LINES = 2000
"""Of a turn with more lines those in the middle are not read: some rules are tried at every line."""
MAX_TAGS = 1000
"""What has more of them is a page or a table, and its further tags are text."""
MIN_TURN_CHARS = 100
"""What a turn counts as at least, by the time it takes."""
MAX_DEPTH = 4
"""How deep wrappings inside of wrappings are opened."""

_TOKEN = re.compile(
    r"^[ \t]*+(?P<fence>```|~~~)"
    r"|<(?P<end>/?)(?P<name>[A-Za-z][\w.:-]{0,63})(?P<rest>(?:\s[^<>]{0,400})?/?)>"
    r"|<{2,4}[ ]?(?P<end5>/|END[ _])?(?P<name5>[A-Za-z][\w -]{1,40}?)[ ]?>{2,4}"
    r"|<\|(?P<end1>/?)(?P<name1>[A-Za-z][\w-]{1,40})\|>"
    r"|^\[{1,2}(?P<end2>/?)(?P<name2>[A-Za-z][\w -]{1,40})\]{1,2}[ \t]*$"
    r"|^\{\{[#]?(?P<end4>/?)(?P<name4>[A-Za-z][\w -]{1,40})\}\}[ \t]*$"
    r"|^[ \t]*+[-=#*~<>+]{2,12}[ \t]*+(?P<word>(?i:BEGIN|START|END))(?:[ \t](?i:OF))?[ \t:]"
    r"(?P<name3>[A-Za-z][A-Za-z_ -]{1,40})[-=#*~<>+ \t]*$",
    re.MULTILINE,
)
_NAMES = re.compile(r"[\w-]+")
_MEANT = re.compile(r"\b(?:following|above|below|these|this|attached|provided|given) (\w+)")
_MARKUP_WORDS = re.compile(
    r"\b(?:xml|html|markup|jsx|xpath|xslt|(?:the|this|these|a|which|closing|opening) tags?)\b", re.IGNORECASE
)
_ORDER = re.compile(
    r"\b(?:answer|reply|replies|respond|responses?|output|translate|speak|write|never|always|must)\b",
    re.IGNORECASE,
)
_TOOL_OUTPUT = re.compile(
    r"\[[\w-]{1,60}(?: for '[^\n]{0,300}')?\] Result:|EXECUTION RESULT of \[|OBSERVATION:\n"
)


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
        self._templates = TemplateGrammar(own, (*own.openings, *map(Opening, openings)))

    def may_change(self, text: str) -> bool:
        """Whether a text holds anything that a rule could be about; most texts do not."""
        templates = self._templates
        return (
            len(text) > MAX_CHARS
            or text.count("\n") > MAX_LINES
            or "<" in text
            or "[" in text
            or "{{" in text
            or templates.first_line.match(text) is not None
            or templates.line.search(text) is not None
            or "hook" in text.lower()
            or text.startswith("OBSERVATION:")
            or (PARAGRAPH in text and templates.has_facts(text))
        )

    def clean(self, text: str) -> CleanText:
        """The request in a turn: empty where all of it is wrapping, the turn itself where nothing is."""
        # Some agents send a tool's output as a user turn of its own: no part of it is a person's request.
        if _TOOL_OUTPUT.match(text):
            return CleanText("")
        ends = text
        if len(text) > MAX_CHARS:
            half = MAX_CHARS // 2
            ends = f"{text[:half]}\n{text[-half:]}"
        if ends.count("\n") > MAX_LINES:
            lines = ends.split("\n")
            ends = "\n".join((*lines[: MAX_LINES // 2], *lines[-MAX_LINES // 2 :]))
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

    def count_read(self, parts: Sequence[str]) -> int:
        """How many characters of a turn are read by rules; a tool's output is known by its beginning."""
        n_chars = sum(len(part) for part in parts if not _TOOL_OUTPUT.match(part))
        return min(max(n_chars, MIN_TURN_CHARS), MAX_CHARS)

    def _clean(self, text: str, depth: int) -> CleanText:
        templates = self._templates
        if not depth or not self.may_change(text):
            return CleanText(text)
        elements = self._find_elements(text)
        # Code in one fence is often all of a turn, with a wrapping quoted inside.
        if len(elements) == 1 and elements[0].kind in ("text", "material") and _spans(text, elements[0]):
            # Around all of the turn: it says nothing itself, but may hold a wrapping.
            inner = text[elements[0].inner : elements[0].inner_end]
            found = self._clean(inner, depth - 1)
            return CleanText(text, found.asks_more) if found.text == inner else found
        requests = [element for element in elements if element.kind == "request"]
        if requests and (inside := self._open(text, requests, depth)).text:
            around = templates.clean(_without(text, elements))
            asks = inside.asks_more or around.asks_more or has_word(around.text)
            return CleanText(inside.text, asks or any(e.kind == "instructions" for e in elements))
        dropped = self._choose_dropped(text, elements)
        asks = any(e.kind == "instructions" or _says_how(text, e) for e in dropped)
        material = [element for element in elements if element.kind == "material"]
        maybe = [element for element in elements if element.kind == "request_or_text"]
        if maybe:
            outside = templates.clean(_without(text, [*dropped, *material, *maybe]))
            is_template = bool(material) or templates.begins_template(text)
            if (not has_word(outside.text) or is_template) and (
                inside := self._open(text, maybe, depth)
            ).text:
                return CleanText(inside.text, asks or is_template or inside.asks_more)
        if not dropped:
            return templates.clean(text)
        rest = _without(text, dropped, with_headings=True)
        prose = _without(text, elements, with_headings=True)
        # "Convert this to JSON:" leads to the element: it is what the user asks about.
        if prose.endswith(":") and "\n" not in prose and _is_introduced(text, dropped[0]):
            return CleanText(text)
        if has_word(prose):
            left = templates.clean(rest)
            return CleanText(left.text, left.asks_more or asks)
        # Nothing else is said: a wrapping that is listed is no request, another may be one.
        is_noise = len(dropped) == len(elements) and any(element.listed for element in dropped)
        return CleanText("", asks) if is_noise else CleanText(text)

    def _open(self, text: str, elements: Sequence[_Element], depth: int) -> CleanText:
        """What is in these elements, cleaned in turn."""
        inside = [self._clean(text[e.inner : e.inner_end].strip(), depth - 1) for e in elements]
        texts = [one.text for one in inside if has_word(one.text)]
        return CleanText(PARAGRAPH.join(texts), any(one.asks_more for one in inside))

    def _find_elements(self, text: str) -> list[_Element]:
        """The outermost elements, in order; nothing inside of fenced code and markup is a wrapping."""
        matched, unclosed = self._match_tags(text)
        found: list[_Element] = []
        end = 0
        for element in sorted((*matched, *unclosed), key=lambda e: (e.start, -e.end)):
            if element.start < end:
                continue
            found.append(element)
            end = element.end
        return found

    def _match_tags(self, text: str) -> tuple[list[_Element], list[_Element]]:
        """Elements with both tags, and those that are never closed as far as they count as wrappings."""
        matched: list[_Element] = []
        stacks: dict[str, list[_Element]] = {}
        fence: int | None = None
        for token in islice(_TOKEN.finditer(text), MAX_TAGS):
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


def build_grammar(config: Config) -> WrappingGrammar:
    """The grammar with what a configuration adds to its lists."""
    added = config.routing.wrappings
    return WrappingGrammar(added.request, added.context, added.instructions, added.openings)


def _says_how(text: str, element: _Element) -> bool:
    """Whether a wrapping says how to answer: a tool's bare result would not obey it."""
    return _ORDER.search(text, element.inner, min(element.inner_end, element.inner + MAX_CHARS)) is not None


def _read_tag(token: re.Match[str]) -> tuple[str, bool]:
    """The name of a tag or of a line that stands for one, and whether it closes."""
    if name := token["name"]:
        rest = (token["rest"] or "").strip("/ \t\n")
        # `<permissions instructions>`: a name of two words; attributes have values.
        raw = f"{name}_{rest}" if rest and rest.replace(" ", "").isalpha() and len(rest) < 40 else name
        return raw, bool(token["end"])
    for number in "1245":
        if name := token[f"name{number}"]:
            return name.replace(" ", "_"), bool(token[f"end{number}"])
    return token["name3"].strip(" -").replace(" ", "_"), token["word"].lower() == "end"


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


def _spans(text: str, element: _Element) -> bool:
    """Whether an element is all of a text."""
    return not text[: element.start].strip() and not text[element.end :].strip()


def _starts_line(text: str, place: int) -> bool:
    line = text[text.rfind("\n", max(0, place - 80), place) + 1 : place] if place else ""
    # What stands between two elements of one line is no word.
    return not line.strip() or line.rstrip().endswith(">")


def _ends_line(text: str, place: int) -> bool:
    after = text[place : place + 80].split("\n", 1)[0].strip()
    return not after or after.startswith("<")


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
