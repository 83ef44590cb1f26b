"""The journal's rated decisions as outcomes, for `thalamus import journal`."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from msgspec import Raw

from ..config import Config
from ..endpoints.feedback import find_members
from ..errors import GatewayError
from ..prompts.wrappings import WrappingGrammar, build_grammar
from ..requests.query import parse_chat_query, parse_completion_query
from ..storage.feedback import FeedbackRecord, rate_experts
from ..storage.journal import read_prompts, read_rated
from ..storage.sqlite import StorageError
from .options import read_config

_QUERIES = {
    "chat/completions": ("messages", parse_chat_query),
    "completions": ("prompt", parse_completion_query),
}


def read_journal(config_path: Path, scores: Mapping[str, float]) -> Mapping[str, Any]:
    """The outcomes in the journal: `rows` by prompt and expert, `models` by expert, and `lacks`, in words.

    `scores` by decision id stand in place of feedback.

    Raises:
        ClickException: nothing can be learned from the journal, and why.
    """
    config = _read_config(config_path)
    rows: list[dict[str, Any]] = []
    grammar = build_grammar(config)
    counts = dict.fromkeys(_LACKS, 0)
    try:
        found = sorted(read_rated(Path(config.journal.path), tuple(scores)), key=lambda one: one[0]["time"])
    except StorageError as error:
        raise click.ClickException(str(error)) from None
    for entry, said in found:
        prompt = _read_prompt(entry, grammar) if entry["prompt"] else ""
        lack = _describe_lack(entry, prompt)
        if lack is None:
            made = [*_read_rows(entry, prompt, said, scores.get(entry["id"]))]
            rows += made
            lack = None if made else "unrated"
        if lack is not None:
            counts[lack] += 1
    counts["unknown"] = len(scores.keys() - {entry["id"] for entry, _ in found})
    lacks = [words.format(n=counts[name]) for name, words in _LACKS.items() if counts[name]]
    if not rows:
        raise click.ClickException("; ".join(lacks) or _NOTHING)
    return {"rows": rows, "models": _models(config), "lacks": lacks}


def read_pool(config_path: Path) -> list[str]:
    """The prompts that the journal kept, each once, as the router reads them; what graded them counts not.

    Raises:
        ClickException: there is none, and why.
    """
    config = _read_config(config_path)
    grammar = build_grammar(config)
    try:
        found = [_read_prompt(entry, grammar) for entry in read_prompts(Path(config.journal.path))]
    except StorageError as error:
        raise click.ClickException(str(error)) from None
    prompts = list(dict.fromkeys(text for text in found if text))
    if not prompts:
        raise click.ClickException("the journal has no prompts: set journal: {content: true} to keep them")
    return prompts


def _read_config(config_path: Path) -> Config:
    config = read_config(config_path, quiet=True)
    if not config.journal.enabled:
        raise click.ClickException("the journal is off: set journal: {enabled: true, content: true}")
    return config


_NOTHING = (
    "no decision has feedback yet: send it with client.feedback(answer, score) or POST /v1/feedback, or give"
    " --scores FILE"
)
_LACKS = {
    "content": "{n} rated decisions have no prompt: with journal: {{content: true}} later ones will be kept",
    "cut": "{n} rated decisions have prompts too long to have been kept whole",
    "other": "{n} rated decisions are no chats or completions",
    "unrated": "{n} decisions have only a comment, or a score that belongs to no single expert",
    "unknown": "{n} decisions with scores are not in the journal",
}


def _describe_lack(entry: Mapping[str, Any], prompt: str) -> str | None:
    """Why nothing can be learned from a decision; None if something can."""
    if entry["endpoint"] not in _QUERIES:
        return "other"
    if entry["prompt"] is None:
        return "content"
    return None if prompt else "cut"


def _read_prompt(entry: Mapping[str, Any], grammar: WrappingGrammar) -> str:
    """The text that the router read of a request; empty where the journal kept only a part of it."""
    if entry["endpoint"] not in _QUERIES:
        return ""
    field, parse = _QUERIES[entry["endpoint"]]
    try:
        json.loads(entry["prompt"])
        return parse({field: Raw(entry["prompt"].encode())}, grammar).query.text
    except (ValueError, GatewayError):
        return ""


def _read_rows(
    entry: Mapping[str, Any], prompt: str, said: Sequence[FeedbackRecord], score: float | None
) -> Iterator[dict[str, Any]]:
    answered = entry["expert_answered"]
    # The joint answer of a panel is that of no single expert.
    if any(attempt.get("role") == "aggregator" for attempt in entry["attempts"]):
        answered = None
    members = find_members(entry)
    rated = dict(rate_experts(answered, members, said))
    if score is not None and answered is not None:
        rated[answered] = score
    for expert, value in rated.items():
        alone = expert == answered and not members
        yield {
            # Of the text: the same prompt asked again is the same row, whichever expert answered it.
            "id": f"journal/{hashlib.sha256(prompt.encode()).hexdigest()[:16]}",
            "prompt": prompt,
            "task": "traffic",
            "model": expert,
            "score": value,
            "answer": entry["answer"] if expert == answered else None,
            "cost_usd": entry["cost_usd"] if alone else None,
            "input_tokens": entry["input_tokens"] if alone else None,
            "output_tokens": entry["output_tokens"] if alone else None,
            "latency_s": entry["latency_s"] if alone else None,
            "propensity": entry["decision"]["propensity"],
        }


def _models(config: Config) -> dict[str, str]:
    return {expert.name: expert.model for expert in config.experts}
