"""One request reduced to what routing may see.

A lone user message gives the very `Query` that `routers.query_of` gives for its text, so that what was
learned offline holds online. What cannot be read is left to the expert, as for one that the client named.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from math import ceil, isfinite
from typing import Any

import msgspec
from msgspec.structs import replace

from routers import Query, estimate_tokens, query_of

from ..errors import InvalidField
from ..openai.messages import (
    BAD_JSON,
    TEXT_PARTS,
    TOKENS_PER_TURN,
    ContentPart,
    ability_of,
    decode_list,
    decode_messages,
    decode_raw_message,
    text_parts,
)
from ..prompts.lists import CleanText
from ..prompts.wrappings import WrappingGrammar
from .bodies import INLINE_BYTES, MESSAGE_LIMITS, PROMPT_LIMITS, ShortJson, shorten

TOOL_FIELDS = ("tools", "functions")
TOKENS_PER_ATTACHMENT = 800
"""What a picture takes at a usual size; other parts that are no text count the same."""
MOST_TOKENS = 2**31 - 1
BYTES_PER_TOKEN = 4
MAX_VALUE_BYTES = 1024
"""A longer value is neither a number nor a list of modalities."""
_N_PEEK = 64

Fields = Mapping[str, msgspec.Raw]


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """What routing reads of a request: the query, and the last turn of the user alone, for tools."""

    query: Query
    question: CleanText


class Conversation(msgspec.Struct, frozen=True):
    """The turns of a chat as digests, by which a later request is known to go on with it.

    before: digests of all that comes before each answer in it, oldest first; empty for a first turn
    whole: digest of all turns
    is_tool_loop: results of tools follow the last answer
    is_stalled: the last calls of tools and their results, or the last errors, are the same
    """

    whole: bytes
    before: tuple[bytes, ...] = ()
    is_tool_loop: bool = False
    is_stalled: bool = False


@dataclass(frozen=True, slots=True)
class _Turn:
    role: str
    texts: Sequence[str]
    needs: Sequence[str] = ()

    @property
    def text(self) -> str:
        return "\n".join(self.texts)


@lru_cache(maxsize=1)
def default_grammar() -> WrappingGrammar:
    """The grammar of the bundled lists alone."""
    return WrappingGrammar()


def parse_chat_query(
    fields: Fields, grammar: WrappingGrammar | None = None, short: ShortJson | None = None
) -> ReadRequest:
    """The query in the body of a chat completion; `short` are the messages of a large one, already shortened.

    Raises:
        InvalidField: `messages` is missing or empty, or a text in it is damaged; `param` says where.
    """
    raw = fields.get("messages")
    if raw is None:
        raise InvalidField("'messages' is missing", param="messages")
    turns, n_left_out = _read_turns(raw, short)
    if not turns:
        raise InvalidField("'messages' is empty: there is nothing to answer", param="messages")
    grammar = grammar or default_grammar()
    question, asks = _read_asks([turn for turn in turns if turn.role == "user"], grammar)
    if not asks:  # no user turn has text: take the last text of any role
        asks = [turn.text for turn in turns if turn.text][-1:]
    # A lone turn is its own text, so that what was learned offline holds online.
    # One text for all of a conversation, because the predictors were fitted on single prompts.
    query = query_of(asks[0] if len(asks) == 1 else build_routing_text(asks))
    needs = [ability for turn in turns for ability in turn.needs]
    # Tool descriptions are sent with every request, and fill the window as text does.
    n_tool_bytes = sum(len(memoryview(fields[name])) for name in TOOL_FIELDS if name in fields)
    extra = TOKENS_PER_ATTACHMENT * len(needs) + n_tool_bytes // BYTES_PER_TOKEN
    first = turns[0].texts
    if len(turns) > 1 or len(first) != 1 or query.text is not first[0]:
        whole = sum(map(_count_tokens, turns)) + TOKENS_PER_TURN * (len(turns) - 1)
        extra += whole + n_left_out // BYTES_PER_TOKEN - query.n_input_tokens
    query = _add_requirements(query, fields, extra, needs)
    return ReadRequest(query, question)


def parse_completion_query(
    fields: Fields, grammar: WrappingGrammar | None = None, _short: ShortJson | None = None
) -> ReadRequest:
    """The query in the body of a plain completion: its prompt, the first where there are several.

    Raises:
        InvalidField: `prompt` is missing, or a text in it is damaged.
    """
    raw = fields.get("prompt")
    if raw is None:
        raise InvalidField("'prompt' is missing", param="prompt")
    texts, n_ids = _read_prompts(raw)
    first = (grammar or default_grammar()).clean(texts[0])
    query = query_of(first.text or texts[0])
    extra = n_ids + sum(map(estimate_tokens, texts)) - query.n_input_tokens
    question = first if len(texts) == 1 and not n_ids else CleanText("")
    return ReadRequest(_add_requirements(query, fields, extra, ()), question)


class _ToolCall(msgspec.Struct):
    """What a call of a tool asks; its id is another each time."""

    function: msgspec.Raw = msgspec.Raw(b"null")


class _AgentTurn(msgspec.Struct):
    """One turn, as far as loops of tools are read."""

    role: str = ""
    content: msgspec.Raw = msgspec.Raw(b"null")
    tool_calls: list[_ToolCall] | None = None


_agent_turn = msgspec.json.Decoder(_AgentTurn)
_CACHE_MARK = re.compile(rb',\s*"cache_control"\s*:\s*(?:\{[^{}]*\}|null)')
_SAYS_ERROR = re.compile(rb"error|exception|traceback|failed|not found|denied", re.IGNORECASE)
TOOL_ROLES = ("tool", "function")
N_REPEATS = 3
"""So often the same call with the same result, or the same error, comes before an agent counts as stalled."""
MAX_ANSWERS = 64
"""A request that goes on from an older answer of a conversation begins another one."""


def read_conversation(raw: msgspec.Raw) -> Conversation | None:
    """The conversation in `messages`; None where a turn cannot be read."""
    digest = blake2b(digest_size=16)
    before: list[bytes] = []
    recent: list[_AgentTurn] = []
    try:
        for message in decode_list(raw):
            turn = _agent_turn.decode(message)
            if turn.role == "assistant":
                before.append(digest.digest())
            recent.append(turn)
            # Agents move their marks for prompt caches from turn to turn: they are no part of what is said.
            text = bytes(message)
            digest.update(_CACHE_MARK.sub(b"", text) if b'"cache_control"' in text else text)
    except BAD_JSON:
        return None
    whole = digest.digest()
    if not before:
        return Conversation(whole)
    is_loop = _ends_with_results(recent)
    return Conversation(whole, tuple(before[-MAX_ANSWERS:]), is_loop, is_loop and _repeats_itself(recent))


def _ends_with_results(turns: Sequence[_AgentTurn]) -> bool:
    """Whether results of tools follow the last answer."""
    for turn in reversed(turns):
        if turn.role == "assistant":
            return False
        if turn.role in TOOL_ROLES:
            return True
    return False


def _repeats_itself(turns: Sequence[_AgentTurn]) -> bool:
    calls = [[bytes(call.function) for call in turn.tool_calls] for turn in turns if turn.tool_calls]
    results = [bytes(turn.content) for turn in turns if turn.role in TOOL_ROLES]
    last = results[-N_REPEATS:]
    if len(last) < N_REPEATS or last.count(last[0]) < N_REPEATS:
        return False
    return _SAYS_ERROR.search(last[0]) is not None or calls[-N_REPEATS:].count(calls[-1]) == N_REPEATS


def _read_asks(turns: Sequence[_Turn], grammar: WrappingGrammar) -> tuple[CleanText, list[str]]:
    """The last turn without wrappings; and what the turns ask, oldest first, beside wrappings."""
    question: CleanText | None = None
    asks: dict[str, None] = {}
    n_chars = n_read = 0
    # Backwards, and no further than the routing text goes: an agent's conversation has hundreds of turns.
    for turn in reversed(turns):
        texts = turn.texts
        is_plain = len(texts) == 1 and not grammar.may_change(texts[0])
        found = CleanText(texts[0]) if is_plain else grammar.join(texts)
        question = question or found
        if found.text and found.text not in asks:
            n_chars += len(found.text) if asks else 0
            asks[found.text] = None
            if n_chars >= CONTEXT_CHARS:
                break
        # Turns of wrappings alone, or of one text again and again, add nothing to it.
        if turn is not turns[0]:
            n_read += grammar.count_read(texts)
        if n_read >= MAX_READ_CHARS:
            break
    return question or CleanText(""), list(asks)[::-1]


def _read_turns(raw: msgspec.Raw, short: ShortJson | None) -> tuple[list[_Turn], int]:
    """The turns of a conversation, where one that no server could read has no text; and bytes left out."""
    if len(memoryview(raw)) > INLINE_BYTES:
        # Message by message: no call holds the interpreter's lock for long.
        short = short or shorten(raw, MESSAGE_LIMITS, "messages")
        return [_read_turn(message) for message in _decode_messages(short.data)], short.n_text_bytes
    try:
        return [
            _Turn(message.role, (content,))
            if isinstance(content := message.content, str)
            else _read_parts(message.role, content)
            for message in decode_messages(raw)
        ], 0
    except msgspec.ValidationError:
        return [_read_turn(message) for message in _decode_messages(raw)], 0
    except msgspec.MsgspecError as error:
        raise _refusal(error, "messages") from None


def _count_tokens(turn: _Turn) -> int:
    if len(turn.texts) == 1 or sum(map(len, turn.texts)) <= INLINE_BYTES:
        return estimate_tokens(turn.text)
    return sum(map(estimate_tokens, turn.texts))


def _decode_messages(raw: msgspec.Raw | memoryview) -> list[msgspec.Raw]:
    try:
        return decode_list(raw)
    except msgspec.ValidationError:
        raise InvalidField("'messages' must be a list", param="messages") from None
    except msgspec.MsgspecError as error:
        raise _refusal(error, "messages") from None


def _read_parts(role: str, content: list[ContentPart] | None) -> _Turn:
    parts = content or ()
    texts = [part.text for part in parts if part.text and part.type in TEXT_PARTS]
    needs = [need for part in parts if (need := ability_of(part.type))]
    for part in parts:
        # What a tool gave may be a picture: content of its own, inside a part.
        if part.type == "tool_result" and bytes(memoryview(part.content)[:1]) == b"[":
            needs += text_parts(part.content, is_nested=True)[1]
    return _Turn(role, texts or ("",), needs)


def _read_turn(raw: msgspec.Raw) -> _Turn:
    """A turn of any shape: servers take more than OpenAI's format, and refuse what they do not take."""
    try:
        message = decode_raw_message(raw)
        texts, needs = text_parts(message.content)
    except msgspec.ValidationError:
        return _Turn("", ("",))
    except msgspec.MsgspecError as error:
        raise _refusal(error, "messages") from None
    return _Turn(message.role, texts or ("",), needs)


