"""A chat's answer as a response of the Responses API: whole, or as its events."""

import json
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from msgspec import Raw

from ..errors import ExpertFailed
from .answers import Usage
from .conversion import MAX_CALLS, GrowingText
from .events import EVENT_END, encode_event, event_payload, read_usage
from .failures import decode_leniently, without_nan
from .messages import BAD_JSON, encode, has_many_parts
from .responses import REASONING_FIELDS, ResponseShape
from .responses_tools import ToolName

ITEM_PREFIX = {field: prefix for prefix, field in REASONING_FIELDS.items()}
INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""Why an answer is incomplete, by its finish reason."""
MAX_ITEMS = 1024
"""Items of a response, and parts of one, that alternate: each piece could begin another."""
FAILURE_CODE = "server_error"
"""Of a response whose expert failed. Clients know a short list of codes, and try again on this one."""


class AnswerFunction(msgspec.Struct):
    """What a call of a tool says, or a piece of it."""

    name: Any = None
    arguments: Any = None


class AnswerCall(msgspec.Struct):
    """A call of a tool, or a piece of one."""

    index: Any = None
    id: Any = None
    function: AnswerFunction = msgspec.field(default_factory=AnswerFunction)


class AnswerDelta(msgspec.Struct):
    """A message, or a piece of one."""

    content: Any = None
    refusal: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    annotations: Any = None
    tool_calls: list[AnswerCall] | None = None


class AnswerPart(msgspec.Struct):
    """A choice, whole (`message`) or a piece of it (`delta`)."""

    index: Any = 0
    message: AnswerDelta | None = None
    delta: AnswerDelta | None = None
    finish_reason: Any = None
    logprobs: Raw = Raw()


class AnswerChunk(msgspec.Struct):
    """A chat's answer, or a chunk of its stream."""

    model: Any = None
    choices: list[AnswerPart] | None = None
    usage: Raw = Raw()
    service_tier: Any = None
    error: Any = None
    thalamus: Raw = Raw()


class ChunkLogprobs(msgspec.Struct):
    """The log probabilities of a choice."""

    content: list[dict[str, Any]] | None = None


_chunk = msgspec.json.Decoder(AnswerChunk)
_logprobs = msgspec.json.Decoder(ChunkLogprobs | None)


def build_usage(usage: Usage | None) -> dict[str, object] | None:
    """The counts of a chat as the Responses API names them; None where the expert gave none."""
    if usage is None or usage.prompt_tokens is None:
        return None
    n_output = usage.output_tokens or 0
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cached_tokens,
            "cache_write_tokens": usage.written_tokens,
        },
        "output_tokens": n_output,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + n_output,
    }


@dataclass(slots=True)
class _GrowingItem:
    """An item of the output that still grows."""

    id: str
    place: int
    """Its index in the output."""
    kind: str
    prefix: str = ""
    text: GrowingText = field(default_factory=GrowingText)
    parts: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[object] = field(default_factory=list)
    logprobs: list[object] = field(default_factory=list)


@dataclass(slots=True)
class _GrowingCall:
    """A call of a tool that still grows."""

    index: Any
    id: str = ""
    name: str = ""
    text: GrowingText = field(default_factory=GrowingText)
    waiting: GrowingText = field(default_factory=GrowingText)
    """What came before its name."""
    tool: ToolName | None = None
    item_id: str = ""
    place: int = 0
    reader: "CustomInputReader | None" = None


