"""How to choose."""

from dataclasses import replace
from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta

from policies import Goal, Lead, Objective, PanelRule, Policy, Require

from .values import Labels, NotNegative, Seconds, Share, StrictStruct


class Weights(StrictStruct, frozen=True):
    """Weights of the soft goals, in quality (see `policies.Objective`)."""

    cost: NotNegative = 0.0
    latency: NotNegative = 0.0
    size: NotNegative = 0.0
    recency: NotNegative = 0.0
    security: NotNegative = 0.0
    readability: NotNegative = 0.0
    brevity: NotNegative = 0.0
    detail: NotNegative = 0.0

    def objective(self) -> Objective:
        """The same, in the words of `policies`."""
        weights = {goal: getattr(self, goal) for goal in get_args(Goal)}
        goals = tuple((goal, weight) for goal, weight in weights.items() if weight)
        return Objective(cost=self.cost, latency=self.latency, goals=goals)


class ObjectiveConfig(Weights, frozen=True):
    """Weights of the soft goals, in quality (see `policies.Objective`); `first` comes before all of them."""

    first: tuple[Lead, ...] = ()
    within: Share = 0.02
    max_usd_per_1k: NotNegative | None = None
    target_quality: Share | None = None

    def objective(self) -> Objective:
        return replace(
            Weights.objective(self),
            first=self.first,
            within=self.within,
            max_usd_per_1k=self.max_usd_per_1k,
            target_quality=self.target_quality,
        )


class FlagsConfig(StrictStruct, frozen=True):
    """Whether prompts may bear flags, `[Flag: Smallest model]`, and what an unknown one gets."""

    in_band: bool = True
    unknown: Literal["refuse", "warn"] = "warn"


class RequireConfig(StrictStruct, frozen=True):
    """What an expert must meet to be eligible at all."""

    local: bool | None = None
    region: str | None = None
    labels: Labels = msgspec.field(default_factory=dict)
    max_cost_usd: NotNegative | None = None
    max_latency_s: Seconds | None = None
    min_quality: Share | None = None
    models: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()

    def require(self) -> Require:
        """The same, in the words of `policies`."""
        labels = set(self.labels.items())
        if self.local is not None:
            labels.add(("local", "true" if self.local else "false"))
        if self.region is not None:
            labels.add(("region", self.region))
        return Require(
            labels=frozenset(labels),
            max_cost_usd=self.max_cost_usd,
            max_latency_s=self.max_latency_s,
            min_quality=self.min_quality,
            models=None if self.models is None else frozenset(self.models),
            exclude=frozenset(self.exclude),
        )


class PanelConfig(StrictStruct, frozen=True):
    """Several experts answer together, and the `aggregator` makes one answer of theirs.

    `vote` only counts; `auto` asks the expert expected to be best where counting does not decide; a name asks
    that expert.
    """

    k: Annotated[int, Meta(ge=2, le=16)] = 3
    aggregator: str = "auto"
    max_cost_usd: NotNegative | None = None


class PlanConfig(StrictStruct, frozen=True):
    """What is done with whom a policy chooses; one expert is asked where nothing is said."""

    panel: PanelConfig | None = None

    def rule(self) -> PanelRule | None:
        """The panel, in the words of `policies`."""
        panel = self.panel
        return None if panel is None else PanelRule(panel.k, panel.aggregator, panel.max_cost_usd)


class PolicyConfig(StrictStruct, frozen=True):
    """How to choose, by name; `auto` is there even when the file says nothing of it.

    `mapping` names the experts of each category, in order; `thalamus plan mapping` finds the best there is.
    """

    predictor: Literal["blend"] = "blend"
    objective: ObjectiveConfig = ObjectiveConfig()
    require: RequireConfig = RequireConfig()
    encoder: Literal["always", "adaptive", "never"] = "adaptive"
    default: str | None = None
    n_fallbacks: Annotated[int, Meta(ge=0, le=16)] = 2
    explore: Share = 0.0
    mapping: dict[str, tuple[str, ...]] = msgspec.field(default_factory=dict)
    flags: FlagsConfig = FlagsConfig()
    plan: PlanConfig = PlanConfig()

    def policy(self, name: str) -> Policy:
        """The same, in the words of `policies`."""
        return Policy(
            name=name,
            objective=self.objective.objective(),
            require=self.require.require(),
            encoder=self.encoder,
            default=self.default,
            n_fallbacks=self.n_fallbacks,
            explore=self.explore,
            mapping=self.mapping or None,
            in_band_flags=self.flags.in_band,
            unknown_flags=self.flags.unknown,
            panel=self.plan.rule(),
        )
