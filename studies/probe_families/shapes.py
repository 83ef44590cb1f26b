"""The shapes families come in: a template, rows to fill it with, and what each row's answer must be."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from evals.grading import GRADERS


@dataclass(frozen=True, slots=True)
class Item:
    """One prompt of a family with what a right answer is, and one."""

    prompt: str
    expected: Any
    reference: str


@dataclass(frozen=True, slots=True)
class Family:
    """Prompts made from one template; `name` is unique over all kinds."""

    kind: str
    name: str
    grader: str
    max_tokens: int
    items: tuple[Item, ...]


def family(kind: str, name: str, grader: str, max_tokens: int, items: Iterable[Item]) -> Family:
    """A family under the kind's name."""
    # A misspelt name fails here, where the family that has it is named.
    if grader not in GRADERS:
        raise ValueError(f"{kind}/{name}: unknown grader {grader!r}")
    return Family(kind, f"{kind}/{name}", grader, max_tokens, tuple(items))


def words(
    kind: str,
    name: str,
    template: str,
    rows: Sequence[tuple[str, str]],
    *,
    max_tokens: int = 48,
    rivals: bool = True,
    grader: str = "text",
    reject: Sequence[str] = (),
) -> Family:
    """Short answers in words: rows of (subject, accepted answers parted by `|`).

    The answers of the other rows are wrong ones where `rivals` is set, unless the prompt itself says them.
    A subject of several fields is parted by `|` and fills `{0}`, `{1}` …
    """
    accepted = [answers.split("|") for _, answers in rows]
    pool = [answer for answers in accepted for answer in answers]
    items = []
    for (subject, _), accept in zip(rows, accepted, strict=True):
        prompt = template.format(*subject.split("|"))
        # `fromkeys` and no set: the order, and with it the file, stays the same from run to run.
        wrong = (
            [a for a in dict.fromkeys(pool) if a not in accept and a.lower() not in prompt.lower()]
            if rivals
            else []
        )
        wrong += [word for word in reject if word not in accept]
        items.append(Item(prompt, {"accept": accept} | ({"reject": wrong} if wrong else {}), accept[0]))
    return family(kind, name, grader, max_tokens, items)


def pick(
    kind: str, name: str, template: str, rows: Sequence[tuple[str, str, str]], *, max_tokens: int = 48
) -> Family:
    """A choice between named options: rows of (subject, right options, wrong options), each parted by `|`."""
    items = [
        Item(
            template.format(*subject.split("|")),
            {"accept": right.split("|"), "reject": wrong.split("|")},
            right.split("|")[0],
        )
        for subject, right, wrong in rows
    ]
    return family(kind, name, "text", max_tokens, items)


def numbers(
    kind: str,
    name: str,
    rows: Iterable[tuple[str, float]],
    *,
    tolerance_ratio: float = 0,
    max_tokens: int = 64,
) -> Family:
    """Numeric answers: rows of (prompt, value); `tolerance_ratio` is relative to the value."""
    items = []
    for prompt, value in rows:
        expected = {"value": value} | (
            # Rounded, so that the file does not show the last digits of a float.
            {"tolerance": round(abs(value) * tolerance_ratio, 6)} if tolerance_ratio else {}
        )
        # `g` writes six digits: 1234567 would become 1.23457e+06.
        items.append(Item(prompt, expected, f"{value:g}" if abs(value) < 1e5 else str(value)))
    return family(kind, name, "number", max_tokens, items)


def yes_no(
    kind: str, name: str, template: str, rows: Sequence[tuple[str, bool]], *, max_tokens: int = 40
) -> Family:
    """Questions with a verdict: rows of (subject, answer)."""
    items = [
        Item(template.format(*subject.split("|")), {"answer": answer}, "Yes" if answer else "No")
        for subject, answer in rows
    ]
    return family(kind, name, "yes_no", max_tokens, items)


def keywords(
    kind: str, name: str, template: str, rows: Sequence[tuple[str, str, str]], *, max_tokens: int = 96
) -> Family:
    """Longer answers that must cover keywords: rows of (subject, groups, reference).

    Groups are parted by `&`, the synonyms in one by `|`.
    """
    items = []
    for subject, groups, reference in rows:
        # `a|b & c` asks for c, and for a or b.
        expected = {"groups": [group.strip().split("|") for group in groups.split("&")]}
        items.append(Item(template.format(*subject.split("|")), expected, reference))
    return family(kind, name, "keywords", max_tokens, items)
