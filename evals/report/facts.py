"""A report as facts: everything that its pages show, as JSON-able values; see evals/SCHEMA.md."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from routers import Bools, Floats, OutcomeTable

from ..measures import (
    MEASURES,
    EvalContext,
    Run,
    average_by_weight,
    interval_of,
    reliability,
    resample_weights,
)
from ..splits import EvalProtocol
from .fronts import find_fronts

SCHEMA = "thalamus.report/1"
COMPARED = (
    "accuracy",
    "accuracy_in_domain",
    "accuracy_out_of_domain",
    "area",
    "apgr",
    "apgr_10",
    "cost_saved",
)
"""Measures whose paired differences a report gives."""
OF_COSTS = frozenset({"area", "area_usd", "cost_saved", "cost_saved_score", "cost_usd", "router_arena"})
"""Measures that mean what the costs of the table mean."""
PAIRED = ("accuracy", "area", "cost_saved")
"""Measures whose differences a report gives for every pair, baselines included."""
_DISTRIBUTIONS = {
    "thalamus": "thalamus-gateway",
    **{name: name for name in ("numpy", "scipy", "scikit-learn", "onnxruntime", "tokenizers")},
}
_BASES = ("best_single", "mean_of_four", "naive_ridge", "rules", "heuristic_v2", "blind_mix")

Facts = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ReportRequest:
    """What was requested of the report, recorded unchanged.

    settings: those of each router; unavailable: baselines that could not be measured, and why
    experts: what is known of each beside its outcomes: parameters_b, released
    """

    title: str
    command: str
    created: str
    encoder: str
    with_prompts: bool = True
    n_draws: int = 1000
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    unavailable: Mapping[str, str] = field(default_factory=dict)
    experts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def facts_of(
    protocol: EvalProtocol, context: EvalContext, runs: Sequence[Run], request: ReportRequest
) -> Facts:
    """The whole report. NaN and what is undefined are null."""
    tested = np.isin(np.arange(len(context.table)), np.concatenate([split.test for split in protocol.splits]))
    # Untested queries weigh 0 in every draw, so all measures can index the whole table.
    weights = np.zeros((1 + request.n_draws, len(context.table)))  # (1 + n_draws, n_queries)
    weights[:, tested] = resample_weights(int(tested.sum()), request.n_draws)
    draws = {run.name: _draws(run, context, weights) for run in runs}
    routers = [run for run in runs if run.kind == "router"]
    return {
        "schema": SCHEMA,
        "title": request.title,
        "created": request.created,
        "command": request.command,
        "data": _data(protocol, int(tested.sum())),
        "protocol": _protocol(protocol, request),
        "measures": {
            name: {
                "unit": measure.unit,
                "higher_is_better": measure.higher_is_better,
                "about": (measure.of.__doc__ or "").strip().splitlines()[0],
                "of_costs": name in OF_COSTS,
            }
            for name, measure in MEASURES.items()
        },
        "routers": {run.name: _figures(draws[run.name], run) for run in routers},
        "baselines": {
            **{run.name: _figures(draws[run.name], run) for run in runs if run.kind != "router"},
            **{name: dict.fromkeys((*MEASURES, "decisions_per_s")) for name in request.unavailable},
        },
        "unavailable": dict(request.unavailable),
        "references": [run.name for run in runs if run.kind == "reference"],
        "comparisons": _comparisons([run.name for run in routers], draws),
        "pairs": _pairs([run.name for run in (*routers, *(r for r in runs if r.kind != "router"))], draws),
        "frontier": {run.name: _points(run.frontier) for run in runs if len(run.frontier)},
        "fronts": find_fronts(context, runs, request.experts),
        "tasks": by_task(context, runs, weights),
        "calibration": {run.name: _bins(run, context) for run in runs if run.quality is not None},
        "shares": shares(context, runs),
        "regrets": {run.name: worst_regrets(context, run, request.with_prompts) for run in routers},
        "made_with": {"versions": find_versions(), "settings": _settings(request)},
        "notes": _notes(protocol, request),
    }


def _draws(run: Run, context: EvalContext, weights: Floats) -> dict[str, Floats]:
    return {name: measure.of(run, context, weights) for name, measure in MEASURES.items()}


def _figures(draws: Mapping[str, Floats], run: Run) -> Facts:
    figures: Facts = {name: _interval(drawn) for name, drawn in draws.items()}
    figures["decisions_per_s"] = None
    if run.rate.size:
        value, low, high = (round(float(v), 1) for v in (np.median(run.rate), run.rate.min(), run.rate.max()))
        figures["decisions_per_s"] = {"value": value, "low": low, "high": high}
    return figures


def _interval(draws: Floats) -> Facts | None:
    found = interval_of(draws)
    if found is None:
        return None
    return {key: _short(getattr(found, key)) for key in ("value", "low", "high")}


def _short(value: float) -> float:
    # Six digits keep the file small; intervals are wider than that by far.
    return float(f"{value:.6g}")


def _comparisons(routers: Sequence[str], draws: Mapping[str, Mapping[str, Floats]]) -> Facts:
    """router → other → measure → paired difference with its interval."""
    singles = [name for name in draws if name.startswith("single:")]
    others = [name for name in (*_BASES, *routers, *singles) if name in draws]
    return {
        router: {
            other: {
                # Draw minus draw: both saw the same resampled queries, so the difference is paired.
                name: _interval(draws[router][name] - draws[other][name])
                for name in COMPARED
                if not np.isnan(draws[router][name][0] - draws[other][name][0])
            }
            for other in others
            if other != router
        }
        for router in routers
    }


def _pairs(names: Sequence[str], draws: Mapping[str, Mapping[str, Floats]]) -> list[Facts]:
    """Every pair of routers and baselines once, with the first less the second."""
    return [
        {
            "first": first,
            "second": second,
            "differences": {
                name: _interval(draws[first][name] - draws[second][name])
                for name in PAIRED
                if not np.isnan(draws[first][name][0] - draws[second][name][0])
            },
        }
        for n, first in enumerate(names)
        for second in names[n + 1 :]
    ]


def find_versions() -> dict[str, str]:
    """What computed the figures, by name; what is not installed is left out."""
    found = {"python": platform.python_version(), "platform": platform.platform(terse=True)}
    for name, distribution in _DISTRIBUTIONS.items():
        try:
            found[name] = version(distribution)
        except PackageNotFoundError:
            found |= {"thalamus": "unknown"} if name == "thalamus" else {}
    return found


def _settings(request: ReportRequest) -> dict[str, Any]:
    return {"n_draws": request.n_draws, "encoder": request.encoder, "routers": dict(request.settings)}


def label_costs(basis: str) -> str:
    """What to say beside every figure about costs; empty where they were measured."""
    if not basis:
        return "basis of costs not stated"
    return "proxy costs" if "proxy" in basis.lower() else ""


def _points(frontier: Floats) -> list[Facts]:
    return [
        {"lambda": _short(lam), "score": _short(score), "cost_usd": _short(usd)}
        for lam, score, usd in frontier.tolist()
    ]


def _bins(run: Run, context: EvalContext) -> list[Facts]:
    return [
        {"predicted": _short(predicted), "measured": _short(measured), "n": n}
        for predicted, measured, n in reliability(run, context)
    ]


def _data(protocol: EvalProtocol, n_tested: int) -> Facts:
    table = protocol.table
    origin = table.provenance
    return {
        "source": origin.source,
        "licence": origin.licence,
        "cost_basis": origin.cost_basis,
        "cost_label": label_costs(origin.cost_basis),
        "notes": origin.notes,
        "fingerprint": table.fingerprint,
        "n_queries": len(table),
        "n_tested": n_tested,
        "n_left_out": protocol.n_left_out,
        "measured_share": _short(float((~np.isnan(table.score)).mean())),
        "experts": list(table.experts),
        "models": list(table.models),
        "has_costs": not bool(np.isnan(table.means()["cost_usd"]).any()),
        "buckets": [int(table.bucket.min()), int(table.bucket.max())],
    }


def _protocol(protocol: EvalProtocol, request: ReportRequest) -> Facts:
    return {
        "name": protocol.name,
        "seeds": list(protocol.seeds),
        "n_cuts": len(protocol.splits),
        "n_train": [len(split.train) for split in protocol.splits],
        "n_test": [len(split.test) for split in protocol.splits],
        "domains": {name: list(tasks) for name, tasks in protocol.domains.items()},
        "encoder": request.encoder,
        "n_draws": request.n_draws,
    }


def explain_left_out(n: int) -> str:
    """One line on queries that enter no figure; empty where there are none."""
    if not n:
        return ""
    return f"{n} queries enter no figure: some of the experts compared were not measured on them."


def _notes(protocol: EvalProtocol, request: ReportRequest) -> list[str]:
    notes = [
        "Every λ was chosen on the training parts, from out-of-fold predictions; test parts were only read.",
        "Intervals: 95 %, bootstrap over queries, the same draws for every router, so that differences are "
        "paired; they do not cover the choice of training part.",
        "The true-task table and the oracle use information that no router has: upper references.",
        *protocol.notes,
        *(f"{name} is not measured: {reason}." for name, reason in request.unavailable.items()),
    ]
    basis = protocol.table.provenance.cost_basis
    if basis:
        notes.append(f"Costs: {basis}.")
    if data_notes := protocol.table.provenance.notes:
        notes.append(f"Data: {data_notes.rstrip('.')}.")
    if left_out := explain_left_out(protocol.n_left_out):
        notes.append(left_out)
    return notes


N_REGRETS = 15
N_CHARACTERS = 600
"""Of a prompt shown with a regret."""


def by_task(context: EvalContext, runs: Sequence[Run], weights: Floats) -> list[dict[str, Any]]:
    """Per task every run's mean score, and for routers by how much it beats the best single expert."""
    tested: Bools = weights[0] > 0
    rows = []
    for task in sorted({name for name, used in zip(context.table.tasks, tested, strict=True) if used}):
        inside = context.of_task(task) & tested
        rows.append(
            {
                "task": task or "(none)",
                "n": int(inside.sum()),
                "scores": {run.name: _mean(run.score[:, inside]) for run in runs},
                "against_best_single": {
                    run.name: _against(run, inside, weights) for run in runs if run.kind == "router"
                },
            }
        )
    return rows


