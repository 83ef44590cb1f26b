"""Query to decision: the router drives the engine, predicts for it, and degrades where an embedder fails.

The static tier of short texts is computed in the event loop: it costs some 100 µs, a thread would cost as
much. Requests that arrive together are read, predicted and decided together, which costs each a third of
that. The encoder runs in worker threads, within the load budget of the `EmbeddingBatcher`.
"""

import asyncio
import logging
import random
import time
import traceback
from collections import Counter
from collections.abc import Collection, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from msgspec.structs import replace
from threadpoolctl import threadpool_limits

from policies import (
    Consult,
    DecidingHead,
    Decision,
    Engine,
    Fleet,
    HeadNeeds,
    Infeasible,
    PanelRule,
    Policy,
    Unreachable,
)
from routers import (
    Artifact,
    ArtifactError,
    CachedEmbedder,
    Embedder,
    EmbedderError,
    ExpertProfile,
    FeatureExtractor,
    Features,
    Floats32,
    Forecaster,
    Ints,
    Prediction,
    Query,
    RoutersError,
    StaticEmbedder,
    Tier,
    load_embedder,
)
from routers.skills import NamedSkills, skills_path

from ..config import Ability, Config
from ..config.validation import find_missing_heads
from ..errors import BusyError, GatewayError, InvalidField, NothingEligible, Unavailable
from ..experts.types import Expert
from ..requests.bodies import run_apart
from ..requests.parsing import ToPolicy
from .embedding_batcher import Budget, EmbeddingBatcher
from .keywords import KeywordFinder

RETRY_AFTER_S = 5.0
MAX_INLINE_CHARS = 4000
"""The features of a longer text take milliseconds, and are computed in the thread of large bodies."""
MAX_TOGETHER = 16
"""Queries predicted in one turn of the event loop: with more of them, streams would wait too long."""
LOG_EVERY_S = 60.0
"""A part that fails for some texts and works for others must not fill the log."""
Part = Literal["static", "encoder", "predictor", "encoder_busy", "not_loaded"]
PROBLEMS: dict[Part, str] = {
    "static": "the static embedder failed",
    "encoder": "the encoder failed",
    "predictor": "the predictor failed",
    "encoder_busy": "the encoder is overloaded",
}
"""What a decision has to do without, by the part that fails."""

log = logging.getLogger("thalamus")


class PredictorError(Exception):
    """A predictor failed, on features that were extracted: it raised, or predicted what is no number."""


def predict_checked(forecaster: Forecaster, queries: Sequence[Query], features: Features) -> Prediction:
    """The forecast for some queries, whose qualities, deviations and lengths are all numbers.

    Raises:
        PredictorError: they are not, or the predictor raised.
    """
    try:
        prediction = forecaster.predict(queries, features)
    except Exception as error:
        raise PredictorError(_describe_error(error)) from error
    shape = len(queries), len(prediction.experts)
    for values in (prediction.quality, prediction.quality_std, prediction.output_tokens):
        # The largest of some numbers with NaN among them is any: the sum shows both NaN and infinity.
        if values.shape != shape or not isfinite(np.add.reduce(values, axis=None)):
            raise PredictorError("it predicted what is no number")
    return prediction


def _describe_error(error: Exception) -> str:
    """An error for the log: of one that is not ours only the kind and the place, as it may quote a prompt."""
    if isinstance(error, (RoutersError, PredictorError)):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    place = f" in {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{place}"


class StaticError(Exception):
    """Features could not be extracted, for what the embedder raised."""

    def __init__(self, reason: Exception) -> None:
        super().__init__()
        self.reason = reason


_Steps = Generator[Consult, Prediction | None, list[Decision]]
_Step = Consult | list[Decision]
_Row = tuple[Features, int, _Step]
"""Features of several queries, the row of one, and what the engine makes of its prediction."""


