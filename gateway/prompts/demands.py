"""What a request asks of its answer beyond the bare result, which is all that a tool can give."""

import re
from collections.abc import Callable, Mapping, Sequence

import msgspec
from msgspec import Raw

from ..openai.messages import BAD_JSON, Fields, RawMessage, decode_raw_messages, text_parts
from .lists import CleanText, read_lists
from .wrappings import WrappingGrammar

Solve = Callable[[str], str | None]

SILENT_FIELDS = frozenset(
    {
        "cache_prompt",
        "chat_template_kwargs",
        "enable_thinking",
        "frequency_penalty",
        "include_reasoning",
        "keep_alive",
        "max_completion_tokens",
        "max_tokens",
        "messages",
        "metadata",
        "min_p",
        "mirostat",
        "mirostat_eta",
        "mirostat_tau",
        "model",
        "models",
        "num_ctx",
        "parallel_tool_calls",
        "presence_penalty",
        "prompt",
        "prompt_cache_key",
        "prompt_cache_retention",
        "provider",
        "reasoning",
        "reasoning_effort",
        "reasoning_format",
        "repeat_last_n",
        "repeat_penalty",
        "repetition_penalty",
        "route",
        "router",
        "safety_identifier",
        "seed",
        "service_tier",
        "session_id",
        "store",
        "stream",
        "stream_options",
        "temperature",
        "tfs_z",
        "thinking",
        "top_a",
        "top_k",
        "top_p",
        "transforms",
        "typical_p",
        "usage",
        "user",
    }
)
"""Fields that change nothing about what a right answer to a computation is."""

SILENT_VALUES: Mapping[str, tuple[object, ...]] = {
    "best_of": (1,),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "n": (1,),
    "response_format": ({"type": "text"},),
    "tool_choice": ("none", "auto"),
    "verbosity": ("low", "medium"),
}
"""Values of other fields that ask for no more than the field's absence."""

EMPTY: tuple[object, ...] = (None, False, 0, "", [], {})

_WORDS = re.compile(r"[^\W_]+")


def find_demand(
    endpoint: str, fields: Fields, question: CleanText, answer: str, n_answer_tokens: int, solve: Solve,
    grammar: WrappingGrammar,
) -> str | None:  # fmt: skip
    """Why the bare `answer` to `question` is not all that the request asks for; None where it is."""
    for name, raw in fields.items():
        if name not in SILENT_FIELDS and (what := _find_wish(name, raw)):
            return what
    for name in ("max_completion_tokens", "max_tokens"):
        if name in fields and 0 <= _read_number(fields[name]) < n_answer_tokens:
            return f"'{name}' is shorter than its answer"
    if question.asks_more:
        return "instructions around the question say how to answer"
    if endpoint != "chat/completions":
        return None
    try:
        messages = decode_raw_messages(fields["messages"])
        return _find_instruction(messages, solve, grammar)
    except BAD_JSON:
        return "the conversation holds more than text"


def _find_wish(name: str, raw: Raw) -> str | None:
    """What a field asks of the answer."""
    try:
        value = msgspec.json.decode(raw)
    except BAD_JSON:
        return f"'{name}' cannot be read"
    if value in EMPTY or value in SILENT_VALUES.get(name, ()):
        return None
    if name == "plugins" and isinstance(value, list) and all(map(_is_dial, value)):
        return None
    return f"'{name}' asks for more than a bare result"


def _is_dial(plugin: object) -> bool:
    return isinstance(plugin, dict) and str(plugin.get("id", "")).startswith("auto-router")


def _read_number(raw: Raw) -> float:
    """The number in a field; −1 where it holds none."""
    try:
        return msgspec.json.decode(raw, type=float, strict=False)
    except BAD_JSON:
        return -1.0


def _find_instruction(messages: Sequence[RawMessage], solve: Solve, grammar: WrappingGrammar) -> str | None:
    """What the other messages ask of the answer to the last one.

    Earlier turns ask for nothing where each is a computation of its own, with the tool's answer under it.
    """
    expected: str | None = None
    for n, message in enumerate(messages):
        text, other = text_parts(message.content)
        if other:
            return "the conversation holds more than text"
        joined = "\n".join(text)
        if message.role in ("system", "developer"):
            if not is_neutral(joined):
                return "a system prompt says how to answer"
        elif message.role == "user":
            if expected is not None:
                return "an earlier turn waits for its answer"
            if n < len(messages) - 1 and not _is_last_user(messages, n):
                expected = solve(grammar.join(text).text)
                if expected is None:
                    return "earlier turns say how to answer"
        elif message.role == "assistant":
            if expected is None or joined.strip() != expected:
                return "earlier answers are of another kind"
            expected = None
        else:
            return f"the conversation has a turn of role '{message.role[:40]}'"
    return None


def _is_last_user(messages: Sequence[RawMessage], place: int) -> bool:
    return all(message.role in ("system", "developer") for message in messages[place + 1 :])


def is_neutral(system: str) -> bool:
    """Whether a system prompt says only that an assistant should answer."""
    return read_lists().neutral_words.issuperset(_WORDS.findall(system.lower()))
