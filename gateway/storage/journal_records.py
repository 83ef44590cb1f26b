"""How a journal entry lies in the database, and how it is told again.

The decision is kept as its arrays, which is quick to write; the story of every candidate is made when read.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import msgspec
import numpy as np

from policies import Decision, Panel, Plan, Single, decision_record

from ..embedding import TextChoice

Role = Literal["member", "aggregator"]
BY_NAME = "asked for by name"


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """One call to one expert, and what came of it; `role` is its part in a panel."""

    expert: str
    verdict: str
    status: int | None = None
    error: str | None = None
    latency_s: float | None = None
    deployment: str | None = None
    role: Role | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalEntry:
    """One request as the journal keeps it; None is unknown, never 0. `time` is seconds since 1970.

    `prompt` and `answer` are kept only where the configuration says so, whatever is handed in.
    """

    decision_id: str
    request_id: str
    time: float
    policy: str | None
    expert_asked: str | None
    expert_answered: str | None
    plan: str
    status: int
    decision: Decision | TextChoice | None = None
    attempts: tuple[AttemptRecord, ...] = ()
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: float | None = None
    latency_s: float | None = None
    first_token_s: float | None = None
    overhead_s: float | None = None
    stream: bool = False
    endpoint: str = "chat/completions"
    error: str | None = None
    key_id: str | None = None
    session_id: str | None = None
    prompt: str | None = None
    answer: str | None = None


COLUMNS = (
    "id TEXT NOT NULL UNIQUE",
    "request_id TEXT NOT NULL",
    "time REAL NOT NULL",
    "endpoint TEXT NOT NULL",
    "policy TEXT",
    "expert_asked TEXT",
    "expert_answered TEXT",
    "plan TEXT NOT NULL",
    "tier TEXT",
    "propensity REAL NOT NULL",
    "decision BLOB",
    "attempts BLOB",
    "status INTEGER NOT NULL",
    "error TEXT",
    "input_tokens INTEGER",
    "output_tokens INTEGER",
    "cost_usd REAL",
    "latency_s REAL",
    "first_token_s REAL",
    "overhead_s REAL",
    "stream INTEGER NOT NULL",
    "key_id TEXT",
    "session_id TEXT",
    "prompt TEXT",
    "answer TEXT",
)
NAMES = tuple(column.partition(" ")[0] for column in COLUMNS)


def to_row(entry: JournalEntry, content: bool) -> tuple[Any, ...]:
    """The values of `COLUMNS`. A request that named its expert was not chosen for: propensity 1, no tier."""
    decision = entry.decision
    return (
        entry.decision_id,
        entry.request_id,
        entry.time,
        entry.endpoint,
        entry.policy,
        entry.expert_asked,
        entry.expert_answered,
        entry.plan,
        decision.tier if decision else None,
        decision.propensity if decision else 1.0,
        _packed(decision) if decision else None,
        msgspec.json.encode(entry.attempts),
        entry.status,
        entry.error,
        entry.input_tokens,
        entry.output_tokens,
        entry.cost_usd,
        entry.latency_s,
        entry.first_token_s,
        entry.overhead_s,
        int(entry.stream),
        entry.key_id,
        entry.session_id,
        entry.prompt if content else None,
        entry.answer if content else None,
    )


def row_to_json(row: tuple[Any, ...]) -> dict[str, Any]:
    """A row as JSON-able values, its decision in full."""
    values = dict(zip(NAMES, row, strict=True))
    decision_id = values.pop("id")
    packed = values.pop("decision")
    attempts = msgspec.json.decode(values.pop("attempts") or b"[]")
    tier, propensity = values.pop("tier"), values.pop("propensity")
    if packed is not None:
        story = _story(packed)
    else:
        asked = values["expert_asked"]
        story = {
            "policy": values["policy"] or "",
            "expert": asked or values["expert_answered"] or "",
            "plan": {"kind": values["plan"], "experts": [asked] if asked else []},
            "tier": tier or "prior",
            "reason": BY_NAME,
            "margin": None,
            "propensity": propensity,
            "candidates": [],
        }
    values["stream"] = bool(values["stream"])
    entry_json = {"id": decision_id, "object": "decision", **values, "attempts": attempts}
    return {**entry_json, "decision": {"id": decision_id, **story}}


def describe_decision(decision: Decision | TextChoice) -> dict[str, Any]:
    """A decision told in full, whichever kind it is."""
    return decision.record() if isinstance(decision, TextChoice) else decision_record(decision)


def _packed(decision: Decision | TextChoice) -> bytes:
    if isinstance(decision, TextChoice):
        return msgspec.msgpack.encode({"record": decision.record()})
    return pack_decision(decision)


def _story(packed: bytes) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.msgpack.decode(packed)
    return plain["record"] if "record" in plain else decision_record(unpack_decision(packed))


def pack_decision(decision: Decision) -> bytes:
    plain = {name: getattr(decision, name) for name in Decision.__slots__}
    plan = decision.plan
    parts = asdict(plan) if isinstance(plan, Panel) else {"experts": plan.experts}
    plain["plan"] = {"kind": plan.kind, **parts}
    return msgspec.msgpack.encode(plain, enc_hook=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    return dict(value) if hasattr(value, "keys") else float(value)


def unpack_decision(packed: bytes) -> Decision:
    plain = msgspec.msgpack.decode(packed)
    plain["plan"] = _plan(**plain["plan"])
    plain["experts"] = tuple(plain["experts"])
    for name, value in plain.items():
        if isinstance(value, list):
            kind = {"order": np.int64, "evidence": np.bool_}.get(name, np.float64)
            plain[name] = np.array(value, dtype=kind)
    return Decision(**plain)


def _plan(kind: str, **parts: Any) -> Plan:
    whole: dict[str, Any] = {
        name: tuple(part) if isinstance(part, list) else part for name, part in parts.items()
    }
    return Panel(**whole) if kind == "panel" else Single(**whole)


def describe_entry(entry: JournalEntry, content: bool) -> dict[str, Any]:
    """An entry that is not in the database yet, told as if it were."""
    return row_to_json(to_row(entry, content))
