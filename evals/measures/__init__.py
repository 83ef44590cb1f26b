"""What is measured of a router: a function per measure, over query weights, so that it can be drawn anew."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from routers import Floats

from . import accuracy, apgr, arena, calibration, choice, cost
from .bootstrap import Interval, interval_of, resampled, weighted_mean
from .calibration import reliability
from .run import Ground, Kind, Run

Unit = Literal["share", "points", "usd", "score"]


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure: (n_draws,) of it for a run, and how to read it."""

    of: Callable[[Run, Ground, Floats], Floats]
    unit: Unit
    higher_is_better: bool = True


MEASURES: Mapping[str, Measure] = {
    "accuracy": Measure(accuracy.accuracy, "share"),
    "gain": Measure(accuracy.gain, "points"),
    "accuracy_in_domain": Measure(accuracy.accuracy_in_domain, "share"),
    "accuracy_out_of_domain": Measure(accuracy.accuracy_out_of_domain, "share"),
    "area": Measure(cost.area, "share"),
    "area_usd": Measure(cost.area_usd, "usd", False),
    "cost_saved": Measure(cost.cost_saved, "share"),
    "cost_saved_score": Measure(cost.cost_saved_score, "points"),
    "cost_usd": Measure(cost.cost_usd, "usd", False),
    "apgr": Measure(apgr.apgr, "score"),
    "apgr_10": Measure(apgr.apgr_10, "score"),
    "router_arena": Measure(arena.router_arena, "score"),
    "optimal": Measure(choice.optimal, "share"),
    "optimal_strict": Measure(choice.optimal_strict, "share"),
    "regret": Measure(choice.regret, "score", False),
    "brier": Measure(calibration.brier, "score", False),
    "calibration_error": Measure(calibration.calibration_error, "score", False),
    "measured": Measure(choice.measured, "share"),
}
"""Name in a report → measure, in the order they are shown."""

__all__ = [
    "MEASURES",
    "Ground",
    "Interval",
    "Kind",
    "Measure",
    "Run",
    "interval_of",
    "reliability",
    "resampled",
    "weighted_mean",
]
