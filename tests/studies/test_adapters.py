from random import Random

import numpy as np
import pytest
import yaml

from evals.grading import check_expected, grade
from evals.probes import choose_held_out_families, load_probes
from gateway.config.discovery import BUNDLED
from gateway.runners.weights import find_gguf_adapter, find_weights, read_gguf_header
from studies.adapters.bundled import FIELDS, SHIPPED, draw_lesson
from studies.adapters.gguf_adapter import order_rows
from studies.adapters.probes import write_taught, write_untaught
from studies.adapters.shapes import is_probed, leave_out_probed

PROBES = load_probes()


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_every_family_grades_its_own_answers_as_right(name: str) -> None:
    field = FIELDS[name]
    for draw in (*(draw for _, draw in field.lessons), *field.tests.values()):
        for seed in range(40):
            lesson = draw(Random(seed))
            check_expected(lesson.grader, lesson.expected)
            assert grade(lesson.answer, lesson) == 1, lesson


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_lessons_are_drawn_alike_again_and_none_is_a_bundled_probe(name: str) -> None:
    lessons = [draw_lesson(FIELDS[name], number) for number in range(1500)]
    assert lessons[:50] == [draw_lesson(FIELDS[name], number) for number in range(50)]
    assert not {lesson.prompt for lesson in lessons} & {probe.prompt for probe in PROBES}


def test_what_a_probe_asks_for_is_not_taught() -> None:
    assert is_probed("hot", "cold")  # word_relations/opposite
    assert not is_probed("cold", "river")
    assert leave_out_probed([("hot", "cold"), ("tame", "wild")]) == (("tame", "wild"),)


def test_families_that_are_not_taught_are_fitted_on_and_never_held_out() -> None:
    untaught = list(write_untaught())
    assert untaught == PROBES[-len(untaught) :]
    assert not {probe.family for probe in untaught} & choose_held_out_families(PROBES)


def test_lessons_that_routers_are_fitted_on_are_graded_as_any_probe() -> None:
    taught = list(write_taught())
    assert len({probe.prompt for probe in taught}) == len({probe.id for probe in taught}) == 50 * len(SHIPPED)
    assert all(grade(probe.reference, probe) == 1 for probe in taught)


def test_each_bundled_adapter_answers_under_the_system_prompt_that_it_was_trained_under() -> None:
    entry = yaml.safe_load(f"experts:\n{BUNDLED}")["experts"][0]
    given = {name: (one["path"], one["system"]) for name, one in entry["runner"]["adapters"].items()}
    assert given == {f"smollm2-{name}": (f"bundled/smollm2-{name}", FIELDS[name].system) for name in SHIPPED}
    weights = find_weights("bundled/smollm2-135m")
    for path, _ in given.values():
        assert read_gguf_header(find_gguf_adapter(path, weights, "adapters")).cut is None


def test_rows_of_heads_change_from_halves_to_neighbours() -> None:
    rows = np.arange(8.0)[:, None]  # two heads of four rows
    assert order_rows(rows, 2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