def _against(run: Run, inside: Bools, weights: Floats) -> dict[str, Any]:
    """Difference with its interval, how many queries were won, tied, lost, and what the interval says."""
    lead = run.score[:, inside] - run.single[:, inside]  # (n_seeds, n_inside)
    known = ~np.isnan(lead)
    found = interval_of(average_by_weight(lead, weights[:, inside]))
    value, low, high = (found.value, found.low, found.high) if found else (None, None, None)
    verdict = "win" if low is not None and low > 0 else "loss" if high is not None and high < 0 else "tie"
    return {
        "value": value,
        "low": low,
        "high": high,
        "verdict": verdict,
        "n_won": int((lead[known] > 0).sum()),
        "n_tied": int((lead[known] == 0).sum()),
        "n_lost": int((lead[known] < 0).sum()),
    }


def shares(context: EvalContext, runs: Sequence[Run]) -> dict[str, dict[str, dict[str, float] | None]]:
    """Per router and reference the share of queries each expert gets, freely and at no loss (`saving`)."""
    return {
        run.name: {
            "free": _share(run.share, context.table),
            "saving": None if np.isnan(run.saving_share).any() else _share(run.saving_share, context.table),
        }
        for run in runs
        if not run.name.startswith("single:") and run.name not in ("random", "cheapest")
    }


