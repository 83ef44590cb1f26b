"""A judge compares answers that no code can grade: in both orders, priced, counted, and itself judged."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from gateway.cli import main
from gateway.cli.judging import read_verdict
from gateway.testing import FakeUpstream
from routers import Artifact, OutcomeTable

PRICED = "input_cost_per_token: 1.0e-6, output_cost_per_token: 2.0e-6"
OPEN = [{"question": f"Write a line about the number {n}."} for n in range(4)]
GRADED = [{"question": f"What is {n}+{4 - n}?", "answer": 4} for n in range(4)]


class JudgingUpstream(FakeUpstream):
    """Answers a comparison as its model's name says; `judge-four` prefers what holds a 4."""

    async def _answer(self, path: str, body: dict[str, Any], writer: Any) -> bool:
        prompt = str(body["messages"][-1]["content"])
        if str(body["model"]).startswith("judge") and "--- Answer A ---" in prompt:
            first, second = (
                re.search(rf"--- Answer {letter} ---\n(.*?)\n\n---", prompt, re.S) for letter in "AB"
            )
            assert first
            assert second
            verdict = {
                "judge-first": "A",
                "judge-rambling": "Both are fine answers in their own way.",
                "judge-four": "T" if ("4" in first[1]) == ("4" in second[1]) else "AB"["4" in second[1]],
            }[body["model"]]
            body = {**body, "model": f"says-{verdict.replace(' ', '_')}"}
        return await super()._answer(path, body, writer)


@pytest.fixture
def upstream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeUpstream]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("THALAMUS_CONFIG", raising=False)
    with JudgingUpstream().in_thread() as upstream:
        configure(upstream, "four", "yes")
        yield upstream


def configure(upstream: FakeUpstream, *words: str, price: str = PRICED) -> None:
    models = {word: f"says-{word.replace('four', '4')}" for word in words}
    models |= {name: f"judge-{name}" for name in ("first", "rambling")} | {"judge": "judge-four"}
    lines = [
        f"  - {{name: {name}, model: openai/{model}, api_base: {upstream.base_url}, api_key: k, {price}}}"
        for name, model in models.items()
    ]
    tool = "  - {name: calculator, tool: calculator}\n"
    Path("thalamus.yaml").write_text("experts:\n" + "\n".join(lines) + "\n" + tool)


def profile(
    *options: str, probes: list[dict[str, Any]] | None = None, experts: str = "four,yes", answer: str = "y\n"
) -> Result:
    Path("own.json").write_text(json.dumps(OPEN + GRADED if probes is None else probes))
    words = ["profile", "--probes", "own.json", "--experts", experts, *options]
    return CliRunner().invoke(main, words, input=answer)


def table() -> OutcomeTable:
    return OutcomeTable.load("outcomes.jsonl.gz")


@pytest.mark.parametrize(
    ("text", "points"),
    [
        ("A", 1.0), ("b.", 0.0), ("T", 0.5), ("**A**", 1.0), ("[[B]]", 0.0), ("Answer: B", 0.0), ("tie", 0.5),
        ("The answer is A", 1.0), ('{"verdict": "B"}', 0.0), ("Answer B is better because it is right.", 0.0),
        ("A: it names the capital.\nB does not.", 1.0), ("Let me think.\nBoth try.\n\nA", 1.0),
        ("A is the better answer.", 1.0), ("B is correct: it has it.", 0.0), ("A, B, or T for a tie.", None),
        ("A good answer names the capital.", None), ("Both are fine.", None), ("", None),
        ("Answer A is better. No, answer B is better.", None), ("I cannot decide", None),
    ],
)  # fmt: skip
def test_a_verdict_is_read_or_left_open(text: str, points: float | None) -> None:
    assert read_verdict(text) == points


