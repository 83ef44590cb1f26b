"""What a panel takes: the calls of its members and its aggregator, and an answer that was whole, streamed."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from time import perf_counter

import msgspec
from msgspec import Raw

from ..experts.types import Call, Endpoint, Fields, UpstreamError
from ..openai.events import EVENT_END, event_payload
from ..openai.usage import Usage

PATIENCE_S = 10.0
MAX_ANSWER_CHARS = 8000
STREAMING = ("stream", "stream_options")

SYNTHESIS = """\
Above is a request. {n} assistants have answered it, each on its own:

{answers}

Some of these answers may be wrong, incomplete, or contradict one another. Weigh them: keep what is right, \
correct what is not, and write the one best answer to the request. Give that answer alone, in the form the \
request asks for, and do not mention the assistants."""

_messages = msgspec.json.Decoder(list[dict[str, Raw]])
_content = msgspec.json.Decoder(str | list[Raw])
_object = msgspec.json.Decoder(dict[str, Raw])
_choices = msgspec.json.Decoder(list[dict[str, Raw]])
_encode = msgspec.json.encode
BAD_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError)


def build_member_call(call: Call) -> Call:
    """The client's call for one of several: its whole answer, however the client wants the panel's."""
    fields = {name: value for name, value in call.fields.items() if name not in STREAMING}
    return Call(call.endpoint, fields)


def build_aggregation_call(call: Call, answers: Mapping[str, str]) -> Call:
    """The client's call with the members' answers under its last question, nobody's name on them.

    Raises:
        UpstreamError: the request is not one that answers can be put under.
    """
    listed = "\n\n".join(f"[{n}] {text[:MAX_ANSWER_CHARS]}" for n, text in enumerate(answers.values(), 1))
    asked = SYNTHESIS.format(n=len(answers), answers=listed)
    try:
        if call.endpoint == "chat/completions":
            changed = {"messages": Raw(_encode(_with_question(call.fields["messages"], asked)))}
        else:
            prompt = msgspec.json.decode(call.fields["prompt"], type=str)
            changed = {"prompt": Raw(_encode(f"{prompt}\n\n{asked}\n\n"))}
    except BAD_JSON as error:
        raise UpstreamError("declined", "cannot be shown the answers of others in this request") from error
    return Call(call.endpoint, {**call.fields, **changed}, call.stream)


def _with_question(raw: Raw, asked: str) -> list[dict[str, Raw]]:
    messages = _messages.decode(raw)
    last = messages[-1] if messages else {}
    if last.get("role") != Raw(b'"user"') or "content" not in last:
        return [*messages, {"role": Raw(b'"user"'), "content": Raw(_encode(asked))}]
    content = _content.decode(last["content"])
    both: str | list[Raw] = (
        f"{content}\n\n{asked}"
        if isinstance(content, str)
        else [*content, Raw(_encode({"type": "text", "text": asked}))]
    )
    return [*messages[:-1], {**last, "content": Raw(_encode(both))}]


async def wait_for_members(tasks: Iterable["asyncio.Task[object]"]) -> None:
    """Wait for calls made at once; stop those that lag behind, or all where the caller is stopped.

    A call that failed gives its `UpstreamError` as result. Once most have ended and one has answered, the
    rest get as long again as that took, at least `PATIENCE_S`: a tool's answer and a refused connection take
    no time, and say nothing of how long others need.
    """
    asked, start = set(tasks), perf_counter()
    waiting, deadline = set(asked), float("inf")
    try:
        while waiting and perf_counter() < deadline:
            left_s = None if deadline == float("inf") else deadline - perf_counter()
            _, waiting = await asyncio.wait(waiting, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            ended = asked - waiting
            if deadline == float("inf") and 2 * len(ended) > len(asked) and any(map(_answered, ended)):
                elapsed_s = perf_counter() - start
                deadline = perf_counter() + max(elapsed_s, PATIENCE_S)
    finally:
        for task in waiting:
            task.cancel()
        if waiting:
            await asyncio.wait(waiting)


def _answered(task: "asyncio.Task[object]") -> bool:
    return not task.cancelled() and not isinstance(task.result(), UpstreamError)


def together(usages: Sequence[Usage | None]) -> Usage | None:
    """What several calls used; None where one of them does not say."""
    known = [usage for usage in usages if usage is not None and usage.prompt_tokens is not None]
    if not known or len(known) < len(usages):
        return None
    n_input = sum(usage.prompt_tokens or 0 for usage in known)
    n_output = sum(usage.output_tokens or 0 for usage in known)
    return Usage(n_input, n_output, n_input + n_output)


def set_usage(body: bytes, usage: Usage | None) -> bytes:
    """An answer, or an event's chunk, that tells what the panel used as a whole; as it was where unknown."""
    if usage is None:
        return body
    counts = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
    }
    try:
        return _encode({**_object.decode(body), "usage": counts})
    except BAD_JSON:
        return body


def add_usage_to_events(ready: bytes, before: Sequence[Usage | None]) -> bytes:
    """Complete events; one that tells what its call used tells what it and those before used."""
    if b'"usage"' not in ready:
        return ready
    return b"".join(_told(event, before) for event in _split(ready))


def _split(ready: bytes) -> list[bytes]:
    ends = [0, *(match.end() for match in EVENT_END.finditer(ready)), len(ready)]
    return [ready[start:end] for start, end in pairwise(ends) if end > start]


def _told(event: bytes, before: Sequence[Usage | None]) -> bytes:
    payload = event_payload(event)
    try:
        usage = msgspec.convert(msgspec.json.decode(payload).get("usage"), Usage | None, strict=False)
    except (*BAD_JSON, AttributeError):
        return event
    if usage is None:
        return event
    return _event(set_usage(payload, together([*before, usage])))


def convert_to_events(body: bytes, endpoint: Endpoint, fields: Fields) -> bytes:
    """A whole answer as the stream a client wants: what was said, why it ended, and usage if asked for.

    Raises:
        UpstreamError: it is no answer.
    """
    try:
        whole = _object.decode(body)
        choices = _choices.decode(whole["choices"])
    except BAD_JSON as error:
        raise UpstreamError("garbage", "answered with what cannot be streamed") from error
    chat = endpoint == "chat/completions"
    head: dict[str, Raw] = {name: whole[name] for name in ("id", "created", "model") if name in whole}
    head["object"] = Raw(b'"chat.completion.chunk"' if chat else b'"text_completion"')
    chunks = [
        {**head, "choices": [_spoken(choice, chat) for choice in choices]},
        {**head, "choices": [_ended(choice, chat) for choice in choices]},
    ]
    if "usage" in whole and b'"include_usage"' in bytes(fields.get("stream_options", b"")):
        chunks.append({**head, "choices": [], "usage": whole["usage"]})
    return b"".join(_event(_encode(chunk)) for chunk in chunks)


def _event(payload: bytes) -> bytes:
    """An event of one line: in JSON a line break is never more than space between values."""
    return b"data: " + payload.replace(b"\r", b" ").replace(b"\n", b" ") + b"\n\n"


def _spoken(choice: dict[str, Raw], chat: bool) -> dict[str, object]:
    said: dict[str, object] = {"text": choice.get("text", "")}
    if chat:
        said = {"delta": choice.get("message", {})}
    return {"index": choice.get("index", 0), **said, "finish_reason": None}


def _ended(choice: dict[str, Raw], chat: bool) -> dict[str, object]:
    end: dict[str, object] = {"delta": {}} if chat else {"text": ""}
    return {"index": choice.get("index", 0), **end, "finish_reason": choice.get("finish_reason", "stop")}