def _add_requirements(query: Query, fields: Fields, extra_tokens: int, needs: Sequence[str]) -> Query:
    has_tools = any(name in fields and _has_items(fields[name]) for name in TOOL_FIELDS)
    wants_json = "response_format" in fields and _wants_json(fields["response_format"])
    limit = _parse_output_limit(fields)
    outputs = _read_modalities(fields["modalities"]) if "modalities" in fields else ()
    if not (extra_tokens or needs or outputs or has_tools or wants_json or limit is not None):
        return query
    return replace(
        query,
        n_input_tokens=query.n_input_tokens + extra_tokens,
        max_output_tokens=limit,
        needs=frozenset((*needs, *outputs)),
        has_tools=has_tools,
        wants_json=wants_json,
    )


def _has_items(raw: msgspec.Raw) -> bool:
    """Whether a list (or what stands in its place) holds anything, however its emptiness is written."""
    text = bytes(memoryview(raw)[:64])
    if text[:1] in (b"[", b"{"):
        rest = text[1:].lstrip()
        # Blanks without end need the whole value.
        return (rest or bytes(raw)[1:].lstrip())[:1] not in (b"]", b"}")
    return text not in (b"null", b"false", b'""')


class _Format(msgspec.Struct):
    """A wish for the form of the answer; its schema is not read."""

    type: str = ""