@dataclass(slots=True)
class _Waiting:
    """A query that waits for its prediction, who is to predict it, and the engine that asks for it."""

    query: Query
    forecaster: Forecaster
    steps: _Steps
    answer: "asyncio.Future[_Row]"


class StaticPredictor:
    """Predicts at the static tier, and decides, for all queries that one turn of the event loop brings.

    Most of what a lone prediction takes is the calls of NumPy, not their work: sixteen queries take about as
    many calls as one. Their features are extracted together, whichever heads predict. The engines run right
    behind, one after the other: between calls of experts each would find its code and data out of the caches.
    """

    def __init__(self, extractor: FeatureExtractor, batcher: EmbeddingBatcher | None) -> None:
        self._extractor = extractor
        self._batcher = batcher
        self._waiting: list[_Waiting] = []

    def advance(self, query: Query, forecaster: Forecaster, steps: _Steps) -> "asyncio.Future[_Row]":
        """What the engine makes of the prediction of a query, once this turn's others are there.

        Raises (when awaited): PredictorError, StaticError, or what the engine raised.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[_Row] = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._run)  # behind all tasks that are ready now
        self._waiting.append(_Waiting(query, forecaster, steps, answer))
        return answer

    def _run(self) -> None:
        # a client may be gone
        asked = [one for one in self._waiting[:MAX_TOGETHER] if not one.answer.done()]
        self._waiting = self._waiting[MAX_TOGETHER:]
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._run)
        try:
            self._answer(asked)
        except Exception:  # one by one, for one text must not cost the others their prediction
            for one in asked:
                if one.answer.done():
                    continue
                try:
                    self._answer([one])
                except PredictorError as error:
                    one.answer.set_exception(error)
                except Exception as error:
                    one.answer.set_exception(StaticError(error))

    def _answer(self, asked: Sequence[_Waiting]) -> None:
        features = self._extractor.extract([one.query for one in asked], "static")
        by_forecaster: dict[int, list[int]] = {}
        for row, one in enumerate(asked):
            by_forecaster.setdefault(id(one.forecaster), []).append(row)
        for rows in by_forecaster.values():
            part = features if len(rows) == len(asked) else features.take(np.array(rows, np.int64))
            queries = [asked[row].query for row in rows]
            prediction = predict_checked(asked[rows[0]].forecaster, queries, part)
            for place, row in enumerate(rows):
                own = prediction if len(rows) == 1 else prediction.take_one(place)
                one = asked[row]
                try:
                    step = _advance(one.steps, own)
                    # Under load most close looks are declined: it costs least where all code is at hand.
                    if isinstance(step, Consult) and not (self._batcher and self._batcher.has_time()):
                        step = _advance(one.steps, None)
                    one.answer.set_result((features, row, step))
                except Exception as error:  # no expert is eligible, as a rule
                    one.answer.set_exception(error)


class Router:
    """Decides for one pool of experts, each policy by the head that it names.

    `n_decided` counts decisions, `n_consulted` those for which the encoder was run, `n_degraded` those that
    had to do without a part, by that part. `degraded` says what predictions have to do without now, None
    when nothing is missing.
    """

    def __init__(
        self,
        engine: Engine,
        forecaster: Forecaster,
        extractor: FeatureExtractor | None,
        batcher: EmbeddingBatcher | None,
        degraded: str | None = None,
        heads: Mapping[HeadNeeds, DecidingHead] | None = None,
    ) -> None:
        """Args:
        engine, forecaster: decide for policies that need nothing of their own.
        heads: what decides for the others, by what they need.
        """
        self.default = DecidingHead(engine, forecaster)
        self.heads = {needs: head for needs, head in (heads or {}).items() if needs != HeadNeeds()}
        self.extractor = extractor
        self.batcher = batcher
        self.static = StaticPredictor(extractor, batcher) if extractor is not None else None
        ready = {"static": extractor is not None, "encoder": batcher is not None}
        fitted = {head.forecaster.tiers for head in (self.default, *self.heads.values())}
        self._tiers = {tiers: tuple(tier for tier in tiers if ready.get(tier)) for tiers in fitted}
        self._finders: dict[str, KeywordFinder] = {}
        self.n_decided = 0
        self.n_consulted = 0
        self.n_degraded: Counter[Part] = Counter()
        self.missing = degraded
        self.failing: dict[Part, str] = {}
        self._logged_at: dict[Part, float] = {}

    def find_head(self, policy: Policy) -> DecidingHead:
        """What decides for a policy."""
        return self.heads.get(HeadNeeds.of(policy), self.default) if self.heads else self.default

    @property
    def degraded(self) -> str | None:
        return next(iter(self.failing.values()), self.missing)

    def close(self) -> None:
        """Stop the encoder's threads, and asking for keywords."""
        for finder in self._finders.values():
            finder.close()
        if self.batcher is not None:
            self.batcher.close()

    async def decide(self, request: ToPolicy, fleet: Fleet) -> Decision:
        """The decision for one request.

        Raises:
            NothingEligible: no expert meets the constraints; `param` is "router".
            InvalidField: a target in dollars or quality is out of reach.
            Unavailable: the experts that meet the constraints are all cooling down.
        """
        return (await self._decide([request], fleet, patient=False))[0]

    async def decide_many(self, requests: Sequence[ToPolicy], fleet: Fleet) -> list[Decision | GatewayError]:
        """A decision for each request of one policy, or its refusal.

        Live traffic goes first: this computes in worker threads, and always takes the time to run the encoder
        where the policy wants it.
        """
        try:
            return [*await self._decide(requests, fleet, patient=True)]
        except PredictorError:  # one text may be at fault: halves find it, the others keep their prediction
            if len(requests) == 1:
                raise
            half = len(requests) // 2
            first = await self.decide_many(requests[:half], fleet)
            return [*first, *await self.decide_many(requests[half:], fleet)]
        except GatewayError as error:
            if len(requests) == 1:
                return [error]
        # The engine refuses a batch as a whole: one by one shows which requests are at fault.
        return [decision for request in requests for decision in await self.decide_many([request], fleet)]

    def ask_keywords_of(self, experts: Mapping[str, Expert]) -> None:
        """Let these experts tell the keywords of prompts, by name."""
        self._finders = {name: KeywordFinder(expert) for name, expert in experts.items()}

    async def _add_keywords(self, requests: Sequence[ToPolicy], panel: PanelRule) -> Sequence[ToPolicy]:
        """The requests with the keywords that an expert tells of them in time.

        A request that excludes the expert is not shown to it. A batch waits for none: asking for thousands
        would hold it up.
        """
        name = panel.keywords or ""
        wait_s = panel.keywords_wait_s if len(requests) == 1 else 0.0
        found = [
            await self._finders[name].find(request.query.text, wait_s) if _may_read(request, name) else None
            for request in requests
        ]
        return [
            request if words is None else replace(request, query=replace(request.query, keywords=words))
            for request, words in zip(requests, found, strict=True)
        ]

    async def _decide(self, requests: Sequence[ToPolicy], fleet: Fleet, patient: bool) -> list[Decision]:
        policy = requests[0].policy
        if policy.panel is not None and policy.panel.keywords in self._finders:
            requests = await self._add_keywords(requests, policy.panel)
        # The engine is a generator without I/O: replay drives the same object with recorded features.
        head = self.find_head(policy)
        tiers = self._tiers[head.forecaster.tiers]
        context = _DecisionContext(self, head.forecaster, tiers, requests, patient)
        steps = head.engine.route(
            policy,
            [request.query for request in requests],
            fleet,
            [request.hints for request in requests],
            tiers=tiers,
            margin=head.forecaster.margin,
            # Exploration needs no secret; None spares the draws where the policy does not explore.
            draws=np.array([random.random() for _ in requests]) if policy.explore else None,  # noqa: S311
        )
        try:
            step = await asyncio.to_thread(_advance, steps, None) if patient else _advance(steps, None)
            while isinstance(step, Consult):
                step = await context.advance(step, steps)
        except Infeasible as error:
            if error.temporary:
                raise Unavailable(str(error), retry_after_s=RETRY_AFTER_S) from None
            if any(request.query.needs for request in requests):
                fix = f"send it without these parts, or {_suggest_abilities(requests)}"
                raise NothingEligible(f"{error}; {fix}", param="messages") from None
            raise NothingEligible(str(error), param="router") from None
        except Unreachable as error:
            raise InvalidField(str(error), param="router") from None
        self.n_decided += len(requests)
        if context.missing is None:
            return step
        self.n_degraded[context.missing_part] += len(requests)
        return [replace(d, reason=f"{d.reason}; degraded: {context.missing}") for d in step]

    def note_failure(self, part: Part, error: Exception) -> None:
        """Remember that an embedder or a predictor fails; the log gets one line until it works again."""
        now = time.monotonic()
        if part not in self.failing and now - self._logged_at.get(part, -LOG_EVERY_S) >= LOG_EVERY_S:
            self._logged_at[part] = now
            log.warning("%s: %s", PROBLEMS[part], _describe_error(error))
        self.failing[part] = PROBLEMS[part]


