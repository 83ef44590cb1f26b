"""Paragraphs and lines that programs write around a request: templates, facts, summaries, notes, files.

What is left out here stands in no element: it is recognised by labels, headings and first words. A rule
applies only where words remain.
"""

import re
from collections.abc import Iterable, Iterator

from .lists import PARAGRAPH, CleanText, Opening, WrappingLists, has_word, normalize_name

MAX_LEAD_CHARS = 1500
"""How far into a text the context of a template may begin."""
MAX_LINE_CHARS = 120
MAX_FACTS = 40

_HEADING = re.compile(r"^[ \t]*+#{1,6}[ \t]+(.{1,120})$", re.MULTILINE)
_FACT = re.compile(r"[ \t]*[-*•]?[ \t]?([A-Z][\w /().'-]{0,40}?)[ \t]*:[ \t]*\S.{0,300}")
_ITEM = re.compile(r"[ \t]*(?:[-*•]|\d{1,2}[.)])[ \t].{1,300}")
_NOTE_LINE = re.compile(r"^[ \t]*+\[(?![ \t]*flag)([^\[\]\n]{3,300})\][ \t]*$", re.MULTILINE | re.IGNORECASE)
_LEADING_NOTE = re.compile(
    r"\s*+(?:\[(?!\s*flag)([^\[\]\n]{8,300})\]|\(([^()\n]{8,300})\))[ \t]*\n", re.IGNORECASE
)
_HOOK = re.compile(r"^[ \t]*+[\w.:-]{0,40} ?hook\b[\w .()-]{0,60}:.*$", re.MULTILINE | re.IGNORECASE)
_FRONT_MATTER = re.compile(r"\s*+---[ \t]*\n(?:[\w -]{1,40}:.{0,300}\n){1,40}---[ \t]*\n")
_SIGNATURE = re.compile(r"\n--[ ]?\n(?:.{1,200}\n?){1,4}\Z")
_ROLE = re.compile(r"^[ \t]*+(system|user|human|assistant|ai|bot)[ \t]*:[ \t]*", re.MULTILINE | re.IGNORECASE)
_FENCE = re.compile(r"^[ \t]*+(?:```|~~~)", re.MULTILINE)
_FILE_FENCE = re.compile(
    r"^```[ \t]*(?:[\w+#-]+[ \t]+)?[\w.@~-]*/?[\w./@~-]*\.\w{1,8}(?:[ \t(:#].{0,60})?$", re.MULTILINE
)
_PART = re.compile(r"```|~~~|#{1,6} |[-*] |\d{1,2}\. |Analysis:|Summary:|[\w./-]+\n```|<")


