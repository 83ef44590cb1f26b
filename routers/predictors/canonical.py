"""One order of queries and of experts for everything that draws lots: whatever order they came in."""

import numpy as np

from ..types import Features, Floats, Ints

_N_KEYS = 32
"""Dense columns that order queries alike in form."""


def query_order(features: Features) -> Ints:
    """(n_queries,) rows in an order of their own."""
    order: Ints = np.lexsort(np.concatenate((features.form, features.dense[:, :_N_KEYS]), axis=1).T)
    return order


def expert_order(targets: Floats) -> Ints:
    """(n_experts,) columns by what they hold; those that hold the same stay as they came."""
    if not len(targets):
        return np.arange(targets.shape[1])
    order: Ints = np.lexsort(np.where(np.isnan(targets), np.inf, targets)[::-1])
    return order