class ResponseBuilder:
    """Builds one response from a chat's answer.

    `build` takes a whole answer. For a stream: `begin`, `feed` with its events as they come, and `finish`,
    which ends the output; `close` then gives the last event of the response.
    """

    def __init__(self, shape: ResponseShape, response_id: str) -> None:
        self.id = response_id
        self.output: list[dict[str, Any]] = []
        self.failure: dict[str, str] | None = None
        self._shape = shape
        self._created_at = int(time.time())
        self._model: object = shape.model
        self._usage: Usage | None = None
        self._tier: object = None
        self._finish: object = None
        self._facts: Raw | None = None
        self._n_events = 0
        self._n_items = 0
        self._item: _GrowingItem | None = None
        self._calls: list[_GrowingCall] = []

    # -- whole answers

    def build(self, body: bytes) -> dict[str, Any]:
        """The response that a whole answer stands for.

        Raises:
            DecodeError: it is no answer.
        """
        answer = _chunk.decode(without_nan(body))
        self._note(answer)
        for choice in (answer.choices or ())[:1]:
            self._add_delta(choice.message or AnswerDelta(), choice.logprobs, [])
            # After what came before the end: only what is cut by it is incomplete.
            self._finish = choice.finish_reason
        self._end_output([])
        return self.to_response()

    # -- streams

    def begin(self) -> bytes:
        """The first two events."""
        response = self._describe("in_progress")
        return self._event("response.created", response=response) + self._event(
            "response.in_progress", response=response
        )

    def feed(self, ready: bytes) -> bytes:
        """The events for whole events of a chat's stream."""
        said: list[bytes] = []
        start = 0
        for match in EVENT_END.finditer(ready):
            payload = event_payload(ready[start : match.end()])
            start = match.end()
            if not payload or payload == b"[DONE]":
                continue
            try:
                chunk = _chunk.decode(payload)
            except BAD_JSON:
                try:
                    chunk = _chunk.decode(without_nan(payload))
                except BAD_JSON:
                    continue  # the gateway has read it already, and found no answer in it
            self._note(chunk)
            for choice in chunk.choices or ():
                if choice.index:
                    continue  # a response has one answer
                self._finish = choice.finish_reason or self._finish
                if choice.delta is not None:
                    self._add_delta(choice.delta, choice.logprobs, said)
        return b"".join(said)

    def finish(self) -> bytes:
        """The events that end the output."""
        said: list[bytes] = []
        self._end_output(said)
        return b"".join(said)

    def close(self, response: dict[str, Any]) -> bytes:
        """The last event, with the whole response; before it `error` where the expert failed."""
        said = b""
        if self.failure is not None:
            said = self._event("error", **self.failure, param=None)
        return said + self._event(f"response.{response['status']}", response=response)

    def to_response(self) -> dict[str, Any]:
        """The response as it is now, at the end of its output."""
        if self.failure is not None:
            error = {"code": FAILURE_CODE, "message": self.failure["message"]}
            return self._describe("failed", error=error)
        reason = INCOMPLETE.get(str(self._finish))
        if reason is not None:
            return self._describe("incomplete", incomplete_details={"reason": reason})
        return self._describe("completed", completed_at=int(time.time()))

    def _describe(self, status: str, **more: object) -> dict[str, Any]:
        response = {
            "id": self.id,
            "object": "response",
            "created_at": self._created_at,
            "status": status,
            "background": False,
            "completed_at": None,
            "error": None,
            "incomplete_details": None,
            "model": self._model,
            "output": self.output,
            "service_tier": self._tier,
            "usage": None if status == "in_progress" else build_usage(self._usage),
            **self._shape.echo,
            **more,
        }
        if self._facts is not None:
            response["thalamus"] = self._facts
        return response

    def _note(self, chunk: AnswerChunk) -> None:
        """Keep what a chunk tells beside the answer."""
        if chunk.model is not None:
            self._model = chunk.model
        if chunk.usage:
            self._usage = read_usage(chunk.usage) or self._usage
        if chunk.service_tier is not None:
            self._tier = chunk.service_tier
        if chunk.thalamus:
            self._facts = chunk.thalamus
        if isinstance(chunk.error, dict):
            message = str(chunk.error.get("message") or "the expert failed")
            self.failure = {"code": str(chunk.error.get("code") or FAILURE_CODE), "message": message}

    def _event(self, kind: str, **fields: object) -> bytes:
        n, self._n_events = self._n_events, self._n_events + 1
        payload = encode({"type": kind, "sequence_number": n, **fields})
        return b"event: " + kind.encode() + b"\n" + encode_event(payload)

    # -- items

    def _add_delta(self, delta: AnswerDelta, logprobs: Raw, said: list[bytes]) -> None:
        for name in ("reasoning_content", "reasoning"):
            # Some say both: the same twice.
            if isinstance(text := getattr(delta, name), str) and text:
                self._add_text("reasoning", text, said, ITEM_PREFIX[name])
                break
        if delta.content:
            for kind, text in _read_content(delta.content):
                self._add_text(kind, text, said, ITEM_PREFIX[""])
        if logprobs and self._shape.wants_logprobs:
            self._add_logprobs(logprobs)
        if isinstance(delta.refusal, str) and delta.refusal:
            self._add_text("refusal", delta.refusal, said)
        if isinstance(delta.annotations, list):
            self._add_annotations(delta.annotations, said)
        for call in delta.tool_calls or ():
            self._add_call(call, said)

    def _open(self, kind: str, prefix: str, said: list[bytes]) -> _GrowingItem:
        self._close_item(said)
        item = self._item = _GrowingItem(self._make_id(prefix), len(self.output), kind, prefix)
        if kind == "reasoning":
            shell = {"id": item.id, "type": "reasoning", "summary": []}
        else:
            shell = {
                "id": item.id,
                "type": "message",
                "status": "in_progress",
                "role": "assistant",
                "content": [],
            }
        self.output.append(shell)
        said.append(self._event("response.output_item.added", output_index=item.place, item=shell))
        return item

    def _make_id(self, prefix: str) -> str:
        self._n_items += 1
        return f"{prefix}_{self.id.partition('_')[2]}{self._n_items:02x}"

    def _add_text(self, kind: str, text: str, said: list[bytes], prefix: str = "msg") -> None:
        """Add to the text of the item that grows, or begin the next item or part."""
        item = self._item
        if kind == "reasoning":
            if item is None or item.kind != "reasoning":
                if len(self.output) >= MAX_ITEMS:
                    return  # no model thinks anew so often: what it says counts
                item = self._open("reasoning", prefix, said)
                self._begin_part(item, self._reasoning_part, said)
        else:
            if item is None or item.kind != "message":
                item = self._open("message", "msg", said)
            part = "output_text" if kind == "text" else "refusal"
            if not item.parts or (item.parts[-1]["type"] != part and len(item.parts) < MAX_ITEMS):
                self._end_part(item, said)
                self._begin_part(item, part, said)
        item.text.append(text)
        part = item.parts[-1]["type"]
        where = {"item_id": item.id, "output_index": item.place, PART_INDEX[part]: len(item.parts) - 1}
        if part == "output_text":
            said.append(self._event("response.output_text.delta", **where, delta=text, logprobs=[]))
        else:
            said.append(self._event(f"response.{PART_EVENT[part]}.delta", **where, delta=text))

    @property
    def _reasoning_part(self) -> str:
        # An expert's reasoning is no summary; clients that ask for one show nothing else.
        return "summary_text" if self._shape.wants_summary else "reasoning_text"

    def _begin_part(self, item: _GrowingItem, kind: str, said: list[bytes]) -> None:
        part: dict[str, Any] = {"type": kind, ("refusal" if kind == "refusal" else "text"): ""}
        if kind == "output_text":
            part |= {"annotations": [], "logprobs": []}
        item.parts.append(part)
        where = {"item_id": item.id, "output_index": item.place, PART_INDEX[kind]: len(item.parts) - 1}
        said.append(self._event(f"response.{PART_SCOPE[kind]}.added", **where, part=part))

    def _end_part(self, item: _GrowingItem, said: list[bytes]) -> None:
        if not item.parts:
            return
        part = item.parts[-1]
        kind = part["type"]
        name = "refusal" if kind == "refusal" else "text"
        part[name] = text = "".join(item.text)
        item.text = GrowingText()
        where = {"item_id": item.id, "output_index": item.place, PART_INDEX[kind]: len(item.parts) - 1}
        done: dict[str, object] = {name: text}
        if kind == "output_text":
            part |= {"annotations": item.annotations, "logprobs": item.logprobs}
            item.annotations, item.logprobs = [], []
            done["logprobs"] = part["logprobs"]
        said.append(self._event(f"response.{PART_EVENT[kind]}.done", **where, **done))
        said.append(self._event(f"response.{PART_SCOPE[kind]}.done", **where, part=part))

    def _close_item(self, said: list[bytes]) -> None:
        item, self._item = self._item, None
        if item is None:
            return
        self._end_part(item, said)
        shell = self.output[item.place]
        if item.kind == "message":
            done = {**shell, "status": self._item_status, "content": item.parts}
        else:
            summary = item.parts if self._shape.wants_summary else []
            content = [] if self._shape.wants_summary else item.parts
            done = {**shell, "summary": summary, **({"content": content} if content else {})}
        self.output[item.place] = done
        said.append(self._event("response.output_item.done", output_index=item.place, item=done))

    @property
    def _item_status(self) -> str:
        is_cut = self.failure is not None or str(self._finish) in INCOMPLETE
        return "incomplete" if is_cut else "completed"

    def _add_logprobs(self, raw: Raw) -> None:
        try:
            found = _logprobs.decode(without_nan(bytes(raw)))
        except BAD_JSON:
            return
        if found is not None and found.content and self._item is not None:
            self._item.logprobs += found.content

    def _add_annotations(self, annotations: Sequence[Any], said: list[bytes]) -> None:
        """A chat nests what the Responses API keeps flat."""
        item = self._item
        if item is None or not item.parts or item.parts[-1]["type"] != "output_text":
            return
        for one in annotations:
            kind = one.get("type") if isinstance(one, dict) else None
            if not isinstance(kind, str) or not isinstance(one.get(kind), dict):
                continue
            flat = {"type": kind, **one[kind]}
            where = {"item_id": item.id, "output_index": item.place, "content_index": len(item.parts) - 1}
            number = len(item.annotations)
            item.annotations.append(flat)
            said.append(
                self._event(
                    "response.output_text.annotation.added", **where, annotation=flat, annotation_index=number
                )
            )

    # -- calls of tools

    def _add_call(self, part: AnswerCall, said: list[bytes]) -> None:
        call = self._find_call(part)
        if call is None:
            return
        function = part.function
        if isinstance(part.id, str) and part.id:
            call.id = call.id or part.id
        if isinstance(function.name, str) and function.name:
            call.name = call.name or function.name
        text = function.arguments
        if text is not None and not isinstance(text, str):
            text = encode(text).decode()  # some servers give the arguments themselves
        if call.tool is None:
            call.waiting.append(text or "")
            if not call.name:
                return
            self._open_call(call, said)
            text = "".join(call.waiting)
        if text:
            call.text.append(text)
            self._send_arguments(call, text, said)

    def _find_call(self, part: AnswerCall) -> _GrowingCall | None:
        """The call that a piece belongs to; None where there are too many."""
        ident = part.id if isinstance(part.id, str) and part.id else None
        if part.index is not None:
            known = next((call for call in reversed(self._calls) if call.index == part.index), None)
        else:
            # Without an index, as some send them, a new id begins the next call.
            known = next((call for call in reversed(self._calls) if ident in (None, call.id)), None)
        if known is None and len(self._calls) < MAX_CALLS:
            self._calls.append(known := _GrowingCall(part.index))
        return known

    def _open_call(self, call: _GrowingCall, said: list[bytes]) -> None:
        self._close_item(said)
        call.tool = self._shape.tools.get(call.name) or ToolName(call.name)
        call.reader = CustomInputReader() if call.tool.kind == "custom" else None
        call.item_id = self._make_id(CALL_PREFIX[call.tool.kind])
        call.id = call.id or f"call_{call.item_id.partition('_')[2]}"
        call.place = len(self.output)
        self.output.append(self._describe_call(call, "", "in_progress"))
        item = self.output[call.place]
        said.append(self._event("response.output_item.added", output_index=call.place, item=item))

    def _describe_call(self, call: _GrowingCall, text: str, status: str) -> dict[str, Any]:
        tool = call.tool or ToolName(call.name)
        item: dict[str, Any] = {"id": call.item_id, "status": status, "call_id": call.id}
        if tool.kind == "search":
            arguments = decode_leniently(text.encode()) or {}
            return {**item, "type": "tool_search_call", "execution": "client", "arguments": arguments}
        if tool.kind == "custom":
            item |= {"type": "custom_tool_call", "name": tool.name, "input": text}
        else:
            item |= {"type": "function_call", "name": tool.name, "arguments": text}
        return item if tool.namespace is None else {**item, "namespace": tool.namespace}

    def _send_arguments(self, call: _GrowingCall, text: str, said: list[bytes]) -> None:
        where = {"item_id": call.item_id, "output_index": call.place}
        if call.tool is not None and call.tool.kind == "search":
            return  # it has no events but its first and its last
        if call.reader is None:
            said.append(self._event("response.function_call_arguments.delta", **where, delta=text))
        elif delta := call.reader.feed(text):
            said.append(self._event("response.custom_tool_call_input.delta", **where, delta=delta))

    def _close_call(self, call: _GrowingCall, said: list[bytes]) -> None:
        if call.tool is None:
            return  # it never had a name
        text = "".join(call.text)
        where = {"item_id": call.item_id, "output_index": call.place}
        if call.tool.kind == "search":
            text = text or "{}"
        elif call.reader is None:
            text = text or "{}"
            said.append(
                self._event(
                    "response.function_call_arguments.done", **where, arguments=text, name=call.tool.name
                )
            )
        else:
            text = read_custom_input(text)
            said.append(self._event("response.custom_tool_call_input.done", **where, input=text))
        item = self.output[call.place] = self._describe_call(call, text, self._item_status)
        said.append(self._event("response.output_item.done", output_index=call.place, item=item))

    def _end_output(self, said: list[bytes]) -> None:
        """End what still grows. Calls end here: servers may send their pieces in turn."""
        self._close_item(said)
        for call in self._calls:
            self._close_call(call, said)
        self._calls = []
        if not self.output and self.failure is None:
            # Clients take the first message for the answer, also where it is empty.
            self._begin_part(self._open("message", "msg", said), "output_text", said)
            self._close_item(said)


