"""Texts embedded by the gateway's own embedders: which one embeds each text, and the answer."""

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter

import msgspec

from routers import RoutersError

from ..config import BASE_EMBEDDER
from ..embedding import Chosen, EmbedderPool, Reading
from ..errors import BusyError, NothingEligible, Overloaded, Unavailable
from ..experts.types import Reply
from ..openai.answers import Usage
from ..requests.embedding import EmbeddingInput
from ..requests.parsing import ToEmbedder
from ..storage.journal import AttemptRecord
from .executor import NAMED_POLICY, NAMED_REASON, ExecutionRequest, ExecutionTrace


async def load_embedders(pool: EmbedderPool) -> None:
    """Load the embedders where they are not loaded yet; that takes a second, once.

    Raises:
        Unavailable: an embedder cannot be loaded.
    """
    if not pool.has_base:
        with available():
            await asyncio.to_thread(pool.load)


@contextmanager
def reserve_places(request: EmbeddingInput, pool: EmbedderPool) -> Iterator[None]:
    """A block in which the texts have places in the waiting line of the embedders.

    Raises:
        Overloaded: too many texts wait.
    """
    try:
        with pool.turns.reserve(len(request.texts)):
            yield
    except BusyError:
        message = "the embedders are overloaded; try again, or with fewer texts at a time"
        raise Overloaded(message, retry_after_s=pool.turns.wait_s) from None


async def choose_embedders(request: EmbeddingInput, pool: EmbedderPool) -> Chosen:
    """The embedder of each text: the named one; the base for documents; for queries, by the pilots.

    Raises:
        InvalidField: the request asks for vectors of another length.
        NothingEligible: the request excludes every embedder that may read its texts.
        Unavailable: the base embedder failed.
    """
    request.check_dimensions(pool.base.dim)
    given, rule = request.input_type, request.rule or pool.policy
    if request.embedder is not None and (given != "document" or request.embedder == BASE_EMBEDDER):
        return Chosen(pool.assign_all(request.embedder, request.texts, NAMED_POLICY, NAMED_REASON))
    if (given or pool.input_type) == "query":
        candidates = _filter_allowed(pool.readers, request)
        with available():
            return await pool.choose(request.texts, rule, candidates)
    # A document in an expert's space would be lost to the index, which holds the base's vectors.
    _filter_allowed((BASE_EMBEDDER,), request)
    reason = f"{'' if given else 'no input_type: '}{BASE_EMBEDDER} embeds every document"
    return Chosen(pool.assign_all(BASE_EMBEDDER, request.texts, rule, reason))


def _filter_allowed(names: Sequence[str], request: EmbeddingInput) -> list[str]:
    allowed = [name for name in names if request.allows(name)]
    if not allowed:
        message = f"router.models and router.exclude leave none of {', '.join(names)} to embed these texts"
        raise NothingEligible(message, param="router")
    return allowed


class EmbeddingExecutor:
    """Executes one request for the gateway's own embedders."""

    def __init__(self, parsed: ToEmbedder, chosen: Chosen, pool: EmbedderPool) -> None:
        self._input = parsed.input
        self._chosen = chosen
        self._pool = pool
        choice = chosen.choice
        self.request = ExecutionRequest(
            call=parsed.call,
            plan=choice.plan,
            policy=choice.policy,
            reason=choice.reason,
            asked=parsed.input.embedder,
            decision=choice,
            debug=parsed.options.debug,
            session_id=parsed.options.session_id,
            warnings=parsed.input.warnings,
        )

    async def execute(self, request: ExecutionRequest, trace: ExecutionTrace) -> Reply:
        """Embed the texts.

        Raises:
            Unavailable: an embedder failed.
        """
        pool, start = self._pool, perf_counter()
        texts, as_base64 = self._input.texts, self._input.as_base64
        try:
            with available():
                readings = await pool.read(texts, self._chosen, as_base64, request.asked is None)
        finally:
            trace.upstream_s = perf_counter() - start
        names = tuple(reading.embedder for reading in readings)
        trace.answered = Counter(names).most_common(1)[0][0]
        n_tokens = sum(reading.n_tokens for reading in readings)
        trace.usage = Usage(prompt_tokens=n_tokens, total_tokens=n_tokens)
        trace.attempts += [AttemptRecord(name, "answered", 200) for name in dict.fromkeys(names)]
        trace.warnings += self._warnings(readings)
        return Reply(body=build_embedding_answer(readings, n_tokens), usage=trace.usage)

    def _warnings(self, readings: Sequence[Reading]) -> Iterator[str]:
        replaced = Counter(
            name
            for name, reading in zip(self._chosen.choice.chosen, readings, strict=True)
            if name != reading.embedder
        )
        for name, n in replaced.items():
            yield f"{name} failed: {BASE_EMBEDDER} embedded {n} of its texts"
        limit = self._pool.base.max_tokens
        if n_long := sum(reading.n_tokens > limit for reading in readings):
            yield f"{n_long} of {len(readings)} texts have more than {limit} tokens: their middle was cut out"


def build_embedding_answer(readings: Sequence[Reading], n_tokens: int) -> bytes:
    """The answer in OpenAI's format, each text's embedder beside its vector.

    `model` is the embedder of all texts, `auto` where several embedded them.
    """
    names = {reading.embedder for reading in readings}
    rest = {
        "model": names.pop() if len(names) == 1 else "auto",
        "usage": {"prompt_tokens": n_tokens, "total_tokens": n_tokens},
    }
    entries = [part for reading in readings for part in (b",", reading.entry)][1:]
    return b"".join([b'{"object":"list","data":[', *entries, b"],", msgspec.json.encode(rest)[1:]])


@contextmanager
def available() -> Iterator[None]:
    """A block in which an embedder that fails is a 503.

    Raises:
        Unavailable: an embedder failed.
    """
    try:
        yield
    except RoutersError as error:
        raise Unavailable(str(error)) from None
