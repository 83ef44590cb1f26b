"""The health and load of every expert: one writer, read as snapshots.

An expert that keeps failing is not called for a while. Then a single request, the probe, tests it before
other requests are sent to it. A wait that an upstream asked for is obeyed, whichever replica received it.
Other failures that a peer reports only make an expert suspect: the peer's own network may be the cause.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from policies import Fleet

from .circuit_breaker import PROBE_LOST_S, CallError, CircuitBreaker

LATENCY_WEIGHT = 0.2


@dataclass(frozen=True, slots=True)
class PeerReport:
    """One expert as other replicas see it: their calls in flight, and the seconds they were asked to wait."""

    in_flight: int = 0
    wait_s: float = 0.0
    failing: bool = False


NO_REPORT = PeerReport()


class ExpertHealth:
    """What is known of one expert."""

    __slots__ = (
        "asked_until",
        "breaker",
        "in_flight",
        "latency_s",
        "limit",
        "n_answered",
        "n_failed",
        "peers",
    )

    def __init__(self, limit: int | None) -> None:
        self.breaker = CircuitBreaker()
        self.limit = limit
        self.in_flight = 0
        self.peers = NO_REPORT
        self.asked_until = 0.0
        self.latency_s: float | None = None
        self.n_answered = 0
        self.n_failed = 0

    def wait_s(self) -> float:
        """Expected queueing before a further call starts."""
        in_flight = self.in_flight + self.peers.in_flight
        # Calls of peers use the same upstream limit, so they queue before a further call as well.
        if self.limit is None or in_flight < self.limit:
            return 0.0
        return (self.latency_s or 0.0) * (in_flight - self.limit + 1) / self.limit


class FleetState:
    """The health and load of every expert, and whether each may be called now.

    Every admitted call ends in exactly one of `record_success`, `record_failure` and `release`.

    `pool` names the experts `auto` chooses from, in order; `limits` gives every expert the number of calls it
    serves at a time, None for no limit; `away_s` the seconds until it could serve at all, which is how long a
    local one takes to load.
    """

    def __init__(
        self,
        pool: Sequence[str],
        limits: Mapping[str, int | None],
        clock: Callable[[], float] = time.monotonic,
        away_s: Callable[[str], float] = lambda expert: 0.0,
    ) -> None:
        self._away_s = away_s
        self._pool = tuple(pool)
        self._clock = clock
        self._health = {name: ExpertHealth(limits.get(name)) for name in {*limits, *pool}}
        self._snapshot: Fleet | None = None
        self._stale_at = float("inf")

    def admit(self, expert: str, insist: bool = False) -> bool:
        """Claim a call. `insist` goes through a cooldown that the upstream did not ask for."""
        health = self._health[expert]
        breaker = health.breaker
        if health.asked_until and self._clock() < health.asked_until:
            return False
        if breaker.until:
            now = self._clock()
            if not breaker.admit(now) and not (
                insist and (now >= breaker.until or not breaker.asked_to_wait)
            ):
                return False
            self._snapshot = None
        health.in_flight += 1
        # Without a limit no call queues, so the snapshot stays valid and need not be built again.
        if health.limit is not None:
            self._snapshot = None
        return True

    def record_success(self, expert: str, latency_s: float) -> None:
        health = self._end(expert)
        health.n_answered += 1
        # An exponential moving average: it forgets a slow start without keeping a window of samples.
        known = health.latency_s
        health.latency_s = latency_s if known is None else known + LATENCY_WEIGHT * (latency_s - known)
        # A closed circuit without failures has nothing to reset.
        if (health.breaker.n_failures or health.breaker.until) and health.breaker.record_success():
            self._snapshot = None

    def record_failure(self, expert: str, error: CallError) -> None:
        health = self._end(expert)
        # A prompt that is too long says nothing about the expert's health.
        if not error.faults_expert:
            changed = health.breaker.release()
        else:
            health.n_failed += 1
            changed = health.breaker.record_failure(error, self._clock())
        if changed:
            self._snapshot = None

    def release(self, expert: str) -> None:
        """The call ended without a verdict on the expert: the client disconnected."""
        if self._end(expert).breaker.release():
            self._snapshot = None

    def _end(self, expert: str) -> ExpertHealth:
        health = self._health[expert]
        health.in_flight -= 1
        if health.limit is not None:
            self._snapshot = None
        return health

    def export(self, expert: str, same_host: bool = False) -> PeerReport:
        """What this gateway's own calls showed, for the other replicas.

        Those of the `same_host` have the same network: they heed every cooldown.
        """
        health = self._health[expert]
        breaker = health.breaker
        if same_host:
            return PeerReport(health.in_flight, self._cooldown_left_s(breaker), bool(breaker.until))
        asked_s = self._cooldown_left_s(breaker) if breaker.asked_to_wait else 0.0
        return PeerReport(health.in_flight, asked_s, bool(breaker.until) and not breaker.asked_to_wait)

    def merge_peers(self, others: Mapping[str, PeerReport]) -> None:
        """Replace what peers reported; an expert that is not named has no report."""
        now = self._clock()
        for name, health in self._health.items():
            heard = others.get(name, NO_REPORT)
            if heard.failing:
                health.breaker.suspect()
            if heard != health.peers:
                health.peers = heard
                health.asked_until = now + heard.wait_s if heard.wait_s else 0.0
                self._snapshot = None

    def invalidate(self) -> None:
        """Drop the cached snapshot, because an expert was loaded or unloaded."""
        self._snapshot = None

    def snapshot(self) -> Fleet:
        """The state of the pool now; the same object until something changes."""
        # Most requests find nothing changed: the arrays are built once per change, not per request.
        if self._snapshot is None or (self._stale_at != float("inf") and self._clock() >= self._stale_at):
            self._snapshot = self._look()
        return self._snapshot

    def _look(self) -> Fleet:
        now = self._clock()
        pool = [self._health[name] for name in self._pool]
        unavailable = {
            name: self._why(health, now)
            for name, health in zip(self._pool, pool, strict=True)
            if now < health.asked_until or not health.breaker.is_available(now)
        }
        untils = [until for health in pool for until in (health.breaker.until, health.asked_until)]
        ends = [until for until in untils if until > now]
        probes = [health.breaker.probe_since for health in pool if health.breaker.probe_since is not None]
        self._stale_at = min([*ends, *(since + PROBE_LOST_S for since in probes)], default=float("inf"))
        return Fleet(
            available=np.array([name not in unavailable for name in self._pool], bool),
            wait_s=np.array(
                [health.wait_s() + self._away_s(name) for name, health in zip(self._pool, pool, strict=True)],
                np.float64,
            ),
            unavailable=unavailable,
        )

    @staticmethod
    def _why(health: ExpertHealth, now: float) -> str:
        breaker = health.breaker
        if now < health.asked_until:
            return f"another replica was asked to wait {health.asked_until - now:.1f} s"
        if breaker.state(now) == "half-open":
            return "being tried again"
        return f"cooling down for {breaker.until - now:.1f} s: {breaker.last_error}"

    def cooldown_s(self, expert: str) -> float:
        """Seconds until the expert may be tried again, 0 when it may be now."""
        health = self._health[expert]
        return max(self._cooldown_left_s(health.breaker), health.asked_until - self._clock())

    def _cooldown_left_s(self, breaker: CircuitBreaker) -> float:
        return max(0.0, breaker.until - self._clock())

    def state(self, expert: str) -> dict[str, object]:
        """The state of one expert as JSON values, for people to read."""
        return self.own_state(expert)

    def own_state(self, expert: str) -> dict[str, object]:
        """What this process's own calls showed of one expert."""
        health, now = self._health[expert], self._clock()
        breaker = health.breaker
        return {
            "state": breaker.state(now),
            "cooldown_s": round(self.cooldown_s(expert), 3),
            "in_flight": health.in_flight,
            "in_flight_elsewhere": health.peers.in_flight,
            "latency_s": health.latency_s,
            "n_answered": health.n_answered,
            "n_failed": health.n_failed,
            "last_error": breaker.last_error,
        }
