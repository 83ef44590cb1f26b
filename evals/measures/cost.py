"""What answers cost: as they come, at budgets, and saved at no loss on the training part."""

import numpy as np

from routers import Floats

from .bootstrap import weighted_mean
from .run import Ground, Run


def cost_usd(run: Run, ground: Ground, weights: Floats) -> Floats:
    """Mean cost of a query with λ = 0."""
    return weighted_mean(run.cost_usd, weights)


def area(run: Run, ground: Ground, weights: Floats) -> Floats:
    """Mean score over 50 budgets from the cheapest single's to the best single's mean training cost."""
    return weighted_mean(run.at_budget, weights)


def area_usd(run: Run, ground: Ground, weights: Floats) -> Floats:
    """The cost that was realised with `area`."""
    return weighted_mean(run.at_budget_usd, weights)


def cost_saved(run: Run, ground: Ground, weights: Floats) -> Floats:
    """1 − cost / cost of the best single, with the largest λ that lost nothing on the training part."""
    ours, theirs = weighted_mean(run.saving_usd, weights), weighted_mean(run.single_usd, weights)
    saved: Floats = 1 - np.divide(ours, theirs, out=np.full_like(ours, np.nan), where=theirs > 0)
    return saved


def cost_saved_score(run: Run, ground: Ground, weights: Floats) -> Floats:
    """Test score less the best single's, with the λ of `cost_saved`."""
    return weighted_mean(run.saving - run.single, weights)
