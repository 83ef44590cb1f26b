"""Writes the bundled probe set: `python -m studies.generate_probes`."""

from evals.probes import Probe
from evals.probes.files import BUNDLED

from .adapters.probes import as_jsonl, write_untaught
from .probe_families import FAMILIES


def generate() -> list[Probe]:
    """Every item of every family as a probe, in the order of kinds, then what is drawn for the adapters."""
    written = [
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
    return [*written, *write_untaught()]


if __name__ == "__main__":
    BUNDLED.write_text(as_jsonl(generate()), encoding="utf-8")
