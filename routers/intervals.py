"""How sure a rate is that was counted on few: intervals that never shrink to a point.

Every rate that is shown has Wilson's interval: 30 of 30 right read 0.89–1.00, not 1.00 ±0.00.
"""

import numpy as np

from .types import Floats

Z_95 = 1.959964


def rate_interval(mean: float, n: float) -> tuple[float, float]:
    """The 95 % interval, within [0, 1], of a mean of n scores in [0, 1]; all of [0, 1] where n is 0.

    Reference: Wilson, JASA 22, 1927. Scores between 0 and 1 vary less than right and wrong, so that for them
    it is too wide rather than too narrow.
    """
    if n <= 0:
        return 0.0, 1.0
    z2 = Z_95**2
    centre = (mean + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 * np.sqrt(mean * (1 - mean) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def rate_std(mean: Floats | np.float64, n: Floats | np.float64) -> Floats:
    """The standard deviation of Jeffreys' posterior Beta(n·mean + ½, n·(1 − mean) + ½), elementwise."""
    right, wrong = n * mean + 0.5, n * (1 - mean) + 0.5
    std: Floats = np.sqrt(right * wrong / (n + 2)) / (n + 1)
    return std


def show_rate(mean: float, n: float) -> str:
    """A rate with its interval, as `0.93 (0.79–0.98)`."""
    low, high = rate_interval(mean, n)
    return f"{mean:.2f} ({low:.2f}–{high:.2f})"


def prediction_interval(mean: float, std: float) -> tuple[float, float]:
    """The 95 % interval of a predicted rate: that of as many outcomes as would leave this deviation.

    It inverts `rate_std` by bisection: a prediction that rests on n outcomes alone has their interval.
    """
    low, high = -4.0, 16.0  # log10 of the number of outcomes
    for _ in range(40):
        middle = (low + high) / 2
        if float(rate_std(np.float64(mean), np.float64(10**middle))) > std:
            low = middle
        else:
            high = middle
    return rate_interval(mean, 10**high)
