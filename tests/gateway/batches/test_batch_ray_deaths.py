"""Actors that die, on a stand-in for Ray: a line that kills its actor ends, those beside it are answered."""

import asyncio
from typing import Any

import msgspec
import pytest

from gateway.batches.outcomes import CallOutcome
from gateway.batches.ray_executor import MAX_TRIES, RayExecutor
from gateway.config import Config
from gateway.experts.types import Call
from gateway.storage.journal import AttemptRecord

DEADLY = b'"die"'


class RayActorError(Exception):
    """As Ray raises it in every call of an actor that died."""


class FakeActor:
    """Answers a call in two steps of the loop; a deadly one ends all that are under way."""

    def __init__(self, ray: "FakeRay") -> None:
        self._ray = ray
        self._under_way: set[asyncio.Future[bytes]] = set()
        self.call = self

    def remote(self, expert: str, endpoint: str, fields: dict[str, bytes]) -> "asyncio.Future[bytes]":
        answer = asyncio.get_running_loop().create_future()
        self._under_way.add(answer)
        self._ray.calls.append(fields["prompt"])
        asyncio.get_running_loop().call_soon(self._end, answer, expert, fields["prompt"])
        return answer

    def _end(self, answer: "asyncio.Future[bytes]", expert: str, prompt: bytes) -> None:
        if prompt == DEADLY:
            for one in self._under_way:
                one.set_exception(RayActorError("The actor died unexpectedly"))
            self._under_way.clear()
        elif answer in self._under_way:
            self._under_way.discard(answer)
            outcome = CallOutcome(AttemptRecord(expert, "answered", 200), body=prompt)
            answer.set_result(msgspec.msgpack.encode(outcome))


class FakeRay:
    """As much of Ray as the executor uses."""

    def __init__(self) -> None:
        self.exceptions = self
        self.RayActorError = RayActorError
        self.calls: list[bytes] = []
        self.actors: list[FakeActor] = []
        self.killed: list[FakeActor] = []
        self.options_given: dict[str, Any] = {}

    def remote(self, what: Any) -> "FakeRay | FakeActor":
        if isinstance(what, type):
            return self
        self.actors.append(FakeActor(self))
        return self.actors[-1]

    def options(self, **given: Any) -> "FakeRay":
        self.options_given = given
        return self

    def kill(self, actor: FakeActor) -> None:
        self.killed.append(actor)


@pytest.mark.parametrize("n_deadly", [0, 1, 2])
async def test_a_line_that_kills_its_actor_ends_as_an_error_and_those_beside_it_are_answered(
    n_deadly: int,
) -> None:
    ray = FakeRay()
    config = msgspec.convert({"experts": [{"name": "a", "model": "openai/a"}]}, Config)
    prompts = [b'"1"', b'"2"', *[DEADLY] * n_deadly, b'"3"']
    async with RayExecutor(ray, config, 1).stage("a") as call_expert:
        calls = [Call("completions", {"prompt": msgspec.Raw(prompt)}) for prompt in prompts]
        async with asyncio.timeout(20):
            outcomes = await asyncio.gather(*map(call_expert, calls))
    for prompt, outcome in zip(prompts, outcomes, strict=True):
        if prompt == DEADLY:
            assert outcome.failure is not None
            assert "died" in outcome.failure.message
        else:
            assert outcome.body == prompt
    assert ray.calls.count(DEADLY) == n_deadly * MAX_TRIES
    assert ray.options_given["max_task_retries"] == 0
    assert ray.killed == ray.actors
