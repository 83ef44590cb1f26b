"""OpenAI's answers in one piece (checked, read, made), their usage as the provider counted it, its cost."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from ..errors import UpstreamError
from .failures import find_failure, first_line, without_nan
from .messages import BAD_JSON, has_many_parts

TokenCount = Annotated[int, Meta(ge=0, le=2**25)]
"""Of one call. No model reads or writes 33 million tokens: what an upstream counts beyond is not believed."""
LARGE_ANSWER_BYTES = 1024 * 1024


class InputDetails(msgspec.Struct):
    cached_tokens: TokenCount | None = None
    cache_creation_tokens: TokenCount | None = None
    cache_write_tokens: TokenCount | None = None


class OutputDetails(msgspec.Struct):
    reasoning_tokens: TokenCount | None = None


class Usage(msgspec.Struct):
    """The `usage` object of a response; every count may be missing, and none is beyond belief."""

    prompt_tokens: TokenCount | None = None
    completion_tokens: TokenCount | None = None
    total_tokens: TokenCount | None = None
    prompt_tokens_details: InputDetails | None = None
    completion_tokens_details: OutputDetails | None = None
    prompt_cache_hit_tokens: TokenCount | None = None
    cache_creation_input_tokens: TokenCount | None = None

    @property
    def cached_tokens(self) -> int:
        """Input tokens read from the provider's prompt cache; they are part of `prompt_tokens`."""
        details = self.prompt_tokens_details
        return (details.cached_tokens if details else None) or self.prompt_cache_hit_tokens or 0

    @property
    def written_tokens(self) -> int:
        """Input tokens that the provider put into its prompt cache; they are part of `prompt_tokens`."""
        details = self.prompt_tokens_details
        written = (details.cache_creation_tokens or details.cache_write_tokens) if details else None
        return written or self.cache_creation_input_tokens or 0

    @property
    def reasoning_tokens(self) -> int:
        details = self.completion_tokens_details
        return (details.reasoning_tokens if details else None) or 0

    @property
    def output_tokens(self) -> int | None:
        """All billed output: some providers leave reasoning out of `completion_tokens`, the total tells."""
        if self.completion_tokens is None or self.completion_tokens_details is None:
            return self.completion_tokens
        # Some providers count reasoning beside `completion_tokens`; only `total_tokens` tells which do.
        apart = (self.prompt_tokens or 0) + self.completion_tokens + self.reasoning_tokens
        return self.completion_tokens + (self.reasoning_tokens if self.total_tokens == apart else 0)


@dataclass(frozen=True, slots=True)
class Price:
    """USD per token. None is unknown: cached input, input that is written to a prompt cache and reasoning
    then cost what input and output cost.
    """

    input_usd: float | None = None
    output_usd: float | None = None
    cached_input_usd: float | None = None
    reasoning_usd: float | None = None
    written_usd: float | None = None


UNKNOWN_PRICE = Price()


def cost_usd(usage: Usage | None, price: Price) -> float | None:
    """The price of a call in USD, or None where a price or a count it needs is unknown."""
    if price.input_usd == 0 and price.output_usd == 0:
        return 0.0  # a free expert costs nothing, also where its usage is unknown
    if usage is None or usage.prompt_tokens is None:
        return None
    n_output = usage.output_tokens or 0
    if price.input_usd is None or (price.output_usd is None and n_output):
        return None
    # Bounded by the whole: odd counts must never make a cost negative.
    n_cached = min(usage.cached_tokens, usage.prompt_tokens)
    n_written = min(usage.written_tokens, usage.prompt_tokens - n_cached)
    n_reasoning = min(usage.reasoning_tokens, n_output)
    cached_usd = price.input_usd if price.cached_input_usd is None else price.cached_input_usd
    written_usd = price.input_usd if price.written_usd is None else price.written_usd
    output_usd = price.output_usd or 0.0
    reasoning_usd = output_usd if price.reasoning_usd is None else price.reasoning_usd
    return (
        (usage.prompt_tokens - n_cached - n_written) * price.input_usd
        + n_cached * cached_usd
        + n_written * written_usd
        + (n_output - n_reasoning) * output_usd
        + n_reasoning * reasoning_usd
    )


def sum_usages(usages: Sequence[Usage | None]) -> Usage | None:
    """The sum of several calls; None where one of them is unknown."""
    known = [usage for usage in usages if usage is not None and usage.prompt_tokens is not None]
    if not known or len(known) < len(usages):
        return None
    n_input = sum(usage.prompt_tokens or 0 for usage in known)
    n_output = sum(usage.output_tokens or 0 for usage in known)
    return Usage(n_input, n_output, n_input + n_output)


_object = msgspec.json.Decoder(dict[str, msgspec.Raw])


