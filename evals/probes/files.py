"""Probe files (JSON lines), the families held out from fitting, and the bundled outcomes."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from routers import Bools, OutcomeTable
from routers.text_files import decode_text

from ..grading import ExpectedError, check_expected

BUNDLED = Path(__file__).with_name("probes.jsonl")
_TEXT_FIELDS = ("id", "kind", "family", "prompt", "grader")
_OPTIONAL = {"expected", "max_tokens", "reference"}


class ProbeError(ValueError):
    """A probe file is not usable; the message names file, line and field."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One gradable prompt.

    `family` is the template it was made from, `kind` the ability it asks for; `expected` is JSON-able and
    read by the grader of that name; `reference` is an answer that scores 1. Ids are unique in a set.
    """

    id: str
    kind: str
    family: str
    prompt: str
    grader: str
    expected: Any = field(hash=False)
    max_tokens: int = 64
    reference: str = ""
    messages: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)


def load_probes(path: Path | None = None) -> list[Probe]:
    """The probes of a JSONL file in its order; the bundled set without a path.

    Raises:
        ProbeError: naming file, line and field of the first probe that is not usable.
    """
    path = BUNDLED if path is None else path
    try:
        # Not splitlines(): it also breaks at U+2028, which JSON strings may hold unescaped (RFC 8259).
        lines = decode_text(path.read_bytes()).split("\n")
    except OSError as error:
        raise ProbeError(f"{path}: cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise ProbeError(f"{path}: cannot be read: {error}") from None
    probes: list[Probe] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            probe = _probe(line)
            if probe.id in seen:
                raise ProbeError(f"id {probe.id!r} is already that of line {seen[probe.id]}")
        except (ProbeError, ExpectedError) as error:
            raise ProbeError(f"{path}:{number}: {error}") from None
        seen[probe.id] = number
        probes.append(probe)
    if not probes:
        raise ProbeError(f"{path}: holds no probe")
    return probes


def _probe(line: str) -> Probe:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ProbeError(f"not JSON ({error})") from None
    if not isinstance(fields, dict):
        raise ProbeError("not a JSON object")
    unknown = fields.keys() - {*_TEXT_FIELDS, *_OPTIONAL}
    if unknown:
        raise ProbeError(f"unknown field {min(unknown)!r}")
    for name in _TEXT_FIELDS:
        _require_text(fields, name)
    if "expected" not in fields:
        raise ProbeError("field 'expected' is missing")
    limit = fields.get("max_tokens", 64)
    # bool is a subclass of int, and `true` is no limit.
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        raise ProbeError("field 'max_tokens' must be a whole number of at least 1")
    if not isinstance(fields.get("reference", ""), str):
        raise ProbeError("field 'reference' must be a string")
    check_expected(fields["grader"], fields["expected"])
    return Probe(**fields)


def _require_text(fields: dict[str, Any], name: str) -> None:
    if name not in fields:
        raise ProbeError(f"field {name!r} is missing")
    if not isinstance(fields[name], str) or not fields[name].strip():
        raise ProbeError(f"field {name!r} must be a non-empty string")


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
