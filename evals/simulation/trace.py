"""Traces: requests for local experts from a journal or drawn at random, and forecasts of the next request."""

import json
import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from policies import Arrivals
from routers import DataError, Floats, Ints

N_TURNS, PAUSE_S = 8.0, 20.0
"""Of a drawn session: its mean length in requests, and the mean pause between two of them."""
N_PHASES = 10


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests in order of arrival; arrays are (n_requests,).

    expert:    index into `experts`
    time_s:    arrival time, 0 for the first
    service_s: how long it takes to answer
    """

    experts: tuple[str, ...]
    expert: Ints
    time_s: Floats
    service_s: Floats

    def __len__(self) -> int:
        return len(self.expert)

    def all_at_once(self) -> "Trace":
        """The same requests, all of them waiting from the start."""
        return Trace(self.experts, self.expert, np.zeros(len(self)), self.service_s)


@dataclass(frozen=True, slots=True)
class Synthetic:
    """What to draw: so many requests at a mean rate for experts of Zipf popularity."""

    n_requests: int = 10_000
    n_experts: int = 8
    exponent: float = 1.0
    rate_per_s: float = 1.0
    service_s: float = 1.0
    seed: int = 0


def draw_zipf(spec: Synthetic) -> Trace:
    """Every request for itself."""
    rng = np.random.default_rng(spec.seed)
    expert = rng.choice(spec.n_experts, spec.n_requests, p=_popularity(spec))
    return _trace(spec, expert, np.cumsum(rng.exponential(1.0 / spec.rate_per_s, spec.n_requests)), rng)


def draw_sessions(spec: Synthetic) -> Trace:
    """Sessions of eight requests in the mean, all for one expert, that overlap."""
    rng = np.random.default_rng(spec.seed)
    # Twice as many sessions as needed on average, so that the trace is not short of requests.
    n_sessions = int(spec.n_requests / N_TURNS * 2) + 10
    start = np.cumsum(rng.exponential(N_TURNS / spec.rate_per_s, n_sessions))
    length = rng.geometric(1.0 / N_TURNS, n_sessions)
    chosen = rng.choice(spec.n_experts, n_sessions, p=_popularity(spec))
    pauses = [np.cumsum(rng.exponential(PAUSE_S, n)) - PAUSE_S for n in length]
    time_s = np.concatenate([s + pause for s, pause in zip(start, pauses, strict=True)])
    order = np.argsort(time_s, kind="stable")[: spec.n_requests]
    return _trace(spec, np.repeat(chosen, length)[order], time_s[order], rng)


def draw_phases(spec: Synthetic) -> Trace:
    """Zipf, but ten times along the way the popularity of every expert is drawn anew."""
    rng = np.random.default_rng(spec.seed)
    rank = rng.choice(spec.n_experts, spec.n_requests, p=_popularity(spec))
    names = np.array([rng.permutation(spec.n_experts) for _ in range(N_PHASES)])
    phase = np.arange(spec.n_requests) * N_PHASES // max(1, spec.n_requests)
    time_s = np.cumsum(rng.exponential(1.0 / spec.rate_per_s, spec.n_requests))
    return _trace(spec, names[phase, rank], time_s, rng)


SYNTHETIC: Mapping[str, Callable[[Synthetic], Trace]] = {
    "zipf": draw_zipf,
    "sessions": draw_sessions,
    "phases": draw_phases,
}


def _popularity(spec: Synthetic) -> Floats:
    # Zipf's law: the r-th most popular expert gets a share proportional to r^-exponent.
    weight = 1.0 / np.arange(1, spec.n_experts + 1) ** spec.exponent
    return np.asarray(weight / weight.sum())


def _trace(spec: Synthetic, expert: Ints, time_s: Floats, rng: np.random.Generator) -> Trace:
    # Mean 1: a log-normal has mean exp(mu + sigma² / 2), and -0.125 + 0.5² / 2 = 0.
    service_s = spec.service_s * rng.lognormal(-0.125, 0.5, len(expert))
    names = tuple(f"e{n:02d}" for n in range(spec.n_experts))
    return Trace(names, expert.astype(np.int64), time_s - time_s[0], service_s)


NEVER_S = 1e9


class Forecast(Protocol):
    def observe(self, request: int, now_s: float) -> None:
        """Record the arrival of a request of the trace."""

    def next_use_s(self, now_s: float) -> Mapping[str, float]:
        """Seconds until each expert's next request; what is not known is left out."""


