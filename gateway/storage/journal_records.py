"""The columns of the journal, and an entry as JSON again.

A decision is kept as its arrays, which is quick to write; the record of every candidate is built on reading.
"""

from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Literal

import msgspec
import numpy as np

from policies import Decision, decision_record, decode_plan

from ..embedding import TextChoice

Role = Literal["member", "aggregator"]
BY_NAME = "asked for by name"


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """One call to one expert with its result; `role` is its part in a panel."""

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

    `prompt` and `answer` are kept only where the configuration says so, even if a caller passes them.
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


# What each column holds, in the order of the table: its SQL and how it derives from an entry. The names are
# the format on disk. A request that named its expert was not routed: propensity 1, no tier.
_COLUMNS: tuple[tuple[str, Callable[[JournalEntry], Any]], ...] = (
    ("id TEXT NOT NULL UNIQUE", attrgetter("decision_id")),
    ("request_id TEXT NOT NULL", attrgetter("request_id")),
    ("time REAL NOT NULL", attrgetter("time")),
    ("endpoint TEXT NOT NULL", attrgetter("endpoint")),
    ("policy TEXT", attrgetter("policy")),
    ("expert_asked TEXT", attrgetter("expert_asked")),
    ("expert_answered TEXT", attrgetter("expert_answered")),
    ("plan TEXT NOT NULL", attrgetter("plan")),
    ("tier TEXT", lambda entry: entry.decision.tier if entry.decision else None),
    ("propensity REAL NOT NULL", lambda entry: entry.decision.propensity if entry.decision else 1.0),
    ("decision BLOB", lambda entry: _packed(entry.decision) if entry.decision else None),
    ("attempts BLOB", lambda entry: msgspec.json.encode(entry.attempts)),
    ("status INTEGER NOT NULL", attrgetter("status")),
    ("error TEXT", attrgetter("error")),
    ("input_tokens INTEGER", attrgetter("input_tokens")),
    ("output_tokens INTEGER", attrgetter("output_tokens")),
    ("cost_usd REAL", attrgetter("cost_usd")),
    ("latency_s REAL", attrgetter("latency_s")),
    ("first_token_s REAL", attrgetter("first_token_s")),
    ("overhead_s REAL", attrgetter("overhead_s")),
    ("stream INTEGER NOT NULL", lambda entry: int(entry.stream)),
    ("key_id TEXT", attrgetter("key_id")),
    ("session_id TEXT", attrgetter("session_id")),
    ("prompt TEXT", attrgetter("prompt")),
    ("answer TEXT", attrgetter("answer")),
)
COLUMNS = tuple(sql for sql, _ in _COLUMNS)
NAMES = tuple(sql.partition(" ")[0] for sql in COLUMNS)
_CONTENT = frozenset({"prompt", "answer"})


def to_row(entry: JournalEntry, content: bool) -> tuple[Any, ...]:
    """The values of `COLUMNS`; prompt and answer only with `content`."""
    return tuple(
        derive(entry) if content or name not in _CONTENT else None
        for name, (_, derive) in zip(NAMES, _COLUMNS, strict=True)
    )


def row_to_json(row: tuple[Any, ...]) -> dict[str, Any]:
    """A row as JSON-able values, its decision in full."""
    values = dict(zip(NAMES, row, strict=True))
    decision_id = values.pop("id")
    packed = values.pop("decision")
    attempts = msgspec.json.decode(values.pop("attempts") or b"[]")
    tier, propensity = values.pop("tier"), values.pop("propensity")
    if packed is not None:
        record = _unpack_record(packed)
    else:
        asked = values["expert_asked"]
        record = {
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
    return {**entry_json, "decision": {"id": decision_id, **record}}


def describe_decision(decision: Decision | TextChoice) -> dict[str, Any]:
    """A decision of either kind as JSON values, in full."""
    return decision.record() if isinstance(decision, TextChoice) else decision_record(decision)


def _packed(decision: Decision | TextChoice) -> bytes:
    if isinstance(decision, TextChoice):
        return msgspec.msgpack.encode({"record": decision.record()})
    return pack_decision(decision)


def _unpack_record(packed: bytes) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.msgpack.decode(packed)
    return plain["record"] if "record" in plain else decision_record(unpack_decision(packed))


def pack_decision(decision: Decision) -> bytes:
    plain = {name: getattr(decision, name) for name in Decision.__slots__}
    plan = decision.plan
    plain["plan"] = {"kind": plan.kind, **plan.parts()}
    return msgspec.msgpack.encode(plain, enc_hook=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    return dict(value) if hasattr(value, "keys") else float(value)


def unpack_decision(packed: bytes) -> Decision:
    plain = msgspec.msgpack.decode(packed)
    parts = plain["plan"]
    plain["plan"] = decode_plan(parts.pop("kind"), parts)
    plain["experts"] = tuple(plain["experts"])
    for name, value in plain.items():
        if isinstance(value, list):
            kind = {"order": np.int64, "evidence": np.bool_}.get(name, np.float64)
            plain[name] = np.array(value, dtype=kind)
    return Decision(**plain)


def describe_entry(entry: JournalEntry, content: bool) -> dict[str, Any]:
    """An entry that is not in the database yet, as JSON values like one that is."""
    return row_to_json(to_row(entry, content))
