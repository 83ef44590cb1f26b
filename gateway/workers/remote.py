"""What a worker has instead of the parts that only its parent owns: they ask the parent."""

import asyncio
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count
from time import monotonic
from typing import Any

import msgspec

from ..config import Config, JournalConfig
from ..errors import UpstreamError
from ..experts import Expert
from ..experts.deployments import ConcurrencyLimit, DeployedExpert, RateLimit
from ..fleet.health import FleetState
from ..runners import Lease, RunnerBusy, Runners, RunnerUnavailable
from ..storage.journal import BAD_ROW, Journal, fit_row
from .channel import Channel, ChannelClosedError, RemoteError

BEAT_EVERY_S = 1.0
FRAME_BYTES = 4 * 1024 * 1024
STORE_WITHIN_S = 60.0

_numbers = count(1)


class RemoteLimit(ConcurrencyLimit):
    """A limit that the parent keeps, for all workers together."""

    def __init__(self, channel: Channel, expert: str, n_deployment: int, own: ConcurrencyLimit) -> None:
        super().__init__(own.limit)
        self._channel = channel
        self._place = (expert, n_deployment)
        self._held: list[int] = []
        self._refused_until = 0.0
        self.rate = None if own.rate is None else RemoteRate(channel, expert, n_deployment)

    @property
    def load(self) -> float:
        """Running calls per slot; infinite where the parent lets none begin now."""
        return math.inf if monotonic() < self._refused_until else self.in_use / (self.limit or 1)

    async def acquire(self, timeout_s: float) -> None:
        """Wait for a slot, as `ConcurrencyLimit.acquire`.

        Raises:
            UpstreamError: there is none.
        """
        number = next(_numbers)
        try:
            await self._channel.call("take_slot", number, *self._place, timeout_s)
        except RemoteError as error:
            refusal = restore_error(error)
            if isinstance(refusal, UpstreamError) and self.rate is not None and refusal.status == 429:
                self._refused_until = monotonic() + (refusal.retry_after_s or 0.0)
            raise refusal from None
        except ChannelClosedError:
            raise UpstreamError("busy", "cannot be called while the gateway stops", status=503) from None
        except BaseException:
            self._channel.post("release", number)  # the answer may be under way
            raise
        self._held.append(number)
        self.in_use += 1

    def release(self) -> None:
        """Return a slot."""
        # Slots of one limit are alike: whichever call ends, any of them may be returned.
        self.in_use -= 1
        self._channel.post("release", self._held.pop())

    def share(self, n_replicas: int) -> None:
        """The parent takes its share."""


class RemoteRate(RateLimit):
    """Calls and tokens of a minute, which the parent counts."""

    def __init__(self, channel: Channel, expert: str, n_deployment: int) -> None:
        super().__init__(None, None)
        self._channel = channel
        self._place = (expert, n_deployment)

    def charge(self, n_tokens: int) -> None:
        """Count the tokens of an answer."""
        if n_tokens > 0:
            self._channel.post("charge", *self._place, n_tokens)


def replace_limits(experts: Iterable[Expert], channel: Channel) -> None:
    """Have the parent keep the limits of all deployments that have any."""
    for expert in experts:
        if isinstance(expert, DeployedExpert):
            for n, deployment in enumerate(expert.deployments):
                if deployment.slots.limit is not None or deployment.slots.rate is not None:
                    deployment.slots = RemoteLimit(channel, expert.name, n, deployment.slots)


class RemoteLease(Lease):
    """A turn at a runner of the parent."""

    def __init__(self, channel: Channel, number: int, facts: Mapping[str, Any]) -> None:
        self.url = facts["url"]
        self.since_s = monotonic()
        self.waited_s = facts["waited_s"]
        self._facts = facts
        self._channel = channel
        self._number: int | None = number
        self._beaten_s = 0.0
        self.recalled = asyncio.Event()

    @property
    def alias(self) -> str:
        return str(self._facts["alias"])

    @property
    def headers(self) -> dict[str, str]:
        return dict(self._facts["headers"])

    def note_output(self) -> None:
        """Note output of the request, now and then."""
        now = monotonic()
        if now - self._beaten_s >= BEAT_EVERY_S and self._number is not None:
            self._beaten_s = now
            self._channel.post("note_output", self._number)

    def note_silence(self) -> None:
        """Note that the request timed out without output."""
        if self._number is not None:
            self._channel.post("note_silence", self._number)

    async def wait_lost(self, within_s: float) -> bool:
        """Whether the process it is for is gone."""
        return bool(await self._channel.call("wait_lost", self._facts["runner"], self.url, within_s))

    def release(self) -> None:
        """End the turn; a second call does nothing."""
        number, self._number = self._number, None
        if number is not None:
            self._channel.post("release", number)


