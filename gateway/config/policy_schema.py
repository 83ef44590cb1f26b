"""The part of `thalamus.yaml` about policies: how an expert is chosen for a prompt."""

from dataclasses import replace
from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta

from policies import Draw, Goal, Objective, PanelRule, PanelSize, Policy, PriorityGoal, Require
from routers import HeadName

from .values import Labels, NotNegative, Seconds, Share, StrictStruct


class Weights(StrictStruct, frozen=True):
    """Weights of the soft goals, in units of quality: 0.1 gives up at most 0.1 of quality (of 0 to 1)."""

    cost: NotNegative = 0.0
    """Quality given up to go from the dearest expert of the pool to a free one."""
    latency: NotNegative = 0.0
    """Quality given up to go from the slowest expert of the pool to an instant one."""
    size: NotNegative = 0.0
    """Quality given up to go from the largest eligible expert to the smallest."""
    recency: NotNegative = 0.0
    """Quality given up to go from the oldest eligible expert to the newest."""
    security: NotNegative = 0.0
    """Quality given up to go from the worst to the best `ratings.security`."""
    readability: NotNegative = 0.0
    """Quality given up to go from the worst to the best `ratings.readability`."""
    brevity: NotNegative = 0.0
    """Quality given up to go from the expert with the longest answers to the one with the shortest."""
    detail: NotNegative = 0.0
    """Quality given up to go from the expert with the shortest answers to the one with the longest."""

    def objective(self) -> Objective:
        """The same as an `Objective` of `policies`."""
        weights = {goal: getattr(self, goal) for goal in get_args(Goal)}
        goals = tuple((goal, weight) for goal, weight in weights.items() if weight)
        return Objective(cost=self.cost, latency=self.latency, goals=goals)


class ObjectiveConfig(Weights, frozen=True):
    """What a policy trades against quality: weights, goals that come first, or a target."""

    first: tuple[PriorityGoal, ...] = ()
    """Goals that come before all weights, the most important first, among experts nearly as good as the best.
    """
    within: Share = 0.02
    """How far below the best quality an expert may be to count as nearly as good, for `first`."""
    max_usd_per_1k: NotNegative | None = None
    """Sets the weight on cost so that 1,000 queries are expected to cost no more than this, in USD."""
    target_quality: Share | None = None
    """Sets the weight on cost so that the expected mean quality is at least this."""

    def objective(self) -> Objective:
        return replace(
            Weights.objective(self),
            first=self.first,
            within=self.within,
            max_usd_per_1k=self.max_usd_per_1k,
            target_quality=self.target_quality,
        )


class FlagsConfig(StrictStruct, frozen=True):
    """Flags in prompts, such as `[Flag: Smallest model]`."""

    in_band: bool = True
    """Whether prompts may contain flags. Flags are removed before an expert sees the prompt."""
    unknown: Literal["refuse", "warn"] = "warn"
    """What happens to a prompt with an unknown flag: an error, or an answer with a warning."""
    pasted: bool = False
    """Whether flags at the end of a message count where the end looks pasted: the message is long, or a
    colon, a rule or the head of a letter comes before. Flags at its beginning always count, those in
    quotations and code never.
    """


