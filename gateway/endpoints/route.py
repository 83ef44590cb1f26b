"""`POST /v1/route`: the decision without the call."""

import os
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from policies import decision_record
from routers import Query

from ..asgi.exchange import ClientGoneError, too_large
from ..errors import InvalidField
from ..experts import Call, Fields, shown_to_tools
from ..requests.fields import read_fields, text_field
from ..requests.flags import wished
from ..requests.options import RequestHints, read_hints
from ..requests.query import query_of_chat, query_of_completion
from ..requests.texts import names_embedder, read_texts_asked
from ..services import Machine
from .answers import answer, machine_of
from .ask import expert_names, policy_of, unknown_model
from .embeddings import choose, ready, room


async def route(request: Request) -> Response:
    """Whom a policy would choose for a chat body, `{"prompt": …}` or `{"input": …}`, and nothing more.

    Raises:
        BadRequest: the body, its policy or its hints are at fault.
    """
    machine = machine_of(request)
    fields = read_fields(await whole_body(request, machine.config.server.max_body_bytes))
    model = text_field(fields, "model") if "model" in fields else "auto"
    if model in expert_names(machine):
        raise InvalidField(f"'{model}' is an expert: there is nothing to decide; ask for auto", param="model")
    hints = read_hints(fields, dict(request.headers.raw))
    if "input" in fields:
        return await _route_texts(machine, model, fields, hints)
    policy = policy_of(model, hints, machine)
    asked = wished(fields, hints, policy)
    plain = "prompt" in fields
    query = query_of_completion(fields) if plain else query_of_chat(asked.fields)
    call = Call("completions" if plain else "chat/completions", asked.fields)
    query = shown_to_tools(query, machine.experts.values(), call)
    decision = await machine.routing.decide(query, policy, asked.hints, machine.fleet.snapshot())
    record = {"id": f"dry_{os.urandom(12).hex()}", "object": "decision", **decision_record(decision)}
    notes = {"warnings": list(asked.warnings), "degraded": machine.routing.degraded}
    return answer({**record, "query": seen(query), **notes})


async def _route_texts(machine: Machine, model: str, fields: Fields, hints: RequestHints) -> Response:
    """Which embedder would read each text of an embedding request."""
    pool = machine.embedders
    if pool is None or not names_embedder(model, pool):
        raise unknown_model(model, machine)
    await ready(pool)
    asked = read_texts_asked(model, fields, hints, pool)
    with room(asked, pool):
        choice = (await choose(asked, pool)).choice
    record = {"id": f"dry_{os.urandom(12).hex()}", "object": "decision", **choice.record()}
    notes = {"warnings": list(asked.warnings), "degraded": pool.degraded}
    return answer({**record, "embedders": choice.chosen, **notes})


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
                raise too_large(max_bytes)
            parts.append(part)
    except ClientDisconnect:
        raise ClientGoneError from None
    return b"".join(parts)


ROUTES = [Route("/v1/route", route, methods=["POST"])]
