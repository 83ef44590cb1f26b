"""Who is good at which skill: Symbolic-MoE's counts, what its released code makes of them, and posteriors.

Axes: tags (n_queries, n_skills), scores (n_queries, n_experts) with NaN where unmeasured, profiles
(n_skills, n_experts). Tags are 0 or 1 in the paper; here they may be any weight in between.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..logistic import softmax
from ..types import Bools, Floats, Ints

TEMPERATURE = 0.5


def counts(tags: Floats, scores: Floats) -> Floats:
    """(n_skills, n_experts) +1 for a right answer to a query with the skill, −1 for a wrong one.

    A score in between counts in between (2·score − 1), an unmeasured one counts nothing.

    Reference: Symbolic-MoE (arXiv 2503.05641), section 3.1, P_i.
    """
    signed: Floats = tags.T @ np.where(np.isnan(scores), 0.0, 2 * scores - 1)
    return signed


def suitability(tags: Floats, profile: Floats) -> Floats:
    """(n_queries, n_experts) S(M_i, q) = Σ_{k ∈ K_q} P_i[k].

    Reference: Symbolic-MoE (arXiv 2503.05641), section 3.2.
    """
    fit: Floats = tags @ profile
    return fit


def competency(profile: Floats) -> Floats:
    """(n_experts,) γ_i = Σ_k P_i[k] / Σ_j Σ_k P_j[k]; alike for all where the pool's sum is 0.

    Reference: Symbolic-MoE (arXiv 2503.05641), section 3.2.
    """
    totals = profile.sum(axis=0)
    whole = totals.sum()
    return totals / whole if whole else np.full(len(totals), 1 / len(totals))


def paper_probabilities(tags: Floats, profile: Floats) -> Floats:
    """(n_queries, n_experts) softmax over experts of w_i / 0.5, w_i = γ_i · S(M_i, q): who is recruited.

    Reference: Symbolic-MoE (arXiv 2503.05641), section 3.2.
    """
    return softmax(competency(profile) * suitability(tags, profile) / TEMPERATURE)


def code_probabilities(tags: Floats, profile: Floats) -> Floats:
    """(n_queries, n_experts) what the released code recruits by: no softmax, and γ squared.

    Experts with S ≤ 0 are out; where all are, S is shifted so that the least is 1. The 1/0.5 of the
    temperature is an exponent on the experts' totals, themselves shifted to at least 1.

    Reference: dinobby/Symbolic-MoE, `recruit_agents.py`.
    """
    fit = suitability(tags, profile)
    least = fit.min(axis=1, keepdims=True)
    none = (fit <= 0).all(axis=1, keepdims=True)
    positive = np.where(none, fit - least + 1, np.maximum(fit, 0.0))
    totals = profile.sum(axis=0)
    shifted = totals + max(0.0, 1.0 - float(totals.min()))
    weights = positive * shifted ** (1 / TEMPERATURE)
    shares: Floats = weights / weights.sum(axis=1, keepdims=True)
    return shares


@dataclass(frozen=True, slots=True)
class Posteriors:
    """Beta posteriors of the chance that an expert is right on a query with a skill; (n_skills, n_experts).

    right, wrong: the two parameters
    overall:      (n_experts,) accuracy on everything, the mean of the prior
    """

    right: Floats
    wrong: Floats
    overall: Floats

    @classmethod
    def of(cls, tags: Floats, scores: Floats, strength: float) -> "Posteriors":
        """From tags and scores in [0, 1]; the prior is the expert's own accuracy on `strength` queries.

        Reference: none; Symbolic-MoE's counts know no number of trials and no prior.
        """
        known = ~np.isnan(scores)
        value = np.where(known, scores, 0.0)
        n = known.sum(axis=0)
        pooled = value.sum() / max(known.sum(), 1) if known.any() else 0.5
        overall = np.where(n > 0, value.sum(axis=0) / np.maximum(n, 1), pooled)
        right = tags.T @ value + strength * overall
        wrong = tags.T @ np.where(known, 1 - value, 0.0) + strength * (1 - overall)
        return cls(np.maximum(right, 1e-9), np.maximum(wrong, 1e-9), overall)

    @property
    def mean(self) -> Floats:
        """(n_skills, n_experts) expected accuracy."""
        return self.right / (self.right + self.wrong)

    @property
    def std(self) -> Floats:
        """(n_skills, n_experts) how sure that is."""
        # The variance of Beta(a, b): ab / ((a + b)² (a + b + 1)).
        n = self.right + self.wrong
        return np.sqrt(self.right * self.wrong / (n**2 * (n + 1)))

    def draw(self, rng: np.random.Generator) -> Floats:
        """(n_skills, n_experts) one accuracy each, as likely as the evidence makes it: Thompson's rule."""
        return rng.beta(self.right, self.wrong)


def lead(tags: Floats, idf: Floats, accuracy: Floats) -> Floats:
    """(n_queries, n_experts) by how much an expert is better than the pool at what the query asks for.

    Σ_k idf_k · tag_k · (accuracy_ik − mean_j accuracy_jk) over Σ_k idf_k · tag_k; 0 without skills.
    idf: (n_skills,); accuracy: (n_skills, n_experts), a posterior's mean or a draw
    """
    weights = tags * idf  # (n_queries, n_skills)
    total = weights.sum(axis=1, keepdims=True)
    ahead = weights @ (accuracy - accuracy.mean(axis=1, keepdims=True))  # (n_queries, n_experts)
    mean: Floats = np.divide(ahead, total, out=np.zeros_like(ahead), where=total > 0)
    return mean


