"""RouterArena's score: accuracy and cheapness in one number, cheapness on a logarithmic scale.

Reference: RouterArena (arXiv 2510.00202): S = (1 + β)·A·C / (β·A + C) with β = 0.1 and
C = (log₂ 200 − log₂ c) / (log₂ 200 − log₂ 0.0044), c in dollars per thousand queries, here clipped to [0, 1].
"""

import numpy as np

from routers import Floats

from .bootstrap import weighted_mean
from .run import Ground, Run

BETA = 0.1
DEAREST, CHEAPEST = 200.0, 0.0044


def router_arena(run: Run, ground: Ground, weights: Floats) -> Floats:
    """The score in [0, 1], with λ = 0; on this table, not on RouterArena's own queries."""
    accuracy = weighted_mean(run.score, weights)
    per_thousand = 1000 * weighted_mean(run.cost_usd, weights)
    with np.errstate(divide="ignore"):
        cheapness = (np.log2(DEAREST) - np.log2(per_thousand)) / (np.log2(DEAREST) - np.log2(CHEAPEST))
    cheapness = np.clip(cheapness, 0, 1)
    below = BETA * accuracy + cheapness
    score: Floats = np.divide(
        (1 + BETA) * accuracy * cheapness, below, out=np.full_like(below, np.nan), where=~(below <= 0)
    )
    return score
