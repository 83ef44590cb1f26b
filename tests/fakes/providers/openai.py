"""OpenAI's chat completions, and a table of what others who speak its protocol refuse."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from .server import ARGUMENTS, CALL_ID, JSON_TEXT, KEY, Request, Response, find_command

CHAT_FIELDS = frozenset(
    """
    audio frequency_penalty function_call functions logit_bias logprobs max_completion_tokens
    max_tokens messages metadata modalities model n parallel_tool_calls prediction
    presence_penalty prompt_cache_key reasoning_effort response_format safety_identifier seed
    service_tier stop store stream stream_options temperature tool_choice tools top_logprobs
    top_p user verbosity web_search_options
""".split()  # noqa: SIM905 (a list of words reads better)
)
MISTRAL_FIELDS = frozenset(
    """
    frequency_penalty max_tokens messages metadata model n parallel_tool_calls prediction
    presence_penalty prompt_mode random_seed response_format safe_prompt stop stream
    stream_options temperature tool_choice tools top_p
""".split()  # noqa: SIM905 (a list of words reads better)
)
ROLES = frozenset({"developer", "system", "user", "assistant", "tool", "function"})
USAGE = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
DETAILS = {
    "prompt_tokens_details": {"cached_tokens": 64},
    "completion_tokens_details": {"reasoning_tokens": 12},
}
ErrorForm = Literal["openai", "mistral", "text", "deepseek"]


@dataclass(frozen=True)
class OpenAIRules:
    """What one provider of OpenAI's protocol takes.

    known: the fields it knows; None ignores others.
    refused: a field to the error that names it.
    only: the one value that a field may have.
    reasoning: the name under which its answers think aloud.
    versioned: the query must name a version of the API.
    waits_aloud: comments keep its streams alive.
    filters: its streams begin with a chunk without choices, which tells what was filtered.
    """

    path: str = "/v1/chat/completions"
    key_header: str = "authorization"
    needs_key: bool = True
    known: frozenset[str] | None = None
    refused: Mapping[str, str] = field(default_factory=dict)
    only: Mapping[str, Any] = field(default_factory=dict)
    formats: frozenset[str] = frozenset({"text", "json_object", "json_schema"})
    max_stop: int | None = None
    error_form: ErrorForm = "openai"
    reasoning: str | None = None
    usage: Mapping[str, Any] = field(default_factory=lambda: {**USAGE, **DETAILS})
    versioned: bool = False
    waits_aloud: bool = False
    filters: bool = False

    def answer(self, request: Request) -> Response:
        refusal = self._check_access(request) or self._check_fields(request.body)
        return refusal or self._fail_if_asked(request) or self._complete(request.body)

    def _check_access(self, request: Request) -> Response | None:
        if not re.fullmatch(self.path, request.path):
            return self.refuse(404, f"Unknown request URL: POST {request.path}", code="unknown_url")
        if self.versioned and not re.fullmatch(
            r"\d{4}-\d\d-\d\d(-preview)?", request.query.get("api-version", "")
        ):
            return self.refuse(404, "Resource not found", code="404")
        key = request.headers.get(self.key_header, "").removeprefix("Bearer ")
        if self.needs_key and key != KEY:
            return self.refuse(401, f"Incorrect API key provided: {key[:6]}***.", code="invalid_api_key")
        return None

    def _check_fields(self, body: dict[str, Any]) -> Response | None:
        for name in ("model", "messages"):
            if name not in body and not self.versioned:
                return self.refuse(
                    400, f"Missing required parameter: '{name}'.", name, "missing_required_parameter"
                )
        for name, value in body.items():
            if name in self.refused:
                return self.refuse(400, self.refused[name], name, "unsupported_parameter")
            if self.known is not None and name not in self.known:
                return self._refuse_unknown(name, value)
            if name in self.only and value != self.only[name]:
                said = f"Unsupported value: '{name}' does not support {value} with this model."
                said += f" Only the default ({self.only[name]}) value is supported."
                return self.refuse(400, said, name, "unsupported_value")
        stop = body.get("stop")
        if self.max_stop and isinstance(stop, list) and len(stop) > self.max_stop:
            said = f"Invalid 'stop': array too long. Expected an array with maximum length {self.max_stop}."
            return self.refuse(400, said, "stop", "array_above_max_length")
        for name in ("max_tokens", "max_completion_tokens"):
            if name in body and (not isinstance(body[name], int) or body[name] < 1):
                return self.refuse(
                    400, f"Invalid '{name}': integer below minimum value.", name, "integer_below_min_value"
                )
        return self._check_format(body) or self._check_messages(body["messages"]) or self._check_tools(body)

    def _refuse_unknown(self, name: str, value: Any) -> Response:
        if self.error_form != "mistral":
            return self.refuse(400, f"Unrecognized request argument supplied: {name}", None, None)
        fault = {
            "type": "extra_forbidden",
            "loc": ["body", name],
            "msg": "Extra inputs are not permitted",
            "input": value,
        }
        said = {
            "object": "error",
            "message": {"detail": [fault]},
            "type": "invalid_request_error",
            "param": None,
        }
        return Response.of_json({**said, "code": None}, 422)

    def _check_format(self, body: dict[str, Any]) -> Response | None:
        asked = body.get("response_format") or {"type": "text"}
        kind = asked.get("type")
        if kind not in self.formats:
            allowed = " or ".join(f"'{name}'" for name in sorted(self.formats))
            if self.error_form == "deepseek":
                return self.refuse(400, "This response_format type is unavailable now")
            return self.refuse(400, f"'response_format.type' must be {allowed}")
        if kind == "json_schema" and "schema" not in asked.get("json_schema", {}):
            return self.refuse(400, "Missing required parameter: 'response_format.json_schema.schema'.")
        if kind == "json_object" and "json" not in json.dumps(body["messages"]).lower():
            return self.refuse(
                400,
                "'messages' must contain the word 'json' in some form, to use 'response_format'"
                " of type 'json_object'.",
                "messages",
            )
        return None

    def _check_messages(self, messages: list[dict[str, Any]]) -> Response | None:
        for n, message in enumerate(messages):
            if message.get("role") not in ROLES:
                return self.refuse(
                    400, f"Invalid value: '{message.get('role')}'.", f"messages[{n}].role", "invalid_value"
                )
            content = message.get("content")
            for part in content if isinstance(content, list) else ():
                url = (part.get("image_url") or {}).get("url", "")
                if part["type"] == "image_url" and not url.startswith(("data:image/", "https://")):
                    return self.refuse(400, "Invalid image URL.", f"messages[{n}]", "invalid_image_url")
        return None

    def _check_tools(self, body: dict[str, Any]) -> Response | None:
        if "tool_choice" in body and not body.get("tools"):
            return self.refuse(
                400, "'tool_choice' is only allowed when 'tools' are specified.", "tool_choice"
            )
        for n, tool in enumerate(body.get("tools") or ()):
            if tool.get("type") != "function" or not tool.get("function", {}).get("name"):
                return self.refuse(
                    400, f"Missing required parameter: 'tools[{n}].function.name'.", f"tools[{n}]"
                )
        return None

    def _fail_if_asked(self, request: Request) -> Response | None:
        command = find_command(json.dumps(request.body["messages"]))
        if command == "too long":
            said = "This model's maximum context length is 8192 tokens. You sent 9000 tokens."
            return self.refuse(
                400,
                f"{said} Please reduce the length of the messages.",
                "messages",
                "context_length_exceeded",
            )
        if command == "429":
            return self.refuse(
                429, "Rate limit reached for requests", code="rate_limit_exceeded", retry_after="7"
            )
        known = command is not None and command.isdigit()
        return self.refuse(int(command), "The server had an error") if command and known else None

    def refuse(
        self, status: int, message: str, param: str | None = None, code: str | None = None, **headers: str
    ) -> Response:
        """An error in the provider's own form."""
        if self.error_form == "text":
            return Response.of_json({"error": message}, status, **headers)
        kind = {401: "authentication_error", 429: "rate_limit_error"}.get(status, "invalid_request_error")
        if self.error_form == "mistral":
            kind = kind if status < 500 else "internal_server_error"
            said: dict[str, Any] = {
                "object": "error",
                "message": message,
                "type": kind,
                "param": None,
                "code": "1",
            }
            return Response.of_json(said, status, **headers)
        error = {
            "message": message,
            "type": kind if status < 500 else "server_error",
            "param": param,
            "code": code,
        }
        return Response.of_json({"error": error}, status, **headers)

    def _complete(self, body: dict[str, Any]) -> Response:
        head = {"id": "chatcmpl-1", "created": 1, "model": body.get("model", "deployed")}
        choices: list[dict[str, Any]] = [
            {
                "index": n,
                "message": self._message(body),
                "finish_reason": "tool_calls" if body.get("tools") else "stop",
            }
            for n in range(body.get("n") or 1)
        ]
        if not body.get("stream"):
            return Response.of_json(
                {**head, "object": "chat.completion", "choices": choices, "usage": self.usage}
            )
        head["object"] = "chat.completion.chunk"
        deltas = _deltas(choices[0]["message"], self.reasoning)
        chunks = [
            {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas
        ]
        end = [{"index": 0, "delta": {}, "finish_reason": choices[0]["finish_reason"]}]
        chunks.append({**head, "choices": end})
        if (body.get("stream_options") or {}).get("include_usage"):
            chunks.append({**head, "choices": [], "usage": self.usage})
        if self.filters:
            chunks.insert(0, {**head, "choices": [], "prompt_filter_results": [{"prompt_index": 0}]})
        events = Response.of_events(*chunks)
        if not self.waits_aloud:
            return events
        return replace(events, parts=[b": OPENROUTER PROCESSING\n\n", *events.parts])

    def _message(self, body: dict[str, Any]) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": reply_text(body)}
        if body.get("tools"):
            name = body["tools"][0]["function"]["name"]
            function = {"name": name, "arguments": json.dumps(ARGUMENTS)}
            message |= {
                "content": None,
                "tool_calls": [{"id": CALL_ID, "type": "function", "function": function}],
            }
        return {**message, self.reasoning: "Hm."} if self.reasoning else message


def reply_text(body: dict[str, Any]) -> str:
    """An answer that shows what was understood."""
    if (body.get("response_format") or {}).get("type", "text") != "text":
        return JSON_TEXT
    return "I see a picture." if "image_url" in json.dumps(body["messages"]) else "Hello from afar."


def _deltas(message: dict[str, Any], reasoning: str | None) -> list[dict[str, Any]]:
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    if reasoning:
        deltas.append({reasoning: message[reasoning]})
    for call in message.get("tool_calls", ()):
        text = call["function"]["arguments"]
        first = {**call, "index": 0, "function": {"name": call["function"]["name"], "arguments": ""}}
        deltas.append({"tool_calls": [first]})
        pieces = (text[:5], text[5:])
        deltas += [{"tool_calls": [{"index": 0, "function": {"arguments": piece}}]} for piece in pieces]
    words = (message["content"] or "").split(" ")
    return deltas + [
        {"content": word + (" " if n < len(words) - 1 else "")} for n, word in enumerate(words) if word
    ]


def _refusals(*names: str) -> dict[str, str]:
    return {name: f"Unsupported parameter: '{name}' is not supported with this model." for name in names}


OPENAI_LIKE: dict[str, OpenAIRules] = {
    "openai/gpt-4o-mini": OpenAIRules(known=CHAT_FIELDS, max_stop=4),
    "openai/gpt-5-mini": OpenAIRules(
        known=CHAT_FIELDS,
        refused={
            **_refusals("stop", "logprobs", "top_logprobs", "logit_bias"),
            "max_tokens": "Unsupported parameter: 'max_tokens' is not supported with this model."
            " Use 'max_completion_tokens' instead.",
        },
        only={"temperature": 1, "top_p": 1, "presence_penalty": 0, "frequency_penalty": 0},
    ),
    "groq/llama-3.3-70b-versatile": OpenAIRules(
        path="/openai/v1/chat/completions",
        refused={
            name: f"`{name}` is not supported with this model"
            for name in ("logprobs", "top_logprobs", "logit_bias")
        },
        only={"n": 1},
        max_stop=4,
    ),
    "deepseek/deepseek-reasoner": OpenAIRules(
        refused={name: f"{name} is not supported by this model" for name in ("logprobs", "top_logprobs")},
        formats=frozenset({"text", "json_object"}),
        error_form="deepseek",
        reasoning="reasoning_content",
        max_stop=16,
        usage={
            **USAGE,
            **DETAILS,
            "prompt_cache_hit_tokens": 64,
            "prompt_cache_miss_tokens": 36,
        },
    ),
    "mistral/mistral-small-latest": OpenAIRules(known=MISTRAL_FIELDS, error_form="mistral", usage=USAGE),
    "openrouter/anthropic/claude-sonnet-4.5": OpenAIRules(
        path="/api/v1/chat/completions", reasoning="reasoning", waits_aloud=True
    ),
    "hosted_vllm/qwen3-8b": OpenAIRules(needs_key=False, reasoning="reasoning_content"),
    "lm_studio/qwen3-8b": OpenAIRules(
        needs_key=False, formats=frozenset({"text", "json_schema"}), error_form="text", usage=USAGE
    ),
    "llamafile/gemma-3-4b": OpenAIRules(needs_key=False, usage=USAGE, only={"n": 1}),
    "ollama/llama3.2": OpenAIRules(needs_key=False, usage=USAGE, reasoning="reasoning"),
}
"""By `provider/model` as an expert names it."""

AZURE = OpenAIRules(
    path=r"/openai/deployments/[\w.-]+/chat/completions",
    key_header="api-key",
    known=CHAT_FIELDS | {"data_sources"},
    versioned=True,
    filters=True,
    max_stop=4,
)
