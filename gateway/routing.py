"""Drives the engine online: answers its consultations, and says when it had to make do with less.

The static tier is answered at once, in the event loop; the encoder in worker threads, within the load budget.
"""

import logging
import random
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from policies import Consult, Decision, Engine, Fleet, Hints, Infeasible, Policy, Unreachable
from routers import FeatureExtractor, Features, Floats32, Prediction, Query

from .errors import InvalidField, NothingEligible, Unavailable
from .microbatch import BusyError, Gatherer

if TYPE_CHECKING:
    from routers import Forecaster

RETRY_AFTER_S = 5.0

log = logging.getLogger("thalamus")


class Routing:
    """Decides for one pool; `degraded` says what is missing now, None when nothing is.

    `n_decided` and `n_consulted` count decisions, and those for which the encoder was asked.
    """

    def __init__(
        self,
        engine: Engine,
        forecaster: "Forecaster",
        extractor: FeatureExtractor | None,
        gatherer: Gatherer | None,
        degraded: str | None = None,
    ) -> None:
        self.engine = engine
        self.forecaster = forecaster
        self.gatherer = gatherer
        self.n_decided = 0
        self.n_consulted = 0
        self._extractor = extractor
        self._missing = degraded
        self._failing: dict[str, str] = {}
        self._tiers = tuple(
            tier
            for tier in forecaster.tiers
            if (tier == "static" and extractor is not None) or (tier == "encoder" and gatherer is not None)
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
        deciding = _Deciding(self, query, policy)
        draws = np.array([random.random()]) if policy.explore else None  # noqa: S311 (no secret)
        steps = self.engine.route(
            policy,
            [query],
            fleet,
            None if hints is None else [hints],
            tiers=self._tiers,
            margin=self.forecaster.margin,
            draws=draws,
        )
        try:
            consult = next(steps)
            while True:
                consult = steps.send(await deciding.answer(consult))
        except StopIteration as done:
            (decision,) = done.value
        except Infeasible as error:
            raise _refusal(error) from None
        except Unreachable as error:
            raise InvalidField(str(error), param="router") from None
        self.n_decided += 1
        return deciding.signed(decision)


class _Deciding:
    """One decision under way: remembers the features it made, and what went wrong."""

    __slots__ = ("_first", "_lack", "_query", "_routing", "_static")

    def __init__(self, routing: Routing, query: Query, policy: Policy) -> None:
        self._routing = routing
        self._query = query
        self._static: Features | None = None
        self._first = True
        self._lack = routing._missing if policy.encoder != "never" else None

    async def answer(self, consult: Consult) -> Prediction | None:
        """The prediction asked for, one of a lower tier where that fails, None where there is no time."""
        first, self._first = self._first, False
        if consult.tier != "encoder":
            return self._predict(self._features() if consult.tier == "static" else None)
        if not first and not self._has_time():
            return None
        static = self._features()
        vector = await self._encode() if static is not None else None
        if vector is not None and static is not None:
            return self._predict(Features("encoder", vector, static.lexical, static.form))
        if not first:
            return None
        return self._predict(static if "static" in self._routing._tiers else None)

    def signed(self, decision: Decision) -> Decision:
        """The decision, whose reason admits what was lacking."""
        if self._lack is None:
            return decision
        return replace(decision, reason=f"{decision.reason}; degraded: {self._lack}")

    def _has_time(self) -> bool:
        gatherer = self._routing.gatherer
        return gatherer is not None and gatherer.has_time()

    def _predict(self, features: Features | None) -> Prediction:
        prediction: Prediction = self._routing.forecaster.predict([self._query], features)
        return prediction

    def _features(self) -> Features | None:
        extractor = self._routing._extractor
        if self._static is None and extractor is not None:
            try:
                self._static = extractor.extract([self._query], "static")
                self._routing._failing.pop("static", None)
            except Exception as error:  # whatever an embedder raises must not cost the answer
                self._fail("static", "the static embedder failed", error)
        return self._static

    async def _encode(self) -> Floats32 | None:
        gatherer = self._routing.gatherer
        if gatherer is None:
            return None
        try:
            vector = await gatherer.embed(self._query.text)
        except BusyError:
            self._lack = "the encoder is overloaded"
            return None
        except Exception as error:  # whatever an embedder raises must not cost the answer
            self._fail("encoder", "the encoder failed", error)
            return None
        self._routing._failing.pop("encoder", None)
        self._routing.n_consulted += 1
        return vector

    def _fail(self, part: str, what: str, error: Exception) -> None:
        if part not in self._routing._failing:
            log.warning("%s: %s: %s", what, type(error).__name__, error)
        self._lack = self._routing._failing[part] = what


def _refusal(error: Infeasible) -> NothingEligible | Unavailable:
    if error.temporary:
        return Unavailable(str(error), retry_after_s=RETRY_AFTER_S)
    return NothingEligible(str(error), param="router")