class ResponseWriter:
    """Writes a chat's answer as a response; `keep` stores it before the client has all of it.

    `keep` returns whether it is stored.
    """

    id_header = None

    def __init__(
        self, builder: ResponseBuilder, keep: Callable[[dict[str, Any]], Awaitable[bool]] | None
    ) -> None:
        self._builder = builder
        self._keep = keep
        self._has_begun = False

    def pass_through(self) -> None:
        """No expert answers in this form."""

    def write_error(self, status: int, body: bytes, request_id: str) -> bytes:
        """The error as it is: the API has the same envelope as chats."""
        return body

    def write_answer(self, body: bytes) -> bytes:
        """Nothing yet: `complete` says a whole answer.

        Raises:
            ExpertFailed: it cannot be read.
        """
        try:
            if not has_many_parts(body):
                self._builder.build(body)
                return b""
        except BAD_JSON:
            pass
        raise ExpertFailed("the expert's answer cannot be read", 502, "upstream_garbage")

    def write_events(self, events: bytes) -> bytes:
        """Whole events of a stream, as they come."""
        head = b"" if self._has_begun else self._builder.begin()
        self._has_begun = True
        return head + self._builder.feed(events)

    def end_events(self, events: bytes) -> bytes:
        """The last events of a stream, but for the one with the whole response."""
        return self.write_events(events) + self._builder.finish()

    async def complete(self, said: bytes) -> bytes:
        """What was said, and the whole response, which tells whether it is stored."""
        response = self._builder.to_response()
        is_stored = False
        if self._keep is not None and response["status"] != "failed":
            is_stored = await self._keep(response)
        response["store"] = is_stored
        return said + self._builder.close(response) if self._has_begun else encode(response)


