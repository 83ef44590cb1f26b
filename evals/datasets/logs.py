"""Request logs with scores, JSON lines: LiteLLM's logging payload, or OpenAI requests beside their responses.

LiteLLM: model or model_group, messages, response, response_cost, prompt_tokens, completion_tokens, startTime,
endTime. OpenAI: `request` (or `body`) and `response`, as over the wire or in a batch file. The score is the
line's `score`, or that of its `metadata`; lines without one are passed over.
"""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from routers import DataError, OutcomeTable, Provenance

from .flat import json_rows
from .records import Record, average_same, table_of

_REDACTED = "redacted-by-litellm"


def read_logs(source: Path) -> OutcomeTable:
    """One outcome per prompt and model; where a model answered a prompt several times, their mean.

    Raises:
        DataError: names the line and field at fault.
    """
    found = [_record(row, score) for row in json_rows(source) if (score := _score(row.fields)) is not None]
    if not found:
        raise DataError(f"{source}: no line has a score; add one as `score` or as `metadata.score`")
    return table_of(average_same(found), Provenance(source=f"request log: {source.name}"))


def _score(line: Mapping[str, Any]) -> Any:
    if line.get("score") is not None:
        return line["score"]
    metadata = _object(line.get("metadata"))
    return metadata.get("score", _object(metadata.get("requester_metadata")).get("score"))


def _record(row: Record, score: Any) -> Record:
    line = row.fields
    request = _object(line.get("request")) or line
    request = _object(request.get("body")) or request
    response = _object(line.get("response"))
    response = _object(response.get("body")) or response
    usage = _object(response.get("usage")) or line
    model = line.get("model_group") or line.get("model") or request.get("model") or response.get("model")
    if not isinstance(model, str) or not model:
        raise DataError(f"{row.place}: model: a text is needed, not {model!r}")
    fields = {
        "prompt": _prompt(row, request),
        "model": model,
        "task": line.get("task"),
        "score": score,
        "cost_usd": line.get("response_cost", line.get("cost_usd")),
        "input_tokens": usage.get("prompt_tokens", usage.get("input_tokens")),
        "output_tokens": usage.get("completion_tokens", usage.get("output_tokens")),
        "latency_s": _latency(row),
        "answer": _answer(response) or (line["response"] if isinstance(line.get("response"), str) else None),
    }
    return Record(row.place, fields)


def read_prompt(row: Record) -> str:
    """The last message of the user in a line of a request log.

    Raises:
        DataError: there is none, or it is redacted: names the line.
    """
    request = _object(row.fields.get("request")) or row.fields
    return _prompt(row, _object(request.get("body")) or request)


def _prompt(row: Record, request: Mapping[str, Any]) -> str:
    """The last message of the user."""
    value = request.get("messages", request.get("input", request.get("prompt")))
    if isinstance(value, str) and value and value != _REDACTED:
        return value
    if isinstance(value, list):
        for message in reversed(value):
            text = _content(message.get("content")) if _object(message).get("role") == "user" else ""
            if text:
                return text
    why = "redacted" if value == _REDACTED else "no text of a user"
    raise DataError(f"{row.place}: messages: {why}; logs are of use only with their prompts")


def _content(value: Any) -> str:
    if isinstance(value, list):
        texts = (_object(part).get("text") for part in value)
        return "\n".join(text for text in texts if isinstance(text, str))
    return value if isinstance(value, str) else ""


def _answer(response: Mapping[str, Any]) -> str | None:
    choices = response.get("choices")
    first = _object(choices[0]) if isinstance(choices, list) and choices else {}
    return _content(_object(first.get("message")).get("content")) or None


def _latency(row: Record) -> Any:
    start, end = (_seconds(row.fields.get(name)) for name in ("startTime", "endTime"))
    if start is None or end is None:
        return row.fields.get("latency_s", row.fields.get("response_time"))
    return end - start


def _seconds(value: Any) -> float | None:
    if isinstance(value, str):
        try:
            return datetime.fromisoformat(value).timestamp()
        except ValueError:
            return None
    return float(value) if isinstance(value, int | float) else None


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
