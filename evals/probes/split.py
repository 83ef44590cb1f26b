"""Which template families are kept away from fitting."""

import hashlib
from collections.abc import Iterable

from .types import Probe


def held_out_families(probes: Iterable[Probe], share: float = 0.3, seed: int = 7) -> frozenset[str]:
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
    return hashlib.sha256(f"{seed}:{family}".encode()).hexdigest()
