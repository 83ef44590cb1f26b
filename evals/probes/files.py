"""The probes of a file, the families held out from fitting, and the bundled outcomes."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from routers import Bools, OutcomeTable

from .formats import Probe, ProbeError, read_probes

BUNDLED = Path(__file__).with_name("probes.jsonl")


def load_probes(path: Path | None = None) -> list[Probe]:
    """The probes of a file (JSON lines, JSON or CSV) in its order; the bundled set without a path.

    Raises:
        ProbeError: naming file, line and field of the first probe that is not usable.
    """
    path = BUNDLED if path is None else path
    probes, found = read_probes(path)
    problems = [problem for problem in found if not problem.is_note]
    if problems:
        first, *others = problems
        more = f" ({len(others)} more: thalamus probes check {path})" if others else ""
        raise ProbeError(f"{path}:{first.line}: {first}{more}")
    if not probes:
        raise ProbeError(f"{path}: holds no probe")
    return probes


def choose_held_out_families(probes: Iterable[Probe], share: float = 0.3, seed: int = 7) -> frozenset[str]:
    """About `share` of the families of every kind, at least one of two or more, never all of a kind.

    A family's place depends on its name and the seed alone, so that other kinds and the order of
    probes do not matter; a kind of one family is never held out.

    Raises:
        ValueError: if `share` is not in [0, 1).
    """
    if not 0 <= share < 1:
        raise ValueError(f"share must be in [0, 1), not {share}")
    kinds: dict[str, set[str]] = {}
    for probe in probes:
        kinds.setdefault(probe.kind, set()).add(probe.family)
    held: set[str] = set()
    for families in kinds.values():
        ranked = sorted(families, key=lambda family: _rank(family, seed))
        n_held = min(max(round(share * len(ranked)), 1 if share else 0), len(ranked) - 1)
        held.update(ranked[:n_held])
    return frozenset(held)


def _rank(family: str, seed: int) -> str:
    # Not random.shuffle: a family's rank must not change when another is added.
    return hashlib.sha256(f"{seed}:{family}".encode()).hexdigest()


OUTCOMES = Path(__file__).with_name("outcomes.jsonl.gz")


def load_bundled_outcomes() -> tuple[OutcomeTable, OutcomeTable]:
    """The families that are fitted on, and those that are held out, never fitted on."""
    table = OutcomeTable.load(OUTCOMES)
    held = _mark_held_out(table)
    return table.take(~held), table.take(held)


def _mark_held_out(table: OutcomeTable) -> Bools:
    return np.isin(table.families, sorted(choose_held_out_families(load_probes())))
