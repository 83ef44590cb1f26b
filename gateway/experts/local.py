"""Experts on engines of our own: OpenAI's protocol on a port that changes with every start."""

import asyncio

from ..config import ExpertConfig, TimeoutConfig
from ..runners import Runner, RunnerUnavailable
from ..transport import Address, Transport
from .openai import ENDPOINTS, Place
from .regime import Regime
from .types import Call, Fields, Reply, UpstreamError

DEATHS = frozenset({"connect", "reset", "cut"})
NOTICED_WITHIN_S = 0.5
RESTART_S = 15.0


class LocalExpert:
    """Waits for its runner, and asks again, once, when the process dies before it has said anything."""

    def __init__(
        self, config: ExpertConfig, timeouts: TimeoutConfig, transport: Transport, runner: Runner
    ) -> None:
        self.name = config.name
        self._regime = Regime(config)
        self._timeouts = timeouts
        self._transport = transport
        self._runner = runner
        self._base: str | None = None
        self._place: Place | None = None

    async def call(self, call: Call) -> Reply:
        fields = self._regime.apply(call)
        place = await self._ready(self._timeouts.first_token_s)
        try:
            return await place.call(call, fields)
        except UpstreamError as error:
            if error.kind not in DEATHS or not await self._died(place):
                raise
        return await self._again(call, fields)

    async def _again(self, call: Call, fields: Fields) -> Reply:
        place = await self._ready(min(RESTART_S, self._timeouts.first_token_s))
        return await place.call(call, fields)

    async def _ready(self, timeout_s: float) -> Place:
        try:
            base = await self._runner.wait_ready(timeout_s)
        except RunnerUnavailable as error:
            raise UpstreamError("connect", f"is not ready: {error}", status=503) from error
        if base != self._base or self._place is None:
            self._base = base
            self._place = self._at(base)
        return self._place

    async def _died(self, place: Place) -> bool:
        """Whether the process that served is gone; its supervisor needs a moment to notice."""
        deadline = asyncio.get_running_loop().time() + NOTICED_WITHIN_S
        while self._runner.base_url == self._base and place is self._place:
            if asyncio.get_running_loop().time() >= deadline:
                return False
            await asyncio.sleep(0.02)
        return True

    def _at(self, base: str) -> Place:
        headers = self._runner.headers
        addresses = {
            endpoint: Address(self._transport, f"{base}/{endpoint}", headers, self._timeouts.connect_s)
            for endpoint in ENDPOINTS
        }
        return Place(self.name, self._runner.alias, addresses, self._timeouts)

    def share(self, n_replicas: int) -> None:
        """The engine is this gateway's own."""

    async def close(self) -> None:
        """The process is the runner pool's to end."""
