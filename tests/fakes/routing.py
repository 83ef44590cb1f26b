"""Routing without prediction: the first expert of the pool that may be planned, the others behind it."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from gateway.requests.parsing import ToPolicy
from policies import Decision, Fleet, Single


class InOrder:
    """Stands where `gateway.routing.router.Routing` stands; remembers what it was asked."""

    degraded = None
    batcher = None
    n_decided = 0
    n_consulted = 0

    def __init__(self, *pool: str) -> None:
        self.pool = pool
        self.n_degraded: Counter[str] = Counter()
        self.asked: list[ToPolicy] = []

    def close(self) -> None:
        """Nothing is held."""

    async def decide_many(self, requests: Sequence[ToPolicy], fleet: Fleet) -> list[Decision]:
        return [await self.decide(request, fleet) for request in requests]

    async def decide(self, request: ToPolicy, fleet: Fleet) -> Decision:
        self.asked.append(request)
        n = len(self.pool)
        order = [e for e in range(n) if fleet.available[e]]
        names = [self.pool[e] for e in order] or list(self.pool)
        zeros = np.zeros(n)
        return Decision(
            policy=request.policy.name,
            experts=self.pool,
            chosen=names[0],
            plan=Single(tuple(names)),
            tier="prior",
            reason="first in order",
            order=np.array(order, np.int64),
            utility=zeros,
            quality=zeros,
            quality_std=zeros,
            output_tokens=zeros,
            cost_usd=zeros,
            latency_s=zeros,
            evidence=np.zeros(n, bool),
            rejections=dict(fleet.unavailable),
            margin=float("inf"),
            propensity=1.0,
        )
