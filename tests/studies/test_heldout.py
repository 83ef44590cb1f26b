import numpy as np

from evals.probes import choose_held_out_families, load_probes
from evals.probes.files import load_bundled_outcomes
from studies.adapters.probes import write_taught
from studies.heldout import RoutedAnswers, by_keywords, compare, render, split_families, summarize
from studies.svg_chart import bar_chart


def test_the_bundled_outcomes_answer_every_bundled_probe_and_hold_whole_families_out() -> None:
    fitted, held = load_bundled_outcomes()
    picked = {probe.id: probe.prompt for probe in [*load_probes(), *write_taught()]}
    assert dict(zip([*fitted.ids, *held.ids], [*fitted.texts, *held.texts], strict=True)) == picked
    assert set(held.families) == set(choose_held_out_families(load_probes()))
    assert not set(held.families) & set(fitted.families)
    assert not np.isnan(fitted.score).any()


def test_the_table_shows_every_single_the_rules_the_mix_and_the_oracle() -> None:
    _, held = load_bundled_outcomes()
    rows, best = np.arange(len(held)), held.score.argmax(axis=1)
    perfect = RoutedAnswers(
        held.score[rows, best], tuple(held.experts[n] for n in best), held.latency_s[rows, best]
    )
    answers = compare(held, {"Thalamus": perfect})
    figures = summarize(held, answers)
    assert figures["oracle"]["accuracy"] == figures["Thalamus"]["accuracy"] == held.oracle().mean()
    assert figures["oracle"]["mix_over"] == 0
    assert figures["Thalamus"]["identified"] == 1
    assert figures["calculator"]["identified"] < 1
    table = render(held, answers, figures)
    assert all(name in table for name in (*held.experts, "keyword rules", "oracle", "yes_no"))


def test_figures_of_a_panel_name_no_single_expert() -> None:
    _, held = load_bundled_outcomes()
    panel = RoutedAnswers(held.oracle(), ("",) * len(held), held.latency_s.max(axis=1))
    answers = compare(held, {"Thalamus": panel})
    assert np.isnan(summarize(held, answers)["Thalamus"]["identified"])


def test_parts_hold_every_row_but_lessons_once_and_no_family_twice() -> None:
    fitted, _ = load_bundled_outcomes()
    parts = split_families(fitted)
    tested = [n for n, name in enumerate(fitted.families) if not name.startswith("taught_")]
    assert sorted(np.concatenate(parts)) == tested
    families = [{fitted.families[row] for row in part} for part in parts]
    assert sum(map(len, families)) == len(set.union(*families))


def test_keyword_rules_pass_a_question_on_that_the_tool_declined() -> None:
    assert by_keywords("What is 3 * 4?") == "calculator"
    assert by_keywords("Write a function for 3 * 4", {"calculator"}) == "smollm2"
    assert by_keywords("Sort these: 3, 1") == "smollm2-sort"
    assert by_keywords("Sort these: 3, 1", experts=("smollm2", "calculator")) == "smollm2"


def test_a_bar_chart_draws_every_name_and_escapes_it() -> None:
    drawn = bar_chart({"a<b": 0.5, "Thalamus": 1.0})
    assert "a&lt;b" in drawn
    assert drawn.count("<rect") == 2
