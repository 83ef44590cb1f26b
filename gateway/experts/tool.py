"""Experts that call no language model: the last question in, the tool's answer out."""

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from importlib.metadata import entry_points

import msgspec

from routers import Query

from ..config.validation import TOOL_GROUP
from ..openai.events import EventStream
from ..openai.usage import Usage
from .types import Call, Reply, UpstreamError

Solve = Callable[[str], str | None]


class Turn(msgspec.Struct):
    role: str = ""
    content: msgspec.Raw = msgspec.Raw(b"null")


class Part(msgspec.Struct):
    text: str = ""


_turns = msgspec.json.Decoder(list[Turn])
_text = msgspec.json.Decoder(str | list[Part] | None)
_prompt = msgspec.json.Decoder(str)


class ToolExpert:
    """`solve` answers a question, or gives None where it is none for it; then another expert is asked."""

    def __init__(self, name: str, solve: Solve) -> None:
        self.name = name
        self._solve = solve

    async def call(self, call: Call) -> Reply:
        answer = self._solve(question_of(call))
        if answer is None:
            raise UpstreamError("declined", "is a tool and has no answer to this")
        chat = call.endpoint == "chat/completions"
        if not call.stream:
            return Reply(body=whole(self.name, answer, chat), usage=Usage(0, 0, 0))
        return Reply(events=await spoken(self.name, answer, chat))

    def declines(self, call: Call) -> bool:
        """Whether it has no answer to this; asking costs a fraction of a millisecond."""
        try:
            return self._solve(question_of(call)) is None
        except UpstreamError:
            return True

    def share(self, n_replicas: int) -> None:
        """Nothing is called."""

    async def close(self) -> None:
        """Nothing is held."""


def shown_to_tools(query: Query, experts: Iterable[object], call: Call) -> Query:
    """The query, naming the tools among the experts that have no answer to it: nobody is sent to them."""
    declined = [e.name for e in experts if isinstance(e, ToolExpert) and e.declines(call)]
    return replace(query, declined=frozenset(declined)) if declined else query


def question_of(call: Call) -> str:
    """The text of the last user turn, or the prompt; empty where there is none.

    Raises:
        UpstreamError: the endpoint or the conversation is not one a tool can answer.
    """
    try:
        if call.endpoint == "completions":
            return _prompt.decode(call.fields["prompt"])
        if call.endpoint == "chat/completions":
            asked = [turn for turn in _turns.decode(call.fields["messages"]) if turn.role == "user"]
            content = _text.decode(asked[-1].content) if asked else ""
            return content if isinstance(content, str) else "\n".join(part.text for part in content or ())
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UpstreamError("declined", "is a tool and reads text only") from error
    raise UpstreamError("declined", "is a tool and does not embed")


def whole(name: str, answer: str, chat: bool) -> bytes:
    """An answer in one piece."""
    said = {"message": {"role": "assistant", "content": answer}} if chat else {"text": answer}
    body = {
        **_head(name, "chat.completion" if chat else "text_completion"),
        "choices": [{"index": 0, **said, "logprobs": None, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
    }
    return msgspec.json.encode(body)


async def spoken(name: str, answer: str, chat: bool) -> EventStream:
    """The same answer as a stream."""
    head = _head(name, "chat.completion.chunk" if chat else "text_completion")
    said: dict[str, object] = {"text": answer}
    if chat:
        said = {"delta": {"role": "assistant", "content": answer}}
    end: dict[str, object] = {"delta": {}} if chat else {"text": ""}
    chunks = [
        {**head, "choices": [{"index": 0, **said, "finish_reason": None}]},
        {**head, "choices": [{"index": 0, **end, "finish_reason": "stop"}]},
    ]
    events = b"".join(b"data: " + msgspec.json.encode(chunk) + b"\n\n" for chunk in chunks)
    parts = [events + b"data: [DONE]\n\n"]

    async def read() -> bytes:
        return parts.pop() if parts else b""

    never = float("inf")
    stream = EventStream(read, lambda: None, first_token_at=never, between_s=never, end_at=never)
    await stream.open()
    return stream


def _head(name: str, kind: str) -> dict[str, object]:
    return {"id": f"tool-{os.urandom(8).hex()}", "object": kind, "created": int(time.time()), "model": name}


def solver_of(tool: str) -> Solve:
    """Load the installed tool of that name.

    Raises:
        ValueError: no installed distribution offers it in the entry-point group `thalamus.tools`.
    """
    for point in entry_points(group=TOOL_GROUP, name=tool):
        solve: Solve = point.load()
        return solve
    raise ValueError(f"tool {tool!r} is not installed; install a package that offers it in {TOOL_GROUP!r}")
