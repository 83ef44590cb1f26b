"""Probe files as people write them: JSON lines, JSON or CSV, with few required fields and many spellings.

A probe needs a prompt and, unless a model is to judge it, what a right answer is. Everything else is
inferred: the grader from the form of the answer, the id from the prompt. Mistakes are found all at once, each
with its line, its field and its fix.
"""

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from routers.text_files import decode_text

from ..grading import grade
from .expectations import (
    JUDGE,
    MAX_TOKENS,
    USUAL_MAX_TOKENS,
    FieldError,
    Row,
    plain_name,
    read_grading,
    read_options,
)

NAMES: Mapping[str, tuple[str, ...]] = {
    "prompt": ("prompt", "question", "query", "input", "instruction", "text"),
    "messages": ("messages", "conversation"),
    "system": ("system", "system_prompt"),
    "expected": (
        "expected", "answer", "answers", "ideal", "target", "expected_answer", "expected_output",
        "correct_answer", "solution", "label", "output",
    ),
    "grader": ("grader", "grading", "check"),
    "options": ("options", "choices"),
    "reference": ("reference", "reference_answer"),
    "id": ("id", "key", "name"),
    "kind": ("kind", "category", "task", "topic", "subject"),
    "family": ("family", "template"),
    "max_tokens": ("max_tokens", "max_output_tokens"),
}  # fmt: skip
"""What a field may be called, the usual name first. Case, spaces and dashes do not matter."""
_FIELD_OF = {spelling: name for name, spellings in NAMES.items() for spelling in spellings}


class ProbeError(ValueError):
    """A probe file is not usable; the message names file, line and field."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One gradable prompt.

    `family` is the template it was made from, `kind` the ability it asks for; `expected` is JSON-able and
    read by the grader of that name; `reference` is an answer that scores 1. Ids are unique in a set.
    `messages` is the conversation that `prompt` ends, empty where it is the prompt alone.
    """

    id: str
    kind: str
    family: str
    prompt: str
    grader: str
    expected: Any = field(hash=False)
    max_tokens: int = USUAL_MAX_TOKENS
    reference: str = ""
    messages: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)


@dataclass(frozen=True, slots=True)
class ProbeProblem:
    """A fault of one line, or, as a note, what is passed over in it."""

    line: int
    field: str
    message: str
    fix: str = ""
    is_note: bool = False

    def __str__(self) -> str:
        return f"{self.message}; {self.fix}" if self.fix else self.message