class NoForecast:
    """A forecast that predicts no request."""

    def __init__(self, trace: Trace) -> None:
        pass

    def observe(self, request: int, now_s: float) -> None:
        pass

    def next_use_s(self, now_s: float) -> Mapping[str, float]:
        return {}


class MeasuredForecast:
    """The gateway's own forecast, from each expert's recent request rate."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self.arrivals = Arrivals()

    def observe(self, request: int, now_s: float) -> None:
        self.arrivals = self.arrivals.after(self._trace.experts[self._trace.expert[request]], now_s)

    def next_use_s(self, now_s: float) -> Mapping[str, float]:
        return self.arrivals.next_use_s(now_s)


class OracleForecast:
    """The future as it will be, up to a horizon; with `spread`, wrong by factors drawn log-normally."""

    def __init__(self, trace: Trace, horizon_s: float = NEVER_S, spread: float = 0.0, seed: int = 0) -> None:
        self._horizon_s = horizon_s
        self._names = trace.experts
        self._expert = trace.expert.tolist()
        self._next = [NEVER_S] * len(trace)
        first = [NEVER_S] * len(trace.experts)
        # Backwards in one pass: each request learns the time of its expert's next one.
        for request in range(len(trace) - 1, -1, -1):
            self._next[request] = first[self._expert[request]]
            first[self._expert[request]] = float(trace.time_s[request])
        self._coming = first
        self._rng = np.random.default_rng(seed) if spread else None
        self._spread = spread

    def observe(self, request: int, now_s: float) -> None:
        self._coming[self._expert[request]] = self._next[request]

    def next_use_s(self, now_s: float) -> Mapping[str, float]:
        next_s = {
            name: max(0.0, at_s - now_s)
            for name, at_s in zip(self._names, self._coming, strict=True)
            if at_s < NEVER_S and at_s - now_s <= self._horizon_s
        }
        if self._rng is None:
            return next_s
        return {
            name: in_s * float(np.exp(self._rng.normal(0.0, self._spread))) for name, in_s in next_s.items()
        }


class AdversarialForecast(OracleForecast):
    """A wrong forecast: the expert that is needed soonest is predicted to be needed last."""

    def next_use_s(self, now_s: float) -> Mapping[str, float]:
        true = super().next_use_s(now_s)
        return {name: 1e4 / (1.0 + in_s) for name, in_s in true.items()}


_SELECT = "SELECT time, latency_s, expert_answered, attempts FROM decisions ORDER BY seq"


def read_traffic(source: Path, experts: Collection[str] = ()) -> Trace:
    """Every call that an expert answered: its arrival time and the duration of the answer.

    Members of a panel and its aggregator count each for themselves. `experts` leaves out all others; empty,
    all are kept.

    Raises:
        DataError: no such file, no journal, or nothing in it.
    """
    if not source.is_file():
        raise DataError(f"{source}: no such file")
    try:
        # mode=ro: a gateway may be writing to the journal, and a read must not create a missing file.
        with closing(sqlite3.connect(f"{source.resolve().as_uri()}?mode=ro", uri=True)) as database:
            calls = sorted(call for row in database.execute(_SELECT) for call in _calls(*row))
    except sqlite3.Error as error:
        raise DataError(f"{source}: not a journal that can be read: {error}") from None
    calls = [call for call in calls if not experts or call[1] in experts]
    if not calls:
        only = f" for {', '.join(sorted(experts))}" if experts else ""
        raise DataError(f"{source}: no answered request{only} in this journal")
    names = tuple(sorted({name for _, name, _ in calls}))
    index = {name: e for e, name in enumerate(names)}
    came_s = np.array([at_s for at_s, _, _ in calls])
    return Trace(
        names,
        np.array([index[name] for _, name, _ in calls]),
        came_s - came_s[0],
        np.array([took_s for _, _, took_s in calls]),
    )


def _calls(
    ended_s: float, latency_s: float | None, answered: str | None, attempts: bytes | None
) -> Iterator[tuple[float, str, float]]:
    """Arrival time, expert and duration in seconds of each call of one request.

    An attempt is timed until a stream began; the whole answer is in the entry itself.
    """
    recorded: list[dict[str, Any]] = json.loads(attempts or b"[]")
    whole_s = latency_s or 0.0
    for attempt in recorded:
        took_s = attempt.get("latency_s") or 0.0
        if attempt["verdict"] != "answered":
            continue
        if attempt.get("role") == "member":
            yield ended_s - whole_s, attempt["expert"], took_s
        elif attempt["expert"] == answered:
            took_s = took_s if attempt.get("role") else whole_s
            yield ended_s - took_s, attempt["expert"], took_s
