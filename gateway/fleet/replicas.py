"""Gateways in front of the same upstreams share the health of their experts through Redis.

Each writes one report, which expires unless it is renewed, and reads those of its peers. A report holds what
the gateway's own calls showed, never what a peer reported: two replicas would keep an old failure alive.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping
from secrets import token_hex
from typing import TYPE_CHECKING

import msgspec

from ..telemetry.background import start_task
from .health import FleetState, PeerReport

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from ..config import RedisConfig

log = logging.getLogger("thalamus")

EVERY_S = 0.5
# Six missed reports: a pause of the process does not look like its end.
EXPIRES_S = 3.0
PATIENCE_S = 1.0

Report = dict[str, PeerReport]
_report_decoder = msgspec.json.Decoder(Report)


class Replicas:
    """Exchanges reports with the other replicas; one task per gateway.

    With Redis gone each replica keeps its last known share of the limits and forgets what peers
    reported of health and load; `degraded` says so until Redis is back.
    """

    def __init__(
        self, config: "RedisConfig", fleet: FleetState, shared: Iterable[str], share: Callable[[int], None]
    ) -> None:
        """Args:
        shared: experts whose upstream the replicas have in common.
        share: called with the number of replicas whenever it changes.

        Raises:
            ValueError: `redis.url` cannot be read; does not show it.
        """
        self._redis = _create_client(config.url.reveal())
        # Held in braces as a hash tag: Redis Cluster then keeps all keys of a pipeline in one slot.
        self._prefix = config.prefix
        self._fleet = fleet
        self._shared = tuple(shared)
        self._share = share
        self._name = token_hex(8)
        self._task: asyncio.Task[None] | None = None
        self.n_replicas = 1
        self.degraded: str | None = None

    async def start(self) -> None:
        """Begin to exchange reports; an unreachable Redis does not keep the gateway from starting."""
        await self._exchange_once()
        self._task = start_task("replicas", self._exchange_forever)

    async def close(self) -> None:
        """Remove the own report, so that peers need not wait for it to expire."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        with contextlib.suppress(Exception):
            async with asyncio.timeout(PATIENCE_S):
                await self._redis.delete(self._key(self._name))
                await self._redis.srem(self._members_key, self._name)
        await self._redis.aclose()

    async def _exchange_forever(self) -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            await self._exchange_once()

    async def _exchange_once(self) -> None:
        """Write and read reports once, in bounded time; never raises."""
        try:
            # Usually two round trips: the pipeline, then the reports of peers.
            async with asyncio.timeout(2 * PATIENCE_S):
                lines = await self._exchange()
        except Exception as error:  # redis-py raises many unrelated types when the server is away
            if self.degraded is None:
                log.warning("redis: %s: replicas cannot exchange the health of experts", type(error).__name__)
            self.degraded = f"redis: {type(error).__name__}: limits are shared as last known, health is not"
            self._fleet.merge_peers({})
            return
        self.degraded = None
        self._fleet.merge_peers(merge_reports(lines))
        if len(lines) + 1 != self.n_replicas:
            self.n_replicas = len(lines) + 1
            self._share(self.n_replicas)

    async def _exchange(self) -> list[Report]:
        """The report of every other replica."""
        mine = msgspec.json.encode({name: self._fleet.export(name) for name in self._shared})
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.set(self._key(self._name), mine, px=int(EXPIRES_S * 1000))
            # A set of names, because finding keys by pattern (SCAN) walks the whole database.
            pipe.sadd(self._members_key, self._name)
            pipe.smembers(self._members_key)
            names = (await pipe.execute())[-1]
        others = [name.decode() for name in names if name.decode() != self._name]
        if not others:
            return []
        raw_reports = await self._redis.mget([self._key(name) for name in others])
        if gone := [name for name, line in zip(others, raw_reports, strict=True) if line is None]:
            await self._redis.srem(self._members_key, *gone)
        return [line for raw in raw_reports if raw is not None and (line := _decode_report(raw)) is not None]

    @property
    def _members_key(self) -> str:
        return f"{{{self._prefix}}}:replicas"

    def _key(self, name: str) -> str:
        return f"{{{self._prefix}}}:replica:{name}"


def merge_reports(lines: Iterable[Mapping[str, PeerReport]]) -> Report:
    """The reports of several replicas as one: calls added up, the longest wait, any failure."""
    heard: Report = {}
    for line in lines:
        for name, report in line.items():
            known = heard.get(name, PeerReport())
            heard[name] = PeerReport(
                known.in_flight + report.in_flight,
                max(known.wait_s, report.wait_s),
                known.failing or report.failing,
            )
    return heard


def _decode_report(raw: bytes | str) -> Report | None:
    """A decoded report; None if another program or version wrote it."""
    try:
        return _report_decoder.decode(raw)
    except msgspec.MsgspecError:
        return None


def _create_client(url: str) -> "Redis":
    """A client that is not connected yet; each of its calls is bounded in time."""
    from redis.asyncio import Redis

    try:
        return Redis.from_url(url, socket_timeout=PATIENCE_S, socket_connect_timeout=PATIENCE_S)
    except ValueError:
        raise ValueError("redis.url: cannot be read; write it as redis://HOST:PORT/DB") from None
