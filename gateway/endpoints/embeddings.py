"""POST /v1/embeddings: the bundled encoder, or an expert that embeds."""

import asyncio
import base64
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from policies import Single
from routers import estimate_tokens

from ..dispatch import Dispatcher
from ..errors import InvalidField, ModelNotFound, Unavailable
from ..experts.types import Call, Fields
from ..fields import read_fields, text_field
from ..hints import read_hints
from ..machine import Machine
from ..microbatch import BusyError
from ..orders import Order
from ..wire import Exchange
from .ask import NAMED_POLICY, NAMED_REASON, OURS, expert_names

if TYPE_CHECKING:
    from ..microbatch import Gatherer

PATH = "/v1/embeddings"
BUNDLED = "minilm"
MAX_INPUTS = 2048
RETRY_AFTER_S = 1.0

_input = msgspec.json.Decoder(str | list[Any])


class Embedding:
    """Handler of the endpoint."""

    def __init__(self, machine: Machine, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._gatherer = machine.gatherer
        self._max_bytes = machine.config.server.max_body_bytes
        embedding = {expert.name for expert in machine.config.experts if expert.embeds}
        self._experts = {asked: name for asked, name in expert_names(machine).items() if name in embedding}
        self._others = set(machine.experts) - embedding

    def handler(self) -> Callable[[Exchange], Awaitable[None]]:
        return self._handle

    async def _handle(self, exchange: Exchange) -> None:
        fields = read_fields(await exchange.body(self._max_bytes))
        model = text_field(fields, "model")
        if "input" not in fields:
            raise InvalidField("'input' is missing; it must be a string or a list of strings", param="input")
        if (expert := self._experts.get(model)) is not None:
            await self._forward(exchange, fields, expert)
        elif model == BUNDLED and self._gatherer is not None:
            await self._embed(exchange, fields, self._gatherer)
        else:
            raise self._unknown(model)

    async def _forward(self, exchange: Exchange, fields: Fields, expert: str) -> None:
        hints = read_hints(fields, exchange.headers)
        sent = {name: value for name, value in fields.items() if name not in OURS}
        order = Order(
            call=Call("embeddings", sent),
            plan=Single((expert,)),
            policy=NAMED_POLICY,
            reason=NAMED_REASON,
            asked=expert,
            debug=hints.debug,
            session_id=hints.session_id,
        )
        await self._dispatcher.perform(exchange, order)

    async def _embed(self, exchange: Exchange, fields: Fields, gatherer: "Gatherer") -> None:
        texts = read_texts(fields)
        as_base64 = encoding_of(fields) == "base64"
        vectors = await vectors_of(texts, gatherer)
        n_tokens = sum(estimate_tokens(text) for text in texts)
        body = {
            "object": "list",
            "model": BUNDLED,
            "data": [
                {"object": "embedding", "index": n, "embedding": encoded(vector[0], as_base64)}
                for n, vector in enumerate(vectors)
            ],
            "usage": {"prompt_tokens": n_tokens, "total_tokens": n_tokens},
        }
        await exchange.respond(200, [(b"x-thalamus-expert", BUNDLED.encode())], msgspec.json.encode(body))

    def _unknown(self, model: str) -> ModelNotFound:
        if model in self._others:
            return ModelNotFound(f"'{model}' does not embed (experts with `embeds: true` do)", param="model")
        there = [*([BUNDLED] if self._gatherer else []), *dict.fromkeys(self._experts.values())]
        listed = ", ".join(there) or "none"
        return ModelNotFound(
            f"there is no embedding model '{model[:128]}'; there are: {listed}", param="model"
        )


async def vectors_of(texts: list[str], gatherer: "Gatherer") -> "list[np.ndarray[Any, Any]]":
    """(1, dim) unit row of each text; where one cannot be had, nobody waits for the others any more.

    Raises:
        Unavailable: the encoder's queue is full.
    """
    tasks = [asyncio.ensure_future(gatherer.embed(text)) for text in texts]
    try:
        return await asyncio.gather(*tasks)
    except BusyError:
        raise Unavailable("the encoder is overloaded; try again", retry_after_s=RETRY_AFTER_S) from None
    finally:
        for task in tasks:
            task.cancel()


def read_texts(fields: Fields) -> list[str]:
    """The texts to embed.

    Raises:
        InvalidField: `input` is not made of text, or asks for what the bundled encoder cannot do.
    """
    if "dimensions" in fields and bytes(fields["dimensions"]) != b"null":
        raise InvalidField(f"'{BUNDLED}' has one size only; leave 'dimensions' out", param="dimensions")
    try:
        given = _input.decode(fields["input"])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise InvalidField("'input' must be a string or a list of strings", param="input") from None
    texts = [given] if isinstance(given, str) else given
    if texts and all(isinstance(text, (int, list)) for text in texts):
        raise InvalidField(f"'{BUNDLED}' takes text, not token ids", param="input")
    if not texts or not all(isinstance(text, str) and text for text in texts):
        raise InvalidField("'input' must be a non-empty string or a list of them", param="input")
    if len(texts) > MAX_INPUTS:
        raise InvalidField(
            f"'input' has {len(texts)} texts; {MAX_INPUTS} are the most at a time", param="input"
        )
    return texts


def encoding_of(fields: Fields) -> str:
    """`float` or `base64`.

    Raises:
        InvalidField: it is something else.
    """
    raw = bytes(fields.get("encoding_format", b"null"))
    if raw == b"null":
        return "float"
    if raw not in (b'"float"', b'"base64"'):
        raise InvalidField("'encoding_format' must be 'float' or 'base64'", param="encoding_format")
    return raw.decode().strip('"')


def encoded(vector: "np.ndarray[Any, Any]", as_base64: bool) -> str | list[float]:
    """A vector as OpenAI writes it: numbers, or little-endian float32 in base64."""
    if as_base64:
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    floats: list[float] = vector.astype(np.float64).tolist()
    return floats
