"""From features to a `Prediction` for the configured pool, with evidence only where it belongs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from .artifacts import Artifact, Evidence, TierModel
from .calibration import rate_std
from .decision_rule import Scale
from .features import Features
from .protocols import Categorizer, Predictor
from .registry import PUBLISHED
from .skills import NamedSkills, Recruitment, SkillMode, find_keywords
from .sweep import Sweep, sweep
from .types import Bools, Estimate, ExpertProfile, Floats, Ints, Prediction, Query, Tier

PUBLISHED_ENDS = tuple(f"-{mode}" for mode in PUBLISHED)
UNKNOWN_QUALITY = 0.5
UNKNOWN_STD = 0.25
"""Wide: of a score that may be anywhere in [0, 1] alike the deviation is 0.29."""
UNKNOWN_OUTPUT_TOKENS = 256.0
"""Answer length assumed of an expert whose answers were never measured; the prediction says so."""


@dataclass(frozen=True, slots=True)
class _Alignment:
    """Which column of the artifact speaks for which expert of the pool."""

    here: Ints
    there: Ints

    def spread(self, values: Floats, n_experts: int) -> Floats:
        """(n, n_experts) in the pool's order, NaN for experts without evidence."""
        result = np.full((len(values), n_experts), np.nan)
        result[:, self.here] = values[:, self.there]  # the other columns stay NaN
        return result


