"""Calibrates predictions: scores match outcomes on average, deviations match errors, rates have intervals.

Every rate that is shown has Wilson's interval: 30 of 30 right read 0.89–1.00, not 1.00 ±0.00.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np

from .protocols import Arrays
from .types import Bools, Estimate, Floats, Ints

_PRIOR_STRENGTH = 5000.0
"""Outcomes an expert must have before its own slope counts as much as the pool's."""
_N_BINS = 10

Z_95 = 1.959964


@dataclass(frozen=True, slots=True)
class Calibration:
    """Per expert an increasing line from predicted to calibrated score, and one factor for all deviations.

    slope, intercept: (n_experts,), slope > 0; spread: (n_experts,) factor on standard deviations
    keeps_order: whether the experts of a query keep their order. Then the line is the same for all, and what
        it leaves [0, 1] by is bent towards the bound: cut off at it, experts would be tied.

    Reference: none; least squares per expert, its slope shrunk to the slope of the pool. A line and not
    isotonic steps, because steps would make ties among an expert's queries.
    """

    slope: Floats
    intercept: Floats
    spread: Floats
    keeps_order: bool = False
    _width: Floats = field(init=False, repr=False, compare=False)
    """What a deviation is widened by, (n_experts,)."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "_width", self.slope * self.spread)

    @classmethod
    def fit(cls, out_of_fold: Estimate, targets: Floats, groups: Ints, *, keeps_order: bool = False) -> Self:
        """Learn from out-of-fold predictions and what came true (n_queries, n_experts), NaN where unmeasured.

        groups: (n_queries,) which queries are alike; the deviation of their mean residual, less what chance
        alone would give, is what the predicted deviations are scaled to.
        keeps_order: the order of a query's experts stays what it was.
        """
        fit_lines = _one_line if keeps_order else _lines
        slope, intercept = fit_lines(out_of_fold.mean, targets)
        line = cls(slope, intercept, np.ones_like(slope), keeps_order).apply(out_of_fold)
        return cls(slope, intercept, np.full_like(slope, _spread(line, targets, groups)), keeps_order)

    def apply(self, estimate: Estimate) -> Estimate:
        """Calibrated scores in [0, 1] and their deviations."""
        mean = estimate.mean * self.slope
        mean += self.intercept
        if self.keeps_order:
            return Estimate(_bend(mean), estimate.std * self._width, estimate.novelty)
        np.minimum(np.maximum(mean, 0.0, out=mean), 1.0, out=mean)  # np.clip takes longer on short rows
        return Estimate(mean, estimate.std * self._width, estimate.novelty)

    def take(self, columns: Ints) -> "Calibration":
        """The same for some of the experts."""
        return Calibration(
            self.slope[columns], self.intercept[columns], self.spread[columns], self.keeps_order
        )

    def concat(self, other: "Calibration") -> "Calibration":
        """With the columns of other experts behind."""
        return Calibration(
            np.concatenate((self.slope, other.slope)),
            np.concatenate((self.intercept, other.intercept)),
            np.concatenate((self.spread, other.spread)),
            self.keeps_order,
        )

    def arrays(self) -> Arrays:
        arrays: Arrays = {"slope": self.slope, "intercept": self.intercept, "spread": self.spread}
        return {**arrays, "keeps_order": np.array(True)} if self.keeps_order else arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Self:
        slope = arrays["slope"]
        # One number for all, in artifacts from before experts could be added.
        spread = np.broadcast_to(arrays["spread"], slope.shape)
        return cls(slope, arrays["intercept"], spread, bool(arrays.get("keeps_order", False)))


_BEND = 0.05
"""From this distance to 0 and to 1 on, lines that keep an order are bent."""


def _bend(values: Floats) -> Floats:
    """Values brought into (0, 1), strictly increasing: they change near the bounds alone."""
    # Beyond a bend the distance d to it becomes b·d / (b + d) < b, of slope 1 where it begins.
    above = np.maximum(values - (1 - _BEND), 0.0)
    below = np.maximum(_BEND - values, 0.0)
    inside = np.minimum(np.maximum(values, _BEND), 1 - _BEND)
    bent: Floats = inside + _BEND * (above / (_BEND + above) - below / (_BEND + below))
    return bent


def _lines(predicted: Floats, targets: Floats) -> tuple[Floats, Floats]:
    """Least squares per expert, its slope shrunk to the slope of all experts together."""
    known = ~np.isnan(targets)
    count = np.maximum(known.sum(axis=0), 1)
    x_mean = np.where(known, predicted, 0).sum(axis=0) / count
    y_mean = np.where(known, targets, 0).sum(axis=0) / count
    unmeasured = ~known.any(axis=0)
    x_mean[unmeasured] = y_mean[unmeasured] = predicted[:, unmeasured].mean(axis=0)
    x = np.where(known, predicted - x_mean, 0.0)  # (n_queries, n_experts), centred; a gap adds nothing
    y = np.where(known, targets - y_mean, 0.0)
    together = (x**2).sum()
    if together < 1e-9:
        return np.ones_like(x_mean), y_mean - x_mean
    pooled = min(max((x * y).sum() / together, 0.1), 3.0)
    strength = _PRIOR_STRENGTH * together / known.sum()  # so many outcomes of the pool's mean x²
    # Ridge towards the pool: argmin over β of Σ(y − βx)² + strength·(β − pooled)².
    slope = ((x * y).sum(axis=0) + strength * pooled) / ((x**2).sum(axis=0) + strength)
    slope = np.clip(slope, 0.1, 3.0)  # above 0: calibration never reverses an order
    return slope, y_mean - slope * x_mean


def _one_line(predicted: Floats, targets: Floats) -> tuple[Floats, Floats]:
    """Least squares over all experts together."""
    known = ~np.isnan(targets)
    x, y = predicted[known], targets[known]
    n_experts = predicted.shape[1]
    spread = float(((x - x.mean()) ** 2).sum()) if len(x) else 0.0
    slope = 1.0
    if spread > 1e-9:
        slope = min(max(float(((x - x.mean()) * (y - y.mean())).sum()) / spread, 0.1), 3.0)
    intercept = float(y.mean() - slope * x.mean()) if len(x) else 0.0
    return np.full(n_experts, slope), np.full(n_experts, intercept)


def _spread(estimate: Estimate, targets: Floats, groups: Ints) -> float:
    """√(excess variance of group residuals / predicted variance), at least 0.1, at most 10."""
    known = ~np.isnan(targets)
    residual = np.where(known, targets - estimate.mean, 0.0)
    n_groups = int(groups.max(initial=-1)) + 1
    belongs = np.zeros((n_groups, len(groups)))
    belongs[groups, np.arange(len(groups))] = 1.0  # (n_groups, n_queries), one 1 a column
    count = belongs @ known  # (n_groups, n_experts)
    enough = count >= 5  # the spread of fewer is too uncertain itself
    if not enough.any():
        return 1.0
    n = np.maximum(count, 2)
    mean = belongs @ residual / n
    # (n_groups, n_experts) variance of a mean by chance
    chance = (belongs @ residual**2 / n - mean**2) / (n - 1)
    predicted = belongs @ (np.where(known, estimate.std, 0.0) ** 2) / n  # (n_groups, n_experts)
    excess = (count * (mean**2 - chance))[enough].sum()  # what chance does not explain
    return float(
        np.clip(np.sqrt(max(excess, 0.0) / max((count * predicted)[enough].sum(), 1e-12)), 0.1, 10.0)
    )


def calibration_error(predicted: Floats, targets: Floats) -> float:
    """Expected calibration error: |mean prediction − mean outcome| over ten bins of equal count per expert.

    Both (n_queries, n_experts); NaN targets are passed over; weighted by how many outcomes are in the bin.
    """
    off, n = 0.0, 0
    for column in range(predicted.shape[1]):
        known = np.flatnonzero(~np.isnan(targets[:, column]))
        said = predicted[known, column]
        edges = np.quantile(said, np.arange(1, _N_BINS) / _N_BINS) if len(known) else said
        bins = np.searchsorted(edges, said, side="right")  # equal predictions share a bin
        for members in (known[bins == n_bin] for n_bin in range(_N_BINS)):
            if len(members):
                gap = predicted[members, column].mean() - targets[members, column].mean()
                off += abs(float(gap)) * len(members)
                n += len(members)
    return off / n if n else 0.0


_LEAST = 0.02
"""Too little to leave the best expert for, enough to keep queries in order of what they would gain."""
_GIVEN_UP = 0.3
"""Share of the predicted gain that the lead takes where queries are novel; evals/LOG.md has the price."""
_LARGE = 0.95
"""Quantile of predicted gains from which on they are large."""
_TELLS_TASKS = 0.85
"""Median novelty of the queries fitted on, out of fold, up to which novelty tells what was not fitted on: it
is .57 to .67 on llmrouter9, routerdc7 and routerbench3, at 200 to 4,000 rows.
"""
_LEAD_GROWS = 0.7, 1.0
"""Novelty from which on the best expert has a lead, and at which it has all of it."""


@dataclass(frozen=True, slots=True)
class Advantage:
    """Shrinks the query-specific differences between experts towards their average differences.

    A predictor can tell easy from hard queries and still not tell which expert is better at which. Acting on
    such differences routes worse than always choosing the best single expert.

    typical:     (n_experts,) mean predicted quality
    judged:      (n_experts,) experts it changes; tools that decline queries are left as they are
    reliability: in [0, 1]; 1 trusts every difference as predicted, 0 none
    lead:        ≥ 0; what another expert must be ahead of the best one by, to be chosen for a novel query

    Out of fold the differences come true; on tasks that were never learned small ones do not, while large
    ones still do. The lead costs little where queries are familiar, for there it fades.

    Reference: none; the slope of true on predicted advantage, less one standard error. The error is
    clustered by bucket, because near-twin queries are not independent.
    """

    typical: Floats
    judged: Bools
    reliability: float
    lead: float = 0.0
    _usual: Floats = field(init=False, repr=False, compare=False)
    """What is said of the average differences, (n_judged,)."""
    _all_judged: bool = field(init=False, repr=False, compare=False)
    _best: slice = field(init=False, repr=False, compare=False)
    """Of the judged experts the one that is best on average."""
    _leads: Floats = field(init=False, repr=False, compare=False)
    """(n_judged,) the lead; 0 for the best one itself."""

    def __post_init__(self) -> None:
        usual = self.typical[self.judged]
        centred = usual - usual.mean() if len(usual) else usual
        object.__setattr__(self, "_usual", (1 - self.reliability) * centred)
        object.__setattr__(self, "_all_judged", bool(self.judged.all()))
        first = int(usual.argmax()) if len(usual) else 0
        object.__setattr__(self, "_best", slice(first, first + 1))
        object.__setattr__(self, "_leads", np.where(np.arange(len(usual)) == first, 0.0, self.lead))

    @classmethod
    def fit(
        cls,
        out_of_fold: Floats,
        targets: Floats,
        clusters: Ints,
        judged: Bools,
        novelty: Floats | None = None,
    ) -> Self:
        """Learn from calibrated out-of-fold quality and what came true, (n_queries, n_experts) each.

        NaN marks an unmeasured outcome.

        The reliability is the slope of true on predicted advantage, less one standard error over `clusters`
        (n_queries,), whose queries are alike. There is a lead where novelty, (n_queries,), is known, and low
        for most.
        """
        typical = out_of_fold.mean(axis=0)
        if judged.sum() < 2:
            return cls(typical, judged, 1.0)
        slope, error = advantage_slope(out_of_fold[:, judged], targets[:, judged], clusters)
        if np.isnan(slope):
            return cls(typical, judged, 0.0)
        trusting = cls(typical, judged, float(np.clip(slope - error, _LEAST, 1.0)))
        # Where the table's own queries are novel to each other, as short prompts are that share few words,
        # novelty does not tell other tasks from these.
        if novelty is None or np.isnan(novelty).any() or np.median(novelty) > _TELLS_TASKS:
            return trusting
        trusted = trusting.apply(out_of_fold)[:, judged]
        return replace(trusting, lead=_find_lead(trusted, int(typical[judged].argmax())))

    @classmethod
    def none(cls, quality: Floats) -> Self:
        """One that trusts every difference of such quality, (n_queries, n_experts), as predicted."""
        return cls(quality.mean(axis=0), np.ones(quality.shape[1], bool), 1.0)

    def apply(self, quality: Floats, novelty: Floats | None = None) -> Floats:
        """Quality (n_queries, n_experts) with its differences as far as they can be trusted.

        novelty: (n_queries,); None where it is unknown, then there is no lead
        """
        led = bool(self.lead) and novelty is not None and max(novelty.tolist(), default=0.0) > _LEAD_GROWS[0]
        if self.reliability == 1.0 and not led:
            return quality
        # r·q + (1 − r)·(the row's mean + the typical difference), r the reliability; in place, for speed.
        mine = quality if self._all_judged else quality[:, self.judged]
        level = np.add.reduce(mine, axis=1, keepdims=True)
        level *= (1 - self.reliability) / len(self._usual)
        trusted = mine * self.reliability
        trusted += level
        trusted += self._usual
        if led and novelty is not None:
            trusted = self._give_lead(trusted, novelty)
        np.minimum(np.maximum(trusted, 0.0, out=trusted), 1.0, out=trusted)
        if self._all_judged:
            return trusted
        shrunk = quality.copy()
        shrunk[:, self.judged] = trusted
        return shrunk

    def _give_lead(self, trusted: Floats, novelty: Floats) -> Floats:
        """Differences to the best expert: below 0 up to the lead, as they were from twice the lead on."""
        start, end = _LEAD_GROWS
        # One query at a time is the common case, and a call of NumPy takes longer than these.
        grown = [min(max((one - start) / (end - start), 0.0), 1.0) for one in novelty.tolist()]
        leads = np.array(grown)[:, None] * self._leads  # (n_queries, n_judged)
        best = trusted[:, self._best]
        ahead = trusted - best
        less = ahead - leads
        steep = less * 2.0
        less *= 0.5
        np.minimum(ahead, np.maximum(less, steep, out=less), out=less)
        # What it takes off is exactly 0 where there is no lead: a query alone and among others is one.
        given: Floats = trusted - (ahead - less)
        return given

    def take(self, columns: Ints) -> "Advantage":
        """The same for some of the experts."""
        return Advantage(self.typical[columns], self.judged[columns], self.reliability, self.lead)

    def concat(self, other: "Advantage") -> "Advantage":
        """With the columns of other experts behind, which it does not concern: these stay as they are."""
        return Advantage(
            np.concatenate((self.typical, other.typical)),
            np.concatenate((self.judged, np.zeros_like(other.judged))),
            self.reliability,
            self.lead,
        )

    def arrays(self) -> Arrays:
        return {
            "typical": self.typical,
            "judged": self.judged,
            "reliability": np.array(self.reliability),
            "lead": np.array(self.lead),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Self:
        lead = float(arrays.get("lead", 0.0))  # older artifacts have none
        return cls(arrays["typical"], arrays["judged"], float(arrays["reliability"]), lead)


def _find_lead(quality: Floats, best: int) -> float:
    """What the experts ahead of the best one, by up to so much, would gain is the share that is given up."""
    gain = np.sort(quality.max(axis=1) - quality[:, best])  # (n_queries,) ≥ 0
    if not len(gain):
        return 0.0
    total = np.cumsum(gain)
    given_up = float(gain[np.searchsorted(total, _GIVEN_UP * total[-1])])
    # Large gains come true on other tasks too. Where all are about as large, as between clear kinds of
    # prompts, the share alone would give up each of them; from twice the lead on nothing is given up.
    return min(given_up, float(np.quantile(gain, _LARGE, method="higher")) / 2)


def advantage_slope(predicted: Floats, targets: Floats, clusters: Ints) -> tuple[float, float]:
    """The slope of true on predicted advantage, and its standard error; NaN where nothing differs.

    predicted, targets: (n_queries, n_experts), NaN targets are unmeasured; clusters: (n_queries,)
    """
    known = ~np.isnan(targets)
    said = _advantage(predicted, known)  # (n_queries, n_experts)
    true = _advantage(np.where(known, targets, 0.0), known)
    together = np.bincount(clusters, (said * true).sum(axis=1))  # (n_clusters,)
    alone = np.bincount(clusters, (said**2).sum(axis=1))
    total = alone.sum()
    if total < 1e-9:
        return float("nan"), float("nan")
    slope = together.sum() / total  # least squares through the origin: both sides are centred
    # cluster-robust: Liang and Zeger, 1986
    error = np.sqrt(((together - slope * alone) ** 2).sum()) / total
    return float(slope), float(error)


def _advantage(values: Floats, known: Bools) -> Floats:
    """Each value less its row's mean, less its column's mean of that; 0 where unknown."""
    n_row = np.maximum(known.sum(axis=1, keepdims=True), 1)
    # (n_queries, n_judged)
    ahead = np.where(known, values - np.where(known, values, 0.0).sum(axis=1, keepdims=True) / n_row, 0.0)
    n_column = np.maximum(known.sum(axis=0), 1)
    centred: Floats = np.where(known, ahead - ahead.sum(axis=0) / n_column, 0.0)
    return centred


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
