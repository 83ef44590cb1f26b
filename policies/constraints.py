"""Hard constraints: which experts are eligible, and for each other one the reason.

Each rule adds to `rejections`, a mapping from expert to reason for each query. The first rule that an
expert fails gives the reason.
An unknown price fails every price cap. An unknown context window or latency passes: nothing is known
against the expert, and the time-outs of the attempt still apply.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from routers import Bools, ExpertProfile, Floats, Prediction, Query

from .types import Fleet, Require

Rejections = dict[str, str]


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


def static_rejections(
    pool: Sequence[ExpertProfile],
    labels: frozenset[tuple[str, str]],
    models: frozenset[str] | None,
    exclude: frozenset[str],
) -> Rejections:
    """The experts that these parts of a `Require` reject for every query: by label or by name."""

    def reason(profile: ExpertProfile) -> str | None:
        if profile.name in exclude:
            return "excluded"
        if models is not None and profile.name not in models:
            return "not among the models asked for"
        missing = sorted(labels - profile.labels)
        return f"lacks label {missing[0][0]}={missing[0][1]}" if missing else None

    reasons = ((profile.name, reason(profile)) for profile in pool)
    return {name: why for name, why in reasons if why}


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """Limits of the experts as arrays (n_experts,): inf where unknown, True unless known to lack it.

    prefix_tokens:     tokens before every conversation (prompt preset)
    capped:            whether any expert limits the length of its answers
    least_room_tokens: tokens that fit into every window after its prefix
    """

    context_tokens: Floats
    prefix_tokens: Floats
    max_output_tokens: Floats
    capped: bool
    least_room_tokens: float
    sees_images: Bools
    calls_tools: Bools

    @classmethod
    def of(cls, pool: Sequence[ExpertProfile]) -> "PoolLimits":
        def has_ability(ability: str) -> Bools:
            return np.array([p.abilities is None or ability in p.abilities for p in pool], dtype=bool)

        def to_bounds(values: Iterable[int | None]) -> Floats:
            return np.array([np.inf if value is None else float(value) for value in values])

        longest = to_bounds(p.max_output_tokens for p in pool)
        context, prefix = to_bounds(p.context_tokens for p in pool), to_bounds(p.prefix_tokens for p in pool)
        return cls(
            context_tokens=context,
            prefix_tokens=prefix,
            least_room_tokens=float((context - prefix).min(initial=np.inf)),
            max_output_tokens=longest,
            capped=bool(np.isfinite(longest).any()),
            sees_images=has_ability("vision"),
            calls_tools=has_ability("tools"),
        )

    def count_required_tokens(self, query: Query) -> Floats:
        """(n_experts,) tokens of the prefix, the conversation and the answer that the query asks for."""
        asked = query.max_output_tokens or 0
        if self.capped and asked:
            return query.n_input_tokens + np.minimum(self.max_output_tokens, asked) + self.prefix_tokens
        return query.n_input_tokens + asked + self.prefix_tokens


def query_rejections(
    query: Query, row: int, prediction: Prediction, require: Require, limits: PoolLimits, fleet: Fleet
) -> Rejections:
    """The experts that this query, this prediction or the state of the fleet rejects."""
    # The first failed rule names the reason: rules run from what never changes (window, abilities) to what
    # changes with each moment (availability), and setdefault keeps the first.
    found: Rejections = {}
    # One comparison of integers for short queries; arrays only where some window may be too small.
    if query.n_input_tokens + (query.max_output_tokens or 0) > limits.least_room_tokens:
        n_tokens = limits.count_required_tokens(query)
        _reject(
            found,
            prediction,
            limits.context_tokens < n_tokens,
            lambda e: f"context window {limits.context_tokens[e]:.0f} < {n_tokens[e]:.0f} tokens",
        )
    for name in query.declined:
        found.setdefault(name, "is a tool that cannot answer this query")
    if query.has_images:
        _reject(found, prediction, ~limits.sees_images, lambda e: "cannot see images")
    if query.has_tools:
        _reject(found, prediction, ~limits.calls_tools, lambda e: "cannot call tools")
    if (cap := require.max_cost_usd) is not None:
        cost = prediction.cost_usd[row]
        _reject(
            found,
            prediction,
            ~(cost <= cap),  # not `cost > cap`: NaN, an unknown price, must fail
            lambda e: (
                f"cost ${cost[e]:.6f} > cap ${cap:.6f}"
                if cost[e] == cost[e]
                else f"price unknown, cap ${cap:.6f}"
            ),
        )
    if (limit := require.max_latency_s) is not None:
        # NaN, an unknown latency, compares false and passes.
        latency = prediction.latency_s[row] + fleet.wait_s  # (n_experts,)
        _reject(
            found, prediction, latency > limit, lambda e: f"latency {latency[e]:.2f} s > limit {limit:.2f} s"
        )
    if (floor := require.min_quality) is not None:
        quality = prediction.quality[row]
        _reject(found, prediction, quality < floor, lambda e: f"quality {quality[e]:.2f} < floor {floor:.2f}")
    if not all(fleet.available.tolist()):
        _reject(
            found,
            prediction,
            ~fleet.available,
            lambda e: fleet.unavailable.get(prediction.experts[e], "unavailable"),
        )
    return found


def _reject(found: Rejections, prediction: Prediction, failed: Bools, reason: Callable[[int], str]) -> None:
    for expert in failed.nonzero()[0].tolist():
        found.setdefault(prediction.experts[expert], reason(expert))