CALL_PREFIX = {"function": "fc", "custom": "ctc", "search": "tsc"}
PART_INDEX = {
    "output_text": "content_index",
    "refusal": "content_index",
    "reasoning_text": "content_index",
    "summary_text": "summary_index",
}
PART_EVENT = {
    "output_text": "output_text",
    "refusal": "refusal",
    "reasoning_text": "reasoning_text",
    "summary_text": "reasoning_summary_text",
}
PART_SCOPE = {
    "output_text": "content_part",
    "refusal": "content_part",
    "reasoning_text": "content_part",
    "summary_text": "reasoning_summary_part",
}


def _read_content(content: Any) -> list[tuple[str, str]]:
    """What a content says, as (kind, text): a text, or parts as some servers send them."""
    if isinstance(content, str):
        return [("text", content)]
    found = []
    for part in content if isinstance(content, list) else ():
        if not isinstance(part, dict):
            continue
        if isinstance(text := part.get("text"), str) and text:
            found.append(("text", text))
        elif isinstance(thinking := part.get("thinking"), (str, list)):
            found += [("reasoning", text) for _, text in _read_content(thinking)]
    return found


_HIGH, _LOW = r"\\u[dD][89abAB][0-9a-fA-F]{2}", r"\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_WHOLE = re.compile(rf'(?:[^"\\]|\\[^u]|\\u(?![dD][89a-fA-F])[0-9a-fA-F]{{4}}|{_HIGH}{_LOW})*+')
"""As much of a JSON string as is whole: not half an escape, nor half a pair of surrogates."""
_OPENING = re.compile(r'\s*\{\s*"input"\s*:\s*"')


class CustomInputReader:
    """Reads the free text out of `{"input": "…"}` while it comes."""

    def __init__(self) -> None:
        self._left = ""
        self._is_inside = False

    def feed(self, text: str) -> str:
        """What of the text is known now and was not before."""
        self._left += text
        if not self._is_inside:
            opening = _OPENING.match(self._left)
            if opening is None:
                return ""
            self._is_inside, self._left = True, self._left[opening.end() :]
        match = _WHOLE.match(self._left)
        found = match[0] if match else ""
        self._left = self._left[len(found) :]
        try:
            # Not strict: models write line ends into strings as they are.
            return str(json.loads(f'"{found}"', strict=False))
        except ValueError:
            return ""


def read_custom_input(arguments: str) -> str:
    """The free text of a call; all of its arguments where the model did not put it into `input`."""
    try:
        value = json.loads(arguments, strict=False)
    except ValueError:
        return arguments
    text = value.get("input") if isinstance(value, dict) else None
    return text if isinstance(text, str) else arguments