MIN_SHARE = 0.05


def draw_with_replacement(probabilities: Floats, draws: Floats) -> Ints:
    """(n_queries, k) experts drawn by their probabilities, one for each draw (n_queries, k); some twice.

    Reference: Symbolic-MoE (arXiv 2503.05641), section 3.2, k = 3.
    """
    edges = np.cumsum(probabilities, axis=1)
    # Rounding may leave the last sum below 1, and a draw above it.
    edges[:, -1] = np.inf
    # (n_queries, k, n_experts) → (n_queries, k)
    draw: Ints = (draws[:, :, None] >= edges[:, None, :]).sum(axis=2)
    return draw


def trim_rare(recruited: Ints, probabilities: Floats, draws: Floats, min_share: float = MIN_SHARE) -> Ints:
    """The same, without experts recruited for less than `min_share` of the queries: others are drawn instead.

    recruited, draws: (n_queries, k). Where no expert reaches the share, all stay.

    Reference: Symbolic-MoE (arXiv 2503.05641), section 3.2. The released code has it and never calls it.
    """
    n_experts = probabilities.shape[1]
    asked = (recruited[:, :, None] == np.arange(n_experts)).any(axis=1)  # (n_queries, n_experts)
    kept: Bools = asked.mean(axis=0) >= min_share if len(asked) else np.ones(n_experts, bool)
    if kept.all() or not kept.any():
        return recruited
    left = np.where(kept, probabilities, 0.0)  # (n_queries, n_experts)
    total = left.sum(axis=1, keepdims=True)
    left = np.where(total > 0, left / np.where(total > 0, total, 1), kept / kept.sum())
    instead = draw_with_replacement(_close_tail(left), draws)
    return np.where(kept[recruited], recruited, instead)


def _close_tail(probabilities: Floats) -> Floats:
    """Columns of 0 behind the last that is not, given none of the rounding either."""
    last = probabilities.shape[1] - 1 - (probabilities[:, ::-1] > 0).argmax(axis=1)
    closed = probabilities.copy()
    closed[np.arange(len(closed)), last] += 1.0
    return closed


def best(value: Floats, k: int) -> Ints:
    """(n_queries, k) the experts of highest value, each once; of equals the one named first."""
    order: Ints = np.argsort(-value, axis=1, kind="stable")[:, :k]
    return order


def enough(probabilities: Floats, mass: float, k_max: int) -> Bools:
    """(n_queries, n_experts) the fewest experts, most probable first, that have `mass` between them.

    At least one, at most `k_max`: a query that is clear needs one expert, one that is not needs several.

    Reference: Harder Tasks Need More Experts (arXiv 2403.07652), equation 4.
    """
    order = np.argsort(-probabilities, axis=1, kind="stable")
    ranked = np.take_along_axis(probabilities, order, axis=1)
    before = np.cumsum(ranked, axis=1) - ranked  # mass of those more probable
    rank = np.arange(probabilities.shape[1])
    chosen = ((before < mass) | (rank == 0)) & (rank < k_max)
    asked = np.zeros(probabilities.shape, bool)
    np.put_along_axis(asked, order, chosen, axis=1)
    return asked


EVERYTHING = "everything"


@dataclass(frozen=True, slots=True)
class Aggregators:
    """Beta posteriors of the chance that an expert, shown others' answers, gives the right one.

    categories:   or skills; the last is everything
    right, wrong: (n_categories, n_experts)
    """

    categories: tuple[str, ...]
    experts: tuple[str, ...]
    right: Floats
    wrong: Floats

    @classmethod
    def from_counts(
        cls,
        categories: Sequence[str],
        experts: Sequence[str],
        counts: Floats,
        accuracy: Floats,
        strength: float = 10.0,
    ) -> "Aggregators":
        """From right and wrong aggregated answers, (1 + n_categories, n_experts, 2), on everything first.

        accuracy: (n_experts,) of their own answers, a first guess that counts for `strength` trials; what an
            expert did as aggregator anywhere counts as much again for the categories where it was not tried.

        Reference: Symbolic-MoE (arXiv 2503.05641), section 3.1: the aggregator is chosen per task.
        Differs: with a prior, and with uncertainty; the paper takes the highest share on synthetic items.
        """
        n_right, n_tried = counts[0, :, 0], counts[0].sum(axis=1)
        overall = (n_right + strength * accuracy) / (n_tried + strength)
        prior = strength * np.stack((overall, 1 - overall), axis=-1)  # (n_experts, 2)
        whole = np.concatenate(
            (counts[1:] + prior, counts[:1] + strength * np.stack((accuracy, 1 - accuracy), -1))
        )
        return cls((*categories, EVERYTHING), tuple(experts), whole[..., 0], whole[..., 1])

    def best(self, categories: Sequence[str], among: Sequence[str] | None = None) -> str:
        """The aggregator for what a query asks for, of `among` if given; else the best over all.

        Raises:
            ValueError: no expert is left to choose from.
        """
        columns = [e for e, name in enumerate(self.experts) if among is None or name in among]
        if not columns:
            raise ValueError(f"no aggregator among {among}; there are {', '.join(self.experts)}")
        mean = self.mean_over(categories)
        return self.experts[max(columns, key=lambda e: mean[e])]

    def mean_over(self, categories: Sequence[str]) -> Floats:
        """(n_experts,) expected share of right answers as aggregator; of several categories their mean."""
        rows = [self.categories.index(one) for one in categories if one in self.categories] or [-1]
        share: Floats = (self.right[rows] / (self.right[rows] + self.wrong[rows])).mean(axis=0)
        return share