_format = msgspec.json.Decoder(_Format)


def _wants_json(raw: msgspec.Raw) -> bool:
    try:
        return _format.decode(raw).type in ("json_object", "json_schema")
    except BAD_JSON:
        return False


def _read_modalities(raw: msgspec.Raw) -> list[str]:
    """The abilities for an answer in more than text: `["text", "audio"]` needs `audio_output`."""
    wish = _decode(raw)
    kinds = wish if isinstance(wish, list) else ()
    return [f"{kind}_output" for kind in kinds if isinstance(kind, str) and kind != "text"]


def _parse_output_limit(fields: Fields) -> int | None:
    """The longest answer asked for, as clients write it: 512, 512.0, "512"; −1 and null are no limit."""
    # OpenAI's newer name first; where both are sent its models follow the newer one.
    for name in ("max_completion_tokens", "max_tokens"):
        if name in fields:
            value = _decode(fields[name])
            try:
                limit = float(value) if isinstance(value, (int, float, str)) else -1.0
            except (ValueError, OverflowError):
                continue
            if value is not True and value is not False and isfinite(limit) and 0 <= limit <= MOST_TOKENS:
                return ceil(limit)
    return None


def _read_prompts(raw: msgspec.Raw) -> tuple[list[str], int]:
    """The texts of a field that may hold one, several, or token ids; and how many ids there are."""
    data: msgspec.Raw | memoryview = raw
    if len(memoryview(raw)) > INLINE_BYTES:
        # Ids are counted and not read: a list of them may be as long as the window of a model.
        if bytes(memoryview(raw)[:_N_PEEK]).translate(None, b"[ \t\r\n")[:1].isdigit():
            return [""], bytes(raw).count(b",") + 1
        data = shorten(raw, PROMPT_LIMITS, "prompt").data
    try:
        value = msgspec.json.decode(data)
    except msgspec.MsgspecError as error:
        raise _refusal(error, "prompt") from None
    items: list[Any] = value if isinstance(value, list) else [value]
    texts = [item for item in items if isinstance(item, str)]
    n_ids = sum(len(item) if isinstance(item, list) else isinstance(item, int) for item in items)
    return texts or [""], n_ids


