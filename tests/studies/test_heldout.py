import numpy as np

from evals.probes import choose_held_out_families, load_probes
from evals.probes.files import load_bundled_outcomes
from studies.heldout import by_keywords, compare, render, summarize
from studies.svg_chart import bar_chart


def test_the_bundled_outcomes_answer_every_bundled_probe_and_hold_whole_families_out() -> None:
    fitted, held = load_bundled_outcomes()
    picked = {probe.id: probe.prompt for probe in load_probes()}
    assert dict(zip([*fitted.ids, *held.ids], [*fitted.texts, *held.texts], strict=True)) == picked
    assert set(held.families) == set(choose_held_out_families(load_probes()))
    assert not set(held.families) & set(fitted.families)
    assert not np.isnan(fitted.score).any()


def test_the_table_shows_every_single_the_rules_the_mix_and_the_oracle() -> None:
    _, held = load_bundled_outcomes()
    best = held.score.max(axis=1)
    scores = compare(held, {"adaptive": best})
    figures = summarize(held, scores)
    assert figures["oracle"]["accuracy"] == figures["Thalamus (adaptive)"]["accuracy"] == best.mean()
    assert figures["oracle"]["mix_over"] == 0
    table = render(held, scores, figures)
    assert all(name in table for name in (*held.experts, "keyword rules", "oracle", "yes_no"))


def test_keyword_rules_pass_a_question_on_that_the_tool_declined() -> None:
    assert by_keywords("What is 3 * 4?") == "calculator"
    assert by_keywords("Write a function for 3 * 4", {"calculator"}) == "smollm2"


def test_a_bar_chart_draws_every_name_and_escapes_it() -> None:
    drawn = bar_chart({"a<b": 0.5, "Thalamus": 1.0})
    assert "a&lt;b" in drawn
    assert drawn.count("<rect") == 2
