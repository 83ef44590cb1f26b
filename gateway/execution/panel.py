"""The calls of a panel: those of its members, and that of its aggregator."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from time import perf_counter

import msgspec
from msgspec import Raw

from ..errors import UpstreamError
from ..experts.types import Call
from ..openai.messages import BAD_JSON, encode

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


def build_member_call(call: Call) -> Call:
    """The client's call for one of several: its whole answer, however the client wants the panel's."""
    fields = {name: value for name, value in call.fields.items() if name not in STREAMING}
    return Call(call.endpoint, fields)


def build_aggregation_call(call: Call, answers: Mapping[str, str]) -> Call:
    """The client's call with the members' answers under its last question, without their names.

    Raises:
        UpstreamError: the request is not one that answers can be put under.
    """
    asked = ask_for_synthesis([*answers.values()])
    try:
        if call.endpoint == "chat/completions":
            changed = {"messages": Raw(encode(_with_question(call.fields["messages"], asked)))}
        else:
            prompt = msgspec.json.decode(call.fields["prompt"], type=str)
            changed = {"prompt": Raw(encode(f"{prompt}\n\n{asked}\n\n"))}
    except (*BAD_JSON, KeyError) as error:
        raise UpstreamError("declined", "cannot be shown the answers of others in this request") from error
    return Call(call.endpoint, {**call.fields, **changed}, call.stream)


def ask_for_synthesis(answers: Sequence[str]) -> str:
    """What stands under the last question: the answers without names, and what to make of them."""
    listed = "\n\n".join(f"[{n}] {text[:MAX_ANSWER_CHARS]}" for n, text in enumerate(answers, 1))
    return SYNTHESIS.format(n=len(answers), answers=listed)


def _with_question(raw: Raw, asked: str) -> list[dict[str, Raw]]:
    messages = _messages.decode(raw)
    last = messages[-1] if messages else {}
    if last.get("role") != Raw(b'"user"') or "content" not in last:
        return [*messages, {"role": Raw(b'"user"'), "content": Raw(encode(asked))}]
    content = _content.decode(last["content"])
    both: str | list[Raw] = (
        f"{content}\n\n{asked}"
        if isinstance(content, str)
        else [*content, Raw(encode({"type": "text", "text": asked}))]
    )
    return [*messages[:-1], {**last, "content": Raw(encode(both))}]


async def wait_for_members(tasks: Iterable["asyncio.Task[object]"]) -> None:
    """Wait for calls made at once; stop those that lag behind, or all where the caller is stopped.

    A call that failed gives its `UpstreamError` as result. Once most have ended and one has answered, the
    rest get as long again as that took, at least `PATIENCE_S`: a tool's answer and a refused connection take
    no time, and say nothing of how long others need.
    """
    asked, start = set(tasks), perf_counter()
    # No deadline until most have ended: a member alone cannot tell how long the others need.
    waiting, deadline = set(asked), float("inf")
    try:
        while waiting and perf_counter() < deadline:
            left_s = None if deadline == float("inf") else deadline - perf_counter()
            _, waiting = await asyncio.wait(waiting, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            ended = asked - waiting
            if deadline == float("inf") and 2 * len(ended) > len(asked) and any(map(_has_answered, ended)):
                elapsed_s = perf_counter() - start
                deadline = perf_counter() + max(elapsed_s, PATIENCE_S)
    finally:
        for task in waiting:
            task.cancel()
        if waiting:
            await asyncio.wait(waiting)


def _has_answered(task: "asyncio.Task[object]") -> bool:
    return not task.cancelled() and not isinstance(task.result(), UpstreamError)
