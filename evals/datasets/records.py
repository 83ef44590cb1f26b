"""Records, one per prompt and model, put together as a table."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from routers import DataError, Floats, OutcomeTable, Provenance
from routers.outcome_format import MEASURES

ALIASES = {
    "prompt_id": "id",
    "query_id": "id",
    "sample_id": "id",
    "text": "prompt",
    "query": "prompt",
    "question": "prompt",
    "expert": "model",
    "model_name": "model",
    "kind": "task",
    "eval_name": "task",
    "group": "family",
    "cost": "cost_usd",
    "total_cost": "cost_usd",
    "prompt_tokens": "input_tokens",
    "completion_tokens": "output_tokens",
    "latency": "latency_s",
    "response": "answer",
    "model_response": "answer",
}
"""Other names of our fields."""
FIELDS = frozenset({"id", "prompt", "task", "family", "bucket", "model", "answer", *MEASURES})
_REFERENCES = frozenset(
    {"expected", "reference", "label", "target", "gold", "ground_truth", "correct_answer", "index", ""}
)
"""Columns beside the scores of many files; numbers in them are no scores."""
_GAPS = frozenset({"n/a", "na", "#n/a", "none", "null", "-", "--", "–", "—", "?", "missing"})
_TRUTHS = {"true": 1.0, "false": 0.0}
_VERDICTS = {
    **dict.fromkeys(("yes", "y", "pass", "passed", "correct", "right", "ok", "ja", "wahr"), "1"),
    **dict.fromkeys(("no", "n", "fail", "failed", "incorrect", "wrong", "nein", "falsch"), "0"),
}
_PERCENT = re.compile(r"([+-]?\d+(?:[.,]\d+)?)\s*%")
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+(?:[eE][+-]?\d+)?")


@dataclass(frozen=True, slots=True)
class Record:
    """One outcome by field name (`id prompt task family bucket model` and measures), and its place."""

    place: str
    fields: Mapping[str, Any]
    decimal_comma: bool = False

    def with_fields(self, fields: Mapping[str, Any]) -> Self:
        """Another outcome of the same place."""
        return replace(self, fields=fields)


def field_name(name: str) -> str:
    """The field that a column holds; its own name where it holds none of ours."""
    plain = name.strip()
    known = ALIASES.get(plain.lower(), plain.lower())
    return known if known in FIELDS else plain


def find_score_columns(
    rows: Sequence[Record], names: Iterable[str], wanted: Collection[str] = ()
) -> tuple[list[str], dict[str, str]]:
    """The columns of scores, and what the others hold.

    A column counts by most of its cells, so that one wrong cell of a model is a fault to be told, and a
    column of words or years is passed over. Where no column is left, those of other numbers count: they are
    scores in another scale. `wanted` columns always count, and then no others.
    """
    scores: list[str] = []
    others: dict[str, str] = {}
    for name in names:
        if name in wanted:
            scores.append(name)
        elif wanted:
            others[name] = "not among --experts"
        elif holds := _describe_column(row.with_fields({name: row.fields.get(name)}) for row in rows):
            others[name] = holds
        elif field_name(name) in FIELDS or name.lower() in _REFERENCES or name.startswith("Unnamed:"):
            others[name] = "no model's name"
        else:
            scores.append(name)
    if not scores:
        scores = [name for name, holds in others.items() if holds.startswith(OUTSIDE)]
        others = {name: holds for name, holds in others.items() if not holds.startswith(OUTSIDE)}
    return scores, others


OUTSIDE = "numbers outside [0, 1]"


def _describe_column(cells: Iterable[Record]) -> str:
    """What a column holds in place of scores; empty for scores, wrong ones included."""
    values: list[float] = []
    n_meant = n_words = 0
    for cell in cells:
        ((name, value),) = cell.fields.items()
        text = value.strip().lower() if isinstance(value, str) else ""
        try:
            values.append(number(cell, name))
        except DataError:
            n_meant += bool(text in _VERDICTS or _PERCENT.fullmatch(text))
            n_words += text not in _VERDICTS and text not in _GAPS and not _PERCENT.fullmatch(text)
    known = [value for value in values if not np.isnan(value)]
    outside = [value for value in known if not 0 <= value <= 1 and not np.isinf(value)]
    if n_words > n_meant + len(known):
        return "words"
    if not n_words + n_meant + len(known):
        return "nothing"
    # Levels and years are whole numbers of several values; one wrong score among others is not.
    levels = outside and len(set(known)) > 2 and all(value % 1 == 0 for value in known)
    if not levels and 2 * len(outside) <= len(known) + n_meant:
        return ""
    is_percent = all(0 <= value <= 100 for value in known) and max(known) > 10
    return f"{OUTSIDE} (divide them by 100 if they are scores)" if is_percent else OUTSIDE


def describe_columns(others: Mapping[str, str]) -> str:
    """One line that names the columns that were not read, and why; empty for none."""
    return "; ".join(f"column {name!r} is passed over: {holds}" for name, holds in others.items())


def table_of(records: Sequence[Record], provenance: Provenance) -> OutcomeTable:
    """Queries in order of appearance, experts by name; a prompt without id is known by its text.

    Scores of another scale, penalties below 0 among them, are brought to [0, 1]; the provenance says how.

    Raises:
        DataError: a field is missing or wrong, or two records have the same prompt and model.
    """
    if not records:
        raise DataError(f"{provenance.source or 'the source'}: no outcome in it")
    named = [_rename(record) for record in records]
    queries: dict[str, Record] = {}
    for record in named:
        first = queries.setdefault(_key(record), record)
        if first.fields["prompt"] != record.fields["prompt"]:
            raise DataError(f"{record.place}: id {_key(record)!r} has two prompts")
    rows = {key: n for n, key in enumerate(queries)}
    experts = sorted({_text(record, "model") for record in named})
    columns = {name: n for n, name in enumerate(experts)}
    measures: dict[str, Floats] = {name: np.full((len(rows), len(experts)), np.nan) for name in MEASURES}
    answers: list[list[str | None]] = [[None] * len(experts) for _ in rows]
    seen: set[tuple[int, int]] = set()
    for record in named:
        place = rows[_key(record)], columns[record.fields["model"]]
        if place in seen:
            raise DataError(f"{record.place}: a second outcome of {experts[place[1]]} on the same prompt")
        seen.add(place)
        for name in MEASURES:
            measures[name][place] = number(record, name)
        answer = record.fields.get("answer")
        answers[place[0]][place[1]] = None if answer is None else str(answer)
    scale = _find_scale(measures["score"])
    _check_ranges(named, scale)
    if scale is not None:
        low, high = scale
        measures["score"] = (measures["score"] - low) / (high - low)
        shifted = f"(score + {-low:g})" if low else "score"
        note = f"scores from {low:g} to {high:g} are scaled to 0 to 1: {shifted} ÷ {high - low:g}"
        provenance = replace(provenance, notes="; ".join(filter(None, (provenance.notes, note))))
    firsts = list(queries.values())
    return OutcomeTable.build(
        [first.fields["prompt"] for first in firsts],
        experts,
        measures,
        ids=list(queries),
        tasks=[str(first.fields.get("task") or "") for first in firsts],
        families=[str(first.fields.get("family") or "") for first in firsts],
        bucket=_buckets(firsts),
        answers=answers if any(any(a is not None for a in row) for row in answers) else None,
        provenance=provenance,
    )


def average_same(records: Iterable[Record]) -> list[Record]:
    """One record per prompt and model; where a model answered a prompt several times, their mean."""
    seen: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        seen.setdefault((record.fields["prompt"], record.fields["model"]), []).append(record)
    return [same[0] if len(same) == 1 else _mean(same) for same in seen.values()]


def _mean(same: list[Record]) -> Record:
    means: dict[str, float | None] = {}
    for name in MEASURES:
        known = [value for value in (number(record, name) for record in same) if not np.isnan(value)]
        means[name] = sum(known) / len(known) if known else None
    return same[0].with_fields({**same[0].fields, **means})


def _rename(record: Record) -> Record:
    renamed = record.with_fields({field_name(name): value for name, value in record.fields.items()})
    _text(renamed, "prompt")
    return renamed


def _key(record: Record) -> str:
    value = record.fields.get("id")
    return str(record.fields["prompt"] if value is None or value == "" else value)


def _text(record: Record, name: str) -> str:
    value = record.fields.get(name)
    if not isinstance(value, str) or not value:
        raise DataError(f"{record.place}: {name}: a text is needed, not {value!r}")
    return value


def number(record: Record, name: str) -> float:
    """The field as a number; NaN where there is nothing.

    Raises:
        DataError: it is something else.
    """
    value: Any = record.fields.get(name)
    text = value.strip() if isinstance(value, str) else value
    if text is None or text == "":
        return float("nan")
    if isinstance(text, str):
        text = _TRUTHS.get(text.lower(), text)
    if isinstance(text, str) and _DECIMAL_COMMA.fullmatch(text) and _is_decimal(text, record.decimal_comma):
        text = text.replace(",", ".")
    try:
        return float(text)
    except (TypeError, ValueError, OverflowError):
        model = record.fields.get("model")
        what = f"{name} of {model}" if name in MEASURES and model else name
        raise DataError(f"{record.place}: {what}: a number is needed, not {value!r}{_fix(text)}") from None


def _is_decimal(text: str, decimal_comma: bool) -> bool:
    """Whether the comma is a decimal one: in a file of such, or because it cannot part thousands."""
    whole, _, rest = text.lstrip("+-").partition(",")
    return decimal_comma or whole in ("", "0") or len(rest) != 3


def _fix(text: Any) -> str:
    """What to write instead of a text that was meant as a number."""
    if not isinstance(text, str):
        return ""
    if percent := _PERCENT.fullmatch(text):
        return f"; write {float(percent.group(1).replace(',', '.')) / 100:g}"
    if verdict := _VERDICTS.get(text.lower()):
        return f"; write {verdict}"
    if text.lower() in _GAPS:
        return "; leave the cell empty where nothing was measured"
    if _DECIMAL_COMMA.fullmatch(text):
        return f"; write {text.replace(',', '')} or {text.replace(',', '.')}"
    return ""


def _find_scale(score: Floats) -> tuple[float, float] | None:
    """The lowest and the highest score of a scale that is not [0, 1]; None where it is, or cannot be told.

    A lone score outside [0, 1], or fewer than one in a hundred, is a fault of its line and no scale.
    """
    known = score[~np.isnan(score)]
    n_outside = int(((known < 0) | (known > 1)).sum())
    if n_outside < 2 or 100 * n_outside < len(known) or not np.isfinite(known).all():
        return None
    low, high = min(float(known.min()), 0.0), max(float(known.max()), 1.0)
    return (low, 100.0) if low == 0 and 10 < high <= 100 else (low, high)  # percentages seldom reach 100


def _check_ranges(records: Sequence[Record], scale: tuple[float, float] | None) -> None:
    for record in records:
        score = number(record, "score")
        if scale is None and (score < 0 or score > 1):
            what = f"score of {record.fields['model']}: {score:g}"
            raise DataError(f"{record.place}: {what} is not in [0, 1]{_scale_fix(score)}")
        for name in ("cost_usd", "input_tokens", "output_tokens", "latency_s"):
            if number(record, name) < 0:
                raise DataError(f"{record.place}: {name}: {number(record, name):g} is negative")


def _scale_fix(score: float) -> str:
    if 1 < score <= 100:
        return f"; if scores are percentages, divide them by 100 ({score:g} is {score / 100:g})"
    return ""


def _buckets(firsts: Sequence[Record]) -> Any:
    value = [number(first, "bucket") for first in firsts]
    if any(np.isnan(value)):
        return None
    for first, bucket in zip(firsts, value, strict=True):
        # Splits index 100 places by bucket.
        if bucket != int(bucket) or not 0 <= bucket < 100:
            raise DataError(f"{first.place}: bucket: a whole number from 0 to 99 is needed, not {bucket:g}")
    return np.array(value, np.int64)
