"""Drives the engine online: answers its consultations, and says when it had to make do with less.

The static tier is answered at once, in the event loop; the encoder in worker threads, within the load budget.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from policies import Consult, Decision, Engine, Fleet, Hints, Infeasible, Policy, Unreachable
from routers import FeatureExtractor, Features, Floats32, Ints, Prediction, Query

from ..errors import GatewayError, InvalidField, NothingEligible, Unavailable
from .embedding_batcher import BusyError, EmbeddingBatcher

if TYPE_CHECKING:
    from routers import Forecaster

RETRY_AFTER_S = 5.0

T = TypeVar("T")

log = logging.getLogger("thalamus")


class Router:
    """Decides for one pool; `degraded` says what is missing now, None when nothing is.

    `n_decided` and `n_consulted` count decisions, and those for which the encoder was asked.
    """

    def __init__(
        self,
        engine: Engine,
        forecaster: "Forecaster",
        extractor: FeatureExtractor | None,
        batcher: EmbeddingBatcher | None,
        degraded: str | None = None,
    ) -> None:
        self.engine = engine
        self.forecaster = forecaster
        self.batcher = batcher
        self.n_decided = 0
        self.n_consulted = 0
        self._extractor = extractor
        self._missing = degraded
        self._failing: dict[str, str] = {}
        self._tiers = tuple(
            tier
            for tier in forecaster.tiers
            if (tier == "static" and extractor is not None) or (tier == "encoder" and batcher is not None)
        )

    @property
    def degraded(self) -> str | None:
        """What predictions have to do without, for readiness and for the reasons of decisions."""
        return next(iter(self._failing.values()), self._missing)

    async def decide(self, query: Query, policy: Policy, hints: Hints | None, fleet: Fleet) -> Decision:
        """Who answers this query.

        Raises:
            NothingEligible: no expert meets the constraints; `param` is "router".
            InvalidField: a target in dollars or quality is out of reach.
            Unavailable: those who do are all out for now.
        """
        (decision,) = await self._decided([query], policy, [hints], fleet, patient=False)
        return decision

    async def decide_many(
        self, queries: Sequence[Query], policy: Policy, hints: Sequence[Hints | None], fleet: Fleet
    ) -> list[Decision | GatewayError]:
        """Who answers each of many queries, or why nobody does; patiently, beside live traffic.

        The closer look is had wherever the policy wants it: a batch has the time.
        """
        try:
            return [*await self._decided(queries, policy, hints, fleet, patient=True)]
        except GatewayError as error:
            if len(queries) == 1:
                return [error]
        singles = [
            await self.decide_many([q], policy, [h], fleet) for q, h in zip(queries, hints, strict=True)
        ]
        return [decision for (decision,) in singles]

    async def _decided(
        self,
        queries: Sequence[Query],
        policy: Policy,
        hints: Sequence[Hints | None],
        fleet: Fleet,
        patient: bool,
    ) -> list[Decision]:
        deciding = _DecisionContext(self, queries, policy, patient)
        n = len(queries)
        draws = np.array([random.random() for _ in range(n)]) if policy.explore else None  # noqa: S311 (no secret)
        steps = self.engine.route(
            policy,
            queries,
            fleet,
            hints if any(hint is not None for hint in hints) else None,
            tiers=self._tiers,
            margin=self.forecaster.margin,
            draws=draws,
        )
        try:
            reached = await deciding.run(_advance, steps, None)
            while isinstance(reached, Consult):
                reached = await deciding.run(_advance, steps, await deciding.answer(reached))
        except Infeasible as error:
            raise _refusal(error) from None
        except Unreachable as error:
            raise InvalidField(str(error), param="router") from None
        self.n_decided += n
        return [deciding.signed(decision) for decision in reached]


def _advance(
    steps: Generator[Consult, Prediction | None, list[Decision]], prediction: Prediction | None
) -> Consult | list[Decision]:
    """The engine's next question, or its decisions."""
    try:
        return steps.send(prediction)
    except StopIteration as done:
        decisions: list[Decision] = done.value
        return decisions


class _DecisionContext:
    """Decisions under way: remembers the features it made, and what went wrong.

    A patient one computes in worker threads and lets live queries go first.
    """

    __slots__ = ("_first", "_lack", "_patient", "_queries", "_routing", "_static")

    def __init__(self, routing: Router, queries: Sequence[Query], policy: Policy, patient: bool) -> None:
        self._routing = routing
        self._queries = queries
        self._patient = patient
        self._static: Features | None = None
        self._first = True
        self._lack = routing._missing if policy.encoder != "never" else None

    async def run(self, work: Callable[..., T], *given: Any) -> T:
        """Do something that computes."""
        return await asyncio.to_thread(work, *given) if self._patient else work(*given)

    async def answer(self, consult: Consult) -> Prediction | None:
        """The prediction asked for, one of a lower tier where that fails, None where there is no time."""
        first, self._first = self._first, False
        rows = consult.rows
        if consult.tier != "encoder":
            return await self._predict(rows, await self._features() if consult.tier == "static" else None)
        if not first and not self._has_time():
            return None
        static = await self._features()
        vectors = await self._encode(rows) if static is not None else None
        if vectors is not None and static is not None:
            features = Features("encoder", vectors, static.lexical[rows], static.form[rows])
            return await self._predict(rows, features)
        if not first:
            return None
        return await self._predict(rows, static if "static" in self._routing._tiers else None)

    def signed(self, decision: Decision) -> Decision:
        """The decision, whose reason admits what was lacking."""
        if self._lack is None:
            return decision
        return replace(decision, reason=f"{decision.reason}; degraded: {self._lack}")

    def _has_time(self) -> bool:
        batcher = self._routing.batcher
        return batcher is not None and (self._patient or batcher.has_time())

    async def _predict(self, rows: Ints, features: Features | None) -> Prediction:
        queries = [self._queries[n] for n in rows.tolist()]
        prediction: Prediction = await self.run(self._routing.forecaster.predict, queries, features)
        return prediction

    async def _features(self) -> Features | None:
        extractor = self._routing._extractor
        if self._static is None and extractor is not None:
            try:
                self._static = await self.run(extractor.extract, self._queries, "static")
                self._routing._failing.pop("static", None)
            except Exception as error:  # whatever an embedder raises must not cost the answer
                self._fail("static", "the static embedder failed", error)
        return self._static

    async def _encode(self, rows: Ints) -> Floats32 | None:
        batcher = self._routing.batcher
        if batcher is None:
            return None
        texts = [self._queries[n].text for n in rows.tolist()]
        try:
            vectors = await batcher.embed_all(texts, self._patient)
        except BusyError:
            self._lack = "the encoder is overloaded"
            return None
        except Exception as error:  # whatever an embedder raises must not cost the answer
            self._fail("encoder", "the encoder failed", error)
            return None
        self._routing._failing.pop("encoder", None)
        self._routing.n_consulted += len(texts)
        return vectors

    def _fail(self, part: str, what: str, error: Exception) -> None:
        if part not in self._routing._failing:
            log.warning("%s: %s: %s", what, type(error).__name__, error)
        self._lack = self._routing._failing[part] = what


def _refusal(error: Infeasible) -> NothingEligible | Unavailable:
    if error.temporary:
        return Unavailable(str(error), retry_after_s=RETRY_AFTER_S)
    return NothingEligible(str(error), param="router")