class Forecaster:
    """Predicts for a pool with an artifact, or without; on the cheap tier cheap enough for the event loop.

    Evidence belongs to an expert's name and model together: where the model differs there is a warning, and
    the expert counts as unknown. Without an artifact every prediction is a prior without evidence.
    """

    def __init__(
        self,
        pool: Sequence[ExpertProfile],
        whole: Artifact | None,
        head: str | None = None,
        *,
        categories: bool = True,
        recruiter: str | None = None,
        skills: NamedSkills | None = None,
        skill_mode: SkillMode | None = None,
    ) -> None:
        """Args:
        whole: what was learned, with all its heads.
        head: the one that predicts; None is the artifact's default. Others are not read.
        categories: whether predictions tell categories; the first head that can tells them, this one before
            others.
        recruiter: the head that chooses the members of panels; None is the one that predicts.
        skills: names the skills of queries, and tells who weighs answers well.
        skill_mode: how these choose the members of panels; None leaves that to the head.

        Raises:
            ArtifactError: the artifact has no such head, or a head is damaged.
        """
        artifact = whole.head(head) if whole else None
        self._head = artifact.name if artifact else None
        self._recruiter: Forecaster | None = None
        if whole is not None and recruiter not in (None, self._head):
            self._recruiter = Forecaster(pool, whole, recruiter, categories=False)
        self._skills, self._skill_mode = skills, skill_mode
        pairs_of_pool = [(profile.name, profile.model) for profile in pool]
        self._skill_columns = skills.align(pairs_of_pool) if skills else []
        # Whether what recruits gives the chances of a published rule.
        self._recruits_by_shares = skill_mode in PUBLISHED or (
            skill_mode is None and (recruiter or self._head or "").endswith(PUBLISHED_ENDS)
        )
        self._pool = tuple(pool)
        self._names = tuple(profile.name for profile in pool)
        self._tiers = dict(artifact.tiers) if artifact else {}
        order: tuple[Tier, ...] = ("static", "encoder")
        self.tiers = tuple(tier for tier in order if tier in self._tiers)
        """Tiers it can predict at, cheapest first; empty without an artifact."""
        self._categorizers: dict[Tier, Categorizer] = {}
        if categories and whole is not None and artifact is not None:
            self._categorizers = find_categorizers(whole, artifact.name)
        self._align_experts(artifact)
        self._guess = _column(profile.quality for profile in self._pool)
        self._price_in, self._price_out = self._prices()
        prefix = np.array([profile.prefix_tokens for profile in self._pool], np.float64)
        self._prefix_cost: Floats = prefix * self._price_in
        self._prefixed = bool(prefix.any())
        longest = _column(profile.max_output_tokens for profile in self._pool)
        self._longest: Floats = np.nan_to_num(longest, nan=np.inf)  # (n_experts,) inf where nothing caps
        self._capped = not np.isnan(longest).all()
        self._measure(artifact)
        self.margin = artifact.margin if artifact else 0.0
        self._sample = artifact.sample if artifact else None
        self._sweeps: dict[Tier, Sweep | None] = {}

    def _align_experts(self, artifact: Artifact | None) -> None:
        """Find out which experts of the artifact are in the pool, and where."""
        known = {expert.name: (n, expert) for n, expert in enumerate(artifact.experts if artifact else ())}
        self.warnings = tuple(_mismatches(self._pool, known))
        pairs = [
            (here, known[profile.name][0])
            for here, profile in enumerate(self._pool)
            if profile.name in known and known[profile.name][1].is_about(profile.model)
        ]
        here, there = (np.array(side, np.int64) for side in (zip(*pairs, strict=True) if pairs else ((), ())))
        self._aligned = _Alignment(here, there)
        self._whole = len(pairs) == len(self._pool)
        self._same = self._whole and len(known) == len(pairs) and here.tolist() == there.tolist()
        self._evidence: Bools = np.zeros(len(self._pool), bool)
        self._evidence[here] = True

    @property
    def evidence(self) -> Bools:
        """(n_experts,) whether outcomes of the expert's name and model were fitted on."""
        return self._evidence

    @property
    def has_categories(self) -> bool:
        """Whether a policy's `mapping` finds categories to follow, on any tier."""
        return bool(self._categorizers)

    @property
    def mean_cost_usd(self) -> Floats:
        """(n_experts,) what a typical call costs, NaN where unknown: what a weight on cost is weighed by."""
        return self._mean_cost

    @property
    def mean_latency_s(self) -> Floats:
        """(n_experts,) how long a typical call takes, NaN where unknown."""
        return self._mean_latency

    def sweep(self, tier: Tier) -> Sweep | None:
        """What a weight on cost buys in this pool at a tier, or at the closest that has a table.

        None where an expert lacks evidence or a price, and where the artifact keeps no sample.
        """
        known = self._sample.quality if self._sample else {}  # tier -> (n_sample, n_experts)
        at = tier if tier in known else [tier, *known][-1]
        if at not in self._sweeps:
            self._sweeps[at] = self._compute_sweep(at)
        return self._sweeps[at]

    def _compute_sweep(self, tier: Tier) -> Sweep | None:
        sample, there = self._sample, self._aligned.there
        if sample is None or tier not in sample.quality or not self._whole:
            return None
        if np.isnan(sample.quality[tier][:, there]).any():  # an expert that was kept from another fit
            return None
        tokens = sample.output_tokens[tier][:, there]
        tokens = np.minimum(np.where(np.isnan(tokens), self._tokens, tokens), self._longest)
        cost_usd = self._cost_usd(sample.input_tokens[:, None], tokens)
        if np.isnan(cost_usd).any():
            return None
        scale = Scale.of(self._mean_cost)
        return sweep(sample.quality[tier][:, there], sample.score[:, there], cost_usd, scale)

    def _cost_usd(self, input_tokens: Floats, output_tokens: Floats) -> Floats:
        """(n_queries, n_experts) by tokens in, (n_queries, 1), and out; the measured mean where unpriced.

        What stands before every conversation is paid for with each.
        """
        cost = input_tokens * self._price_in
        if self._prefixed:
            cost += self._prefix_cost
        cost += output_tokens * self._price_out
        return cost if self._all_priced else np.where(self._priced, cost, self._mean_cost)

    def predict(self, queries: Sequence[Query], features: Features | None) -> Prediction:
        """In the pool's order; without features, or without a model for their tier, from means alone."""
        model = self._tiers.get(features.tier) if features is not None else None
        n = len(queries)
        if model is None or features is None:
            tier: Tier = "prior"
            quality = Estimate(np.repeat(self._score[None], n, 0), np.repeat(self._score_std[None], n, 0))
            tokens = np.repeat(self._tokens[None], n, 0)
        else:
            tier = features.tier
            quality = self._quality(model, features)
            tokens = self._lengths(model, features)
            if self._capped:
                tokens = np.minimum(tokens, self._longest)
        asked = np.array([query.n_input_tokens for query in queries], np.float64)[:, None]
        longest = [query.max_output_tokens for query in queries]
        if longest.count(None) < n:
            cap = [np.inf if most is None else most for most in longest]
            tokens = np.minimum(tokens, np.array(cap, np.float64)[:, None])
        latency = tokens * self._latency_slope  # (n_queries, n_experts)
        latency += self._latency_start
        named = None
        if self._skills is not None:
            named = self._recruit_by_skills(self._skills, [find_keywords(query) for query in queries])
        recruiting = None if self._recruiter is None else self._recruiter._recruit(features)
        if named is not None and self._skill_mode is not None:
            recruiting = named.value
        return Prediction(
            experts=self._names,
            tier=tier,
            quality=quality.mean,
            quality_std=quality.std,
            output_tokens=tokens,
            cost_usd=self._cost_usd(asked, tokens),
            latency_s=latency,
            evidence=self._evidence,
            categories=self._categories(features) if self._categorizers else None,
            assumed_length=None if self._all_lengths else ~self._length_known,
            head=None if tier == "prior" else self._head,
            recruiting=recruiting,
            shares=self._recruits_by_shares,
            skills=None if named is None else named.names,
            weighs=None if named is None or np.isnan(named.weighs).all() else named.weighs,
        )

    def _recruit_by_skills(self, skills: NamedSkills, words: Sequence[Sequence[str]]) -> Recruitment:
        return skills.recruit(words, self._skill_columns, self._skill_mode or "improved")

    def sample_recruiting(self, tier: Tier) -> Floats | None:
        """(n_queries, n_experts) what recruits panels, for some queries fitted on; NaN for unknown experts.

        None where nothing is kept of them.
        """
        if self._skill_mode is not None:
            if self._skills is None:
                return None
            value = self._recruit_by_skills(self._skills, self._skills.sample).value
            return value[~np.isnan(value).all(axis=1)]
        if self._recruiter is not None:
            return self._recruiter.sample_recruiting(tier)
        if self._sample is None or tier not in self._sample.quality:
            return None
        return self._aligned.spread(self._sample.quality[tier], len(self._pool))

    def _recruit(self, features: Features | None) -> Floats | None:
        """(n_queries, n_experts) quality in the pool's order; None without a model for the features' tier."""
        if features is None or features.tier not in self._tiers:
            return None
        return self._quality(self._tiers[features.tier], features).mean

    def _categories(self, features: Features | None) -> tuple[str, ...] | None:
        if features is None or features.tier not in self._categorizers:
            return None
        return self._categorizers[features.tier].categories(features)

    def _quality(self, model: TierModel, features: Features) -> Estimate:
        calibrated = model.calibration.apply(model.quality.predict(features))
        estimate = Estimate(model.advantage.apply(calibrated.mean, calibrated.novelty), calibrated.std)
        if not self._same:
            estimate = self._align(estimate)
        # No prediction is surer than all outcomes of the expert together: 30 of 30 right is no certainty.
        if (estimate.std >= self._largest_floor).all():  # (n_queries, n_experts), as nearly always
            return estimate
        return Estimate(estimate.mean, np.fmax(estimate.std, rate_std(estimate.mean, self._counts)))

    def _align(self, estimate: Estimate) -> Estimate:
        """The columns of the artifact in the pool's order, guesses for experts without evidence."""
        there = self._aligned.there
        if self._whole:
            return Estimate(estimate.mean[:, there], estimate.std[:, there])
        mean = self._aligned.spread(estimate.mean, len(self._pool))
        std = self._aligned.spread(estimate.std, len(self._pool))
        typical = estimate.mean[:, there].mean(axis=1) if len(there) else np.full(len(mean), UNKNOWN_QUALITY)
        # A guess is on no scale of these scores: 0.95 would beat all that was measured on hard prompts.
        most = typical[:, None] if len(there) else np.inf
        guess = np.where(np.isnan(self._guess), typical[:, None], np.minimum(self._guess, most))
        return Estimate(
            np.where(self._evidence, mean, guess),
            np.where(self._evidence, std, UNKNOWN_STD),
        )

    def _lengths(self, model: TierModel, features: Features) -> Floats:
        if model.tokens is None:
            return np.repeat(self._tokens[None], len(features), 0)
        # Learned as log1p. exp of a mean is below the mean, which `smear` makes up for: Duan, JASA 78, 1983.
        expected = np.expm1(model.tokens.predict(features).mean)
        expected *= model.smear
        np.maximum(expected, 1.0, out=expected)
        if self._same and self._all_lengths:
            return expected
        if self._whole and self._all_lengths:
            lengths: Floats = expected[:, self._aligned.there]
            return lengths
        lengths = self._aligned.spread(expected, len(self._pool))
        lengths[:, ~self._length_known] = self._tokens[~self._length_known]
        return lengths

    def _prices(self) -> tuple[Floats, Floats]:
        price_in = _column(profile.input_usd_per_token for profile in self._pool)
        price_out = _column(profile.output_usd_per_token for profile in self._pool)
        self._priced: Bools = ~np.isnan(price_in) & ~np.isnan(price_out)
        self._all_priced = bool(self._priced.all())
        return np.where(self._priced, price_in, 0.0), np.where(self._priced, price_out, 0.0)

    def _measure(self, artifact: Artifact | None) -> None:
        """What the artifact's means say of the pool."""
        n = len(self._pool)
        experts: Sequence[Evidence] = artifact.experts if artifact else ()

        def spread(values: Floats) -> Floats:
            row: Floats = self._aligned.spread(values[None], n)[0]
            return row

        score = spread(_column(expert.score for expert in experts))
        counts = spread(_column(expert.certainty for expert in experts))
        known = np.isfinite(score)  # no evidence, or a damaged mean
        typical = score[known].mean() if known.any() else UNKNOWN_QUALITY
        most = typical if known.any() else np.inf
        guess = np.where(np.isnan(self._guess), typical, np.minimum(self._guess, most))
        self._score = np.where(known, score, guess)
        self._counts: Floats = counts  # (n_experts,) NaN without evidence
        floors = rate_std(np.float64(0.5), counts)  # (n_experts,), largest where right and wrong are as many
        self._largest_floor = float(np.nan_to_num(floors, nan=0.0).max(initial=0.0))
        self._score_std = np.where(known, rate_std(score, counts), UNKNOWN_STD)
        tokens = spread(_column(expert.output_tokens for expert in experts))
        self._length_known: Bools = ~np.isnan(tokens)
        self._all_lengths = bool(self._length_known.all())
        # Never the lengths of others: those of a small local model would make a talkative one look cheap.
        known_or_assumed = np.where(self._length_known, tokens, UNKNOWN_OUTPUT_TOKENS)
        self._tokens = np.minimum(known_or_assumed, self._longest)
        self._measure_latency(artifact, n)
        # a prompt of 256 tokens
        paid = 256.0 * self._price_in + self._prefix_cost + self._tokens * self._price_out
        measured = spread(_column(expert.cost_usd for expert in experts))
        self._mean_cost: Floats = np.where(self._priced, paid, measured)

    def _measure_latency(self, artifact: Artifact | None, n: int) -> None:
        lines = np.full((n, 2), np.nan)
        if artifact is not None:
            lines[self._aligned.here] = artifact.latency[self._aligned.there]
        configured = _column(profile.latency_s for profile in self._pool)
        unknown = np.isnan(lines[:, 0])
        self._latency_start = np.where(unknown, configured, lines[:, 0])
        self._latency_slope = np.where(unknown, 0.0, lines[:, 1])
        self._mean_latency: Floats = self._latency_start + self._latency_slope * self._tokens


