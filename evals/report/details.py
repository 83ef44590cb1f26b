"""Behind the headline figures: tasks, who gets what, and the decisions that went worst."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from routers import Bools, Floats, OutcomeTable

from ..measures import Ground, Run, interval_of, weighted_mean

N_REGRETS = 15
N_CHARACTERS = 600
"""Of a prompt shown with a regret."""


def by_task(ground: Ground, runs: Sequence[Run], weights: Floats) -> list[dict[str, Any]]:
    """Per task every run's mean score, and for routers by how much it beats the best single expert."""
    tested: Bools = weights[0] > 0
    rows = []
    for task in sorted({name for name, used in zip(ground.table.tasks, tested, strict=True) if used}):
        inside = ground.of_task(task) & tested
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
    lead = run.score[:, inside] - run.single[:, inside]
    known = ~np.isnan(lead)
    found = interval_of(weighted_mean(lead, weights[:, inside]))
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


def shares(ground: Ground, runs: Sequence[Run]) -> dict[str, dict[str, dict[str, float] | None]]:
    """Per router and reference the share of queries each expert gets, freely and at no loss (`saving`)."""
    return {
        run.name: {
            "free": _share(run.share, ground.table),
            "saving": None if np.isnan(run.saving_share).any() else _share(run.saving_share, ground.table),
        }
        for run in runs
        if not run.name.startswith("single:") and run.name not in ("random", "cheapest")
    }


def _share(picked: Floats, table: OutcomeTable) -> dict[str, float]:
    total = picked.sum() or 1.0
    parts = zip(table.experts, (picked.sum(axis=0) / total).tolist(), strict=True)
    return {name: round(part, 4) for name, part in parts}


def worst_regrets(ground: Ground, run: Run, with_prompts: bool) -> list[dict[str, Any]]:
    """Test queries on which the choice fell furthest below the oracle, the most confident mistakes first."""
    table = ground.table
    regret = table.oracle()[None] - run.score
    seed, row = np.nonzero(regret > 0)
    picked = run.picks[seed, row]
    said = run.quality[seed, row, picked] if run.quality is not None else np.zeros(len(row))
    order = np.lexsort((row, -said, -regret[seed, row]))
    found, seen = [], set[int]()
    for n in order.tolist():
        if row[n] in seen:
            continue
        seen.add(int(row[n]))
        found.append(_regret(table, int(row[n]), int(picked[n]), float(said[n]), with_prompts))
        if len(found) == N_REGRETS:
            break
    return found


def _regret(table: OutcomeTable, row: int, picked: int, said: float, with_prompts: bool) -> dict[str, Any]:
    score = table.score[row]
    best = float(np.nanmax(score))
    text = table.texts[row]
    return {
        "id": table.ids[row],
        "task": table.tasks[row],
        "prompt": (text[:N_CHARACTERS] + ("…" if len(text) > N_CHARACTERS else "")) if with_prompts else None,
        "chosen": table.experts[picked],
        "predicted": round(said, 4),
        "score": float(score[picked]),
        "best_score": best,
        "best": [name for name, value in zip(table.experts, score.tolist(), strict=True) if value == best],
    }


def _mean(values: Floats) -> float | None:
    known = values[~np.isnan(values)]
    return round(float(known.mean()), 6) if known.size else None
