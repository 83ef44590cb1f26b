"""Probes from JSON lines: the bundled set, or a user's own."""

import json
from pathlib import Path
from typing import Any

from ..grading import ExpectedError, check_expected
from .types import Probe, ProbeError

BUNDLED = Path(__file__).with_name("probes.jsonl")
_TEXT_FIELDS = ("id", "kind", "family", "prompt", "grader")
_OPTIONAL = {"expected", "max_tokens", "reference"}


def load_probes(path: Path | None = None) -> list[Probe]:
    """The probes of a JSONL file in its order; the bundled set without a path.

    Raises:
        ProbeError: naming file, line and field of the first probe that is not usable.
    """
    path = BUNDLED if path is None else path
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ProbeError(f"{path}: cannot be read as UTF-8 text ({error})") from None
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
