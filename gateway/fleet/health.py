"""The health and load of every expert: one writer, read as snapshots.

An expert that keeps failing is not called for a while. Then a single request, the probe, tests it before
other requests are sent to it; it ends with its first token. A wait that an upstream asked for is obeyed,
whichever replica received it. Other failures that a peer reports only make an expert suspect: the peer's own
network may be the cause.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from policies import Fleet

from ..errors import MAX_RETRY_AFTER_S
from .circuit_breaker import PROBE_LOST_S, CallError, CallSource, CircuitBreaker, RetryBudget

LATENCY_WEIGHT = 0.2
Fields = Mapping[str, object]
"""The fields of a call by name, each as its bytes."""


@dataclass(frozen=True, slots=True)
class PeerReport:
    """One expert as other replicas see it: their calls in flight, and the seconds they were asked to wait."""

    in_flight: int = 0
    wait_s: float = 0.0
    failing: bool = False


NO_REPORT = PeerReport()


class ExpertHealth:
    """What is known of one expert.

    n_streaming: of the calls in flight, those that have had their first token
    n_answered_before: calls answered up to the last exchange with peers
    """

    __slots__ = (
        "asked_until",
        "breaker",
        "in_flight",
        "latency_s",
        "limit",
        "n_answered",
        "n_answered_before",
        "n_failed",
        "n_streaming",
        "peers",
    )

    def __init__(self, limit: int | None, tells_callers: bool = False) -> None:
        self.breaker = CircuitBreaker(tells_callers)
        self.limit = limit
        self.in_flight = self.n_streaming = 0
        self.peers = NO_REPORT
        self.asked_until = 0.0
        self.latency_s: float | None = None
        self.n_answered = self.n_answered_before = 0
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

    Every admitted call ends in exactly one of `record_success`, `record_failure` and `release`, and one whose
    answer is streamed in `record_first_token` before. `caller` and `fields` are those of the call: what one
    caller or one request alone runs into takes no expert from others.

    `retries` is the budget of further attempts.
    """

    def __init__(
        self,
        pool: Sequence[str],
        limits: Mapping[str, int | None],
        clock: Callable[[], float] = time.monotonic,
        away_s: Callable[[str], float] = lambda expert: 0.0,
        *,
        tells_callers: bool = False,
    ) -> None:
        """Args:
        pool: the experts `auto` chooses from, in order.
        limits: the number of calls every expert serves at a time, None for no limit.
        away_s: seconds until an expert could serve at all, which is how long a local one takes to load.
        tells_callers: several keys are configured, so that failures of different callers can be told apart.
        """
        self.retries = RetryBudget()
        self._away_s = away_s
        self._pool = tuple(pool)
        self._clock = clock
        self._health = {name: ExpertHealth(limits.get(name), tells_callers) for name in {*limits, *pool}}
        self._snapshot: Fleet | None = None
        self._stale_at = float("inf")

    def admit(
        self, expert: str, caller: str | None = None, fields: Fields | None = None, insist: bool = False
    ) -> bool:
        """Claim a call. `insist` goes through a cooldown that the upstream did not ask for."""
        health = self._health[expert]
        breaker = health.breaker
        if breaker.until or breaker.scoped or health.asked_until:
            now = self._clock()
            if now < health.asked_until or not breaker.admit(now, CallSource(caller, fields), insist):
                return False
            self._snapshot = None
        health.in_flight += 1
        # Without a limit no call queues, so the snapshot stays valid and need not be built again.
        if health.limit is not None:
            self._snapshot = None
        return True

    def record_success(
        self,
        expert: str,
        latency_s: float,
        caller: str | None = None,
        fields: Fields | None = None,
        *,
        has_spoken: bool = False,
    ) -> None:
        """A whole answer has come after `latency_s` seconds, or the end of a stream (`has_spoken`)."""
        health = self._health[expert]
        breaker = health.breaker
        health.in_flight -= 1
        health.n_answered += 1
        # An exponential moving average: it forgets a slow start without keeping a window of samples.
        known = health.latency_s
        health.latency_s = latency_s if known is None else known + LATENCY_WEIGHT * (latency_s - known)
        if health.limit is not None:
            self._snapshot = None
        if has_spoken:
            health.n_streaming -= 1
        # A closed circuit without failures has nothing to reset.
        elif breaker.outcomes or breaker.until or breaker.scoped:
            self._record_answer(breaker, latency_s, caller, fields)

    def record_first_token(
        self, expert: str, latency_s: float, caller: str | None = None, fields: Fields | None = None
    ) -> None:
        """A stream has begun after `latency_s` seconds: a probe has succeeded, however long it goes on."""
        health = self._health[expert]
        health.n_streaming += 1
        self._record_answer(health.breaker, latency_s, caller, fields)

    def _record_answer(
        self, breaker: CircuitBreaker, latency_s: float, caller: str | None, fields: Fields | None
    ) -> None:
        now = self._clock()
        if breaker.record_success(now, CallSource(caller, fields), now - latency_s):
            self._snapshot = None

    def record_failure(
        self,
        expert: str,
        error: CallError,
        latency_s: float = 0.0,
        caller: str | None = None,
        fields: Fields | None = None,
        *,
        has_spoken: bool = False,
    ) -> None:
        """The call failed after `latency_s` seconds; `has_spoken`: after its first token."""
        health = self._end(expert, has_spoken)
        now, source = self._clock(), CallSource(caller, fields)
        # A prompt that is too long says nothing about the expert's health.
        if not error.faults_expert:
            changed = health.breaker.release(source, now - latency_s)
        else:
            health.n_failed += 1
            n_pending = health.in_flight - health.n_streaming
            changed = health.breaker.record_failure(
                error, now, source, now - latency_s, n_pending, has_spoken=has_spoken
            )
        if changed:
            self._snapshot = None

    def release(
        self,
        expert: str,
        latency_s: float = 0.0,
        caller: str | None = None,
        fields: Fields | None = None,
        *,
        has_spoken: bool = False,
    ) -> None:
        """The call ended without a verdict: the client left; `has_spoken`: after the first token."""
        breaker = self._end(expert, has_spoken).breaker
        if not has_spoken and breaker.release(CallSource(caller, fields), self._clock() - latency_s):
            self._snapshot = None

    def _end(self, expert: str, has_spoken: bool) -> ExpertHealth:
        health = self._health[expert]
        health.in_flight -= 1
        health.n_streaming -= has_spoken
        if health.limit is not None:
            self._snapshot = None
        return health

    def export(self, expert: str, same_host: bool = False) -> PeerReport:
        """What this gateway's own calls showed, for the other replicas.

        Those of the `same_host` have the same network: they heed every cooldown.
        """
        health = self._health[expert]
        breaker = health.breaker
        wait_s = breaker.wait_s(self._clock())
        if same_host:
            return PeerReport(health.in_flight, wait_s, bool(breaker.until))
        asked_s = wait_s if breaker.asked_to_wait else 0.0
        return PeerReport(health.in_flight, asked_s, bool(breaker.until) and not breaker.asked_to_wait)

    def merge_peers(self, others: Mapping[str, PeerReport]) -> None:
        """Replace what peers reported; an expert that is not named has no report."""
        now = self._clock()
        for name, health in self._health.items():
            heard = others.get(name, NO_REPORT)
            # While calls are answered here the trouble is the peer's own.
            health.breaker.is_suspect = heard.failing and health.n_answered == health.n_answered_before
            health.n_answered_before = health.n_answered
            if heard != health.peers:
                health.peers = heard
                # Bounded here too: a peer may run another version.
                health.asked_until = now + min(heard.wait_s, MAX_RETRY_AFTER_S) if heard.wait_s > 0 else 0.0
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

    def has_other(self, expert: str, experts: Sequence[str]) -> bool:
        """Whether another of these experts may be called now."""
        for name in experts:
            health = self._health[name]
            if name != expert and not health.breaker.until and not health.asked_until:
                return True
        return False

    def may_retry(self, expert: str, caller: str | None) -> bool:
        """Whether an expert may be called for a request that another has failed; counts it."""
        retries, breaker = self.retries, self._health[expert].breaker
        is_allowed = retries.has_token(caller) or not breaker.has_failed_last(self._clock())
        if is_allowed:
            retries.n_made += 1
        else:
            retries.n_refused += 1
        return is_allowed

    def cooldown_s(self, expert: str, caller: str | None = None, fields: Fields | None = None) -> float:
        """Seconds until the expert may be called again, for this caller and request; 0 when it may be now."""
        health, now = self._health[expert], self._clock()
        return max(health.breaker.wait_s(now, CallSource(caller, fields)), health.asked_until - now)

    def state(self, expert: str) -> dict[str, object]:
        """The state of one expert as JSON values, for people to read."""
        return self.own_state(expert)

    def own_state(self, expert: str) -> dict[str, object]:
        """What this process's own calls showed of one expert."""
        health, now = self._health[expert], self._clock()
        breaker = health.breaker
        return {
            "state": breaker.state(now),
            "cooldown_s": round(max(breaker.wait_s(now), health.asked_until - now), 3),
            "in_flight": health.in_flight,
            "in_flight_elsewhere": health.peers.in_flight,
            "latency_s": health.latency_s,
            "n_answered": health.n_answered,
            "n_failed": health.n_failed,
            "last_error": breaker.last_error,
            "failure_rate": breaker.failure_rate(now),
            "n_opened": breaker.n_openings,
            "n_held_off": breaker.n_held_off(now),
        }
