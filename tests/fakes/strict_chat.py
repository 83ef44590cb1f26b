"""A chat server that keeps to the rules of OpenAI's reference, with answers from a script.

It refuses, with 400 and OpenAI's words, what api.openai.com refuses: fields that are not in the reference, a
result of a tool that answers no call, a call without its result, parts that a role does not have.
"""

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from gateway.testing import read_head, write_response

FIELDS = frozenset(
    {
        *("audio", "frequency_penalty", "function_call", "functions", "logit_bias", "logprobs"),
        *("max_completion_tokens", "max_tokens", "messages", "metadata", "modalities", "model", "n"),
        *("parallel_tool_calls", "prediction", "presence_penalty", "prompt_cache_key", "reasoning_effort"),
        *("response_format", "safety_identifier", "seed", "service_tier", "stop", "store", "stream"),
        *("stream_options", "temperature", "tool_choice", "tools", "top_logprobs", "top_p", "user"),
        *("verbosity", "web_search_options"),
    }
)
MESSAGE_FIELDS = {
    "system": {"role", "content", "name"},
    "developer": {"role", "content", "name"},
    "user": {"role", "content", "name"},
    "assistant": {"role", "content", "name", "refusal", "tool_calls", "function_call", "audio"},
    "tool": {"role", "content", "tool_call_id"},
}
PARTS = {
    "system": {"text"},
    "developer": {"text"},
    "user": {"text", "image_url", "input_audio", "file"},
    "assistant": {"text", "refusal"},
    "tool": {"text"},
}
PART_FIELDS = {
    "text": {"type", "text"},
    "image_url": {"type", "image_url"},
    "input_audio": {"type", "input_audio"},
    "file": {"type", "file"},
    "refusal": {"type", "refusal"},
}
PIECE_CHARS = 7


@dataclass
class ChatTurn:
    """What the script answers: text, calls of tools as (name, arguments), thinking; the server numbers it."""

    text: str = ""
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    thinking: str = ""
    finish: str = ""
    number: int = 1
    usage: dict[str, Any] | None = field(
        default_factory=lambda: {"prompt_tokens": 40, "completion_tokens": 9, "total_tokens": 49}
    )

    @property
    def finish_reason(self) -> str:
        return self.finish or ("tool_calls" if self.calls else "stop")


class DisallowedError(Exception):
    """A request that the reference does not allow."""


def check_body(body: dict[str, Any]) -> None:
    """Check a request as api.openai.com does.

    Raises:
        DisallowedError: it says why.
    """
    for name in body.keys() - FIELDS:
        raise DisallowedError(f"Unrecognized request argument supplied: {name}")
    if not body.get("messages"):
        raise DisallowedError("[] is too short - 'messages'")
    if len(body.get("user") or "") > 64:
        raise DisallowedError("Invalid 'user': string too long. Expected a string with maximum length 64")
    if "stream_options" in body and not body.get("stream"):
        raise DisallowedError("The 'stream_options' parameter is only allowed when 'stream' is enabled.")
    if "tools" not in body and {"tool_choice", "parallel_tool_calls"} & body.keys():
        raise DisallowedError("'tool_choice' is only allowed when 'tools' are specified.")
    for tool in body.get("tools", []):
        if tool.keys() != {"type", "function"} or tool["type"] != "function":
            raise DisallowedError(f"Invalid tool: {sorted(tool)}")
        for name in tool["function"].keys() - {"name", "description", "parameters", "strict"}:
            raise DisallowedError(f"Unknown parameter: 'tools[].function.{name}'")
    open_calls: list[str] = []
    for n, message in enumerate(body["messages"]):
        _check_message(n, message)
        if message["role"] == "tool":
            if message["tool_call_id"] not in open_calls:
                raise DisallowedError(
                    "messages with role 'tool' must be a response to a preceeding message with 'tool_calls'."
                )
            open_calls.remove(message["tool_call_id"])
            continue
        if open_calls:
            raise DisallowedError(
                "An assistant message with 'tool_calls' must be followed by tool messages responding to each "
                f"'tool_call_id'. The following tool_call_ids did not have response messages: {open_calls}"
            )
        open_calls = [call["id"] for call in message.get("tool_calls", [])]
    if open_calls:
        raise DisallowedError(f"The following tool_call_ids did not have response messages: {open_calls}")