def test_verdicts_become_scores_with_their_uncertainty(upstream: FakeUpstream) -> None:
    result = profile("--judge", "judge")
    assert result.exit_code == 0, result.output
    found = table()
    scores = dict(zip(found.experts, found.score.T, strict=True))
    assert scores["four"].tolist() == [1.0] * 8
    assert scores["yes"].tolist() == [0.0] * 8
    # Two verdicts for one answer: the deviation of Beta(2.5, 0.5).
    assert found.score_std[:4] == pytest.approx(np.full((4, 2), np.sqrt(2.5 * 0.5 / (9 * 4))))
    assert np.isnan(found.score_std[4:]).all()  # code is certain
    assert "agreement with the code graders: 1.00 (0.51–1.00) over 4 pairs" in result.output
    assert "the first answer wins 0.50 " in result.output
    assert "both orders give the same verdict for 1.00" in result.output
    assert upstream.n_calls("judge-four") == 2 * (4 + 4)


def test_a_tool_that_declined_what_was_judged_has_an_outcome_there(upstream: FakeUpstream) -> None:
    sums = [{"question": f"What is {n} + 1?", "answer": n + 1} for n in range(4)]
    result = profile("--judge", "judge", probes=OPEN + sums, experts="four,yes,calculator")
    assert result.exit_code == 0
    assert "8, declined 4" in result.output
    found = table()
    column = found.experts.index("calculator")
    assert found.score[:, column].tolist() == [0.0] * 4 + [1.0] * 4
    assert (~np.isnan(found.mask_declined()[:, column])).tolist() == [False] * 4 + [True] * 4
    assert not np.isnan(found.score).any()


def test_judged_outcomes_are_fitted_and_count_for_less_than_certain_ones(upstream: FakeUpstream) -> None:
    profile("--judge", "judge", probes=[{"question": f"Write about {n}."} for n in range(12)])
    result = CliRunner().invoke(main, ["fit", "--encoder", "none", "--predictor", "knn"])
    assert result.exit_code == 0, result.output
    four, _ = Artifact.load(".thalamus/artifact").experts
    assert (four.n, four.score) == (12, 1.0)
    assert four.n_effective == pytest.approx(12 / (1 + 4 * 2.5 * 0.5 / 36))
    assert "score 1.00 (0.73–1.00)" in result.output  # twelve certain ones: 0.76


def test_a_judge_that_always_takes_the_first_is_shown_as_such(upstream: FakeUpstream) -> None:
    result = profile("--judge", "first")
    assert "first answer wins 1.00" in result.output.partition("the first answer")[0]  # as it goes on
    assert "the first answer wins 1.00 (0.81–1.00) of 16 decided comparisons" in result.output
    assert "both orders give the same verdict for 0.00" in result.output
    assert "first is not shown to judge better than guessing" in result.output
    assert table().score[:4].tolist() == [[0.5, 0.5]] * 4  # both orders together favour none


def test_a_judge_that_decides_nothing_leaves_the_prompts_without_a_score(upstream: FakeUpstream) -> None:
    result = profile("--judge", "rambling")
    assert result.exit_code == 0
    assert "judge rambling: 16 comparisons, 16 without a verdict" in result.output
    found = table()
    assert np.isnan(found.score[:4]).all()
    assert found.answers is not None
    assert found.answers[0] == ("4", "yes")


def test_equal_answers_are_ties_that_are_counted_and_not_asked(upstream: FakeUpstream) -> None:
    configure(upstream, "yes", "four", "yesno")
    again = Path("thalamus.yaml").read_text().replace("says-yesno", "says-yes")
    Path("thalamus.yaml").write_text(again)
    result = profile("--judge", "judge", probes=OPEN, experts="yes,yesno")
    assert result.exit_code == 0, result.output
    assert "judge judge: 0 comparisons, 0 without a verdict" in result.output
    assert "4 pairs of equal answers counted as ties" in result.output
    assert table().score.tolist() == [[0.5, 0.5]] * 4
    assert upstream.n_calls("judge-four") == 0
    both = profile("--judge", "judge", "--json", "--max-usd", "9", probes=OPEN, experts="yes,yesno,four")
    found = json.loads(both.stdout)["judge"]
    assert (found["equal_pairs"], found["comparisons"]) == (4, 16)