def _may_read(request: ToPolicy, expert: str) -> bool:
    """Whether a request lets an expert see its prompt."""
    if request.hints is None:
        return True
    asked = request.hints.require
    return expert not in asked.exclude and (asked.models is None or expert in asked.models)


def _suggest_abilities(requests: Sequence[ToPolicy]) -> str:
    """What an expert needs in the configuration to read these requests."""
    needs = frozenset().union(*(request.query.needs for request in requests))
    known = sorted(needs.intersection(get_args(Ability)))
    return " and ".join(
        f"give an expert that can `{key}: [{', '.join(names)}]`"
        for key, names in (("abilities", known), ("content_parts", sorted(needs.difference(known))))
        if names
    )


def _advance(steps: _Steps, prediction: Prediction | None) -> _Step:
    """The engine's next question, or its decisions."""
    try:
        return steps.send(prediction)
    except StopIteration as done:
        decisions: list[Decision] = done.value
        return decisions


class _DecisionContext:
    """The predictions of one call of the engine: keeps the features, and what was missing."""

    __slots__ = (
        "_forecaster",
        "_is_first",
        "_patient",
        "_queries",
        "_router",
        "_static",
        "_tiers",
        "missing",
        "missing_part",
    )

    def __init__(
        self,
        router: Router,
        forecaster: Forecaster,
        tiers: Sequence[Tier],
        requests: Sequence[ToPolicy],
        patient: bool,
    ) -> None:
        self._router = router
        self._forecaster = forecaster
        self._tiers = tiers
        self._queries = [request.query for request in requests]
        self._patient = patient
        self._static: Features | None = None
        self._is_first = True
        # A head that was fitted without the encoder lacks nothing where that cannot be loaded.
        misses = router.extractor is None or "encoder" in forecaster.tiers
        self.missing = router.missing if requests[0].policy.encoder != "never" and misses else None
        self.missing_part: Part = "not_loaded"

    async def advance(self, consult: Consult, steps: _Steps) -> _Step:
        """What the engine makes of the prediction it asks for."""
        is_first, self._is_first = self._is_first, False
        if self._patient:
            return await asyncio.to_thread(_advance, steps, await self._predict(consult, is_first))
        query, static = self._queries[0], self._router.static
        if (
            not is_first
            or consult.tier != "static"
            or static is None
            or len(self._queries) > 1
            or len(query.text) > MAX_INLINE_CHARS
        ):
            return _advance(steps, await self._predict(consult, is_first))
        try:
            features, row, step = await static.advance(query, self._forecaster, steps)
        except (PredictorError, StaticError) as error:  # a bug there must not cost the client its answer
            if isinstance(error, StaticError):
                self._note_failure("static", error.reason)
            else:
                self._note_failure("predictor", error)
            return _advance(steps, self._forecaster.predict(self._queries, None))
        if self._router.failing:
            self._router.failing.pop("static", None)
            self._router.failing.pop("predictor", None)
        # Only a closer look reads the features again.
        if isinstance(step, Consult):
            self._static = features.take(slice(row, row + 1))
        return step

    async def _predict(self, consult: Consult, is_first: bool) -> Prediction | None:
        """The prediction the engine asks for, or one of a lower tier where an embedder fails.

        None declines the second stage (the encoder), where there is no time for it.
        """
        router, rows = self._router, consult.rows
        if consult.tier == "encoder" and not is_first and not self._has_time():
            return None
        static = await self._extract_static() if consult.tier != "prior" else None
        features = static if "static" in self._tiers else None
        if consult.tier == "encoder":
            vectors = await self._encode(rows) if static is not None else None
            if vectors is not None and static is not None:
                features = Features("encoder", vectors, static.lexical[rows], static.form[rows])
            elif not is_first:
                return None
        queries = self._queries if len(rows) == len(self._queries) else [self._queries[n] for n in rows]
        # The next source of knowledge where a predictor fails: the cheaper tier, then means alone.
        for known in (features, static if features is not static and is_first else None):
            if known is None:
                continue
            try:
                prediction = await self._forecast(queries, known)
            except PredictorError as error:
                if len(self._queries) > 1:
                    raise
                self._note_failure("predictor", error)
            else:
                if known is features:
                    router.failing.pop("predictor", None)
                return prediction
        return self._forecaster.predict(queries, None) if is_first else None

    async def _forecast(self, queries: Sequence[Query], features: Features) -> Prediction:
        if self._patient:
            return await asyncio.to_thread(predict_checked, self._forecaster, queries, features)
        return predict_checked(self._forecaster, queries, features)

    def _note_failure(self, part: Part, error: Exception) -> None:
        self._do_without(part)
        self._router.note_failure(part, error)

    def _do_without(self, part: Part) -> None:
        self.missing, self.missing_part = PROBLEMS[part], part

    def _has_time(self) -> bool:
        batcher = self._router.batcher
        return batcher is not None and (self._patient or batcher.has_time())

    async def _extract_static(self) -> Features | None:
        extractor = self._router.extractor
        # Both tiers read lexical and form features: they are extracted once per request.
        if self._static is None and extractor is not None:
            try:
                if self._patient:
                    self._static = await asyncio.to_thread(extractor.extract, self._queries, "static")
                elif len(self._queries[0].text) > MAX_INLINE_CHARS:
                    self._static = await run_apart(extractor.extract, self._queries, "static")
                else:
                    self._static = extractor.extract(self._queries, "static")
                self._router.failing.pop("static", None)
            except Exception as error:  # an embedder's bug must not cost the client its answer
                self._note_failure("static", error)
        return self._static

    async def _encode(self, rows: Ints) -> Floats32 | None:
        router, batcher = self._router, self._router.batcher
        if batcher is None:
            return None
        try:
            vectors = await batcher.embed_all([self._queries[n].text for n in rows.tolist()], self._patient)
        # A full line degrades the decision, never the answer.
        except BusyError:
            self._do_without("encoder_busy")
            return None
        except Exception as error:  # an embedder's bug must not cost the client its answer
            self._note_failure("encoder", error)
            return None
        router.failing.pop("encoder", None)
        router.n_consulted += len(rows)
        return vectors


