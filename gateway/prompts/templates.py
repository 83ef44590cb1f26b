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
_TRAILING_NOTE = re.compile(r"\n[ \t]*+\(([^()\n]{8,300})\)[ \t]*\Z")
_HOOK = re.compile(
    r"^[ \t]*+(?:[a-z]+[A-Z]\w{0,40} hook\b[\w .()-]{0,60}|[A-Z][a-z]+[A-Z]\w{0,40} hook\b[\w .()-]{0,60}"
    r"|(?:[\w-]{1,40} )?[Hh]ook\b[^\n:]{0,60}"
    r"(?:success|feedback|output|said|returned|result|context|blocked|error)):.*$",
    re.MULTILINE,
)
_FRONT_MATTER = re.compile(r"\s*+---[ \t]*\n(?:[\w -]{1,40}:.{0,300}\n){1,40}---[ \t]*\n")
_SIGNATURE = re.compile(r"\n--[ ]?\n(?:.{1,200}\n?){1,4}\Z")
_ROLE = re.compile(r"^[ \t]*+(system|user|human|assistant|ai|bot)[ \t]*:[ \t]*", re.MULTILINE | re.IGNORECASE)
_CHAT_MARK = re.compile(
    r"<\|im_start\|>[ ]?(\w{2,12})\s|<\|start_header_id\|>(\w{2,12})<\|end_header_id\|>\s*"
    r"|<start_of_turn>(\w{2,12})\s|<\|(system|user|assistant)\|>\s*|(\[INST\])"
    r"|^###[ ]?(human|user|assistant|system|instruction|input|response):",
    re.MULTILINE | re.IGNORECASE,
)
_TURN_END = re.compile(
    r"<\|(?:im_end|eot_id|end|end_of_text)\|>|</?s>|\[/INST\]|<end_of_turn>|<<SYS>>|<</SYS>>"
)
_FENCE = re.compile(r"^[ \t]*+(?:```|~~~)", re.MULTILINE)
_FILE_FENCE = re.compile(
    r"^```[ \t]*(?:(?:[\w+#-]+[ \t]+)?[\w.@~-]*/?[\w./@~-]*\.\w{1,8}(?:[ \t(:#].{0,60})?"
    r"|(?:context|environment|metadata|workspace|memory|diagnostics)[ \t]*)$",
    re.MULTILINE,
)
_PART = re.compile(r"```|~~~|#{1,6} |[-*] |\d{1,2}\. |Analysis:|Summary:|[\w./-]+\n```|<")


USER_ROLES = frozenset({"user", "human", "instruction", "[inst]"})
HEAD_WORDS = frozenset(
    {"user", "channel", "from", "sender", "author", "subject", "thread", "room", "to", "id", "name"}
)
"""What stands above a message in a chat program, beside facts of the program itself."""


