"""What is measured of a router: a function per measure, over query weights, so that it can be drawn anew."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from routers import Floats

from . import formulas
from .bootstrap import Interval, average_by_weight, interval_of, resample_weights
from .formulas import reliability
from .run import EvalContext, Kind, Run

Unit = Literal["share", "points", "usd", "score"]


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure: (n_draws,) of it for a run, and how to read it."""

    of: Callable[[Run, EvalContext, Floats], Floats]
    unit: Unit
    higher_is_better: bool = True


MEASURES: Mapping[str, Measure] = {
    "accuracy": Measure(formulas.accuracy, "share"),
    "gain": Measure(formulas.gain, "points"),
    "accuracy_in_domain": Measure(formulas.accuracy_in_domain, "share"),
    "accuracy_out_of_domain": Measure(formulas.accuracy_out_of_domain, "share"),
    "area": Measure(formulas.area, "share"),
    "area_usd": Measure(formulas.area_usd, "usd", False),
    "cost_saved": Measure(formulas.cost_saved, "share"),
    "cost_saved_score": Measure(formulas.cost_saved_score, "points"),
    "cost_usd": Measure(formulas.cost_usd, "usd", False),
    "apgr": Measure(formulas.apgr, "score"),
    "apgr_10": Measure(formulas.apgr_10, "score"),
    "router_arena": Measure(formulas.router_arena, "score"),
    "optimal": Measure(formulas.optimal, "share"),
    "optimal_strict": Measure(formulas.optimal_strict, "share"),
    "regret": Measure(formulas.regret, "score", False),
    "brier": Measure(formulas.brier, "score", False),
    "calibration_error": Measure(formulas.calibration_error, "score", False),
    "measured": Measure(formulas.share_of_measured, "share"),
}
"""Name in a report → measure, in the order they are shown."""

__all__ = [
    "MEASURES",
    "EvalContext",
    "Interval",
    "Kind",
    "Measure",
    "Run",
    "average_by_weight",
    "interval_of",
    "reliability",
    "resample_weights",
]