def build_router(config: Config, pool: Sequence[ExpertProfile], *, mapped: bool = False) -> Router:
    """The router of a configuration. Without an artifact nothing is embedded.

    An embedder that cannot be loaded degrades the router; the gateway still starts. `mapped`: processes that
    read the same artifact share the memory of its arrays.

    Raises:
        ArtifactError: the artifact is damaged, or was fitted on another embedder.
    """
    # A query's products take microseconds: handing a part to a second thread of BLAS takes longer, uses a
    # core while it waits, and stalls the event loop where that core is busy.
    threadpool_limits(1, user_api="blas")
    # A missing artifact is the first day's normal state, not an error: `auto` takes the default expert.
    path = Path(config.routing.artifact)
    if not path.exists():
        default = DecidingHead.of(pool, None, HeadNeeds())
        return Router(default.engine, default.forecaster, None, None)
    if lacks := [f"{'.'.join(map(str, at))}: {message}" for at, message, _ in find_missing_heads(config)]:
        raise ArtifactError("\n".join(lacks))
    extractor, encoder, missing = _build_extractor(config)
    artifact = Artifact.load(path, extractor.fingerprints if extractor else None, mapped=mapped)
    needs = {HeadNeeds.of(policy) for policy in config.policies_by_name().values()}
    if extractor is not None:
        asked = {one.predictor for one in needs} | {one.recruiter for one in needs}
        _try_out(path, artifact, asked, extractor)
    named = load_skills(path, needs)
    heads = {one: DecidingHead.of(pool, artifact, one, named) for one in needs}
    default = heads.get(HeadNeeds()) or DecidingHead.of(pool, artifact, HeadNeeds())
    batcher = None
    reads_encoder = any("encoder" in head.forecaster.tiers for head in heads.values())
    if encoder is not None and reads_encoder:
        batcher = EmbeddingBatcher(encoder, config.routing.encoder_threads, budget=_budget(config))
    if extractor is not None and not reads_encoder:
        missing = None
    return Router(default.engine, default.forecaster, extractor, batcher, missing, heads)


