"""Requests for local experts as the gateway's journal recorded them: SQLite, read and never written."""

import json
import sqlite3
from collections.abc import Collection, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from routers import DataError

from ..simulation.trace import Trace

_SELECT = "SELECT time, latency_s, expert_answered, attempts FROM decisions ORDER BY seq"


def read_traffic(source: Path, experts: Collection[str] = ()) -> Trace:
    """Every call that an expert answered: when it came, and how long the answer took.

    Members of a panel and its aggregator count each for themselves. `experts` leaves out all others; empty,
    all are kept.

    Raises:
        DataError: no such file, no journal, or nothing in it.
    """
    if not source.is_file():
        raise DataError(f"{source}: no such file")
    try:
        with closing(sqlite3.connect(f"{source.resolve().as_uri()}?mode=ro", uri=True)) as database:
            calls = sorted(call for row in database.execute(_SELECT) for call in _calls(*row))
    except sqlite3.Error as error:
        raise DataError(f"{source}: not a journal that can be read: {error}") from None
    calls = [call for call in calls if not experts or call[1] in experts]
    if not calls:
        asked = f" for {', '.join(sorted(experts))}" if experts else ""
        raise DataError(f"{source}: no answered request{asked} in this journal")
    names = tuple(sorted({name for _, name, _ in calls}))
    index = {name: e for e, name in enumerate(names)}
    came_s = np.array([at_s for at_s, _, _ in calls])
    return Trace(
        names,
        np.array([index[name] for _, name, _ in calls]),
        came_s - came_s[0],
        np.array([took_s for _, _, took_s in calls]),
    )


def _calls(
    ended_s: float, latency_s: float | None, answered: str | None, attempts: bytes | None
) -> Iterator[tuple[float, str, float]]:
    """When each call of one request came, whom it asked, and the seconds it took.

    An attempt is timed until a stream began; the whole answer is in the entry itself.
    """
    told: list[dict[str, Any]] = json.loads(attempts or b"[]")
    whole_s = latency_s or 0.0
    for attempt in told:
        took_s = attempt.get("latency_s") or 0.0
        if attempt["verdict"] != "answered":
            continue
        if attempt.get("role") == "member":
            yield ended_s - whole_s, attempt["expert"], took_s
        elif attempt["expert"] == answered:
            took_s = took_s if attempt.get("role") else whole_s
            yield ended_s - took_s, attempt["expert"], took_s