class RequireConfig(StrictStruct, frozen=True):
    """Hard constraints: an expert that misses one is not eligible. A request can tighten them, never loosen
    them.
    """

    local: bool | None = None
    """Only local experts (`true`) or only remote ones (`false`)."""
    region: str | None = None
    """Only experts of this region."""
    labels: Labels = msgspec.field(default_factory=dict)
    """Only experts with all of these labels."""
    max_cost_usd: NotNegative | None = None
    """Highest expected cost of the request in USD. An expert of unknown price is not eligible."""
    max_latency_s: Seconds | None = None
    """Highest expected latency in seconds."""
    min_quality: Share | None = None
    """Lowest expected quality, from 0 to 1."""
    models: tuple[str, ...] | None = None
    """Only these experts."""
    exclude: tuple[str, ...] = ()
    """Never these experts."""

    def require(self) -> Require:
        """The same as a `Require` of `policies`."""
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
    """Several experts answer, and one answer is made of theirs."""

    k: Annotated[int, Meta(ge=2, le=16)] = 3
    """How many experts answer."""
    aggregator: str = "auto"
    """How one answer is made: `vote` counts equal answers; `auto` counts, and asks the expert expected to be
    best where counting does not decide; the name of an expert asks that expert.
    """
    max_cost_usd: NotNegative | None = None
    """Highest expected cost of the whole panel in USD; fewer experts answer where it is exceeded."""
    predictor: HeadName | None = None
    """The head of the artifact that chooses the members, such as `skills`; default: that of the policy. With
    `keywords` it is `skills`, `skills-paper` or `skills-code`, and says how named skills choose them.
    """
    size: PanelSize = "fixed"
    """How many answer: `fixed` is `k`; `mass` the fewest, at most `k`, that have `mass` of the probability of
    being recruited; `gain` stops where a further one hardly makes a right answer among theirs likelier.
    """
    mass: Share = 0.8
    """The probability that the members have together, with `size: mass`."""
    min_gain: Share = 0.05
    """How much likelier a further member makes a right answer, at least, with `size: gain`."""
    draw: Draw = "best"
    """Who answers: the `best`; or members drawn by their probability `without_replacement`, or
    `with_replacement`, where who is drawn twice has two votes; or any, all alike (`random`). The same prompt
    draws the same members again.
    """
    trim: Share = 0.0
    """Experts that would be recruited for a smaller share of the prompts fitted on are not recruited; 0.05 in
    the paper.
    """
    keywords: str | None = None
    """Recruit by named skills, which `thalamus fit` learns: `text` finds keywords in the prompt; the name of
    an expert asks that language model for them, five times, and keeps those that it tells more than once.
    """
    keywords_wait_s: Seconds = 0.3
    """How long a decision waits for keywords of an expert, in seconds. Later ones serve the next time this
    prompt is sent; until then keywords are found in the prompt.
    """


class PlanConfig(StrictStruct, frozen=True):
    """What is done with the chosen experts. Default: one expert is asked, the next one if it fails."""

    panel: PanelConfig | None = None
    """Ask several experts at once."""

    def rule(self) -> PanelRule | None:
        """The same as a `PanelRule` of `policies`."""
        panel = self.panel
        if panel is None:
            return None
        return PanelRule(
            k=panel.k,
            aggregator=panel.aggregator,
            max_cost_usd=panel.max_cost_usd,
            predictor=panel.predictor,
            size=panel.size,
            mass=panel.mass,
            min_gain=panel.min_gain,
            draw=panel.draw,
            trim=panel.trim,
            keywords=panel.keywords,
            keywords_wait_s=panel.keywords_wait_s,
        )


class PolicyConfig(StrictStruct, frozen=True):
    """How an expert is chosen. The policy `auto` exists even where the file does not mention it."""

    predictor: HeadName | None = None
    """The head of the artifact that predicts what experts are worth; default: the artifact's own, usually
    `blend`. `thalamus fit` fits each head that a policy names, `thalamus fit --head NAME` one of them.
    """
    objective: ObjectiveConfig = ObjectiveConfig()
    """What is traded against quality."""
    require: RequireConfig = RequireConfig()
    """What an expert must meet to be eligible."""
    encoder: Literal["always", "adaptive", "never"] = "adaptive"
    """When the encoder reads the prompt after the static embedder: always, where the decision is close and
    the machine has time (`adaptive`), or never.
    """
    default: str | None = None
    """The expert that answers while nothing has been learned."""
    n_fallbacks: Annotated[int, Meta(ge=0, le=16)] = 2
    """How many further experts are asked, one after another, when the chosen one fails before its first
    token.
    """
    explore: Share = 0.0
    """Share of requests that go to another eligible expert, so that its outcomes become known."""
    mapping: dict[str, tuple[str, ...]] = msgspec.field(default_factory=dict)
    """Experts by category of prompt, in order of preference; it goes before the objective. Prompts of other
    categories go as `general` does. `thalamus plan mapping` computes the best mapping.
    """
    flags: FlagsConfig = FlagsConfig()
    """Flags in prompts."""
    affinity: bool = True
    """Whether further turns of a conversation count what the prompt caches of experts hold of it, so that
    staying with an expert competes with a switch at their real costs. Results of tools go to the expert that
    called them; an expert that repeats the same call is left.
    """
    plan: PlanConfig = PlanConfig()
    """What is done with the chosen experts."""

    def policy(self, name: str) -> Policy:
        """The same as a `Policy` of `policies`."""
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
            pasted_flags=self.flags.pasted,
            panel=self.plan.rule(),
            predictor=self.predictor,
            affinity=self.affinity,
        )
