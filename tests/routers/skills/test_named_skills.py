"""Named skills: profiles of experts by keyword, trials of aggregators, and their file."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from routers import ArtifactError, HashingEmbedder, OutcomeTable
from routers.skills import NamedSkills, build_trials, skills_path

WORDS = {"sum": ["algebra"], "law": ["statute"]}
EMBEDDER = HashingEmbedder(64)


def table(answers: Any = None) -> OutcomeTable:
    """Twenty sums, which a knows, and twenty questions of law, which b knows."""
    kinds = ["sum", "law"] * 20
    score = np.array([[float(kind == "sum"), float(kind == "law")] for kind in kinds])
    ids = [f"{kind}/{n}" for n, kind in enumerate(kinds)]
    texts = [f"{kind} {n}" for n, kind in enumerate(kinds)]
    return OutcomeTable.build(
        texts, ["a", "b"], {"score": score}, ids=ids, tasks=kinds, models=["p/a", "p/b"], answers=answers
    )


def fit_named(trials: Any = None) -> NamedSkills:
    rows = table()
    words = {text: WORDS[task] for text, task in zip(rows.texts, rows.tasks, strict=True)}
    return NamedSkills.fit(rows, EMBEDDER, words, trials, "p/namer")


def test_the_expert_who_has_the_skill_is_worth_most() -> None:
    found = fit_named().recruit([["algebra"], ["statute"]], [0, 1])
    assert found.names == (("algebra",), ("statute",))
    assert found.value == pytest.approx(np.array([[22.5, 2.5], [2.5, 22.5]]) / 25)
    assert np.isnan(found.weighs).all()


def test_a_query_without_a_known_skill_says_nothing() -> None:
    found = fit_named().recruit([["gardening"], []], [0, 1])
    assert found.names == ((), ())
    assert np.isnan(found.value).all()


def test_the_paper_recruits_by_counts_and_competency() -> None:
    value = fit_named().recruit([["algebra"]], [0, 1], "paper").value
    # Counts +20 and −20; the totals are 0 each, so that competency is a half for both: softmax(±10 / 0.5).
    assert value[0] == pytest.approx([1 / (1 + np.exp(-40.0)), 1 / (1 + np.exp(40.0))])
    assert fit_named().recruit([["algebra"]], [0, 1], "code").value[0] == pytest.approx([1, 0])


def test_experts_keep_their_columns_in_another_pool_and_strangers_have_none() -> None:
    skills = fit_named()
    columns = skills.align([("c", "p/c"), ("b", "openai/p/b"), ("a", "p/other")])
    assert columns == [None, 1, None]
    value = skills.recruit([["statute"]], columns).value[0]
    assert np.isnan(value).tolist() == [True, False, True]


def test_who_weighs_answers_well_is_known_by_skill() -> None:
    trials = {(f"sum/{n}", "a"): 1.0 for n in range(0, 20, 2)} | {
        (f"law/{n}", "a"): 0.0 for n in range(1, 20, 2)
    }
    skills = fit_named(trials)
    assert skills.list_tried() == ("a",)
    weighs = skills.recruit([["algebra"], ["statute"], []], [0, 1]).weighs
    # Ten trials right of twenty, and a prior of ten: overall ½; by skill (10 + 5) / 20 and 5 / 20.
    assert weighs[:, 0] == pytest.approx([0.75, 0.25, 0.5])
    assert np.isnan(weighs[:, 1]).all()


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    skills, path = fit_named({("sum/0", "a"): 1.0}), skills_path(tmp_path / "artifact")
    skills.save(path)
    loaded = NamedSkills.load(path, EMBEDDER)
    assert (path.name, loaded.source, loaded.list_tried()) == ("artifact.skills.json", "p/namer", ("a",))
    asked = [["algebra"], ["statute", "algebra"], ["gardening"]]
    before, after = skills.recruit(asked, [0, 1]), loaded.recruit(asked, [0, 1])
    assert after.names == before.names
    assert after.value == pytest.approx(before.value, abs=1e-3, nan_ok=True)
    assert after.weighs == pytest.approx(before.weighs, abs=1e-3, nan_ok=True)
    assert loaded.describe()[0]["accuracy"] == pytest.approx(skills.describe()[0]["accuracy"], abs=1e-3)


@pytest.mark.parametrize("content", ["", "{}", '{"schema": 1}', '{"schema": 9}', "[]"])
def test_a_damaged_file_says_how_to_make_a_new_one(tmp_path: Path, content: str) -> None:
    path = tmp_path / "artifact.skills.json"
    path.write_text(content)
    with pytest.raises(ArtifactError, match="thalamus fit --skills"):
        NamedSkills.load(path, EMBEDDER)


def test_texts_that_share_no_keyword_name_no_skill() -> None:
    rows = table().take(np.arange(2))
    with pytest.raises(ArtifactError, match="no keyword occurs in two texts"):
        NamedSkills.fit(rows, EMBEDDER, {rows.texts[0]: ["x"], rows.texts[1]: ["y"]})


def trial_table() -> OutcomeTable:
    answers = [
        ["right", "wrong", "worse", "wrong"],
        ["right", "wrong", "", "wrong"],
        ["no", "nay", "nope", "x"],
    ]
    score = np.array([[1.0, 0, 0, 0], [1.0, 0, 0, 0], [0.0, 0, 0, 0]])
    return OutcomeTable.build(["p", "q", "r"], [*"abcd"], {"score": score}, answers=answers)


def test_a_trial_shows_one_right_answer_among_two_different_wrong_ones() -> None:
    (trial,) = build_trials(trial_table(), 9)
    assert (trial.row, sorted(trial.answers)) == (0, ["right", "worse", "wrong"])


def test_the_order_of_answers_is_drawn() -> None:
    places = {build_trials(trial_table(), 9, seed=seed)[0].answers.index("right") for seed in range(20)}
    assert places == {0, 1, 2}


def test_without_recorded_answers_there_is_no_trial() -> None:
    assert build_trials(table(), 9) == []