class TemplateGrammar:
    """Leaves out what programs write beside a request."""

    def __init__(self, lists: WrappingLists, openings: Iterable[Opening]) -> None:
        self._lists = lists
        self._openings = {opening.start.lower(): opening for opening in openings}
        labels = lists.templates
        words = f"(?:{_either(labels.material_words)})"
        self._begin = re.compile(
            rf"\s*+[#*=~ \t-]{{0,40}}+(?:{'|'.join(map(_begin_pattern, labels.begin))}"
            rf"|(?:{_either(labels.begin_words)})\b[^\n]{{0,160}}\b{words}\b[^\n]{{0,80}}[.:]?[ \t]*$)",
            re.IGNORECASE | re.MULTILINE,
        )
        self._label = _label_pattern(labels.request)
        self._message_label = _label_pattern(set(labels.request) - {"user", "human"})
        self._own_label = _label_pattern(labels.own_request)
        self._context_label = _label_pattern(labels.context)
        self._after = re.compile(rf"^[ \t]*+(?:{_either(labels.after)})", re.MULTILINE | re.IGNORECASE)
        self._end = re.compile(rf"\n[ \t]*(?:{_either(labels.end)})[ \t]*$", re.IGNORECASE)
        self._opening = re.compile(rf"[ \t]*({_either(self._openings)})", re.IGNORECASE)
        self._note = re.compile(_either(lists.notes), re.IGNORECASE)
        # The pattern has passed signs at a line's start when it comes to these.
        first_words = (start.lstrip("#*=~ -") for start in self._openings)
        starts = (*first_words, *(begin.rstrip(":") for begin in labels.begin), *labels.own_request)
        # Possessive: lines of blanks or rules are passed once. A line's end finds lines faster than ^.
        line = (
            rf"[ \t]*+(?:```|[-=#*~]{{2}}|\(|(?:system|user|human)[ \t]*:)"
            rf"|[#*=~ \t-]{{0,40}}+(?:{_either(starts)}|(?:{_either(labels.begin_words)})[ ]"
            rf"|(?:{_either(labels.context)})[ \t]*:)"
        )
        self.first_line = re.compile(rf"\s*+(?:{line})", re.IGNORECASE)
        self.line = re.compile(rf"\n(?:{line})", re.IGNORECASE)

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
            self._take_last_turn,
            self._take_request,
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
        if kept == text:
            return CleanText(text, asks)
        # The label of the request stays where only what stood above it was left out.
        label = self._message_label.match(kept.lstrip())
        rest = kept.lstrip()[label.end() :] if label else kept
        return CleanText((rest if has_word(rest) else kept).strip(), asks)

    def _take_request(self, text: str) -> CleanText:
        """The request of a template: what follows its label."""
        begins = self.begins_template(text)
        own = self._own_label.search(text)
        if own and (
            own[0].lstrip().startswith("#")
            or not (before := text[: own.start()]).strip()
            or before.endswith(PARAGRAPH)
            or begins
        ):
            request = self._cut_end(text[own.end() :])
            more = begins or not self._is_facts(text[: own.start()])
            return CleanText(request, more) if has_word(request) else CleanText(text)
        if (head := self._read_head(text)) is not None:
            return CleanText(head)
        context = self._context_label.search(text, 0, MAX_LEAD_CHARS)
        original = self._label.match(text)
        if not begins and not context:
            # A template that begins with its request shows itself by what follows it.
            request = self._cut_end(text[original.end() :]) if original and self._after.search(text) else ""
            return CleanText(request, True) if has_word(request) else CleanText(text)
        labels = list(self._label.finditer(text, context.end() if context else 0))
        if not labels:
            return CleanText(text)
        # A history has the same labels as the request, which comes last, and so has an example of a format.
        lead = text[: labels[0].start()].lower()
        label = (
            labels[-1] if any(word in lead for word in ("history", "conversation", "format:")) else labels[0]
        )
        request = self._cut_end(text[label.end() :])
        return CleanText(request, True) if has_word(request) else CleanText(text)

    def _read_head(self, text: str) -> str | None:
        """The message below the facts of a chat program, `Channel: #help`; None without them."""
        end = 0
        for n, line in enumerate(text[:MAX_LEAD_CHARS].splitlines(keepends=True)):
            if n and self._message_label.match(line):
                request = self._message_label.sub("", text[end:], count=1).strip()
                return request if has_word(request) else None
            found = _FACT.fullmatch(line.rstrip())
            if found is None:
                return None
            words = frozenset(normalize_name(found[1]).split("-"))
            if not (words & HEAD_WORDS or words & self._lists.context_words):
                return None
            end += len(line)
        return None

    def _cut_end(self, text: str) -> str:
        """A request without the lines of its template that follow."""
        for heading in _HEADING.finditer(text):
            if heading.start() and self._speaks_of_context(heading[1]):
                text = text[: heading.start()]
                break
        if after := self._after.search(text):
            text = text[: after.start()]
        return self._end.sub("", text.rstrip()).strip()

    def _speaks_of_context(self, title: str) -> bool:
        words = normalize_name(title).split("-")
        return not self._lists.context_words.isdisjoint(
            words
        ) or not self._lists.instruction_words.isdisjoint(words)

    def _take_last_turn(self, text: str) -> CleanText:
        """The last turn of the user in a conversation that is written as one text."""
        marks = [(m.start(), m.end(), _role_of(m)) for m in _CHAT_MARK.finditer(text)]
        if not marks:
            first = _ROLE.match(text.lstrip())
            if not first or first[1].lower() not in ("system", "user", "human"):
                return CleanText(text)
            marks = [(m.start(), m.end(), _role_of(m)) for m in _ROLE.finditer(text)]
        last = max((n for n, mark in enumerate(marks) if mark[2] in USER_ROLES), default=None)
        if last is None:
            return CleanText(text)
        stop = marks[last + 1][0] if last + 1 < len(marks) else len(text)
        request = text[marks[last][1] : stop]
        end = _TURN_END.search(request)
        request = (request[: end.start()] if end else request).strip()
        more = has_word(_TURN_END.sub("", text[: marks[last][0]]))
        return CleanText(request, more) if has_word(request) else CleanText(text)

    def _drop_paragraphs(self, text: str) -> CleanText:
        """The text without paragraphs that begin as a program's do."""
        # Finding substrings is a tenth of searching the pattern, and most texts hold none.
        lowered = text.lower()
        if not any(start in lowered for start in self._openings):
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
                    # The rest of its line is of the program too.
                    tail = text[stop + len(opening.to) :].partition("\n")[2].strip()
                    return CleanText(PARAGRAPH.join([*kept, tail]).strip(), asks)
                if opening.rest:
                    break
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
        if titled and (head.startswith("#") or self._is_context_title(head)):
            return bool(facts) and all(
                key or _ITEM.fullmatch(line) for key, line in zip(keys, facts, strict=True)
            )
        n_known = sum(key is not None and self._speaks_of_context(key) for key in keys)
        return None not in keys and n_known >= 2 and 2 * n_known >= len(keys)

    def _is_context_title(self, title: str) -> bool:
        """Whether a title of several words is of context alone: `Tool results:`, `Open files:`."""
        words = normalize_name(title).split("-")
        return len(words) > 1 and self._lists.context_words.issuperset(words)

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
        end = _TRAILING_NOTE.search(left, max(0, len(left) - 320))
        if end and self._note.search(end[1]) and has_word(left[: end.start()]):
            left = left[: end.start()]
        if "[" in left:
            left = _NOTE_LINE.sub(replace, left)
        if "hook" in left.lower():
            left = _HOOK.sub("", left)
        return CleanText(left.strip() if left != text else text, asks)


def _role_of(mark: re.Match[str]) -> str:
    return next(group for group in mark.groups() if group).lower()


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
    """The text without code blocks of a file or of context: an editor attached them."""
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
