"""`thalamus probes`: check a file of own probes, or write one to begin with."""

import csv
import io
import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from routers.text_files import write_file

from ..probes import ProbeError
from ..probes.expectations import JUDGE, SHAPES
from ..probes.formats import Probe, ProbeProblem, check_answers, read_probes

CHECK_EXAMPLES = """
\b
Examples:
  thalamus probes check mine.jsonl
  thalamus probes check mine.csv --json
\b
A probe needs `question` (or `prompt`, or `messages`) and `answer` (or `expected`); the grader is inferred, or
named by `grader`. Without an answer it is open-ended: `thalamus profile --judge EXPERT` compares the answers.
"""
TEMPLATE_EXAMPLES = """
\b
Examples:
  thalamus probes template                  on the screen
  thalamus probes template mine.jsonl
  thalamus probes template mine.csv         for a spreadsheet
"""
TEMPLATE: tuple[dict[str, Any], ...] = (
    {"question": "Within how many days can an order be returned? Policy: 30 days.", "answer": 30},
    {"question": "An order of 3 shirts at 12.50 each, delivery 4. What is the total?", "answer": 41.5},
    {"question": "A parcel leaves on Monday and takes 3 days. How many days until Friday then?", "answer": 1},
    {"question": "Is this message angry? Answer yes or no: Thanks, that solved it!", "answer": "no"},
    {"question": "Is this message angry? Answer yes or no: I want my money back NOW!", "answer": "yes"},
    {
        "question": "Is a gift card a product that can be returned? Policy: gift cards are final.",
        "answer": "no",
    },
    {"question": "What is the capital of Peru?", "answer": "Lima"},
    {"question": "Which river flows through Vienna?", "answer": "Danube | Donau"},
    {"question": "Name the customer: Hello, Mary Shaw here, my parcel is late.", "answer": "Mary Shaw"},
    {"question": "In which city is the customer? I moved from Bonn to Graz.", "answer": "Graz"},
    {
        "question": "Explain in two sentences why a refund can be refused.",
        "answer": ["proof of purchase", "30 days"],
        "grader": "keywords",
    },
    {
        "question": "Answer as JSON with name and city: I am Ann, from Oslo.",
        "answer": {"name": "Ann", "city": "Oslo"},
    },
    {"question": "Write a friendly reply to a customer whose parcel is late."},
    {"question": "Write a slogan for a shop that mends bicycles."},
)
"""Numbers, yes or no, phrases, two spellings, what must be said, JSON, and two for a judge."""


@click.group("probes")
def command() -> None:
    """Check a file of your own probes, or write one to begin with."""


@command.command("check", epilog=CHECK_EXAMPLES)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(file: Path, as_json: bool) -> None:
    """Say of every line of FILE that cannot be used which field is wrong, and the fix.

    The exit status is 1 if a line cannot be used; notes do not count.
    """
    try:
        probes, problems = read_probes(file)
    except ProbeError as error:
        raise click.ClickException(str(error)) from None
    problems += [_doubt(probe, answer) for probe, answer in check_answers(probes)]
    faults = [problem for problem in problems if not problem.is_note]
    if not probes and not faults:
        raise click.ClickException(f"{file}: holds no probe; `thalamus probes template` shows some")
    graders = Counter(probe.grader for probe in probes)
    if as_json:
        found = {"ok": not faults, "probes": len(probes), "graders": graders}
        click.echo(json.dumps({**found, "problems": [asdict(problem) for problem in problems]}))
    else:
        _show(file, probes, problems, graders)
    if faults:
        raise SystemExit(1)


def _doubt(probe: Probe, answer: str) -> ProbeProblem:
    message = f"{probe.id}: its own answer {answer!r} would not pass the grader {probe.grader}"
    fix = f"{probe.grader} takes {SHAPES[probe.grader]}; or choose another grader"
    return ProbeProblem(0, "expected", message, fix, is_note=True)


def _show(file: Path, probes: list[Probe], problems: list[ProbeProblem], graders: Counter[str]) -> None:
    for problem in problems:
        place = f"{file}:{problem.line}" if problem.line else str(file)
        field = f" {problem.field}:" if problem.field else ""
        click.echo(f"{'note   ' if problem.is_note else 'FAULT  '} {place}:{field} {problem.message}")
        if problem.fix:
            click.echo(f"         fix: {problem.fix}")
    counts = ", ".join(f"{n} {grader}" for grader, n in graders.most_common())
    click.echo(f"{len(probes)} probes can be used{': ' + counts if counts else ''}")
    if probes and not any(not problem.is_note for problem in problems):
        judge = " --judge EXPERT" if JUDGE in graders else ""
        click.echo(f"next: thalamus profile --probes {file}{judge}")


@command.command("template", epilog=TEMPLATE_EXAMPLES)
@click.argument("file", type=click.Path(path_type=Path), required=False)
def template(file: Path | None) -> None:
    """Write a few probes to begin with to FILE (.jsonl or .csv), or on the screen."""
    text = _as_csv() if file and file.suffix.lower() == ".csv" else _as_jsonl()
    if file is None:
        click.echo(text, nl=False)
        return
    if file.exists():
        raise click.ClickException(f"{file} already exists; choose another name")
    try:
        write_file(file, text)
    except OSError as error:
        raise click.ClickException(f"{file} cannot be written: {error.strerror}") from None
    click.echo(f"wrote {file}; next: thalamus probes check {file}")


def _as_jsonl() -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in TEMPLATE)


def _as_csv() -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, ["question", "answer", "grader"], lineterminator="\n")
    writer.writeheader()
    for row in TEMPLATE:
        cells = {name: ", ".join(v) if isinstance(v, list) else v for name, v in row.items()}
        writer.writerow({n: json.dumps(v) if isinstance(v, dict) else v for n, v in cells.items()})
    return out.getvalue()
