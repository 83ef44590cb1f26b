"""What is mapped, what it may take, and a mapping."""

from dataclasses import dataclass, field, replace
from typing import Literal

from ..types import Floats

Measure = Literal["size", "memory", "usd", "experts"]


@dataclass(frozen=True, slots=True)
class MappingBudget:
    """What a mapping may take; None sets no limit.

    size, memory: of all experts in use together, in the problem's units; usd: mean cost of a query;
    latency_s: of every pair in use; experts: how many
    """

    size: float | None = None
    memory: float | None = None
    usd: float | None = None
    latency_s: float | None = None
    experts: int | None = None

    def at(self, along: Measure, limit: float) -> "MappingBudget":
        """With another limit on one measure; numbers of experts are rounded down."""
        if along == "experts":
            return replace(self, experts=int(limit))
        if along == "size":
            return replace(self, size=limit)
        return replace(self, memory=limit) if along == "memory" else replace(self, usd=limit)


@dataclass(frozen=True, slots=True)
class MappingProblem:
    """What there is to choose from; NaN is unknown, and an unknown size or cost fails any budget on it.

    share: (n_categories,) of the queries, summing to 1
    score, cost_usd, latency_s: (n_categories, n_experts)
    size, memory: (n_experts,) parameters and bytes, in any unit
    pinned, forbidden: pairs (category, expert) that must and must not be
    """

    categories: tuple[str, ...]
    experts: tuple[str, ...]
    share: Floats
    score: Floats
    cost_usd: Floats
    latency_s: Floats
    size: Floats
    memory: Floats
    pinned: frozenset[tuple[str, str]] = field(default_factory=frozenset)
    forbidden: frozenset[tuple[str, str]] = field(default_factory=frozenset)


@dataclass(frozen=True, slots=True)
class CategoryMapping:
    """One mapping: per category the expert and whom to fail over to, and what it takes; NaN where unknown.

    quality: expected score; active_size: mean size of the expert that answers; usd: mean cost of a query
    """

    categories: tuple[str, ...]
    first: tuple[str, ...]
    second: tuple[str | None, ...]
    experts: tuple[str, ...]
    quality: float
    size: float
    memory: float
    active_size: float
    usd: float

    def by_category(self) -> dict[str, tuple[str, ...]]:
        """Who is to be asked, in order: what a policy's `mapping` holds."""
        pairs = zip(self.categories, self.first, self.second, strict=True)
        return {name: (one,) if other is None else (one, other) for name, one, other in pairs}
