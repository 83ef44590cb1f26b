"""One request reduced to what routing may see.

A lone user message gives the very `Query` that `routers.query_of` gives for its text, so that what was
learned offline holds online.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from routers import Query, estimate_tokens, query_of

from ..errors import InvalidField
from ..openai.messages import (
    IMAGE_PARTS,
    TEXT_PARTS,
    TOKENS_PER_TURN,
    ContentPart,
    decode_messages,
)

TOOL_FIELDS = ("tools", "functions")
TOKENS_PER_IMAGE = 800
MOST_TOKENS = 2**31 - 1
BYTES_PER_TOKEN = 4
EMPTY = (b"null", b"[]", b"{}")


class ResponseFormat(msgspec.Struct):
    type: str = "text"


_format = msgspec.json.Decoder(ResponseFormat | None)
_limit = msgspec.json.Decoder(int | None)
_prompts = msgspec.json.Decoder(str | list[Any])


def parse_chat_query(fields: Mapping[str, msgspec.Raw]) -> Query:
    """The query in the body of a chat completion.

    Raises:
        InvalidField: `messages` is missing, empty or malformed; `param` says where.
    """
    raw = fields.get("messages")
    if raw is None:
        raise InvalidField("'messages' is missing", param="messages")
    try:
        messages = decode_messages(raw)
    except msgspec.MsgspecError as error:
        raise _refusal(error, "messages") from None
    if not messages:
        raise InvalidField("'messages' is empty: there is nothing to answer", param="messages")
    texts: list[str] = []
    turns: list[str] = []
    n_images = 0
    for message in messages:
        content = message.content
        text, images = (content, 0) if isinstance(content, str) else _read_parts(content)
        texts.append(text)
        n_images += images
        if message.role == "user" and (ask := strip_noise(text)):
            turns.append(ask)
    if not turns:  # no user turn has text: take the last text of any role
        turns = [text for text in texts if text][-1:]
    # A lone turn is its own text, so that what was learned offline holds online.
    # One text for all of a conversation, because the predictors were fitted on single prompts.
    query = query_of(turns[0] if len(turns) == 1 else build_routing_text(turns))
    # Tool descriptions are sent with every request, and fill the window as text does.
    n_tool_bytes = sum(len(bytes(fields[name])) for name in TOOL_FIELDS if name in fields)
    extra = TOKENS_PER_IMAGE * n_images + n_tool_bytes // BYTES_PER_TOKEN
    if query.text is not texts[0] or len(texts) > 1:
        whole = sum(map(estimate_tokens, texts)) + TOKENS_PER_TURN * (len(texts) - 1)
        extra += whole - query.n_input_tokens
    return _add_requirements(query, fields, extra, n_images > 0)


def parse_completion_query(fields: Mapping[str, msgspec.Raw]) -> Query:
    """The query in the body of a plain completion: its prompt, the first where there are several.

    Raises:
        InvalidField: `prompt` is missing or malformed.
    """
    texts, n_ids = _texts(fields, "prompt")
    return _add_requirements(query_of(texts[0]), fields, n_ids + sum(map(estimate_tokens, texts[1:])), False)


def _read_parts(content: list[ContentPart] | None) -> tuple[str, int]:
    """The text of a message's parts, and how many of them are pictures."""
    if not content:
        return "", 0
    texts = [part.text for part in content if part.text and part.type in TEXT_PARTS]
    return "\n".join(texts), sum(part.type in IMAGE_PARTS for part in content)


def _add_requirements(
    query: Query, fields: Mapping[str, msgspec.Raw], extra_tokens: int, has_images: bool
) -> Query:
    has_tools = any(name in fields and bytes(fields[name]) not in EMPTY for name in TOOL_FIELDS)
    wants_json = "response_format" in fields and _wants_json(fields)
    limit = _parse_output_limit(fields)
    if not (extra_tokens or has_images or has_tools or wants_json or limit is not None):
        return query
    return replace(
        query,
        n_input_tokens=query.n_input_tokens + extra_tokens,
        max_output_tokens=limit,
        has_images=has_images,
        has_tools=has_tools,
        wants_json=wants_json,
    )


def _wants_json(fields: Mapping[str, msgspec.Raw]) -> bool:
    wish = _decode(_format, fields, "response_format")
    return wish is not None and wish.type in ("json_object", "json_schema")