def set_usage(body: bytes, usage: Usage | None) -> bytes:
    """An answer, or a chunk, with this `usage`; unchanged where the usage is unknown."""
    if usage is None:
        return body
    counts = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
    }
    if has_many_parts(body):
        return body
    try:
        return msgspec.json.encode({**_object.decode(body), "usage": counts})
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return body


ABSENT = msgspec.Raw(b"null")


class CheckedChoice(msgspec.Struct):
    """A choice, as far as it tells of an error: OpenRouter reports some there."""

    error: Any = None
    finish_reason: Any = None


class CheckedAnswer(msgspec.Struct):
    """A complete answer, as far as it is checked before it is passed on."""

    choices: list[CheckedChoice] | None = None
    data: msgspec.Raw = ABSENT
    usage: Usage | None = None
    error: Any = None


class AnswerOutline(msgspec.Struct):
    """A complete answer, nothing of it decoded."""

    choices: msgspec.Raw = ABSENT
    data: msgspec.Raw = ABSENT
    usage: msgspec.Raw = ABSENT
    error: msgspec.Raw = ABSENT


class AnswerMessage(msgspec.Struct):
    """The message of a choice."""

    content: str | None = None


class AnswerChoice(msgspec.Struct):
    """A choice of a chat (`message`) or of a plain completion (`text`)."""

    message: AnswerMessage | None = None
    text: str | None = None


class CompletionAnswer(msgspec.Struct):
    """A complete answer, as far as its text is read."""

    choices: list[AnswerChoice] = []


_checked = msgspec.json.Decoder(CheckedAnswer)
_completion = msgspec.json.Decoder(CompletionAnswer)


def check_answer(body: bytes, is_embedding: bool) -> Usage | None:
    """Check that a body with status 200 is an answer; gives its usage, None where it has none.

    Raises:
        UpstreamError: the body is an error object, or no answer.
    """
    # Each choice becomes an object: a body of `{},{},{}` would take thirty times its bytes.
    is_large = len(body) > LARGE_ANSWER_BYTES and has_many_parts(body)
    try:
        answer = _check_leniently(body) if is_large else _checked.decode(body)
    # Providers differ in `usage` more than anywhere else (counts as text, floats, null).
    except BAD_JSON:
        answer = _check_leniently(body)
    choices, failed = answer.choices, answer.error
    # Raw bytes: only the first is looked at, an answer with embeddings may hold megabytes.
    is_answer = bytes(memoryview(answer.data)[:1]) == b"[" if is_embedding else choices is not None
    for choice in choices or ():
        failed = failed or choice.error or choice.finish_reason == "error"
    if failed or not is_answer:
        if failure := find_failure(body):
            raise failure
        if not is_answer:
            raise UpstreamError("garbage", "answered 200 with no answer in it")
    return answer.usage


def _check_leniently(body: bytes) -> CheckedAnswer:
    """An answer whose `usage` has an unexpected shape, or that holds Python's NaN, is still an answer."""
    if body.lstrip()[:1] == b"<":
        said = "answered 200 with a page"
        raise UpstreamError("garbage", f"{said}: {first_line(body)}", cause=said)
    try:
        mended = without_nan(body)
        outline = msgspec.json.decode(mended, type=AnswerOutline)
    except BAD_JSON:
        if failure := find_failure(body):
            raise failure from None
        head, said = "answered 200 with what is no answer", first_line(body) or "nothing"
        raise UpstreamError("garbage", f"{head}: {said}", cause=head) from None
    try:
        usage = msgspec.json.decode(outline.usage, type=Usage | None)
        if mended is not body and b"null" in bytes(outline.usage):
            usage = None  # one of its counts was no number
    except BAD_JSON:
        usage = None
    choices = bytes(outline.choices)
    return CheckedAnswer(
        choices=[] if choices[:1] == b"[" else None,
        data=outline.data,
        usage=usage,
        # The body is searched for errors once more only where it may hold one.
        error=outline.error != ABSENT or b'"error"' in choices,
    )


def read_answer_text(body: bytes) -> str:
    """The text of the first choice; empty where there is none, as in a call of a tool."""
    if len(body) > LARGE_ANSWER_BYTES and has_many_parts(body):
        return ""
    try:
        choices = _completion.decode(without_nan(body)).choices
    except BAD_JSON:
        return ""
    if not choices:
        return ""
    return (choices[0].message.content if choices[0].message else choices[0].text) or ""


def build_answer(model: str, text: str, is_chat: bool) -> bytes:
    """An answer that the gateway itself gives; it used no tokens."""
    content: dict[str, object] = {"text": text}
    if is_chat:
        content = {"message": {"role": "assistant", "content": text}}
    return msgspec.json.encode(
        {
            "id": f"tool-{os.urandom(8).hex()}",
            "object": "chat.completion" if is_chat else "text_completion",
            "created": int(time.time()),
            "model": model,
            "choices": [{"index": 0, **content, "logprobs": None, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
        }
    )