def _share(picked: Floats, table: OutcomeTable) -> dict[str, float]:
    total = picked.sum() or 1.0
    parts = zip(table.experts, (picked.sum(axis=0) / total).tolist(), strict=True)
    return {name: round(part, 4) for name, part in parts}


def worst_regrets(context: EvalContext, run: Run, with_prompts: bool) -> list[dict[str, Any]]:
    """Test queries on which the choice fell furthest below the oracle, the most confident mistakes first."""
    table = context.table
    regret = table.oracle()[None] - run.score
    seed, row = np.nonzero(regret > 0)
    picked = run.picks[seed, row]
    predicted = run.quality[seed, row, picked] if run.quality is not None else np.zeros(len(row))
    # Largest regret first, then the most confident prediction, then the table's order, so that the list
    # is the same on every machine.
    order = np.lexsort((row, -predicted, -regret[seed, row]))
    found, seen = [], set[int]()
    for n in order.tolist():
        # Several seeds can regret the same query; it is shown once.
        if row[n] in seen:
            continue
        seen.add(int(row[n]))
        found.append(_regret(table, int(row[n]), int(picked[n]), float(predicted[n]), with_prompts))
        if len(found) == N_REGRETS:
            break
    return found


def _regret(
    table: OutcomeTable, row: int, picked: int, predicted: float, with_prompts: bool
) -> dict[str, Any]:
    score = table.score[row]
    best = float(np.nanmax(score))
    text = table.texts[row]
    return {
        "id": table.ids[row],
        "task": table.tasks[row],
        "prompt": (text[:N_CHARACTERS] + ("…" if len(text) > N_CHARACTERS else "")) if with_prompts else None,
        "chosen": table.experts[picked],
        "predicted": round(predicted, 4),
        "score": float(score[picked]),
        "best_score": best,
        "best": [name for name, value in zip(table.experts, score.tolist(), strict=True) if value == best],
    }


def _mean(values: Floats) -> float | None:
    known = values[~np.isnan(values)]
    return round(float(known.mean()), 6) if known.size else None
