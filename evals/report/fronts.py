"""Quality against other goals than money: what each router buys of size, recency and latency."""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

import numpy as np

from policies.objectives import ranks
from routers import Floats, OutcomeTable, parameters_b

from ..measures import EvalContext, Run

UNITS = {
    "size": "billions of parameters",
    "recency": "days older than the newest",
    "latency": "seconds",
}
WEIGHTS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)
SHOWN_WEIGHTS = (0.0, 0.05, 0.2, 1.0)
"""Of a page's table; the export has all."""


def find_fronts(
    context: EvalContext, runs: Sequence[Run], given: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Per goal the experts' values, who has none, and each router's mean score and value at every weight.

    A router takes argmax q̂ − w·rank, ranks from 0 to 1 as the engine weighs goals. Experts whose value is not
    known are left out of that front; a goal with fewer than two known values has no front.
    """
    return {
        goal: {
            "unit": UNITS[goal],
            "experts": {
                name: None if np.isnan(value) else float(f"{value:.6g}")
                for name, value in zip(context.table.experts, values.tolist(), strict=True)
            },
            "routers": {
                run.name: _trace(run, context, values)
                for run in runs
                if run.kind == "router" and run.quality is not None and (~np.isnan(values)).sum() > 1
            },
        }
        for goal, values in _read_values(context.table, given).items()
    }


def _read_values(table: OutcomeTable, given: Mapping[str, Mapping[str, Any]]) -> dict[str, Floats]:
    """Per goal (n_experts,), less is better, NaN where unknown: given, else read from a name, or measured."""
    size, days = [], []
    for name, model in zip(table.experts, table.models, strict=True):
        one = given.get(name, {})
        stated = one.get("parameters_b")
        is_size = isinstance(stated, int | float) and stated > 0
        size.append(stated if is_size else parameters_b(model) or parameters_b(name))
        days.append(_read_day(one.get("released")))
    newest = max((day for day in days if day is not None), default=0)
    return {
        "size": np.array([np.nan if value is None else float(value) for value in size]),
        "recency": np.array([np.nan if day is None else float(newest - day) for day in days]),
        "latency": table.means()["latency_s"],
    }


def _read_day(released: object) -> int | None:
    """The ordinal of a date; what is none is not known; `thalamus config check` says more."""
    try:
        return None if released is None else date.fromisoformat(str(released)).toordinal()
    except ValueError:
        return None


def _trace(run: Run, context: EvalContext, values: Floats) -> list[dict[str, float]]:
    """Mean score and value over the tested queries at each weight."""
    assert run.quality is not None, "only routers with predictions have fronts"  # noqa: S101
    known = np.flatnonzero(~np.isnan(values))
    quality = run.quality[:, :, known]  # (n_seeds, n_queries, n_known)
    seed, row = np.nonzero((~np.isnan(quality)).any(axis=2))
    able = np.nan_to_num(quality[seed, row], nan=-np.inf)  # (n_tested, n_known) an expert may be rejected
    burden = ranks(values[known])
    points = []
    for weight in WEIGHTS:
        picks = known[(able - weight * burden).argmax(axis=1)]
        points.append(
            {
                "weight": weight,
                "score": float(f"{np.nanmean(context.table.score[row, picks]):.6g}"),
                "value": float(f"{values[picks].mean():.6g}"),
            }
        )
    return points


def list_unknown(front: Mapping[str, Any]) -> list[str]:
    """The experts whose value of a goal is not known."""
    return [name for name, value in front["experts"].items() if value is None]


def explain_gap(goal: str, front: Mapping[str, Any]) -> str:
    """What is not known of a goal, and how to make it known; empty where all is."""
    unknown = list_unknown(front)
    if not unknown:
        return ""
    fix = {
        "size": "parameters_b of the expert in the configuration tells it",
        "recency": "released of the expert in the configuration tells it",
        "latency": "thalamus profile measures it",
    }[goal]
    missing = "no front" if not front["routers"] else "left out"
    return f"{goal} is not known of {', '.join(unknown)}: {missing}; {fix}."
