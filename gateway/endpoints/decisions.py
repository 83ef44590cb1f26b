"""Decisions: `POST /v1/route` (one without its call) and `GET /v1/decisions/{id}` (an earlier one)."""

import os

from msgspec import Raw
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from policies import decision_record
from routers import describe_query

from ..asgi.application import ClientDisconnectedError, body_too_large, hold_body, inflate
from ..config.client_keys import MASTER
from ..errors import EndpointNotFound, InvalidField
from ..execution.embedding import choose_embedders, load_embedders, reserve_places
from ..requests.bodies import run_apart
from ..requests.parsing import CHAT, COMPLETIONS, EMBEDDINGS, ToExpert, ToPolicy, parse_body
from .answers import get_services, json_response


async def route(request: Request) -> Response:
    """The decision for a chat body, `{"prompt": …}` or `{"input": …}`; nothing is called.

    Raises:
        BadRequest: the body, its policy or its routing options are at fault.
    """
    services = get_services(request)
    limits = services.config.server
    body = await read_body(request, limits.max_body_bytes)
    fields = await run_apart(parse_body, body, limits.max_text_bytes)
    fields.setdefault("model", Raw(b'"auto"'))
    spec = EMBEDDINGS if "input" in fields else COMPLETIONS if "prompt" in fields else CHAT
    parsed = await run_apart(services.parser.parse, spec, fields, dict(request.headers.raw))
    if isinstance(parsed, ToExpert):
        raise InvalidField(
            f"'{parsed.expert}' is an expert: there is nothing to decide; ask for auto", param="model"
        )
    if isinstance(parsed, ToPolicy):
        router = services.router
        parsed = services.sessions.attach(parsed, request.state.key_name)
        decision = await router.decide(parsed, services.fleet.snapshot())
        record = {**decision_record(decision), "query": describe_query(parsed.query)}
        warnings, degraded = parsed.warnings, router.degraded
    else:
        pool = services.embedders
        if pool is None:
            raise services.parser.unknown_model("auto")
        await load_embedders(pool)
        with reserve_places(parsed.input, pool):
            choice = (await choose_embedders(parsed.input, pool)).choice
        record = {**choice.record(), "embedders": choice.chosen}
        warnings, degraded = parsed.input.warnings, pool.degraded
    head = {"id": f"dry_{os.urandom(12).hex()}", "object": "decision"}
    return json_response({**head, **record, "warnings": list(warnings), "degraded": degraded})


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The body of a request to a Starlette endpoint.

    Raises:
        BodyTooLarge: the body is longer than `max_bytes`, as it came or once it is inflated.
        UnsupportedEncoding, InvalidEncoding: the body is compressed in a way that cannot be read.
        ServerBusy: bodies take all memory that they may.
        ClientDisconnectedError: the client closed its connection before the end of the body.
    """
    parts: list[bytes] = []
    size = 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > max_bytes:
                raise body_too_large(max_bytes)
            hold_body(request.scope, len(part))
            parts.append(part)
    except ClientDisconnect:
        raise ClientDisconnectedError from None
    body = b"".join(parts)
    codings = request.headers.get("content-encoding")
    return body if codings is None else await inflate(body, codings, max_bytes)


# No id is longer. Such a path is neither looked up nor repeated in full.
MAX_ID_CHARS = 128


class DecisionNotFound(EndpointNotFound):
    code = "decision_not_found"


async def get_decision(request: Request) -> Response:
    """The journal entry of a decision.

    Raises:
        DecisionNotFound: it never existed, is another client's, or the journal has deleted it.
    """
    decision_id = request.path_params["decision_id"]
    known = len(decision_id) <= MAX_ID_CHARS
    found = await get_services(request).journal.get(decision_id) if known else None
    name: str | None = request.state.key_name
    if found is None or (name not in (None, MASTER) and found["key_id"] != name):
        raise DecisionNotFound(
            f"there is no decision '{decision_id[:MAX_ID_CHARS]}' in the journal", param="decision_id"
        )
    return json_response(found)


ROUTES = [
    Route("/v1/route", route, methods=["POST"]),
    Route("/v1/decisions/{decision_id}", get_decision, methods=["GET"]),
]
