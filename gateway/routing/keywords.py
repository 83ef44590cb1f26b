"""Keywords of prompts, told by an expert: what named skills recruit panels by."""

import asyncio
import hashlib
import time
from collections import OrderedDict

import msgspec

from routers.skills import (
    N_SAMPLES,
    SAMPLING_TEMPERATURE,
    consistent_keywords,
    keyword_prompt,
)

from ..experts.types import Call, Expert, UpstreamError
from ..openai.answers import read_answer_text

MAX_TOKENS = 48
"""Five keywords of three words, and the word before them."""
MAX_KEPT = 10_000
"""Prompts whose keywords are kept."""
MAX_AT_ONCE = 2
"""Prompts for which an expert is asked at a time: others are decided without it, and asked another time."""
RETRY_AFTER_S = 30.0
"""After a failure the expert is not asked for so long."""


async def ask_for_keywords(expert: Expert, text: str) -> tuple[str, ...]:
    """Keywords that an expert tells more than once in five samples; none where it tells none twice.

    Reference: Symbolic-MoE (arXiv 2503.05641), section 3.1.

    Raises:
        UpstreamError: it gave no answer.
    """
    body = {
        "messages": [{"role": "user", "content": keyword_prompt(text)}],
        "temperature": SAMPLING_TEMPERATURE,
        "max_tokens": MAX_TOKENS,
    }
    call = Call(
        "chat/completions", {key: msgspec.Raw(msgspec.json.encode(value)) for key, value in body.items()}
    )
    asked = [asyncio.ensure_future(expert.call(call)) for _ in range(N_SAMPLES)]
    try:
        replies = await asyncio.gather(*asked)
    except BaseException:
        for one in asked:
            one.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        raise
    return tuple(consistent_keywords([read_answer_text(reply.body) for reply in replies]))


class KeywordFinder:
    """The keywords of prompts by one expert, kept by text; a decision never waits longer than it wants to.

    What is told too late is kept for the next time. While answers take longer than that, no decision waits.
    """

    def __init__(self, expert: Expert) -> None:
        self._expert = expert
        self._kept: OrderedDict[bytes, tuple[str, ...]] = OrderedDict()
        self._asked: dict[bytes, asyncio.Task[None]] = {}
        self._usual_s = 0.0
        self._rests_until_s = 0.0
        self.n_asked = 0
        self.n_failed = 0

    async def find(self, text: str, wait_s: float) -> tuple[str, ...] | None:
        """The keywords of a prompt; None where none are there within `wait_s` seconds."""
        key = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key] or None
        task = self._asked.get(key)
        if task is None:
            if len(self._asked) >= MAX_AT_ONCE or time.monotonic() < self._rests_until_s:
                return None
            task = self._asked[key] = asyncio.ensure_future(self._ask(key, text))
        if wait_s > 0 and self._usual_s <= wait_s:
            await asyncio.wait({task}, timeout=wait_s)
        return self._kept.get(key) or None

    async def _ask(self, key: bytes, text: str) -> None:
        start = time.monotonic()
        self.n_asked += 1
        try:
            self._kept[key] = await ask_for_keywords(self._expert, text)
            if len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)
        except UpstreamError:
            self.n_failed += 1
            self._rests_until_s = time.monotonic() + RETRY_AFTER_S
        finally:
            del self._asked[key]
            took_s = time.monotonic() - start
            # The mean of about the last five: one slow answer alone turns no decision away.
            self._usual_s = took_s if not self._usual_s else 0.8 * self._usual_s + 0.2 * took_s

    def close(self) -> None:
        """Stop asking."""
        for task in self._asked.values():
            task.cancel()
