"""A batch on a Ray cluster: a pool of actors per expert, which lives as long as the expert has calls.

Lines, routing, store and results stay in the process that runs the batch; an actor gets a call and returns
its outcome. Ray restarts an actor that dies. The calls that died with it, of which one may have killed it,
are repeated one at a time by an actor of their own; a call that goes on killing it ends as an error.
"""

import asyncio
import contextlib
import importlib
from collections.abc import AsyncIterator, Iterator
from itertools import cycle
from typing import Any

import msgspec

from ..config import Config
from ..experts.build import build_expert, read_parallel_limits
from ..experts.http_client import Transport
from ..experts.types import Call
from ..experts.upstreams import UpstreamTable
from ..fleet.health import FleetState
from ..runners.build import build_runners
from ..storage.journal import AttemptRecord
from .calling import ExpertCaller, RetryingCaller, build_skipped_outcome
from .outcomes import CallFailure, CallOutcome

# The first try is among others, so that a death tells little; the others are alone.
MAX_TRIES = 3

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(CallOutcome).decode


class RayExecutor:
    """Makes calls by `n_workers` actors for each local expert, and by one for each hosted expert."""

    def __init__(self, ray: Any, config: Config, n_workers: int) -> None:
        self.n_workers = n_workers
        self._ray = ray
        self._config = config
        self._local = {expert.name for expert in config.experts if expert.runner is not None}

    @contextlib.asynccontextmanager
    async def stage(self, expert: str) -> AsyncIterator[ExpertCaller]:
        """A pool of actors that host the expert."""
        configured = [one for one in self._config.experts if one.name == expert]
        config = msgspec.structs.replace(self._config, experts=tuple(configured))
        options = {
            # -1 is 'without limit': nodes may leave and join during a long batch.
            "max_restarts": -1,
            # Repeated by Ray, a call that kills its actor would do so for ever, with all calls beside it.
            "max_task_retries": 0,
            "max_concurrency": 1000,
            # Actors mostly wait. Reserved CPUs would keep actors pending on a small cluster.
            "num_cpus": 0,
            "scheduling_strategy": "SPREAD",
        }
        host = self._ray.remote(ExpertActor).options(**options)
        # One actor for a hosted expert: its rate limit is one, and so is the breaker that obeys it.
        n_actors = self.n_workers if expert in self._local else len(configured)
        actors = [host.remote(config) for _ in range(n_actors)]
        next_actors = cycle(actors)
        alone, suspects = asyncio.Lock(), list[Any]()
        died: type[Exception] = self._ray.exceptions.RayActorError

        async def call_alone(call: tuple[str, Any, dict[str, bytes]]) -> CallOutcome:
            async with alone:
                if not suspects:
                    suspects.append(host.remote(config))
                for _ in range(MAX_TRIES - 1):
                    with contextlib.suppress(died):
                        return _decode(await suspects[0].call.remote(*call))
            return _build_fatal_outcome(expert)

        async def call_expert(call: Call) -> CallOutcome:
            if not configured:
                return build_skipped_outcome(expert)
            sent = expert, call.endpoint, {name: bytes(raw) for name, raw in call.fields.items()}
            try:
                return _decode(await next(next_actors).call.remote(*sent))
            except died:
                return await call_alone(sent)

        try:
            yield call_expert
        finally:
            for actor in (*actors, *suspects):
                with contextlib.suppress(Exception):  # a dead actor raises, and is as good as killed
                    self._ray.kill(actor)


def _build_fatal_outcome(expert: str) -> CallOutcome:
    why = f"the worker that made this call died, {MAX_TRIES} times in {MAX_TRIES} tries"
    return CallOutcome(AttemptRecord(expert, "moved_on", error=why), failure=CallFailure("reset", why, 502))


class ExpertActor:
    """The actor: one expert, opened at its first call."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._caller: RetryingCaller | None = None
        self._opening = asyncio.Lock()

    async def call(self, expert: str, endpoint: Any, fields: dict[str, bytes]) -> bytes:
        """The outcome of a call as msgpack."""
        async with self._opening:
            if self._caller is None:
                self._caller = await self._open()
        raw = {name: msgspec.Raw(value) for name, value in fields.items()}
        return _encode(await self._caller.call(expert, Call(endpoint, raw, patient=True)))

    async def _open(self) -> RetryingCaller:
        config, transport = self._config, Transport()
        runners = build_runners(config)
        experts = {one.name: build_expert(one, config.timeouts, transport, runners) for one in config.experts}
        await transport.open()
        await runners.start()
        fleet = FleetState((), read_parallel_limits(config))
        return RetryingCaller(
            experts, fleet, config.batches.patience_s, asyncio.sleep, UpstreamTable.of(config.experts)
        )


@contextlib.contextmanager
def ray_executor(config: Config, address: str | None, n_workers: int | None) -> Iterator[RayExecutor]:
    """An executor on the cluster at `address`, or on a new Ray here; by default one worker per node.

    Raises:
        ValueError: Ray is not installed or cannot be reached.
    """
    try:
        # importlib, because an import statement would make mypy ask for an optional package.
        ray: Any = importlib.import_module("ray")
    except ImportError:
        raise ValueError("Ray is not installed: pip install 'thalamus-gateway[ray]'") from None
    try:
        ray.init(address=address, include_dashboard=None if address else False, log_to_driver=False)
    except Exception as error:  # Ray's own, of many kinds
        raise ValueError(f"Ray cannot be reached: {str(error).splitlines()[0]}") from None
    try:
        n_nodes = sum(node["Alive"] for node in ray.nodes())
        yield RayExecutor(ray, config, n_workers or n_nodes)
    finally:
        ray.shutdown()