def _parse_output_limit(fields: Mapping[str, msgspec.Raw]) -> int | None:
    # OpenAI's newer name first; where both are sent its models follow the newer one.
    for name in ("max_completion_tokens", "max_tokens"):
        if name in fields and (limit := _decode(_limit, fields, name)) is not None:
            if limit < 0:
                raise InvalidField(f"'{name}' must not be negative", param=name)
            if limit > MOST_TOKENS:
                raise InvalidField(f"'{name}' must not be more than {MOST_TOKENS}", param=name)
            return int(limit)
    return None


def _texts(fields: Mapping[str, msgspec.Raw], name: str) -> tuple[list[str], int]:
    """The texts of a field that may hold one, several, or token ids; and how many ids there are."""
    if name not in fields:
        raise InvalidField(f"'{name}' is missing", param=name)
    value = _decode(_prompts, fields, name)
    items: list[Any] = [value] if isinstance(value, str) else value
    if not items:
        raise InvalidField(f"'{name}' is empty", param=name)
    kinds = set(map(type, items))
    if kinds == {str}:
        return items, 0
    if kinds == {int} or kinds == {list}:
        return [""], sum(len(item) for item in items) if kinds == {list} else len(items)
    raise InvalidField(f"'{name}' must be text, a list of texts, or token ids", param=name)


def _decode(decoder: msgspec.json.Decoder[Any], fields: Mapping[str, msgspec.Raw], name: str) -> Any:
    try:
        return decoder.decode(fields[name])
    except msgspec.MsgspecError as error:
        raise _refusal(error, name) from None


def _refusal(error: msgspec.MsgspecError, name: str) -> InvalidField:
    """The decoder's complaint, with its place spelt from the body's root: `messages[0].content`."""
    what, _, where = str(error).partition(" - at `$")
    param = name + where.rstrip("`")
    return InvalidField(f"{param}: {what[0].lower()}{what[1:].replace('`', '')}", param=param)


NOISE_TAGS = (
    "system-reminder",
    "system_reminder",
    "environment_details",
    "environment_context",
    "user_instructions",
    "user_info",
    "project_layout",
    "git_status",
    "open_and_recently_viewed_files",
    "attached_files",
    "current_file",
    "additional_data",
    "rules",
    "tool_result",
    "tool_response",
    "tool_output",
    "function_results",
    "function_result",
    "command-name",
    "command-message",
    "command-args",
    "command-output",
    "local-command-stdout",
    "local-command-stderr",
    "local-command-caveat",
    "bash-input",
    "bash-stdout",
    "bash-stderr",
    "ide_opened_file",
    "ide_selection",
    "new-diagnostics",
)
_OPENING = re.compile(rf"<({'|'.join(map(re.escape, NOISE_TAGS))})(?:\s[^<>]{{0,200}})?>")
_TOOL_OUTPUT = re.compile(
    r"\[[\w-]{1,60}(?: for '[^\n]{0,300}')?\] Result:|EXECUTION RESULT of \[|OBSERVATION:\n"
)

CONTEXT_CHARS = 480
"""At most so much of the earlier turns stands beside the last one."""
SHORT_TURN_CHARS = 80
"""A last turn below this ("commit it") says little by itself and gets the whole context."""
GAP = "\n\n"


def strip_noise(text: str) -> str:
    """The turn without pasted noise; a turn without noise comes back as it is, a tool's output as nothing."""
    # Some agents send a tool's output as a user turn of its own: no part of it is a person's request.
    if _TOOL_OUTPUT.match(text):
        return ""
    return _without_tags(text) if "<" in text else text


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


def _without_tags(text: str) -> str:
    """Drop each element of `NOISE_TAGS`; one that is never closed stays. Linear in the text's length."""
    kept: list[str] = []
    end = 0
    unclosed: set[str] = set()
    for opening in _OPENING.finditer(text):
        tag = opening[1]
        if opening.start() < end or tag in unclosed:
            continue
        # Plain search keeps this linear; a regex over nested tags would not be.
        closing = text.find(f"</{tag}>", opening.end())
        if closing < 0:
            unclosed.add(tag)
            continue
        kept.append(text[end : opening.start()])
        end = closing + len(tag) + 3
    return "".join((*kept, text[end:])).strip() if end else text
