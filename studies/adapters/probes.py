"""Probes from the fields of the adapters, for routers to be fitted on: never held out.

`python -m studies.adapters.probes FILE` writes lessons, for `thalamus profile --probes FILE`.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from random import Random

import click

from evals.probes import Probe

from .bundled import FIELDS, SHIPPED, draw_lesson
from .shapes import Draw, Field, Lesson

N_UNTAUGHT = 7
"""Items of each family that is not taught."""
N_TAUGHT = 50
"""Lessons of each field: of so many wordings that a router learns the field, not a template."""
FIRST_TAUGHT = 1_000_000
"""Number of the first one, far beyond those that training draws."""


def draw_lessons(name: str, draw: Draw, count: int) -> Iterator[Lesson]:
    """Different lessons of a family, always the same."""
    random, seen = Random(name), set[str]()
    while len(seen) < count:
        lesson = draw(random)
        if lesson.prompt not in seen:
            seen.add(lesson.prompt)
            yield lesson


def write_untaught() -> Iterator[Probe]:
    """The families that no adapter is taught, under the kinds of their names: among the bundled probes."""
    for field in FIELDS.values():
        for name, draw in field.tests.items():
            for number, lesson in enumerate(draw_lessons(name, draw, N_UNTAUGHT), 1):
                yield as_probe(name, number, lesson)


def write_taught() -> Iterator[Probe]:
    """Lessons of each field as a family, whose outcomes are fitted on beside those on the bundled probes."""
    for name in sorted(SHIPPED):
        for number, lesson in enumerate(_draw_taught(FIELDS[name]), 1):
            yield as_probe(f"taught_{name}/lessons", number, lesson)


def as_probe(family: str, number: int, lesson: Lesson) -> Probe:
    return Probe(
        id=f"{family}/{number:02d}",
        kind=family.partition("/")[0],
        family=family,
        prompt=lesson.prompt,
        grader=lesson.grader,
        expected=lesson.expected,
        max_tokens=64,
        reference=lesson.answer,
    )


def _draw_taught(field: Field) -> list[Lesson]:
    drawn: dict[str, Lesson] = {}
    number = FIRST_TAUGHT
    while len(drawn) < N_TAUGHT:
        lesson = draw_lesson(field, number)
        drawn.setdefault(lesson.prompt, lesson)
        number += 1
    return list(drawn.values())


def as_jsonl(probes: Iterable[Probe]) -> str:
    """One probe per line, keys in the order of the fields."""
    # Characters as they are, so that a change of the file can be read in a diff.
    rows = ({name: value for name, value in asdict(probe).items() if name != "messages"} for probe in probes)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
def main(out: Path) -> None:
    """Write the lessons that routers are fitted on to the file OUT."""
    out.write_text(as_jsonl(write_taught()), "utf-8")


if __name__ == "__main__":
    main()
