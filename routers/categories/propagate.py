"""Semi-supervised labels: what the labelled queries say of their unlabelled neighbours."""

from dataclasses import dataclass

import numpy as np

from ..types import Floats, Floats32, Ints
from .classify import Neighbours, shares
from .taxonomy import UNKNOWN

_PRIOR_STEPS = 20


@dataclass(frozen=True, slots=True)
class Propagation:
    """How to spread labels.

    rounds:      each labels more neighbours of what the one before labelled
    confidence:  posterior a label needs to be taken
    temperature: below 1 sharpens posteriors, above 1 flattens them
    k:           neighbours that vote
    """

    rounds: int = 3
    confidence: float = 0.8
    temperature: float = 1.0
    k: int = 15

    def spread(self, rows: Floats32, labels: Ints, n_categories: int) -> Ints:
        """(n_queries,) labels with confident ones filled in; what was labelled keeps its label."""
        found = labels.copy()
        for _ in range(self.rounds):
            known = found != UNKNOWN
            if known.all() or not known.any():
                break
            voted = Neighbours(self.k).fit(rows[known], found[known], n_categories).posterior(rows[~known])
            certain = self.sharpened(voted)
            certain = with_prior_of_pool(certain, shares(found[known], n_categories))
            best = certain.argmax(axis=1)
            sure = certain[np.arange(len(best)), best] >= self.confidence
            found[np.flatnonzero(~known)[sure]] = best[sure]
        return found

    def sharpened(self, posterior: Floats) -> Floats:
        """Posteriors p^(1/temperature), renormalised."""
        raised = posterior ** (1.0 / self.temperature)
        normal: Floats = raised / raised.sum(axis=1, keepdims=True)
        return normal


def with_prior_of_pool(posterior: Floats, trained: Floats) -> Floats:
    """Posteriors as they would be had the classifier known the pool's class shares.

    posterior: (n_queries, n_categories) learned where the classes had shares `trained` (n_categories,)

    Reference: Saerens, Latinne and Decaestecker, Neural Computation 14 (2002): EM over the pool's shares.
    """
    share = trained.copy()
    likelihood = np.divide(posterior, trained, out=np.zeros_like(posterior), where=trained > 0)
    adjusted = posterior
    for _ in range(_PRIOR_STEPS):
        joint = likelihood * share
        adjusted = joint / np.maximum(joint.sum(axis=1, keepdims=True), 1e-300)
        share = adjusted.mean(axis=0)
    return adjusted
