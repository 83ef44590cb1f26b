"""A plan that only this file knows runs live, in a batch and in replay, and is decoded from the journal."""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from evals.replay import replay_plan
from gateway.batches.outcomes import next_step
from gateway.requests.parsing import ToPolicy
from policies import PLANS, Attempt, Decision, Fleet, Plan, PlanBase, decode_plan, register_plan
from policies.plans import StepResult
from tests.evals.test_panels import table
from tests.fakes.batches import line, open_batch_gateway, read_content
from tests.fakes.routing import InOrder
from tests.fakes.serving import KEY


@dataclass(frozen=True, slots=True)
class LastFirstPlan(PlanBase):
    """Asks the experts from the last to the first."""

    experts: tuple[str, ...]

    @property
    def kind(self) -> str:
        return "last-first"

    @property
    def aggregator(self) -> None:
        return None

    @property
    def is_sequential(self) -> bool:
        return True

    def summary(self) -> dict[str, Any]:
        return {"experts": list(self.experts)}

    def attempts(self) -> Generator[Attempt, StepResult, None]:
        for expert in reversed(self.experts):
            if (yield Attempt(expert, last=expert == self.experts[0])) != "moved_on":
                return


class LastFirstRouter(InOrder):
    """Decides on the plan of this file."""

    async def decide(self, request: ToPolicy, fleet: Fleet) -> Decision:
        decision = await super().decide(request, fleet)
        return msgspec.structs.replace(decision, plan=LastFirstPlan(self.pool))


MODELS: Sequence[str] = ("says-a", "says-b", "status-500")


@pytest.fixture
def last_first_router(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fakes.serving.InOrder", LastFirstRouter)


@pytest.fixture(autouse=True)
def register_last_first() -> Iterator[None]:
    register_plan("last-first", LastFirstPlan)
    yield
    del PLANS["last-first"]


def test_a_plan_written_down_is_decoded_by_its_kind() -> None:
    plan: Plan = LastFirstPlan(("a", "c"))
    parts = msgspec.msgpack.decode(msgspec.msgpack.encode(plan.parts()))
    assert decode_plan(plan.kind, parts) == plan


def test_replay_drives_it() -> None:
    assert replay_plan(LastFirstPlan(("a", "c")), table(), 0).pick == 2


def test_a_batch_takes_its_first_step() -> None:
    step = next_step(LastFirstPlan(("a", "c")), [])
    assert isinstance(step, Attempt)
    assert step.expert == "c"


@pytest.mark.usefixtures("last_first_router")
async def test_live_the_last_expert_is_asked_first_and_the_journal_has_the_plan(tmp_path: Path) -> None:
    async with open_batch_gateway(tmp_path, MODELS, MODELS) as site:
        answer = await site.live.chat("auto", headers={"authorization": f"Bearer {KEY}"})
        assert (answer.status, answer.expert) == (200, "says-b")
        assert [call["model"] for call in site.upstream.calls] == ["status-500", "says-b"]
        decision_id = answer.headers["x-thalamus-decision-id"]
        async with site.live.http.get(
            f"{site.live.base}/decisions/{decision_id}", headers={"authorization": f"Bearer {KEY}"}
        ) as response:
            record = await response.json()
    assert record["plan"] == "last-first"


@pytest.mark.usefixtures("last_first_router")
async def test_a_batch_runs_it(tmp_path: Path) -> None:
    async with open_batch_gateway(tmp_path, MODELS[:2], MODELS[:2]) as site:
        batch, output, errors = await site.run(line("1", "auto"), line("2", "auto"))
    assert (batch.status, errors) == ("completed", [])
    assert [read_content(row) for row in output] == ["b", "b"]