def read_probes(path: Path) -> tuple[list[Probe], list[ProbeProblem]]:
    """The probes of a file that can be used, and what is wrong or passed over in the others.

    Raises:
        ProbeError: the file cannot be read at all.
    """
    try:
        text = decode_text(path.read_bytes())
    except OSError as error:
        raise ProbeError(f"{path}: cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise ProbeError(f"{path}: cannot be read: {error}") from None
    probes: list[Probe] = []
    problems: list[ProbeProblem] = []
    lines: dict[str, int] = {}
    by_id: dict[str, Probe] = {}
    for row in _rows(path, text):
        if isinstance(row, ProbeProblem):
            problems.append(row)
            continue
        try:
            probe, notes = build_probe(row)
            problems += notes
            if probe.id in lines:
                problems.append(_describe_repetition(row.line, probe, by_id[probe.id], lines[probe.id]))
                continue
        except FieldError as error:
            problems.append(ProbeProblem(row.line, error.field, error.message, error.fix))
            continue
        lines[probe.id], by_id[probe.id] = row.line, probe
        probes.append(probe)
    return probes, problems


def _describe_repetition(line: int, probe: Probe, first: Probe, first_line: int) -> ProbeProblem:
    made = probe.id == _make_id(probe.prompt, probe.messages)
    if made and probe == first:
        return ProbeProblem(line, "id", f"the same as line {first_line}, asked once", is_note=True)
    if made:
        message = f"the prompt is already that of line {first_line}, with another answer"
        return ProbeProblem(line, "prompt", message, "remove one of them")
    return ProbeProblem(
        line, "id", f"id {probe.id!r} is already that of line {first_line}", "give it another"
    )


def _rows(path: Path, text: str) -> Iterator[Row | ProbeProblem]:
    start = text.lstrip()[:1]
    if path.suffix.lower() in (".csv", ".tsv") or (start and start not in "{[" and path.suffix != ".jsonl"):
        yield from _csv_rows(text)
        return
    whole = _whole_json(text) if start == "[" or path.suffix == ".json" else None
    if whole is not None:
        for number, item in enumerate(whole, 1):
            if isinstance(item, dict):
                yield Row(number, item)
            else:
                yield ProbeProblem(number, "", "not a JSON object", f"write {_EXAMPLE}")
        return
    # Not splitlines(): it also breaks at U+2028, which JSON strings may hold unescaped (RFC 8259).
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield _json_row(number, line)


_EXAMPLE = '{"question": "What is the capital of Peru?", "answer": "Lima"}'


def _json_row(number: int, line: str) -> Row | ProbeProblem:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        return ProbeProblem(number, "", f"not JSON ({error})", f"one object a line, such as {_EXAMPLE}")
    if not isinstance(values, dict):
        return ProbeProblem(number, "", "not a JSON object", f"write {_EXAMPLE}")
    return Row(number, values)


def _whole_json(text: str) -> list[Any] | None:
    """The items of a file that is one JSON value: a list, an object that holds one, or one probe."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(value, dict):
        lists = [
            item for item in value.values() if isinstance(item, list) and item and isinstance(item[0], dict)
        ]
        is_probe = any(plain_name(name) in _FIELD_OF for name in value)
        return [value] if is_probe or len(lists) != 1 else lists[0]
    return value if isinstance(value, list) else None


def _csv_rows(text: str) -> Iterator[Row | ProbeProblem]:
    csv.field_size_limit(1 << 27)  # the default of 128 KiB is shorter than some prompts
    separator, n_above = _find_separator(text), 0
    if text[:4].lower() == "sep=":  # Excel's own way to say it
        separator, n_above = text[4], 1
        text = text[5:].lstrip("\r\n")
    rows = _split_rows(text, separator, n_above)
    first = next(rows, (1 + n_above, []))
    if isinstance(first, ProbeProblem):
        yield first
        return
    names = [name.strip() for name in first[1]]
    fields = [_FIELD_OF.get(plain_name(name)) for name in names]
    if "prompt" not in fields and "messages" not in fields:
        message = f"no column of prompts; the first line has {', '.join(names)}"
        yield ProbeProblem(1 + n_above, "prompt", message, "name one `question`, `prompt` or `messages`")
        return
    # Programs leave out empty cells at the end of a row; one without its answer was cut off.
    n_least = max((n for n, name in enumerate(fields, 1) if name in ("prompt", "messages", "expected")))
    for row in rows:
        if isinstance(row, ProbeProblem):
            yield row
            continue
        number, cells = row
        if not any(cell.strip() for cell in cells):
            continue
        if fault := _find_row_fault(cells, names, n_least, separator):
            yield ProbeProblem(number, "", *fault)
            continue
        values = {name: cell for name, cell in zip(names, cells, strict=False) if cell.strip()}
        yield Row(number, values, text_only=True, decimal_comma=separator == ";")


def _split_rows(text: str, separator: str, n_above: int) -> Iterator[tuple[int, list[str]] | ProbeProblem]:
    """The rows of a table, each with the number of its first line; `n_above` lines were taken off before."""
    # Strict, because else a quotation mark that is never closed takes all rows below into one cell.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    while True:
        number = reader.line_num + 1 + n_above
        try:
            yield number, next(reader)
        except StopIteration:
            return
        except csv.Error:
            last = reader.line_num + n_above
            below = f", so what follows up to line {last} cannot be read" if last > number else ""
            fix = 'close it; inside a cell in quotes write a quotation mark twice ("")'
            yield ProbeProblem(number, "", f"a quotation mark has no partner{below}", fix)


def _find_row_fault(
    cells: list[str], names: list[str], n_least: int, separator: str
) -> tuple[str, str] | None:
    """What is wrong with a row as a whole, and the fix; None where nothing is."""
    if len(cells) > len(names):
        message = f"{len(cells)} cells for {len(names)} columns"
        return message, f"put quotes around a cell that holds {separator!r}"
    if len(cells) < n_least:
        n_cells = "1 cell" if len(cells) == 1 else f"{len(cells)} cells"
        message = f"{n_cells} for {len(names)} columns: it ends before '{names[n_least - 1]}'"
        return message, f"complete it; an open question without an answer ends with {separator!r}"
    if any("\0" in cell for cell in cells):
        return "holds a NUL character, which is no text", "write the row anew; the file may be damaged"
    return None


def _find_separator(text: str) -> str:
    """What parts the names in the first line: by it there is a prompt, and the most columns."""

    def rate(separator: str) -> tuple[bool, int]:
        names = next(csv.reader(io.StringIO(text, newline=""), delimiter=separator), [])
        return any(_FIELD_OF.get(plain_name(name)) in ("prompt", "messages") for name in names), len(names)

    return max((",", ";", "\t", "|"), key=rate)


def build_probe(row: Row) -> tuple[Probe, list[ProbeProblem]]:
    """The probe of a row, and notes on what was passed over.

    Raises:
        FieldError: names the field at fault, and the fix.
    """
    values, notes = _find_fields(row)
    messages, prompt = _conversation(values)
    options = read_options(values.get("options"))
    grader, expected, reference = read_grading(values, options, row)
    limit = values.get("max_tokens", MAX_TOKENS.get(grader, USUAL_MAX_TOKENS))
    if row.text_only and isinstance(limit, str) and limit.strip().isdigit():
        limit = int(limit)
    # bool is a subclass of int, and `true` is no limit.
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        raise FieldError("max_tokens", "field 'max_tokens' must be a whole number of at least 1")
    if options and not messages and not all(text in prompt for text in options.values()):
        prompt += "\n" + "\n".join(f"{letter}. {text}" for letter, text in options.items())
    probe = Probe(
        id=_text(values, "id", _make_id(prompt, messages)),
        kind=_text(values, "kind", "own"),
        family=_text(values, "family", ""),
        prompt=prompt,
        grader=grader,
        expected=expected,
        max_tokens=limit,
        reference=reference,
        messages=messages,
    )
    return probe, notes


def _find_fields(row: Row) -> tuple[dict[str, Any], list[ProbeProblem]]:
    """Values by the usual names, and notes on fields that are not read."""
    values: dict[str, Any] = {}
    unknown: list[str] = []
    given = {plain_name(key): value for key, value in row.values.items()}
    if {"instruction", "input"} <= given.keys():  # as in Alpaca: the one says what to do with the other
        given["prompt"] = f"{given.pop('instruction')}\n\n{given.pop('input')}".strip()
    for name, spellings in NAMES.items():
        found = [spelling for spelling in spellings if spelling in given]
        if found:
            values[name] = given.pop(found[0])
            unknown += found[1:]
    unknown += [name for name in given if name not in unknown]
    notes = []
    for name in unknown:
        near = get_close_matches(name, [n for n in _FIELD_OF if _FIELD_OF[n] not in values], 1, 0.75)
        if near and _FIELD_OF[near[0]] in ("prompt", "expected", "grader", "messages"):
            raise FieldError(name, f"unknown field {name!r}", f"did you mean {near[0]!r}?")
        message = f"field {name!r} is not read"
        fix = f"did you mean {near[0]!r}?" if near else ""
        notes.append(ProbeProblem(row.line, name, message, fix, is_note=True))
    return values, notes


def _text(values: Mapping[str, Any], name: str, default: str) -> str:
    value = values.get(name, default)
    if name == "id" and isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or (name in values and not value.strip()):
        raise FieldError(name, f"field {name!r} must be a non-empty string")
    return value


def _make_id(prompt: str, messages: Iterable[Mapping[str, Any]]) -> str:
    """An id that stays when lines are moved or added."""
    whole = prompt + json.dumps(list(messages), sort_keys=True) if messages else prompt
    return f"own/{hashlib.sha256(whole.encode()).hexdigest()[:10]}"


def _conversation(values: Mapping[str, Any]) -> tuple[tuple[Mapping[str, Any], ...], str]:
    """The turns, none where the prompt is all, and the last text of the user."""
    turns = values.get("messages", values.get("prompt") if isinstance(values.get("prompt"), list) else None)
    if turns is None:
        if "prompt" not in values:
            raise FieldError("prompt", "field 'prompt' is missing", "add `question`, `prompt` or `messages`")
        prompt = _text(values, "prompt", "")
        system = values.get("system")
        if not system:
            return (), prompt
        return ({"role": "system", "content": str(system)}, {"role": "user", "content": prompt}), prompt
    if isinstance(turns, str):
        try:
            turns = json.loads(turns)
        except ValueError as error:
            raise FieldError("messages", f"field 'messages' is not JSON ({error})", _MESSAGES) from None
    if not isinstance(turns, list) or not turns or not all(map(_is_turn, turns)):
        raise FieldError(
            "messages", "field 'messages' must be a list of turns with role and content", _MESSAGES
        )
    if values.get("system"):
        turns = [{"role": "system", "content": str(values["system"])}, *turns]
    asked = [turn["content"] for turn in turns if turn["role"] == "user" and isinstance(turn["content"], str)]
    if not asked:
        raise FieldError("messages", "field 'messages' has no turn of the user with text", _MESSAGES)
    return tuple(turns), asked[-1]


_MESSAGES = 'such as [{"role": "user", "content": "Hello"}]'


def _is_turn(turn: object) -> bool:
    return isinstance(turn, dict) and isinstance(turn.get("role"), str) and "content" in turn


def check_answers(probes: Iterable[Probe]) -> Iterator[tuple[Probe, str]]:
    """Probes whose own right answer their grader would not accept, with that answer."""
    for probe in probes:
        answer = probe.reference or _right_answer(probe)
        if answer and probe.grader != JUDGE and grade(answer, probe) < 1:
            yield probe, answer


def _right_answer(probe: Probe) -> str:
    if probe.grader in ("text", "exact", "translation"):
        return str(probe.expected["accept"][0])
    if probe.grader == "number":
        return f"{probe.expected['value']:g}"
    return ""
