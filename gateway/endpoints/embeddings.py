"""POST /v1/embeddings: an expert that embeds, or the embedders served here; `auto` chooses by text."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter

import msgspec

from policies import Single
from routers import RoutersError

from ..asgi.exchange import Exchange
from ..config import BASE_EMBEDDER
from ..embedding import Chosen, EmbedderPool, Reading
from ..errors import InvalidField, ModelNotFound, NothingEligible, Overloaded, Unavailable
from ..execution.responder import Responder
from ..execution.trace import ExecutionRequest, ExecutionTrace
from ..experts.types import Call, Fields, Reply
from ..openai.usage import Usage
from ..requests.fields import read_fields, text_field
from ..requests.options import RoutingOptions, parse_routing_options
from ..requests.texts import EmbeddingRequest, is_embedder_name, parse_embedding_request
from ..routing.embedding_batcher import BusyError
from ..services import Services
from ..storage.journal import AttemptRecord
from .ask import NAMED_POLICY, NAMED_REASON, OURS, expert_names

PATH = "/v1/embeddings"


class Embedding:
    """Handler of the endpoint."""

    def __init__(self, services: Services, responder: Responder) -> None:
        self._responder = responder
        self._pool = services.embedders
        self._max_bytes = services.config.server.max_body_bytes
        self._embedders = Embedders(services)

    def handler(self) -> Callable[[Exchange], Awaitable[None]]:
        return self._handle

    async def _handle(self, exchange: Exchange) -> None:
        fields = read_fields(await exchange.body(self._max_bytes))
        model, expert = self._embedders.whom(fields)
        hints = parse_routing_options(fields, exchange.headers)
        if expert is not None:
            await self._responder.send(exchange, forwarded(fields, expert, hints))
        elif self._pool is not None:
            await self._serve(exchange, model, fields, hints, self._pool)

    async def _serve(
        self, exchange: Exchange, model: str, fields: Fields, hints: RoutingOptions, pool: EmbedderPool
    ) -> None:
        await ready(pool)
        asked = parse_embedding_request(model, fields, hints, pool)
        with room(asked, pool):
            order, read = await read_here(asked, fields, hints, pool)
            await self._responder.send(exchange, order, read)


class Embedders:
    """Who may be asked to embed: experts, and the embedders served here."""

    def __init__(self, services: Services) -> None:
        self._pool = services.embedders
        embedding = {expert.name for expert in services.config.experts if expert.embeds}
        self._experts = {asked: name for asked, name in expert_names(services).items() if name in embedding}
        self._others = set(services.experts) - embedding

    def whom(self, fields: Fields) -> tuple[str, str | None]:
        """The model a body names, and the expert of that name; None where it is served here.

        Raises:
            InvalidField: it names none, or has no input.
            ModelNotFound: nobody of that name embeds.
        """
        model = text_field(fields, "model")
        if "input" not in fields:
            raise InvalidField("'input' is missing; it must be a string or a list of strings", param="input")
        expert = self._experts.get(model)
        if expert is None and (self._pool is None or not is_embedder_name(model, self._pool)):
            raise self._unknown(model)
        return model, expert

    def _unknown(self, model: str) -> ModelNotFound:
        if model in self._others:
            return ModelNotFound(f"'{model}' does not embed (experts with `embeds: true` do)", param="model")
        there = [*(("auto", *self._pool.names) if self._pool else ()), *dict.fromkeys(self._experts.values())]
        listed = ", ".join(there) or "none"
        return ModelNotFound(
            f"there is no embedding model '{model[:128]}'; there are: {listed}", param="model"
        )


async def ready(pool: EmbedderPool) -> None:
    """Have the embedders loaded, which happens once.

    Raises:
        Unavailable: they cannot be.
    """
    if not pool.loaded:
        with available():
            await asyncio.to_thread(pool.load)


@contextmanager
def room(asked: EmbeddingRequest, pool: EmbedderPool) -> Iterator[None]:
    """A block in which the texts have their places among those that wait to be read.

    Raises:
        Overloaded: too many wait.
    """
    try:
        with pool.turns.room(len(asked.texts)):
            yield
    except BusyError:
        said = "the embedders are overloaded; try again, or with fewer texts at a time"
        raise Overloaded(said, retry_after_s=pool.turns.wait_s) from None


async def choose(asked: EmbeddingRequest, pool: EmbedderPool) -> Chosen:
    """Who reads each text: whoever was named, the base for documents, and for queries whom the pilots say.

    Raises:
        NothingEligible: the request excludes everybody who might.
        Unavailable: the base failed.
    """
    given = asked.input_type
    if asked.named is not None and (given != "document" or asked.named == BASE_EMBEDDER):
        return Chosen(pool.fixed(asked.named, asked.texts, NAMED_POLICY, NAMED_REASON))
    if (given or pool.input_type) == "query":
        among = _allowed(pool.readers, asked)
        with available():
            return await pool.choose(asked.texts, asked.policy, among)
    _allowed((BASE_EMBEDDER,), asked)
    reason = (
        f"{'' if given else 'no input_type: '}documents are read by {BASE_EMBEDDER}, whoever reads queries"
    )
    return Chosen(pool.fixed(BASE_EMBEDDER, asked.texts, asked.policy, reason))


def _allowed(names: Sequence[str], asked: EmbeddingRequest) -> list[str]:
    allowed = [name for name in names if asked.allows(name)]
    if not allowed:
        said = f"router.models and router.exclude leave nobody of {', '.join(names)} to read these texts"
        raise NothingEligible(said, param="router")
    return allowed


async def read_here(
    asked: EmbeddingRequest, fields: Fields, hints: RoutingOptions, pool: EmbedderPool
) -> "tuple[ExecutionRequest, _Reader]":
    """What is to be done for texts that are read here, and who makes the answer.

    Raises:
        NothingEligible, Unavailable: as `choose`.
    """
    chosen = await choose(asked, pool)
    order = ExecutionRequest(
        call=Call("embeddings", {name: raw for name, raw in fields.items() if name not in OURS}),
        plan=chosen.choice.plan,
        policy=chosen.choice.policy,
        reason=chosen.choice.reason,
        asked=asked.named,
        decision=chosen.choice,
        debug=hints.debug,
        session_id=hints.session_id,
        warnings=asked.warnings,
    )
    return order, _Reader(asked, chosen, pool)


class _Reader:
    """Makes the answer that the responder delivers."""

    def __init__(self, asked: EmbeddingRequest, chosen: Chosen, pool: EmbedderPool) -> None:
        self._asked = asked
        self._chosen = chosen
        self._pool = pool

    async def __call__(self, order: ExecutionRequest, trace: ExecutionTrace) -> Reply:
        asked, pool, start = self._asked, self._pool, perf_counter()
        try:
            with available():
                readings = await pool.read(asked.texts, self._chosen, asked.as_base64, order.asked is None)
        finally:
            trace.upstream_s = perf_counter() - start
        by = tuple(reading.embedder for reading in readings)
        trace.answered = Counter(by).most_common(1)[0][0]
        n_tokens = sum(reading.n_tokens for reading in readings)
        trace.usage = Usage(prompt_tokens=n_tokens, total_tokens=n_tokens)
        trace.records += [AttemptRecord(name, "answered", 200) for name in dict.fromkeys(by)]
        trace.warnings += self._warnings(readings)
        return Reply(body=body_of(readings, n_tokens), usage=trace.usage)

    def _warnings(self, readings: Sequence[Reading]) -> Iterator[str]:
        lost = Counter(
            name
            for name, reading in zip(self._chosen.choice.chosen, readings, strict=True)
            if name != reading.embedder
        )
        for name, n in lost.items():
            yield f"{name} failed: {n} of its texts were read by {BASE_EMBEDDER}"
        most = self._pool.base.max_tokens
        if n_long := sum(reading.n_tokens > most for reading in readings):
            yield f"{n_long} of {len(readings)} texts have more than {most} tokens: their middle was not read"


def body_of(readings: Sequence[Reading], n_tokens: int) -> bytes:
    """The answer in OpenAI's shape, each text's embedder beside its vector.

    `model` is who read them all, `auto` where several did.
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
        Unavailable: one did.
    """
    try:
        yield
    except RoutersError as error:
        raise Unavailable(str(error)) from None


def forwarded(fields: Fields, expert: str, hints: RoutingOptions) -> ExecutionRequest:
    """Just this expert, asked as the client asks."""
    return ExecutionRequest(
        call=Call("embeddings", {name: value for name, value in fields.items() if name not in OURS}),
        plan=Single((expert,)),
        policy=NAMED_POLICY,
        reason=NAMED_REASON,
        asked=expert,
        debug=hints.debug,
        session_id=hints.session_id,
    )
