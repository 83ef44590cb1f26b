"""The bundled probes: enough of them, as generated, and graded as they should be."""

import json
from collections import Counter, defaultdict
from itertools import pairwise

import pytest

from evals.grading import grade
from evals.probes import Probe, choose_held_out_families, load_probes
from evals.probes.files import BUNDLED
from studies.adapters.probes import as_jsonl
from studies.generate_probes import generate

PROBES = load_probes()
KINDS = sorted({probe.kind for probe in PROBES})


def test_there_are_enough_prompts_families_and_kinds() -> None:
    assert len(PROBES) >= 600
    assert len({probe.family for probe in PROBES}) >= 72
    assert len(KINDS) >= 12


def test_the_file_is_what_the_generator_writes() -> None:
    assert BUNDLED.read_text(encoding="utf-8") == as_jsonl(generate())


def test_every_kind_has_six_families_of_five_prompts_or_more() -> None:
    families = defaultdict(set)
    for probe in PROBES:
        families[probe.kind].add(probe.family)
    assert min(len(names) for names in families.values()) >= 6
    assert min(Counter(probe.family for probe in PROBES).values()) >= 5


def test_ids_and_prompts_are_unique() -> None:
    assert len({probe.id for probe in PROBES}) == len(PROBES)
    assert len({probe.prompt for probe in PROBES}) == len(PROBES)


def test_probes_survive_a_round_trip_through_json() -> None:
    for probe in PROBES:
        assert json.loads(json.dumps(probe.expected)) == probe.expected


@pytest.mark.parametrize("kind", KINDS)
def test_reference_answers_score_one(kind: str) -> None:
    assert [p.id for p in PROBES if p.kind == kind and grade(p.reference, p) != 1.0] == []


@pytest.mark.parametrize("kind", KINDS)
def test_empty_evasive_and_echoing_answers_score_zero(kind: str) -> None:
    for probe in (p for p in PROBES if p.kind == kind):
        for answer in _evasions(probe):
            assert grade(answer, probe) == 0.0, (probe.id, answer)


def _evasions(probe: Probe) -> list[str]:
    return [
        "",
        " \n",
        "I don't know",
        "I'm sorry, I cannot answer that.",
        probe.prompt,
        probe.prompt.upper() if probe.grader != "literal" else probe.prompt,
        f'You asked: "{probe.prompt}"',
        f"{probe.prompt}\n\n{probe.prompt}",
    ]


def test_the_answer_to_the_next_prompt_of_the_family_rarely_counts() -> None:
    told_apart = [p for p in PROBES if p.grader not in {"yes_no", "members", "keywords", "code"}]
    lucky: Counter[str] = Counter()
    for probe, other in pairwise(told_apart):
        if probe.family == other.family:
            lucky[probe.family] += grade(other.reference, probe) == 1.0
    assert {family: n for family, n in lucky.items() if n > 2} == {}


def test_every_held_out_kind_keeps_most_of_its_families_for_fitting() -> None:
    held = choose_held_out_families(PROBES)
    for kind in KINDS:
        families = {p.family for p in PROBES if p.kind == kind}
        assert 1 <= len(families & held) < len(families) / 2
    share = sum(p.family in held for p in PROBES) / len(PROBES)
    assert 0.2 <= share <= 0.4
