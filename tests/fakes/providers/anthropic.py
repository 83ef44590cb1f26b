"""Anthropic's messages API (`POST /v1/messages`)."""

import json
from typing import Any

from .server import ARGUMENTS, CALL_ID, JSON_TEXT, KEY, Request, Response, find_command

FIELDS = frozenset(
    """
    cache_control container context_management inference_geo max_tokens messages metadata model
    output_config output_format service_tier speed stop_sequences stream system temperature
    thinking tool_choice tools top_k top_p
""".split()  # noqa: SIM905 (a list of words reads better)
)
KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    429: "rate_limit_error",
    500: "api_error",
    529: "overloaded_error",
}
USAGE = {
    "input_tokens": 36,
    "cache_read_input_tokens": 64,
    "cache_creation_input_tokens": 0,
    "output_tokens": 20,
}


class AnthropicRules:
    """What the messages API takes and answers."""

    def answer(self, request: Request) -> Response:
        refusal = (
            self._check_access(request) or self._check_fields(request) or self._check_messages(request.body)
        )
        refusal = refusal or self._fail_if_asked(request.body)
        if refusal is None and request.path.endswith("/count_tokens"):
            return Response.of_json({"input_tokens": 2095})
        return refusal or self._complete(request.body)

    def _check_access(self, request: Request) -> Response | None:
        if request.path not in ("/v1/messages", "/v1/messages/count_tokens"):
            return refuse(404, "Not Found")
        if request.headers.get("x-api-key") != KEY:
            return refuse(401, "invalid x-api-key")
        if "anthropic-version" not in request.headers:
            return refuse(400, "anthropic-version: header is required")
        return None

    def _check_fields(self, request: Request) -> Response | None:
        body = request.body
        counts = request.path.endswith("/count_tokens")
        for name in ("model", "max_tokens", "messages"):
            if name not in body and not (counts and name == "max_tokens"):
                return refuse(400, f"{name}: Field required")
        for name in body:
            if name not in FIELDS:
                return refuse(400, f"{name}: Extra inputs are not permitted")
        if not 0 <= body.get("temperature", 1) <= 1:
            return refuse(400, "temperature: range: 0..1")
        thinks = body.get("thinking", {}).get("type") == "enabled"
        if thinks and not 1024 <= body["thinking"]["budget_tokens"] < body["max_tokens"]:
            return refuse(400, "`max_tokens` must be greater than `thinking.budget_tokens`")
        if thinks and body.get("temperature", 1) != 1:
            return refuse(400, "`temperature` may only be set to 1 when thinking is enabled")
        if "output_format" in body and "structured-outputs" not in request.headers.get("anthropic-beta", ""):
            return refuse(400, "output_format: Extra inputs are not permitted")
        for n, tool in enumerate(body.get("tools", ())):
            is_own = tool.get("type", "custom") == "custom"  # others have a schema that Anthropic knows
            if "name" not in tool or (is_own and tool.get("input_schema", {}).get("type") != "object"):
                return refuse(400, f"tools.{n}.custom.input_schema: Field required")
        return None

    def _check_messages(self, body: dict[str, Any]) -> Response | None:
        for n, message in enumerate(body["messages"]):
            if message["role"] not in ("user", "assistant"):
                return refuse(400, f"messages.{n}.role: Input should be 'user' or 'assistant'")
            if n == 0 and message["role"] != "user":
                return refuse(400, 'messages: first message must use the "user" role')
            for block in message["content"] if isinstance(message["content"], list) else ():
                source = block.get("source", {})
                whole = source.get("type") == "url" or (
                    source.get("media_type", "").startswith("image/") and source.get("data")
                )
                if block["type"] == "image" and not whole:
                    return refuse(400, f"messages.{n}.content.0.image.source: Field required")
                if block["type"] == "thinking" and block.get("signature") != "c2ln":
                    return refuse(400, f"messages.{n}.content.0: Invalid `signature` in `thinking` block")
                if block["type"] not in ("text", "image", "tool_use", "tool_result", "document", "thinking"):
                    return refuse(400, f"messages.{n}.content.0: Input tag '{block['type']}' found")
        return None

    def _fail_if_asked(self, body: dict[str, Any]) -> Response | None:
        command = find_command(json.dumps(body["messages"]))
        if command == "too long":
            return refuse(400, "prompt is too long: 210000 tokens > 200000 maximum")
        if command == "in the stream":
            return self._break_stream()
        if command == "429":
            return refuse(429, "This request would exceed your rate limit", retry_after="7")
        return (
            refuse(int(command), "Overloaded" if command == "529" else "Internal server error")
            if command
            else None
        )

    def _break_stream(self) -> Response:
        """A 200 whose first event after the start is an error."""
        started = {"type": "message", "role": "assistant", "content": [], "usage": USAGE}
        events = [
            {"type": "message_start", "message": {"id": "msg_1", "model": "claude", **started}},
            {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
        ]
        parts = [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events]
        return Response(200, parts, "text/event-stream")

    def _complete(self, body: dict[str, Any]) -> Response:
        blocks, end = _blocks(body)
        message = {"id": "msg_1", "type": "message", "role": "assistant", "model": body["model"]}
        if not body.get("stream"):
            return Response.of_json(
                {**message, "content": blocks, "stop_reason": end, "stop_sequence": None, "usage": USAGE}
            )
        started = {**message, "content": [], "stop_reason": None, "usage": {**USAGE, "output_tokens": 1}}
        events: list[dict[str, Any]] = [{"type": "message_start", "message": started}, {"type": "ping"}]
        for n, block in enumerate(blocks):
            events += _stream_block(n, block)
        events.append(
            {"type": "message_delta", "delta": {"stop_reason": end}, "usage": {"output_tokens": 20}}
        )
        events.append({"type": "message_stop"})
        parts = [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events]
        return Response(200, parts, "text/event-stream")


def _blocks(body: dict[str, Any]) -> tuple[list[dict[str, Any]], str]:
    """The content that is answered, and why it ends."""
    blocks: list[dict[str, Any]] = []
    if body.get("thinking", {}).get("type") in ("enabled", "adaptive"):
        blocks.append({"type": "thinking", "thinking": "Hm.", "signature": "c2ln"})
    if body.get("tools"):
        tool = body["tools"][0]
        given = json.loads(JSON_TEXT) if tool["name"] == "json_tool_call" else ARGUMENTS
        return [
            *blocks,
            {"type": "tool_use", "id": CALL_ID, "name": tool["name"], "input": given},
        ], "tool_use"
    text = "Hello from afar."
    if "output_format" in body or "format" in body.get("output_config", {}):
        text = JSON_TEXT
    elif '"type": "image"' in json.dumps(body["messages"]):
        text = "I see a picture."
    return [*blocks, {"type": "text", "text": text}], "end_turn"


def _stream_block(n: int, block: dict[str, Any]) -> list[dict[str, Any]]:
    kind, empty = block["type"], dict(block)
    if kind == "tool_use":
        text = json.dumps(block["input"])
        empty["input"] = {}
        deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in (text[:6], text[6:])]
    elif kind == "thinking":
        empty |= {"thinking": "", "signature": ""}
        deltas = [
            {"type": "thinking_delta", "thinking": "Hm."},
            {"type": "signature_delta", "signature": "c2ln"},
        ]
    else:
        empty["text"] = ""
        deltas = [{"type": "text_delta", "text": piece} for piece in (block["text"][:5], block["text"][5:])]
    start = {"type": "content_block_start", "index": n, "content_block": empty}
    said = [{"type": "content_block_delta", "index": n, "delta": delta} for delta in deltas]
    return [start, *said, {"type": "content_block_stop", "index": n}]


def refuse(status: int, message: str, **headers: str) -> Response:
    error = {"type": KINDS.get(status, "not_found_error"), "message": message}
    return Response.of_json({"type": "error", "error": error}, status, **headers)


ANTHROPIC = AnthropicRules()
