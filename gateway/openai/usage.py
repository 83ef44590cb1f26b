"""What a call used, as the provider counted it, and what that cost."""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec


class InputDetails(msgspec.Struct):
    cached_tokens: int | None = None


class OutputDetails(msgspec.Struct):
    reasoning_tokens: int | None = None


class Usage(msgspec.Struct):
    """The `usage` object of a response; every count may be missing."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: InputDetails | None = None
    completion_tokens_details: OutputDetails | None = None
    prompt_cache_hit_tokens: int | None = None

    @property
    def cached_tokens(self) -> int:
        """Input tokens read from the provider's prompt cache; they are part of `prompt_tokens`."""
        details = self.prompt_tokens_details
        return (details.cached_tokens if details else None) or self.prompt_cache_hit_tokens or 0

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
    """USD per token. None is unknown; cached input and reasoning then cost what input and output cost."""

    input_usd: float | None = None
    output_usd: float | None = None
    cached_input_usd: float | None = None
    reasoning_usd: float | None = None


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
    n_reasoning = min(usage.reasoning_tokens, n_output)
    cached_usd = price.input_usd if price.cached_input_usd is None else price.cached_input_usd
    output_usd = price.output_usd or 0.0
    reasoning_usd = output_usd if price.reasoning_usd is None else price.reasoning_usd
    return (
        (usage.prompt_tokens - n_cached) * price.input_usd
        + n_cached * cached_usd
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
    try:
        return msgspec.json.encode({**_object.decode(body), "usage": counts})
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return body
