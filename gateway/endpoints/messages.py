"""`/v1/messages/count_tokens`: how long a message would be, before it is sent."""

import msgspec

from ..anthropic.answers import MessageWriter
from ..asgi.application import Exchange
from ..errors import ExpertFailed, UpstreamError
from ..experts.anthropic import AnthropicExpert
from ..requests.bodies import run_apart
from ..requests.parsing import COUNT_TOKENS, ToExpert, ToPolicy, parse_body
from ..requests.query import parse_chat_query
from ..services import Services
from .completions import read_model_name

ESTIMATED = (
    b"input_tokens is an estimate by the length of the texts: this model does not count before it is asked"
)


class TokenCountEndpoint:
    """Counts the tokens of requests; no expert is asked for an answer."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def handle(self, exchange: Exchange) -> None:
        services = self._services
        limits = services.config.server
        body = await exchange.body(limits.max_body_bytes)
        fields = await run_apart(parse_body, body, limits.max_text_bytes)
        exchange.model = read_model_name(fields)
        parsed = await run_apart(services.parser.parse, COUNT_TOKENS, fields, exchange.headers)
        exchange.writer = MessageWriter()
        exchange.writer.pass_through()
        translation = parsed.call.translation
        expert = services.experts[parsed.expert] if isinstance(parsed, ToExpert) else None
        if isinstance(expert, AnthropicExpert) and translation is not None:
            try:
                await exchange.respond(200, [], await expert.count_tokens(translation))
            except UpstreamError as error:
                if error.body is None or error.status is None:
                    raise ExpertFailed(error.message, error.client_status, f"upstream_{error.kind}") from None
                await exchange.respond(error.status, [], error.body)
            return
        if isinstance(parsed, ToPolicy):
            query = parsed.query
        else:
            query = (await run_apart(parse_chat_query, parsed.call.fields)).query
        counted = msgspec.json.encode({"input_tokens": query.n_input_tokens})
        await exchange.respond(200, [(b"x-thalamus-warning", ESTIMATED)], counted)
