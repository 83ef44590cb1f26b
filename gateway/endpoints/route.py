"""`POST /v1/route`: the decision without the call."""

import os
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from policies import decision_record
from routers import Query

from ..errors import InvalidField
from ..experts import Call, shown_to_tools
from ..fields import read_fields, text_field
from ..hints import read_hints
from ..inband import wished
from ..query import query_of_chat, query_of_completion
from ..wire import ClientGoneError, too_large
from .answers import answer, machine_of
from .ask import expert_names, policy_of


async def route(request: Request) -> Response:
    """Whom a policy would choose for a chat body, or for `{"prompt": …}`; nothing is called or journalled.

    Raises:
        BadRequest: the body, its policy or its hints are at fault.
    """
    machine = machine_of(request)
    fields = read_fields(await _body(request, machine.config.server.max_body_bytes))
    model = text_field(fields, "model") if "model" in fields else "auto"
    if model in expert_names(machine):
        raise InvalidField(f"'{model}' is an expert: there is nothing to decide; ask for auto", param="model")
    hints = read_hints(fields, dict(request.headers.raw))
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


def seen(query: Query) -> dict[str, Any]:
    """What routing saw of a request."""
    return {name: getattr(query, name) for name in Query.__slots__ if name != "declined"}


async def _body(request: Request, max_bytes: int) -> bytes:
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
