"""Experts are asked probes; every answer is kept, graded and priced."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from gateway.cli.profiling import AnswerStore, ExpertUnderTest, ask_all, build_outcome_table, upper_cost_usd
from gateway.experts import Call, Reply, UpstreamError
from gateway.openai.answers import Price
from routers import ExpertProfile, OutcomeTable, Provenance


@dataclass
class Question:
    id: str
    prompt: str
    expected: str
    kind: str = "facts"
    family: str = "capitals"
    max_tokens: int = 8
    grader: str = "exact"
    messages: Sequence[Mapping[str, Any]] = ()


QUESTIONS = [Question("q1", "Capital of France?", "Paris"), Question("q2", "Capital of Italy?", "Rome")]


class Parrot:
    """Answers every prompt with the same text; fails the first `n_failures` times."""

    def __init__(self, name: str, says: str = "Paris", n_failures: int = 0, failure: Any = "connect") -> None:
        self.name, self.says, self.n_failures, self.failure = name, says, n_failures, failure
        self.bodies: list[dict[str, Any]] = []

    async def call(self, call: Call) -> Reply:
        self.bodies.append({name: msgspec.json.decode(value) for name, value in call.fields.items()})
        if self.n_failures:
            self.n_failures -= 1
            raise UpstreamError(self.failure, "could not be reached")
        said = {
            "message": {"content": self.says},
            "logprobs": {"content": [{"logprob": -0.5}, {"logprob": -1.5}]},
        }
        usage = {"prompt_tokens": 10, "completion_tokens": 2}
        return Reply(body=json.dumps({"choices": [said], "usage": usage}).encode())

    def share(self, n_replicas: int) -> None: ...

    async def close(self) -> None: ...


def right(answer: str, question: Any) -> float:
    return float(answer == question.expected)


def profile(path: Path, *experts: Parrot, probes: Sequence[Question] = QUESTIONS) -> OutcomeTable:
    tested = [ExpertUnderTest(e, f"local/{e.name}", Price(1e-6, 2e-6), logprobs=True) for e in experts]
    store = AnswerStore(path)
    asyncio.run(ask_all(probes, tested, right, store))
    return build_outcome_table(probes, tested, store, Provenance(source="test"))


def test_answers_are_graded_priced_and_kept(tmp_path: Path) -> None:
    table = profile(tmp_path / "answers", Parrot("a"), Parrot("b", says="Rome"))
    assert table.experts == ("a", "b")
    assert table.models == ("local/a", "local/b")
    assert table.score.tolist() == [[1.0, 0.0], [0.0, 1.0]]
    assert table.cost_usd[0, 0] == pytest.approx(10e-6 + 4e-6)
    assert table.confidence[0, 0] == pytest.approx(-1.0)
    assert table.answers is not None
    assert table.answers[1] == ("Paris", "Rome")
    assert table.families == ("capitals", "capitals")


def test_an_interrupted_run_asks_only_what_is_missing(tmp_path: Path) -> None:
    profile(tmp_path / "answers", Parrot("a"), probes=QUESTIONS[:1])
    with (tmp_path / "answers").open("a") as file:
        file.write('{"probe": "q2", "expert": "a", "mod')  # killed while writing
    again = Parrot("a", says="Rome")
    table = profile(tmp_path / "answers", again)
    assert [body["messages"][0]["content"] for body in again.bodies] == ["Capital of Italy?"]
    assert table.score[:, 0].tolist() == [1.0, 1.0]


def test_a_line_cut_short_does_not_swallow_the_next_answer(tmp_path: Path) -> None:
    (tmp_path / "answers").write_text('{"probe": "q2", "expert": "a", "mod')
    profile(tmp_path / "answers", Parrot("a"))
    untouched = Parrot("a")
    profile(tmp_path / "answers", untouched)
    assert untouched.bodies == []


def test_a_changed_prompt_or_model_is_asked_again(tmp_path: Path) -> None:
    profile(tmp_path / "answers", Parrot("a"))
    again = Parrot("a")
    profile(tmp_path / "answers", again, probes=[Question("q1", "The capital of France is?", "Paris")])
    assert len(again.bodies) == 1


def test_a_failure_is_unmeasured_and_asked_again(tmp_path: Path) -> None:
    flaky = Parrot("a", n_failures=1)
    table = profile(tmp_path / "answers", flaky)
    assert np.isnan(table.score).sum() == 1
    assert not np.isnan(profile(tmp_path / "answers", flaky).score).any()


def test_a_tool_that_declines_has_answered_nothing_for_free(tmp_path: Path) -> None:
    table = profile(tmp_path / "answers", Parrot("tool", n_failures=2, failure="declined"))
    assert table.score[:, 0].tolist() == [0.0, 0.0]
    assert table.cost_usd[:, 0].tolist() == [0.0, 0.0]
    assert table.declined[:, 0].tolist() == [1.0, 1.0]


def test_the_price_shown_is_the_most_it_can_cost_and_unknown_stays_unknown() -> None:
    known = ExpertProfile("a", "a", input_usd_per_token=1e-6, output_usd_per_token=1e-3)
    prices = upper_cost_usd(QUESTIONS, [known, ExpertProfile("b", "b")])
    assert (prices["a"] or 0.0) > 2 * 8 * 1e-3
    assert prices["b"] is None


class SharedEngine:
    """Remembers how many of its experts were busy at a time."""

    def __init__(self) -> None:
        self.busy = self.most = 0


class EngineParrot(Parrot):
    """A parrot that shares an engine with others."""

    def __init__(self, name: str, engine: SharedEngine) -> None:
        super().__init__(name)
        self.engine = engine

    async def call(self, call: Call) -> Reply:
        self.engine.busy += 1
        self.engine.most = max(self.engine.most, self.engine.busy)
        await asyncio.sleep(0)
        self.engine.busy -= 1
        return await super().call(call)


@pytest.mark.parametrize(("lane", "most"), [("engine", 1), (None, 3)])
def test_experts_of_one_lane_are_asked_one_after_another(tmp_path: Path, lane: str | None, most: int) -> None:
    engine = SharedEngine()
    tested = [ExpertUnderTest(EngineParrot(name, engine), name, Price(), lane=lane) for name in "abc"]
    asyncio.run(ask_all(QUESTIONS, tested, right, AnswerStore(tmp_path / "answers")))
    assert engine.most == most


def test_rows_of_a_judge_and_of_traffic_need_not_be_asked_again(tmp_path: Path) -> None:
    measures = {"score": [[0.75]], "score_std": [[0.1]], "propensity": [[0.5]], "cost_usd": [[0.01]]}
    table = OutcomeTable.build(
        [QUESTIONS[0].prompt],
        ["parrot"],
        {name: np.array(values) for name, values in measures.items()},
        ids=["q1"],
        models=["m"],
    )
    found = AnswerStore(tmp_path / "answers.jsonl", table).find(QUESTIONS[0], "parrot", "m")
    assert found is not None
    assert (found.score, found.cost_usd) == (0.75, 0.01)
