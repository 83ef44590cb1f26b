"""What clients say of answers they got, kept beside the decisions in the journal."""

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..config.client_keys import MASTER, is_former_id

TABLE = """
CREATE TABLE feedback (
    decision_id TEXT NOT NULL, key_id TEXT NOT NULL, user TEXT NOT NULL, time REAL NOT NULL,
    score REAL, chosen TEXT, comment TEXT, PRIMARY KEY (decision_id, key_id, user)
) WITHOUT ROWID
"""
# What is said of a request is deleted with it.
TRIGGER = """
CREATE TRIGGER feedback_of_deleted AFTER DELETE ON decisions
BEGIN DELETE FROM feedback WHERE decision_id = old.id; END
"""
# Said again it is the same; said otherwise the later word counts, and what it leaves open stays.
_UPSERT = """
INSERT INTO feedback (decision_id, key_id, user, time, score, chosen, comment) VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET time = excluded.time, score = coalesce(excluded.score, score),
    chosen = coalesce(excluded.chosen, chosen), comment = coalesce(excluded.comment, comment)
"""
_FIELDS = "decision_id, key_id, user, time, score, chosen, comment"


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedbackRecord:
    """What one client, or one of its users, says of one decision; None is unsaid.

    Attributes:
        time: seconds since 1970.
        key_id: the name of the client's key.
        score: how good the answer was, in [0, 1].
        chosen: of a panel, the expert whose answer was the best.
    """

    decision_id: str
    time: float
    key_id: str | None = None
    user: str | None = None
    score: float | None = None
    chosen: str | None = None
    comment: str | None = None

    def to_json(self) -> dict[str, Any]:
        """What was said, without the key; None for what was not."""
        return {name: value for name, value in asdict(self).items() if name not in ("decision_id", "key_id")}


def create_feedback_table(database: sqlite3.Connection) -> None:
    """Add the table to a journal that has none."""
    database.execute(TABLE)
    database.execute(TRIGGER)


def name_keys_of_feedback(database: sqlite3.Connection) -> None:
    """Say `master` where a journal has the id that keys had before they had names."""
    # Of decisions that is said as they are read: there are too many to write anew at a start.
    database.execute(f"UPDATE OR REPLACE feedback SET key_id = ? WHERE {is_former_id('key_id')}", (MASTER,))  # noqa: S608


def write_feedback(database: sqlite3.Connection, said: Iterable[FeedbackRecord]) -> None:
    """Add or change what was said."""
    database.executemany(
        _UPSERT,
        [
            (one.decision_id, one.key_id or "", one.user or "", one.time, one.score, one.chosen, one.comment)
            for one in said
        ],
    )


def read_feedback(database: sqlite3.Connection, decision_id: str | None = None) -> list[FeedbackRecord]:
    """What was said of a decision, or of all, oldest first."""
    where, values = ("WHERE decision_id = ?", (decision_id,)) if decision_id is not None else ("", ())
    rows = database.execute(f"SELECT {_FIELDS} FROM feedback {where} ORDER BY time", values)  # noqa: S608
    names = _FIELDS.split(", ")
    return [_from_row(dict(zip(names, row, strict=True))) for row in rows]


def _from_row(row: Mapping[str, Any]) -> FeedbackRecord:
    return FeedbackRecord(**{**row, "key_id": row["key_id"] or None, "user": row["user"] or None})


def rate_experts(
    answered: str | None, members: Sequence[str], said: Sequence[FeedbackRecord]
) -> Mapping[str, float]:
    """The mean score of each expert that the feedback speaks about.

    A score is about the expert that answered. A choice gives 1 to the chosen member of a panel and 0 to the
    others that answered.
    """
    scores: dict[str, list[float]] = {}
    for one in said:
        if one.score is not None and answered is not None:
            scores.setdefault(answered, []).append(one.score)
        if one.chosen is not None:
            for member in members:
                scores.setdefault(member, []).append(float(member == one.chosen))
    return {expert: sum(values) / len(values) for expert, values in scores.items()}
