"""Who is good at which skill: Symbolic-MoE's counts, what its released code makes of them, and posteriors.

Axes: tags (n_queries, n_skills), scores (n_queries, n_experts) with NaN where unmeasured, profiles
(n_skills, n_experts). Tags are 0 or 1 in the paper; here they may be any weight in between.
"""

from dataclasses import dataclass

import numpy as np

from ..logistic import softmax
from ..types import Floats

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
    weights = tags * idf
    total = weights.sum(axis=1, keepdims=True)
    ahead = weights @ (accuracy - accuracy.mean(axis=1, keepdims=True))
    mean: Floats = np.divide(ahead, total, out=np.zeros_like(ahead), where=total > 0)
    return mean
