"""Requests for local experts: as a journal has them, or drawn."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from routers import Floats, Ints

N_TURNS, PAUSE_S = 8.0, 20.0
"""Of a drawn session: its mean length in requests, and the mean pause between two of them."""
N_PHASES = 10


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests in the order they came; arrays are (n_requests,).

    expert:    index into `experts`
    time_s:    when it came, from the first on
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


def zipf(told: Synthetic) -> Trace:
    """Every request for itself."""
    rng = np.random.default_rng(told.seed)
    expert = rng.choice(told.n_experts, told.n_requests, p=_popularity(told))
    return _trace(told, expert, np.cumsum(rng.exponential(1.0 / told.rate_per_s, told.n_requests)), rng)


def sessions(told: Synthetic) -> Trace:
    """Sessions of eight requests in the mean, all for one expert, that overlap."""
    rng = np.random.default_rng(told.seed)
    n_sessions = int(told.n_requests / N_TURNS * 2) + 10
    start = np.cumsum(rng.exponential(N_TURNS / told.rate_per_s, n_sessions))
    length = rng.geometric(1.0 / N_TURNS, n_sessions)
    chosen = rng.choice(told.n_experts, n_sessions, p=_popularity(told))
    pauses = [np.cumsum(rng.exponential(PAUSE_S, n)) - PAUSE_S for n in length]
    time_s = np.concatenate([s + pause for s, pause in zip(start, pauses, strict=True)])
    order = np.argsort(time_s, kind="stable")[: told.n_requests]
    return _trace(told, np.repeat(chosen, length)[order], time_s[order], rng)


def phases(told: Synthetic) -> Trace:
    """Zipf, but ten times along the way the popularity of every expert is drawn anew."""
    rng = np.random.default_rng(told.seed)
    rank = rng.choice(told.n_experts, told.n_requests, p=_popularity(told))
    names = np.array([rng.permutation(told.n_experts) for _ in range(N_PHASES)])
    phase = np.arange(told.n_requests) * N_PHASES // max(1, told.n_requests)
    time_s = np.cumsum(rng.exponential(1.0 / told.rate_per_s, told.n_requests))
    return _trace(told, names[phase, rank], time_s, rng)


SYNTHETIC: Mapping[str, Callable[[Synthetic], Trace]] = {
    "zipf": zipf,
    "sessions": sessions,
    "phases": phases,
}


def _popularity(told: Synthetic) -> Floats:
    weight = 1.0 / np.arange(1, told.n_experts + 1) ** told.exponent
    return np.asarray(weight / weight.sum())


def _trace(told: Synthetic, expert: Ints, time_s: Floats, rng: np.random.Generator) -> Trace:
    service_s = told.service_s * rng.lognormal(-0.125, 0.5, len(expert))
    names = tuple(f"e{n:02d}" for n in range(told.n_experts))
    return Trace(names, expert.astype(np.int64), time_s - time_s[0], service_s)