def load_skills(artifact: Path, needs: Iterable[HeadNeeds]) -> NamedSkills | None:
    """The named skills beside an artifact; None where no policy reads them.

    Raises:
        ArtifactError: a policy recruits by them, and there are none; or they are damaged.
    """
    path, wanted = skills_path(artifact), [*needs]
    recruits = any(one.skills for one in wanted)
    if not recruits and not (any(one.aggregators for one in wanted) and path.exists()):
        return None
    return NamedSkills.load(path, StaticEmbedder())


def _try_out(
    path: Path, artifact: Artifact, heads: Collection[str | None], extractor: FeatureExtractor
) -> None:
    """Try each of the heads before it serves.

    Raises:
        ArtifactError: one does not decide as when it was fitted.
    """
    for name in {artifact.head(name).name for name in heads}:
        try:
            artifact.head(name).try_out(extractor)
        except ArtifactError as error:
            whose = "" if name == artifact.name else f"head {name}: "
            raise ArtifactError(f"{path}: {whose}{error}") from None


def _build_extractor(config: Config) -> tuple[FeatureExtractor | None, Embedder | None, str | None]:
    """The extractor, its encoder, and what could not be loaded."""
    try:
        static = StaticEmbedder()
    except EmbedderError as error:
        return None, None, f"no embedder: {error}"
    if config.routing.encoder == "none" or all(
        p.encoder == "never" for p in config.policies_by_name().values()
    ):
        return FeatureExtractor(static), None, None
    try:
        encoder = CachedEmbedder(load_embedder(config.routing.encoder), config.routing.embedding_cache)
    except EmbedderError as error:
        return FeatureExtractor(static), None, f"no encoder: {error}"
    return FeatureExtractor(static, encoder), encoder, None


def _budget(config: Config) -> Budget | None:
    limits = config.routing.load_budget
    return None if limits == "off" else Budget(limits.n_waiting, limits.share, config.routing.encoder_threads)