def find_categorizers(artifact: Artifact, head: str | None = None) -> dict[Tier, Categorizer]:
    """By tier who tells categories: a head, None for the default, where it can, else another one.

    Raises:
        ArtifactError: a head is damaged.
    """
    first = artifact.head(head)
    names = sorted(artifact.head_names, key=lambda name: (name != first.name, not name.startswith("coe")))
    found: dict[Tier, Categorizer] = {}
    for name in names:
        if found.keys() >= first.tiers.keys():
            break
        for tier, model in artifact.head(name).tiers.items():
            if tier not in found and (teller := _find_categorizer(model.quality)):
                found[tier] = teller
    return found


def _find_categorizer(predictor: Predictor) -> Categorizer | None:
    """Who tells categories: the predictor itself, or the first of its parts or members that does."""
    if isinstance(predictor, Categorizer):
        return predictor
    inside: Sequence[Predictor] = getattr(predictor, "parts_", ()) or getattr(predictor, "members_", ())
    return next((teller for part in inside if (teller := _find_categorizer(part))), None)


def _column(values: Iterable[float | None]) -> Floats:
    return np.array([np.nan if v is None else v for v in values], np.float64)


def _mismatches(pool: Sequence[ExpertProfile], known: dict[str, tuple[int, Evidence]]) -> list[str]:
    return [
        f"expert {profile.name!r}: the artifact's evidence is for model {known[profile.name][1].model!r},"
        f" not for {profile.model!r}; it is not used"
        for profile in pool
        if profile.name in known and not known[profile.name][1].is_about(profile.model)
    ]
