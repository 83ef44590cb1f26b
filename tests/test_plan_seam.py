"""A plan that only this file knows is written down, decoded, replayed and stepped through in a batch."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from evals.replay import replay_plan
from gateway.batches.outcomes import next_step
from policies import PLANS, Attempt, Plan, PlanBase, decode_plan, register_plan
from policies.plans import StepResult
from tests.evals.test_panels import table


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
