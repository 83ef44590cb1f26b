"""`POST /v1/route`: the decision without the call."""

import os
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from policies import decision_record
from routers import Query

from ..asgi.exchange import ClientDisconnectedError, body_too_large
from ..errors import InvalidField
from ..experts import Call, Fields, shown_to_tools
from ..requests.fields import read_fields, text_field
from ..requests.flags import extract_prompt_flags
from ..requests.options import RoutingOptions, parse_routing_options
from ..requests.query import parse_chat_query, parse_completion_query
from ..requests.texts import is_embedder_name, parse_embedding_request
from ..services import Services
from .answers import get_services, json_response
from .ask import expert_names, policy_of, unknown_model
from .embeddings import choose, ready, room


async def route(request: Request) -> Response:
    """Whom a policy would choose for a chat body, `{"prompt": …}` or `{"input": …}`, and nothing more.

    Raises:
        BadRequest: the body, its policy or its hints are at fault.
    """
    services = get_services(request)
    fields = read_fields(await whole_body(request, services.config.server.max_body_bytes))
    model = text_field(fields, "model") if "model" in fields else "auto"
    if model in expert_names(services):
        raise InvalidField(f"'{model}' is an expert: there is nothing to decide; ask for auto", param="model")
    hints = parse_routing_options(fields, dict(request.headers.raw))
    if "input" in fields:
        return await _route_texts(services, model, fields, hints)
    policy = policy_of(model, hints, services)
    asked = extract_prompt_flags(fields, hints, policy)
    plain = "prompt" in fields
    query = parse_completion_query(fields) if plain else parse_chat_query(asked.fields)
    call = Call("completions" if plain else "chat/completions", asked.fields)
    query = shown_to_tools(query, services.experts.values(), call)
    decision = await services.router.decide(query, policy, asked.hints, services.fleet.snapshot())
    record = {"id": f"dry_{os.urandom(12).hex()}", "object": "decision", **decision_record(decision)}
    notes = {"warnings": list(asked.warnings), "degraded": services.router.degraded}
    return json_response({**record, "query": seen(query), **notes})


async def _route_texts(services: Services, model: str, fields: Fields, hints: RoutingOptions) -> Response:
    """Which embedder would read each text of an embedding request."""
    pool = services.embedders
    if pool is None or not is_embedder_name(model, pool):
        raise unknown_model(model, services)
    await ready(pool)
    asked = parse_embedding_request(model, fields, hints, pool)
    with room(asked, pool):
        choice = (await choose(asked, pool)).choice
    record = {"id": f"dry_{os.urandom(12).hex()}", "object": "decision", **choice.record()}
    notes = {"warnings": list(asked.warnings), "degraded": pool.degraded}
    return json_response({**record, "embedders": choice.chosen, **notes})


def seen(query: Query) -> dict[str, Any]:
    """What routing saw of a request."""
    return {name: getattr(query, name) for name in Query.__slots__ if name != "declined"}


async def whole_body(request: Request, max_bytes: int) -> bytes:
    """The body of a request that is not hot.

    Raises:
        BodyTooLarge: it is longer than `max_bytes`.
        ClientGoneError: it never came to its end.
    """
    parts: list[bytes] = []
    size = 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > max_bytes:
                raise body_too_large(max_bytes)
            parts.append(part)
    except ClientDisconnect:
        raise ClientDisconnectedError from None
    return b"".join(parts)


ROUTES = [Route("/v1/route", route, methods=["POST"])]