def _decode(raw: msgspec.Raw) -> Any:
    """The value of a short field of any kind; None where it cannot be read: the expert says so."""
    if len(memoryview(raw)) > MAX_VALUE_BYTES:
        return None
    try:
        return msgspec.json.decode(raw)
    except BAD_JSON:
        return None


def _refusal(error: msgspec.MsgspecError, name: str) -> InvalidField:
    """The decoder's complaint about a text."""
    what = str(error)
    return InvalidField(f"{name}: {what[0].lower()}{what[1:].replace('`', '')}", param=name)


CONTEXT_CHARS = 480
"""At most so much of the earlier turns stands beside the last one."""
SHORT_TURN_CHARS = 80
"""A last turn below this ("commit it") says little by itself and gets the whole context."""
GAP = "\n\n"
MAX_READ_CHARS = 200_000
"""So much of the user's turns is read for the routing text, from the last one backwards."""


def build_routing_text(turns: Sequence[str]) -> str:
    """The text to route by, from the user's turns, oldest first.

    The last turn leads and weighs most; what was asked before follows, newest first: for a short last turn up
    to `CONTEXT_CHARS`, for a longer one at most half its length. A lone turn is its own text.
    """
    if not turns:
        return ""
    last = turns[-1]
    room = CONTEXT_CHARS if len(last) < SHORT_TURN_CHARS else min(CONTEXT_CHARS, len(last) // 2)
    parts = [last]
    for turn in reversed(turns[:-1]):
        if room <= 0:
            break
        if turn not in parts:
            parts.append(turn[:room])
            room -= len(turn)
    return GAP.join(parts)