class RemoteRunners(Runners):
    """The local engines, which the parent runs. The mapping is empty: their state is the parent's to tell."""

    def __init__(self, channel: Channel) -> None:
        super().__init__({})
        self._channel = channel
        self._away_s: dict[str, float] = {}

    async def take(self, expert: str, *, wait_s: float, priority: int = 0, grace: int = 1) -> Lease:
        """A turn at the runner of an expert, as `Runners.take`, never recalled: batches run in the parent.

        Raises:
            RunnerUnavailable: there is none.
        """
        number = next(_numbers)
        try:
            facts = await self._channel.call("take_runner", number, expert, wait_s, priority)
        except RemoteError as error:
            raise restore_error(error) from None
        except ChannelClosedError:
            raise RunnerUnavailable(f"{expert} is stopped") from None
        except BaseException:
            self._channel.post("release", number)
            raise
        return RemoteLease(self._channel, number, facts)

    def loads_in_s(self, expert: str) -> float:
        """Seconds until it is expected to be loaded, as last heard; 0 for experts that are no local ones."""
        return self._away_s.get(expert, 0.0)

    def merge_away(self, away_s: dict[str, float]) -> None:
        """Replace what the parent said of loading."""
        if away_s != self._away_s:
            self._away_s = away_s
            for tell in self.on_change:
                tell()


def restore_error(error: RemoteError) -> Exception:
    """The exception that a part of the parent raised."""
    details = error.details
    if error.kind == "UpstreamError":
        return UpstreamError(
            details["kind"], str(error), status=details["status"], retry_after_s=details["retry_after_s"]
        )
    if error.kind == "RunnerBusy":
        return RunnerBusy(str(error), details["retry_after_s"])
    if error.kind.startswith("Runner"):
        return RunnerUnavailable(str(error))
    return UpstreamError("busy", f"cannot be called now ({error.kind})", status=503)


class RemoteJournal(Journal):
    """Sends its rows to the parent, which writes them; they wait here until the parent has."""

    channel: Channel
    loop: asyncio.AbstractEventLoop

    @classmethod
    def make_builder(
        cls, channel: Channel, loop: asyncio.AbstractEventLoop
    ) -> Callable[[JournalConfig], "RemoteJournal"]:
        """What makes such journals."""

        def build(config: JournalConfig) -> RemoteJournal:
            journal = cls(config)
            journal.channel, journal.loop = channel, loop
            if config.enabled:
                journal._begin()
            return journal

        return build

    def _store(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Have the parent put rows on disk.

        Raises:
            OSError: it cannot now.
        """
        frame: list[bytes] = []
        n_bytes = 0
        for row in rows:
            frame.append(_encode_row(row))
            n_bytes += len(frame[-1])
            if n_bytes > FRAME_BYTES:
                self._send(frame)
                frame, n_bytes = [], 0
        self._send(frame)

    def _send(self, frame: list[bytes]) -> None:
        if frame:
            sent = asyncio.run_coroutine_threadsafe(self.channel.call("write_rows", frame), self.loop)
            try:
                sent.result(STORE_WITHIN_S)
            except (RemoteError, TimeoutError) as error:
                raise OSError(str(error) or "the parent did not answer") from None

    def _tidy(self) -> None:
        """The parent deletes what is too old."""

    async def flush(self) -> None:
        """Return when what waits now is on disk, or cannot be."""
        last = next(reversed(self._waiting), None)
        self._wake.set()
        while last in self._waiting and self._trouble is None:  # noqa: ASYNC110  (a thread empties it)
            await asyncio.sleep(0.02)


def _encode_row(row: tuple[Any, ...]) -> bytes:
    try:
        return msgspec.msgpack.encode(row)
    except BAD_ROW:
        return msgspec.msgpack.encode(fit_row(row))


def describe_experts(config: Config, fleet: FleetState) -> dict[str, dict[str, Any]]:
    """What this worker's own calls showed of every expert: for its peers, and for people."""
    facts = {}
    for expert in config.experts:
        near, far = fleet.export(expert.name, same_host=True), fleet.export(expert.name)
        facts[expert.name] = {
            "peer": [near.in_flight, near.wait_s, near.failing],
            "asked": [far.in_flight, far.wait_s, far.failing],
            "state": fleet.own_state(expert.name),
        }
    return facts
