"""Who says when an expert is asked next: nobody, what was measured of late, the future itself, a liar."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from policies import Arrivals

from .trace import Trace

NEVER_S = 1e9


class Forecast(Protocol):
    def seen(self, request: int, now_s: float) -> None:
        """A request of the trace came."""

    def next_use_s(self, now_s: float) -> Mapping[str, float]:
        """Seconds until each expert's next request; what is not known is left out."""


class Unknown:
    """Tells nothing."""

    def __init__(self, trace: Trace) -> None:
        pass

    def seen(self, request: int, now_s: float) -> None:
        pass

    def next_use_s(self, now_s: float) -> Mapping[str, float]:
        return {}


class Measured:
    """What the gateway itself expects, from how often each was asked of late."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self.arrivals = Arrivals()

    def seen(self, request: int, now_s: float) -> None:
        self.arrivals = self.arrivals.after(self._trace.experts[self._trace.expert[request]], now_s)

    def next_use_s(self, now_s: float) -> Mapping[str, float]:
        return self.arrivals.next_use_s(now_s)


class Oracle:
    """The future as it will be, up to a horizon; with `spread`, wrong by factors drawn log-normally."""

    def __init__(self, trace: Trace, horizon_s: float = NEVER_S, spread: float = 0.0, seed: int = 0) -> None:
        self._horizon_s = horizon_s
        self._names = trace.experts
        self._expert = trace.expert.tolist()
        self._next = [NEVER_S] * len(trace)
        first = [NEVER_S] * len(trace.experts)
        for request in range(len(trace) - 1, -1, -1):
            self._next[request] = first[self._expert[request]]
            first[self._expert[request]] = float(trace.time_s[request])
        self._coming = first
        self._rng = np.random.default_rng(seed) if spread else None
        self._spread = spread

    def seen(self, request: int, now_s: float) -> None:
        self._coming[self._expert[request]] = self._next[request]

    def next_use_s(self, now_s: float) -> Mapping[str, float]:
        told = {
            name: max(0.0, at_s - now_s)
            for name, at_s in zip(self._names, self._coming, strict=True)
            if at_s < NEVER_S and at_s - now_s <= self._horizon_s
        }
        if self._rng is None:
            return told
        return {
            name: in_s * float(np.exp(self._rng.normal(0.0, self._spread))) for name, in_s in told.items()
        }


class Liar(Oracle):
    """Whoever is needed soonest is said to be needed last."""

    def next_use_s(self, now_s: float) -> Mapping[str, float]:
        true = super().next_use_s(now_s)
        return {name: 1e4 / (1.0 + in_s) for name, in_s in true.items()}
