"""The journal: an append-only record of decisions and outcomes, in SQLite.

`record` takes microseconds and never raises: entries wait in a bounded queue for one writer thread, which
encodes and inserts them in batches. What could not be kept is counted in `dropped`.
"""

from dataclasses import dataclass
from typing import Any

from policies import Decision


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """One call to one expert, and what came of it."""

    expert: str
    verdict: str
    status: int | None = None
    error: str | None = None
    latency_s: float | None = None
    deployment: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One request as the journal keeps it; None is unknown, never 0. `time` is seconds since 1970."""

    decision_id: str
    request_id: str
    time: float
    policy: str | None
    expert_asked: str | None
    expert_answered: str | None
    plan: str
    status: int
    decision: Decision | None = None
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


class Journal:
    def record(self, entry: Entry) -> None: ...
    async def get(self, decision_id: str) -> dict[str, Any] | None: ...
    async def close(self) -> None: ...
