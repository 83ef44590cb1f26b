"""The λ table: for each weight on cost the expected dollars and quality, from out-of-fold predictions.

An artifact keeps a sample of predictions and outcomes, not one finished table: prices and pools change after
the fit, and the table is computed for the configured pool.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .decision_rule import Scale, trace_choices
from .protocols import Arrays
from .types import Floats, Tier

MAX_SAMPLE = 2048
WEIGHTS: Floats = np.concatenate(([0.0], np.geomspace(1e-3, 1e3, 61)))
"""λ that tables show, in quality for what the dearest expert typically costs."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Queries with their out-of-fold predictions and measured scores.

    input_tokens: (n_queries,); score: (n_queries, n_experts), NaN where unmeasured; per tier quality and
    output_tokens, (n_queries, n_experts): calibrated, and NaN where no length was ever measured
    """

    input_tokens: Floats
    score: Floats
    quality: Mapping[Tier, Floats]
    output_tokens: Mapping[Tier, Floats]

    def __len__(self) -> int:
        return len(self.score)

    def thin(self) -> "Sample":
        """At most `MAX_SAMPLE` of the queries, evenly spaced, in single precision."""
        rows = np.linspace(0, len(self) - 1, min(len(self), MAX_SAMPLE)).round().astype(np.int64)

        def thin(values: Floats) -> Floats:
            return values[rows].astype(np.float32).astype(np.float64)

        return Sample(
            thin(self.input_tokens),
            thin(self.score),
            {tier: thin(values) for tier, values in self.quality.items()},
            {tier: thin(values) for tier, values in self.output_tokens.items()},
        )

    def widen(self, n_experts: int) -> "Sample":
        """With so many experts more that were not asked these queries: NaN throughout."""

        def pad(values: Floats) -> Floats:
            return np.pad(values, ((0, 0), (0, n_experts)), constant_values=np.nan)

        return Sample(
            self.input_tokens,
            pad(self.score),
            {tier: pad(values) for tier, values in self.quality.items()},
            {tier: pad(values) for tier, values in self.output_tokens.items()},
        )

    def arrays(self) -> Arrays:
        """In single precision; `from_arrays` gives the same sample back if it is thinned."""
        named = {"input_tokens": self.input_tokens, "score": self.score}
        named |= {f"quality.{tier}": values for tier, values in self.quality.items()}
        named |= {f"output_tokens.{tier}": values for tier, values in self.output_tokens.items()}
        return {name: values.astype(np.float32) for name, values in named.items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray[Any, Any]]) -> "Sample":
        def per_tier(what: str) -> dict[Tier, Floats]:
            tiers: tuple[Tier, ...] = ("static", "encoder")
            return {t: arrays[f"{what}.{t}"].astype(np.float64) for t in tiers if f"{what}.{t}" in arrays}

        return cls(
            arrays["input_tokens"].astype(np.float64),
            arrays["score"].astype(np.float64),
            per_tier("quality"),
            per_tier("output_tokens"),
        )


@dataclass(frozen=True, slots=True)
class Sweep:
    """The λ table of one pool and tier; all (n_weights,), ascending: each weight at which anything changes.

    weight:   λ, in quality for what the dearest expert typically costs
    cost_usd: expected price of a call; quality: mean score
    """

    weight: Floats
    cost_usd: Floats
    quality: Floats

    def weight_for_cost(self, max_cost_usd: float) -> float | None:
        """The smallest weight whose expected cost is within a limit; None where nothing is."""
        # argmax stops at the first; there are as many weights as changes, thousands.
        meets = self.cost_usd <= max_cost_usd * (1 + 1e-9)
        first = int(meets.argmax())
        return float(self.weight[first]) if meets[first] else None

    def weight_for_quality(self, quality: float) -> float | None:
        """The largest weight whose expected quality is at least this; None where nothing is."""
        meets = self.quality >= quality - 1e-9
        last = len(meets) - 1 - int(meets[::-1].argmax())
        return float(self.weight[last]) if meets[last] else None

    def rows(self, weight: float = 0.0) -> list[dict[str, float]]:
        """One row for each of `WEIGHTS`, and for this one, where anything changes."""
        weights = np.union1d(WEIGHTS, [weight])
        at = np.searchsorted(self.weight, weights, side="right") - 1
        table = zip(weights.tolist(), self.cost_usd[at].tolist(), self.quality[at].tolist(), strict=True)
        rows: list[dict[str, float]] = []
        for cost, cost_usd, quality in table:
            row = {"cost": cost, "usd_per_1k": 1000 * cost_usd, "quality": quality}
            row = {name: float(f"{value:.6g}") for name, value in row.items()}
            if not rows or row["usd_per_1k"] != rows[-1]["usd_per_1k"]:
                rows.append(row)
        return rows


def sweep(quality: Floats, score: Floats, cost_usd: Floats, scale: Scale) -> Sweep:
    """The mean cost and score of routing every query as the engine does, with every weight.

    quality: predicted out of fold, below 0 where an expert declined and is not asked; score: measured, the
    prediction where NaN; cost_usd: of each call; all (n_queries, n_experts).
    """
    truth = np.where(np.isnan(score), quality, score)
    path = trace_choices(np.where(quality < 0, -np.inf, quality), cost_usd, scale)
    weights = np.union1d(WEIGHTS, path.weight)
    at = np.searchsorted(path.weight, weights, side="right") - 1
    return Sweep(weights, path.mean(cost_usd)[at], path.mean(truth)[at])
