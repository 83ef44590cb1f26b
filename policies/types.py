"""The values of decisions: what a policy asks for, what a request asks for, the state of the fleet."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import msgspec
import numpy as np

from routers import Bools, Floats, Ints, Tier

from .plans import Plan
from .recruiting import PanelRule

EncoderUse = Literal["always", "adaptive", "never"]
Goal = Literal["size", "recency", "security", "readability", "brevity", "detail"]
"""What a weight can be put on beside cost and latency; `brevity` and `detail` are of the answer."""
PriorityGoal = Literal["smallest", "latest", "cheapest", "fastest"]
"""A goal that precedes all weights, among experts nearly as good as the best."""


TOOL_DECLINED = "is a tool that cannot answer this query"
"""Why a tool without an answer is not eligible, the same online and in replay."""


@dataclass(frozen=True, slots=True)
class Objective:
    """Weights of the soft goals, in quality: `cost: 0.1` gives up 0.1 to go from the dearest to free.

    Cost is measured against the dearest expert of the pool, latency against the slowest, so that a weight
    means the same in every pool, and leaving an expert out never reorders the others.

    `goals` weigh what experts are, by rank among the eligible: from worst to best is worth the weight.
    `first` comes before every weight: of the experts whose quality is `within` of the best, the smallest
    (latest …), in this order of importance.

    `max_usd_per_1k` (expected dollars a thousand queries) or `target_quality` (expected mean score) stand for
    the weight on cost that meets them, as the artifact's λ table has it.
    """

    cost: float = 0.0
    latency: float = 0.0
    goals: tuple[tuple[Goal, float], ...] = ()
    first: tuple[PriorityGoal, ...] = ()
    within: float = 0.02
    max_usd_per_1k: float | None = None
    target_quality: float | None = None


@dataclass(frozen=True, slots=True)
class Require:
    """Hard constraints: what an expert must meet to be eligible at all. None asks nothing.

    `labels` must all be on the expert (("region", "eu"), ("local", "true")).
    """

    labels: frozenset[tuple[str, str]] = frozenset()
    max_cost_usd: float | None = None
    max_latency_s: float | None = None
    min_quality: float | None = None
    models: frozenset[str] | None = None
    exclude: frozenset[str] = frozenset()


def tighten(a: Require, b: Require) -> Require:
    """Both constraints at once: what either forbids is forbidden."""
    return Require(
        labels=a.labels | b.labels,
        max_cost_usd=_either(min, a.max_cost_usd, b.max_cost_usd),
        max_latency_s=_either(min, a.max_latency_s, b.max_latency_s),
        min_quality=_either(max, a.min_quality, b.min_quality),
        models=a.models if b.models is None else b.models if a.models is None else a.models & b.models,
        exclude=a.exclude | b.exclude,
    )


def _either(choose: Callable[[float, float], float], a: float | None, b: float | None) -> float | None:
    return a if b is None else b if a is None else choose(a, b)


@dataclass(frozen=True, slots=True)
class Policy:
    """How to choose. `default` answers where nothing is known; `n_fallbacks` follow the first in the plan.

    A `mapping` names the experts for queries of a category, in order, before any weight; categories it does
    not name use its `general` entry.

    With a `panel` several experts answer together; None asks one. `in_band_flags` says whether flags in a
    prompt are read, `unknown_flags` what happens to unknown ones, `pasted_flags` whether those at
    the end of a text that looks pasted are read too. `predictor` is the head of the artifact that predicts,
    None the default one. With `affinity` the turns of a conversation count what prompt caches hold of it.
    """

    name: str
    objective: Objective = Objective()
    require: Require = Require()
    encoder: EncoderUse = "adaptive"
    default: str | None = None
    n_fallbacks: int = 2
    explore: float = 0.0
    mapping: Mapping[str, tuple[str, ...]] | None = None
    in_band_flags: bool = True
    unknown_flags: Literal["refuse", "warn"] = "warn"
    pasted_flags: bool = False
    panel: PanelRule | None = None
    predictor: str | None = None
    affinity: bool = True


@dataclass(frozen=True, slots=True)
class Session:
    """The conversation that a query goes on with, as far as routing knows it.

    id:            the same for all turns of the conversation
    n_answers:     how many answers it has had
    previous:      the expert that gave the last one
    n_tokens:      of all its turns, as the previous expert counted; 0 where it did not
    cached_tokens: by expert, how many input tokens of this query its prompt cache is expected to hold
    is_tool_loop:  the query brings results of tools that the previous answer called
    is_stalled:    the same call of a tool, or the same result, has come several times in a row
    """

    id: str
    n_answers: int
    previous: str
    n_tokens: int = 0
    cached_tokens: Mapping[str, int] = field(default_factory=dict)
    is_tool_loop: bool = False
    is_stalled: bool = False


@dataclass(frozen=True, slots=True)
class RoutingHints:
    """What one request asks for on top of its policy; None keeps the policy's objective.

    Constraints add up: a hint can tighten what the policy requires, never loosen it. `session` is the
    conversation that the request goes on with, None for its first turn.
    """

    require: Require = Require()
    objective: Objective | None = None
    session: Session | None = None


@dataclass(frozen=True, slots=True)
class Fleet:
    """Snapshot of the pool at one moment; arrays are (n_experts,) in the pool's order.

    available:    may be part of a plan now
    wait_s:       expected queueing before the call starts
    unavailable:  the reason, by expert name, for the others
    """

    available: Bools
    wait_s: Floats
    unavailable: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def idle(cls, n_experts: int) -> "Fleet":
        """All experts available, no queue: used to replay outcome tables."""
        return cls(np.ones(n_experts, bool), np.zeros(n_experts))


class Decision(msgspec.Struct, frozen=True):
    """What was chosen for one query, and why no other expert was.

    `order` ranks the eligible experts, best first. Arrays are (n_experts,). `rejections` gives for each
    expert that was not eligible the constraint it failed. `margin` is how much utility separates the first
    two, in quality, before exploration; infinite when there is no second. `propensity` is the
    probability with which this expert was chosen, 1 without exploration. `assumed_length` marks experts whose
    answers were never measured in tokens: their `output_tokens` and `cost_usd` rest on an assumption.
    `head` is the head of the artifact that predicted; None where means or guesses decided. `skills` are the
    named skills by which a panel was recruited, or its aggregator chosen; None where none were read.
    `session` is the conversation that the query goes on with: `cost_usd` counts what prompt caches hold of
    it, and `switch_usd` is what the cache of its last expert saves, which a switch gives up.
    """

    policy: str
    experts: tuple[str, ...]
    chosen: str
    plan: Plan
    tier: Tier
    reason: str
    order: Ints
    utility: Floats
    quality: Floats
    quality_std: Floats
    output_tokens: Floats
    cost_usd: Floats
    latency_s: Floats
    evidence: Bools
    rejections: Mapping[str, str]
    margin: float
    propensity: float
    assumed_length: Bools | None = None
    head: str | None = None
    skills: tuple[str, ...] | None = None
    session: Session | None = None
    switch_usd: float | None = None
