"""`/v1/chat/completions`, `/v1/completions`, `/v1/embeddings`: parse, decide, execute, respond."""

from ..asgi.application import Exchange
from ..execution.embedding import EmbeddingExecutor, choose_embedders, load_embedders, reserve_places
from ..execution.executor import ExecutionRequest
from ..execution.responder import Responder
from ..openai.messages import Fields
from ..requests.bodies import INLINE_BYTES, run_apart
from ..requests.parsing import EndpointSpec, ToEmbedder, ToPolicy, parse_body
from ..services import Services

MAX_MODEL_BYTES = 128


class CompletionEndpoint:
    """Handles the requests of one inference endpoint."""

    def __init__(self, spec: EndpointSpec, services: Services, responder: Responder) -> None:
        self._spec = spec
        self._services = services
        self._responder = responder
        self._max_bytes = services.config.server.max_body_bytes
        self._max_text_bytes = services.config.server.max_text_bytes

    async def handle(self, exchange: Exchange) -> None:
        """The way of one request: body → parsed request → decision → response."""
        services = self._services
        body = await exchange.body(self._max_bytes)
        if len(body) <= INLINE_BYTES:
            fields = parse_body(body)
            exchange.model = read_model_name(fields)
            parsed = services.parser.parse(self._spec, fields, exchange.headers)
        else:
            fields = await run_apart(parse_body, body, self._max_text_bytes)
            exchange.model = read_model_name(fields)
            parsed = await run_apart(services.parser.parse, self._spec, fields, exchange.headers)
        if isinstance(parsed, ToEmbedder):
            await self._embed(exchange, parsed)
            return
        if isinstance(parsed, ToPolicy):
            if parsed.conversation is not None and parsed.conversation.before:
                parsed = services.sessions.attach(parsed, exchange.key_name)
            decision = await services.router.decide(parsed, services.fleet.snapshot())
            request = ExecutionRequest.for_decision(parsed, decision)
        else:
            request = ExecutionRequest.for_expert(parsed)
        await self._responder.send(exchange, request)

    async def _embed(self, exchange: Exchange, parsed: ToEmbedder) -> None:
        pool = self._services.embedders
        assert pool is not None, "the parser gives a ToEmbedder only where there are embedders"  # noqa: S101
        await load_embedders(pool)
        with reserve_places(parsed.input, pool):
            executor = EmbeddingExecutor(parsed, await choose_embedders(parsed.input, pool), pool)
            await self._responder.send(exchange, executor.request, executor.execute)


def read_model_name(fields: Fields) -> bytes | None:
    """What the body names as its model, as it stands there, for the access log."""
    raw = fields.get("model")
    # A copy of the first bytes: a view would keep the whole body until the line is written.
    return None if raw is None else bytes(memoryview(raw)[:MAX_MODEL_BYTES]).strip(b'" ')