class TemplateGrammar:
    """Leaves out what programs write beside a request."""

    def __init__(self, lists: WrappingLists, openings: Iterable[Opening]) -> None:
        self._lists = lists
        self._openings = {opening.start.lower(): opening for opening in openings}
        labels = lists.templates
        self._begin = re.compile(
            rf"\s*+[#*=~ \t-]{{0,40}}+(?:{'|'.join(map(_begin_pattern, labels.begin))})",
            re.IGNORECASE | re.MULTILINE,
        )
        self._label = _label_pattern(labels.request)
        self._own_label = _label_pattern(labels.own_request)
        self._context_label = _label_pattern(labels.context)
        self._end = re.compile(rf"\n[ \t]*(?:{_either(labels.end)})[ \t]*$", re.IGNORECASE)
        self._opening = re.compile(rf"[ \t]*({_either(self._openings)})", re.IGNORECASE)
        self._note = re.compile(_either(lists.notes), re.IGNORECASE)
        starts = (*self._openings, *(begin.rstrip(":") for begin in labels.begin), *labels.own_request)
        # Possessive: lines of blanks or rules are passed once.
        self.marks = re.compile(
            rf"[<\[]|\A\s*+\(|\n--[ ]?\n|^[ \t]*+(?:```|[-=#*~]{{2}}|(?:system|user|human)[ \t]*:)"
            rf"|^[#*=~ \t-]{{0,40}}+(?:{_either(starts)}|(?:{_either(labels.context)})[ \t]*:)|\bhook\b",
            re.MULTILINE | re.IGNORECASE,
        )
        """Finds something in every text that a rule may change, except for paragraphs of facts."""

    def begins_template(self, text: str) -> bool:
        """Whether a text begins as a template does."""
        return self._begin.match(text) is not None

    def has_facts(self, text: str) -> bool:
        """Whether a text begins or ends with a paragraph of facts."""
        first, last = text.find(PARAGRAPH), text.rfind(PARAGRAPH)
        if first < 0:
            return False
        return self._is_facts(text[:first]) or self._is_facts(text[last:])

    def clean(self, text: str) -> CleanText:
        """The text without templates, and without paragraphs and lines that programs write."""
        kept, asks = text, False
        rules = (
            self._take_request,
            self._take_last_turn,
            _drop_front_matter,
            self._drop_paragraphs,
            self._drop_facts,
            self._drop_notes,
            _drop_file_fences,
            _drop_signature,
        )
        for rule in rules:
            left = rule(kept)
            asks |= left.asks_more
            kept = left.text
        return CleanText(kept if kept == text else kept.strip(), asks)

    def _take_request(self, text: str) -> CleanText:
        """The request of a template: what follows its label."""
        begins = self.begins_template(text)
        own = self._own_label.search(text)
        if own and (
            own[0].lstrip().startswith("#")
            or not text[: own.start()].strip()
            or _HEADING.match(text.lstrip())
            or begins
        ):
            request = self._cut_end(text[own.end() :])
            return CleanText(request, begins) if has_word(request) else CleanText(text)
        context = self._context_label.search(text, 0, MAX_LEAD_CHARS)
        if not begins and not context:
            return CleanText(text)
        labels = list(self._label.finditer(text, context.end() if context else 0))
        if not labels:
            return CleanText(text)
        # A history has the same labels as the request, which comes last; other templates have one.
        lead = text[: labels[0].start()].lower()
        label = labels[-1] if "history" in lead or "conversation" in lead else labels[0]
        request = self._cut_end(text[label.end() :])
        return CleanText(request, True) if has_word(request) else CleanText(text)

    def _cut_end(self, text: str) -> str:
        """A request without the lines of its template that follow."""
        for heading in _HEADING.finditer(text):
            if heading.start() and self._speaks_of_context(heading[1]):
                text = text[: heading.start()]
                break
        return self._end.sub("", text.rstrip()).strip()

    def _speaks_of_context(self, title: str) -> bool:
        words = normalize_name(title).split("-")
        return not self._lists.context_words.isdisjoint(
            words
        ) or not self._lists.instruction_words.isdisjoint(words)

    def _take_last_turn(self, text: str) -> CleanText:
        """The last turn of the user in a conversation that is written as one text."""
        if not (first := _ROLE.match(text.lstrip())) or first[1].lower() not in ("system", "user", "human"):
            return CleanText(text)
        roles = list(_ROLE.finditer(text))
        last = max((n for n, role in enumerate(roles) if role[1].lower() in ("user", "human")), default=None)
        if last is None:
            return CleanText(text)
        stop = roles[last + 1].start() if last + 1 < len(roles) else len(text)
        request = text[roles[last].end() : stop].strip()
        more = has_word(text[: roles[last].start()])
        return CleanText(request, more) if has_word(request) else CleanText(text)

    def _drop_paragraphs(self, text: str) -> CleanText:
        """The text without paragraphs that begin as a program's do."""
        if not self._opening.search(text):
            return CleanText(text)
        kept: list[str] = []
        asks = in_parts = False
        paragraphs = list(_split_paragraphs(text))
        for n, (start, paragraph) in enumerate(paragraphs):
            found = self._opening.match(paragraph.lstrip("\n"))
            opening = self._openings[found[1].lower()] if found else None
            if opening is not None and opening.line:
                first, _, rest = paragraph.strip().partition("\n")
                if len(first) > MAX_LINE_CHARS:
                    kept.append(paragraph)
                elif rest:
                    kept.append(rest)
            elif opening is not None:
                asks |= opening.instructions
                if opening.to and (stop := text.rfind(opening.to)) >= start:
                    tail = text[stop + len(opening.to) :].strip()
                    return CleanText(PARAGRAPH.join([*kept, tail]).strip(), asks)
                in_parts = opening.parts
            elif not (in_parts and n < len(paragraphs) - 1 and _PART.match(paragraph.lstrip("\n"))):
                in_parts = False
                kept.append(paragraph)
        return CleanText(PARAGRAPH.join(kept), asks)

    def _drop_facts(self, text: str) -> CleanText:
        """The text without paragraphs of facts at its beginning and its end."""
        if PARAGRAPH not in text:
            return CleanText(text)
        kept = [paragraph for _, paragraph in _split_paragraphs(text)]
        first, last = 0, len(kept)
        while first < last - 1 and self._is_facts(kept[first]):
            first += 1
        while first < last - 1 and self._is_facts(kept[last - 1]):
            last -= 1
        changed = (first, last) != (0, len(kept)) and has_word("".join(kept[first:last]))
        return CleanText(PARAGRAPH.join(kept[first:last]) if changed else text)

    def _is_facts(self, paragraph: str) -> bool:
        """Whether all lines are facts of a program: a heading about context, `Working directory: /srv`."""
        lines = [line for line in paragraph.split("\n", MAX_FACTS + 2) if line.strip()]
        if not 0 < len(lines) <= MAX_FACTS:
            return False
        head = lines[0].strip()
        titled = (head.startswith("#") or head.endswith(":")) and len(head) <= MAX_LINE_CHARS
        titled = titled and not head.endswith("?") and self._speaks_of_context(head)
        facts = lines[1:] if titled else lines
        keys = [found[1] if (found := _FACT.fullmatch(line)) else None for line in facts]
        if titled and head.startswith("#"):
            return all(key or _ITEM.fullmatch(line) for key, line in zip(keys, facts, strict=True))
        n_known = sum(key is not None and self._speaks_of_context(key) for key in keys)
        return None not in keys and n_known >= 2 and 2 * n_known >= len(keys)

    def _drop_notes(self, text: str) -> CleanText:
        """The text without notes in brackets and lines of hooks."""

        def replace(found: re.Match[str]) -> str:
            return "" if self._note.search(found[1]) else found[0]

        left, asks = text, False
        lead = _LEADING_NOTE.match(text)
        if lead and has_word(text[lead.end() :]):
            known = self._note.search(lead[1] or lead[2])
            # A line in brackets before all else is a note; what it says may be about the answer.
            if known or (lead[1] and len(lead[1].split()) >= 3):
                left, asks = text[lead.end() :], not known
        if "[" in left:
            left = _NOTE_LINE.sub(replace, left)
        if "hook" in left.lower():
            left = _HOOK.sub("", left)
        return CleanText(left.strip() if left != text else text, asks)


def _split_paragraphs(text: str) -> Iterator[tuple[int, str]]:
    """Each paragraph and its place; a block of fenced code is not cut."""
    start = place = 0
    n_fences = 0
    for piece in text.split(PARAGRAPH):
        n_fences += len(_FENCE.findall(piece))
        place += len(piece)
        if n_fences % 2 == 0:
            yield start, text[start:place]
            start, n_fences = place + len(PARAGRAPH), 0
        place += len(PARAGRAPH)
    if n_fences:  # never closed: cut it as any text
        for piece in text[start:].split(PARAGRAPH):
            yield start, piece
            start += len(piece) + len(PARAGRAPH)


def _drop_front_matter(text: str) -> CleanText:
    """The text without a block of `key: value` lines between two rules at its beginning."""
    found = _FRONT_MATTER.match(text)
    left = text[found.end() :] if found else text
    return CleanText(left if has_word(left) else text)


def _drop_signature(text: str) -> CleanText:
    """The text without what follows the line `--` at its end, as in mail (RFC 3676, section 4.3)."""
    found = _SIGNATURE.search(text, max(0, len(text) - 900))
    left = text[: found.start()] if found else text
    return CleanText(left if has_word(left) else text)


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
    return CleanText(left if has_word(left) else text)


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
