"""Writes the bundled probe set: `python -m studies.generate_probes`."""

import json
from dataclasses import asdict

from evals.probes import Probe
from evals.probes.files import BUNDLED

from .probe_families import FAMILIES


def generate() -> list[Probe]:
    """Every item of every family as a probe, in the order of kinds and families."""
    return [
        Probe(
            id=f"{family.name}/{number:02d}",
            kind=family.kind,
            family=family.name,
            prompt=item.prompt,
            grader=family.grader,
            expected=item.expected,
            max_tokens=family.max_tokens,
            reference=item.reference,
        )
        for family in FAMILIES
        # From 1: the first item of a family has an id that ends in /01.
        for number, item in enumerate(family.items, 1)
    ]


def as_jsonl(probes: list[Probe]) -> str:
    """One probe per line, keys in the order of the fields."""
    # Characters as they are, so that a change of the file can be read in a diff.
    rows = ({name: value for name, value in asdict(probe).items() if name != "messages"} for probe in probes)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


if __name__ == "__main__":
    BUNDLED.write_text(as_jsonl(generate()), encoding="utf-8")