def test_one_pair_of_equal_answers_is_counted_in_the_singular(upstream: FakeUpstream) -> None:
    configure(upstream, "yes", "four")
    Path("thalamus.yaml").write_text(Path("thalamus.yaml").read_text().replace("says-4", "says-yes"))
    result = profile("--judge", "judge", probes=OPEN[:1])
    assert "1 pair of equal answers counted as a tie" in result.output


def test_a_judge_without_two_answers_to_compare_says_why(upstream: FakeUpstream) -> None:
    result = profile("--judge", "judge", probes=OPEN, experts="yes")
    assert "no open-ended prompt has answers of two experts" in result.output


def test_the_judge_is_priced_before_and_counted_after(upstream: FakeUpstream) -> None:
    result = profile("--judge", "judge", answer="n\n")
    assert result.exit_code == 1
    assert upstream.calls == []
    assert "at most 16 comparisons by judge" in result.output
    bound = re.search(r"judge as judge \$(\d\.\d+)", result.output)
    assert bound
    assert profile("--judge", "judge", "--max-usd", "0.0001").exit_code == 1
    found = json.loads(profile("--judge", "judge", "--max-usd", "9", "--json").stdout)["judge"]
    assert found["cost_usd"] == pytest.approx(16 * (20 * 1e-6 + 5 * 2e-6))
    assert found["cost_usd"] < float(bound[1])
    assert (found["expert"], found["agreement"], found["unread"]) == ("judge", 1.0, 0)


def test_an_expert_that_comes_later_is_compared_with_those_before(upstream: FakeUpstream) -> None:
    profile("--judge", "judge", probes=OPEN)
    configure(upstream, "four", "yes", "fourfour")
    profile("--judge", "judge", probes=OPEN, experts="fourfour")
    found = table()
    assert found.experts == ("four", "yes", "fourfour")
    assert found.score[0].tolist() == [0.75, 0.0, 0.75]  # the two that hold a 4 tie with each other
    assert upstream.n_calls("judge-four") == 2 * 4 * 3  # the first pairs are not asked again


def test_verdicts_are_kept_and_another_rubric_asks_anew(upstream: FakeUpstream) -> None:
    for _ in range(2):
        profile("--judge", "judge", probes=OPEN)
    assert upstream.n_calls("judge-four") == 8
    Path("rubric.txt").write_text("The shorter one wins.")
    profile("--judge", "judge", "--rubric", "rubric.txt", probes=OPEN)
    assert upstream.n_calls("judge-four") == 16
    assert "The shorter one wins." in str(upstream.calls[-1]["messages"])


def test_a_long_answer_of_ones_own_is_shown_to_the_judge(upstream: FakeUpstream) -> None:
    own = " ".join(f"word{n}" for n in range(20))
    profile("--judge", "judge", probes=[{"question": "Explain.", "answer": own}])
    assert own in str(upstream.calls[-1]["messages"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--judge", "absent"], "no expert 'absent' in the configuration"),
        (["--judge", "Juge"], "no expert 'Juge' in the configuration; did you mean 'judge'? it has"),
        (["--judge", "judge,four"], "--judge judge,four: one expert judges; name one"),
        (["--judge", "calculator"], "a tool compares nothing"),
        (["--rubric", "own.json"], "name one with --judge"),
        (["--judge", "judge", "--rubric", "absent.txt"], "absent.txt: cannot be read"),
        (["--judge", "judge", "--rubric", "empty.txt"], "empty.txt: is empty"),
        ([], "4 of 8 probes have no answer that code can compare"),
    ],
)
def test_a_judge_that_cannot_be_is_refused_before_a_call(
    upstream: FakeUpstream, options: list[str], message: str
) -> None:
    Path("empty.txt").write_text(" \n")
    result = profile(*options)
    assert result.exit_code != 0
    assert message in result.output
    assert upstream.calls == []