def _check_message(n: int, message: dict[str, Any]) -> None:
    where = f"messages[{n}]"
    known = MESSAGE_FIELDS.get(message.get("role", ""))
    if known is None:
        raise DisallowedError(f"Invalid value: '{message.get('role')}'. '{where}.role'")
    for name in message.keys() - known:
        raise DisallowedError(f"Unknown parameter: '{where}.{name}'")
    content = message.get("content")
    if content is None and not (message["role"] == "assistant" and message.get("tool_calls")):
        raise DisallowedError(f"Invalid value for 'content': expected a string, got null. '{where}.content'")
    for part in content if isinstance(content, list) else []:
        if part.get("type") not in PARTS[message["role"]]:
            raise DisallowedError(f"Invalid value: '{part.get('type')}'. '{where}.content'")
        for name in part.keys() - PART_FIELDS[part["type"]]:
            raise DisallowedError(f"Unknown parameter: '{where}.content[].{name}'")
    for call in message.get("tool_calls", []):
        if call.keys() != {"id", "type", "function"} or call["function"].keys() != {"name", "arguments"}:
            raise DisallowedError(f"Unknown parameter: '{where}.tool_calls[]'")
        json.loads(call["function"]["arguments"])


Script = Callable[[dict[str, Any]], ChatTurn]


class StrictChat:
    """The server, as an asynchronous context manager.

    base_url: what goes into an expert's `api_base`
    calls: the decoded body of every request that was allowed; refused: why others were not
    left: how many clients closed their connection before the end of an answer
    pause_s: the pause after each chunk of a stream
    """

    def __init__(self, script: Script) -> None:
        self.base_url = ""
        self.calls: list[dict[str, Any]] = []
        self.refused: list[str] = []
        self.pause_s = 0.0
        self._script = script
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "StrictChat":
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.base_url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)

    def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                _, headers = await read_head(reader)
                body = json.loads(await reader.readexactly(int(headers.get("content-length", 0))))
                await self._answer(body, writer)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _answer(self, body: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        try:
            check_body(body)
        except DisallowedError as error:
            self.refused.append(str(error))
            said = {"message": str(error), "type": "invalid_request_error", "param": None, "code": None}
            write_response(writer, 400, json.dumps({"error": said}).encode())
            return
        self.calls.append(body)
        turn = self._script(body)
        turn.number = len(self.calls)
        if not body.get("stream"):
            write_response(writer, 200, json.dumps(build_chat_answer(body["model"], turn)).encode())
            return
        head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        writer.write(head.encode())
        wants_usage = (body.get("stream_options") or {}).get("include_usage")
        for chunk in build_chat_chunks(body["model"], turn, bool(wants_usage)):
            data = b"data: " + json.dumps(chunk).encode() + b"\n\n"
            writer.write(b"%x\r\n%s\r\n" % (len(data), data))
            await writer.drain()
            await asyncio.sleep(self.pause_s)
        done = b"data: [DONE]\n\n"
        writer.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(done), done))


def list_calls(turn: ChatTurn) -> list[dict[str, Any]]:
    """The calls of a turn, as a message has them."""
    return [
        {
            "id": f"call_{turn.number}_{n}",
            "type": "function",
            "function": {"name": name, "arguments": json.dumps(arguments)},
        }
        for n, (name, arguments) in enumerate(turn.calls)
    ]


def build_chat_answer(model: str, turn: ChatTurn) -> dict[str, Any]:
    """A whole answer."""
    message: dict[str, Any] = {"role": "assistant", "content": turn.text or None, "refusal": None}
    if turn.thinking:
        message["reasoning_content"] = turn.thinking
    if turn.calls:
        message["tool_calls"] = list_calls(turn)
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": turn.finish_reason}
    answer = {"id": f"chatcmpl-{turn.number}", "object": "chat.completion", "created": 1, "model": model}
    return {**answer, "choices": [choice], "usage": turn.usage}


def build_chat_chunks(model: str, turn: ChatTurn, wants_usage: bool) -> Iterator[dict[str, Any]]:
    """The chunks of the same answer streamed, as OpenAI cuts it."""
    head = {"id": f"chatcmpl-{turn.number}", "object": "chat.completion.chunk", "created": 1, "model": model}

    def chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return {**head, "choices": [choice], **({"usage": None} if wants_usage else {})}

    yield chunk({"role": "assistant", "content": "", "refusal": None})
    for piece in _cut(turn.thinking):
        yield chunk({"reasoning_content": piece})
    for piece in _cut(turn.text):
        yield chunk({"content": piece})
    for index, call in enumerate(list_calls(turn)):
        function = call["function"]
        begin = {**call, "index": index, "function": {"name": function["name"], "arguments": ""}}
        yield chunk({"tool_calls": [begin]})
        for piece in _cut(function["arguments"]):
            yield chunk({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
    yield chunk({}, turn.finish_reason)
    if wants_usage:
        yield {**head, "choices": [], "usage": turn.usage}


def _cut(text: str) -> Iterator[str]:
    yield from (text[start : start + PIECE_CHARS] for start in range(0, len(text), PIECE_CHARS))
