"""YAML's errors in plain words with the fix: PyYAML tells them in terms of its own tokens."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import yaml

LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
"""What PyYAML counts lines by."""
KEY_AND_VALUE = re.compile(r":(\s|$)")
PARTNERS = {"}": "{", "]": "["}


@dataclass(frozen=True, slots=True)
class IndentedLine:
    """A line that is not blank and no comment; columns count from 0, `dash` is that of a list's entry."""

    n: int
    text: str
    content: int
    dash: int | None


def explain_fault(error: yaml.MarkedYAMLError, text: str) -> tuple[int, str]:
    """The line of an error, from 1, and what is wrong with it, with the fix."""
    problem = error.problem or error.context or "it cannot be read"
    mark = error.problem_mark or error.context_mark
    if mark is None:
        return 1, problem
    lines = LINE_BREAK.split(text)
    known = list(_list_lines(lines[: mark.line + 1]))
    begun = error.context_mark.line if error.context_mark else mark.line
    n, said = mark.line, f"not YAML: {problem}"
    if r"'\t'" in problem:
        said = "a tab stands in the indentation; write spaces"
    elif found := re.match(r"found character (.+) that cannot start any token", problem):
        said = f"a value cannot begin with {found[1]}; put it in quotes"
    elif "quoted scalar" in (error.context or ""):
        n, said = begun, "a quotation mark is never closed; close it"
    elif "flow node" in (error.context or "") and not lines[mark.line].strip():
        said = "a '[' or '{' above is never closed; close it"
    elif "flow" in (error.context or ""):
        n, said = begun, _explain_bracket(lines, begun, mark.line, "mapping" in (error.context or ""))
    elif problem.startswith("mapping values"):
        n, said = _explain_colon(known, mark)
    elif problem.startswith("expected '<document start>'") and known[0].content:
        n, said = known[0].n, f"this line begins with spaces, unlike line {n + 1}; begin it without"
    elif problem.startswith("expected <block end>"):
        said = _explain_block(known, mark, problem.rpartition("found ")[2].strip("'"))
    return n + 1, said


def _list_lines(lines: list[str]) -> Iterator[IndentedLine]:
    for n, text in enumerate(lines):
        found = re.match(r"( *)((?:- +)*)", text)
        if found is None or not text.strip() or text.lstrip().startswith("#"):
            continue
        is_entry = bool(found[2]) or text.strip() == "-"
        yield IndentedLine(n, text, found.end(), len(found[1]) if is_entry else None)


def _explain_bracket(lines: list[str], begun: int, ended: int, is_mapping: bool) -> str:
    left, right = "{}" if is_mapping else "[]"
    if begun == ended:
        return f"a ',' between two entries or a '{right}' at the end is missing"
    return f"the '{left}' of this line has no '{right}' before line {ended + 1}; write it"


def _explain_colon(known: list[IndentedLine], mark: yaml.Mark) -> tuple[int, str]:
    """Of a colon where none is expected: a second one in its line, or a line that continues the one above."""
    line, above = known[-1], known[-2] if len(known) > 1 else None
    if above is None or KEY_AND_VALUE.search(line.text[: mark.column]):
        return mark.line, "there are two colons in this line; put the value in quotes"
    if not KEY_AND_VALUE.search(above.text):
        word = above.text.strip()
        return above.n, f"'{word[:40]}' has no colon; write it as a key, such as `{word[:40]}:`"
    return mark.line, (
        f"this line is indented deeper than line {above.n + 1}, which has its value already; "
        f"{_say_column(above.content)}, as line {above.n + 1}"
    )


def _explain_block(known: list[IndentedLine], mark: yaml.Mark, found: str) -> str:
    """Of a line that belongs to no block: it is indented wrongly, or of another kind than its neighbours."""
    if found in PARTNERS:
        return f"'{found}' has no partner; delete it, or write '{PARTNERS[found]}' before"
    *above, line = known
    entries = [one for one in above if one.dash == mark.column]
    if line.dash is None and entries:
        last = entries[-1]
        return (
            f"this line stands below the '-' of line {last.n + 1}, but begins with none; "
            f"{_say_column(last.content)} to belong to that entry, or begin it with '- '"
        )
    if line.dash is not None and all(one.dash is None for one in above):
        return (
            "this line begins a list where keys stand above; indent it more than the key that it belongs to"
        )
    columns = {one.content if line.dash is None else one.dash: one.n + 1 for one in above}
    places = [column for column in columns if column is not None]
    if not places:  # the file begins with spaces
        return f"this line is indented by {_count(mark.column)}; {_say_column(0)}"
    nearest = min(places, key=lambda column: (abs(column - mark.column), -column))
    block = "block" if line.dash is None else "list"
    return (
        f"this line is indented by {_count(mark.column)}, as no {block} above; "
        f"{_say_column(nearest)}, as line {columns[nearest]}"
    )


def _say_column(n: int) -> str:
    return f"indent it by {_count(n)}" if n else "begin it without spaces"


def _count(n: int) -> str:
    return "1 space" if n == 1 else f"{n} spaces"
