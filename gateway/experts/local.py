"""Experts on engines of our own: OpenAI's protocol on a port that changes with every start."""

import asyncio

from msgspec import Raw

from ..config import ExpertConfig, TimeoutConfig
from ..runners import Lease, RunnerBusy, Runners, RunnerUnavailable
from ..runners.build import choose_model
from .deployments import Deployment
from .http_client import Address, Transport
from .openai_compatible import ENDPOINTS
from .prompt_preset import PromptPreset, encode
from .types import Call, Endpoint, Fields, Reply, UpstreamError

DEATHS = frozenset({"connect", "reset", "cut"})
SILENCES = frozenset({"timeout", "stall"})
NOTICED_WITHIN_S = 0.5
RESTART_S = 15.0
PATIENT_WAIT_S = 3600.0
"""Longest wait of a batch's call for its turn beside other requests."""


class LocalExpert:
    """Takes a turn at its runner, and asks again, once, when the process dies before it has said anything."""

    def __init__(
        self, config: ExpertConfig, timeouts: TimeoutConfig, transport: Transport, runners: Runners
    ) -> None:
        self.name = config.name
        self._preset = PromptPreset(config)
        self._timeouts = timeouts
        self._transport = transport
        self._runners = runners
        self._choice = choose_model(config)
        self._fields = {name: Raw(encode(value)) for name, value in self._choice.fields.items()}
        self._url: str | None = None
        self._addresses: dict[Endpoint, Address] = {}

    async def call(self, call: Call) -> Reply:
        fields = self._preset.apply(call)
        if call.translation is not None:
            fields = call.translation.add_reasoning(fields)
        if self._fields:
            fields = {**fields, **self._fields}
        if call.patient:
            return await self._call_patiently(call, fields)
        lease = await self._take(self._timeouts.load_s)
        try:
            return await self._ask(lease, call, fields)
        except UpstreamError as error:
            if error.kind not in DEATHS or not await lease.wait_lost(NOTICED_WITHIN_S):
                raise
        return await self._ask(await self._take(min(RESTART_S, self._timeouts.load_s)), call, fields)

    async def _call_patiently(self, call: Call, fields: Fields) -> Reply:
        """The call of a batch: waits while others are served, and is cut off and repeated for them."""
        grace, n_deaths = 1, 0
        while True:
            lease = await self._take(PATIENT_WAIT_S, -1, grace)
            try:
                if (reply := await self._ask_until_recalled(lease, call, fields)) is not None:
                    return reply
                # Twice the time at each try, so that a long answer ends one day.
                grace *= 2
            except UpstreamError as error:
                n_deaths += 1
                if n_deaths > 1 or error.kind not in DEATHS or not await lease.wait_lost(NOTICED_WITHIN_S):
                    raise

    async def _ask_until_recalled(self, lease: Lease, call: Call, fields: Fields) -> Reply | None:
        """The reply; None where the lease was recalled first."""
        with lease:
            asking = asyncio.ensure_future(self._ask(lease, call, fields))
            recalled = asyncio.ensure_future(lease.recalled.wait())
            try:
                await asyncio.wait({asking, recalled}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                recalled.cancel()
                if not asking.done():
                    asking.cancel()
                    await asyncio.wait({asking})
            return None if asking.cancelled() else asking.result()

    async def _take(self, wait_s: float, priority: int = 0, grace: int = 1) -> Lease:
        try:
            return await self._runners.take(self.name, wait_s=wait_s, priority=priority, grace=grace)
        except RunnerBusy as error:
            raise UpstreamError("busy", str(error), status=429, retry_after_s=error.retry_after_s) from error
        except RunnerUnavailable as error:
            raise UpstreamError(
                "connect", f"is not ready: {error}", status=503, cause="is not ready"
            ) from error

    async def _ask(self, lease: Lease, call: Call, fields: Fields) -> Reply:
        """One call on a lease, which ends with the answer, or with the stream of it."""
        reply: Reply | None = None
        try:
            reply = await self._place(lease).call(call, fields)
            reply.waited_s = lease.waited_s
            lease.note_output()
        except UpstreamError as error:
            if error.kind in SILENCES:
                lease.note_silence()
            raise
        finally:
            if reply is None or reply.events is None:
                lease.release()
            else:
                reply.events.add_closer(lease.release)
        return reply

    def _place(self, lease: Lease) -> Deployment:
        if lease.url != self._url:
            self._url = lease.url
            self._addresses = {
                endpoint: Address(
                    self._transport,
                    f"{lease.url}/{endpoint}",
                    lease.headers,
                    self._timeouts.connect_s,
                    is_local=True,
                )
                for endpoint in ENDPOINTS
            }
        model = self._choice.model or lease.alias
        return Deployment(self.name, model, self._addresses, self._timeouts, heard=lease.note_output)

    def share(self, n_replicas: int) -> None:
        """The engine is this gateway's own."""

    async def close(self) -> None:
        """The process is the runner pool's to end."""
