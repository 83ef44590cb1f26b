"""`/v1/responses`: OpenAI's Responses API in front of every expert, and the responses that are kept."""

import asyncio
import logging
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from msgspec import Raw
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..asgi.application import Exchange, body_too_large
from ..batches.types import NO_OWNER
from ..errors import BadRequest, InvalidField
from ..execution.executor import ExecutionRequest
from ..execution.responder import Responder
from ..openai.messages import Fields, encode
from ..openai.responses import (
    ResponsesRequest,
    convert_to_chat,
    describe_items,
    read_responses_request,
)
from ..openai.responses_answer import ResponseBuilder, ResponseWriter
from ..openai.translation import Translation
from ..requests.bodies import INLINE_BYTES, Limits, check_limits, run_apart
from ..requests.parsing import CHAT, ParsedRequest, ToPolicy, parse_body
from ..services import Services
from ..storage.responses import ResponseStore, StoredItem, StoredResponse
from ..storage.sqlite import StorageError
from .answers import get_services, json_response, refuse_storage_error
from .completions import read_model_name
from .files import build_page, get_owner, read_page_size

PATH = "/v1/responses"
INPUT_LIMITS: Limits = {
    1: (10_000, "'input' has more than {} items; no expert takes so many: leave older ones out"),
    3: (10_000, "'input' has more than {} parts; no expert takes so many"),
}
TOOL_LIMITS: Limits = {1: (1_000, "'tools' has more than {} tools; no expert takes so many")}
CODEX = b"codex"
"""How Codex names itself. It sends tools that only OpenAI runs with every request, and works without them."""
MAX_PAGE = 100
DEFAULT_PAGE = 20
log = logging.getLogger("thalamus")


class ResponseNotFound(BadRequest):
    """There is no such response of this client, in OpenAI's words."""

    status = 404
    code: str | None = None


class PreviousResponseNotFound(ResponseNotFound):
    code = "previous_response_not_found"


@dataclass(frozen=True, slots=True)
class KeptContext:
    """What a request goes on from: the items of earlier responses, and those that it names by id."""

    history: Sequence[Raw] = ()
    references: Mapping[str, Raw] | None = None


class ResponsesEndpoint:
    """Handles `POST /v1/responses`: the request becomes a chat, and its answer a response."""

    def __init__(self, services: Services, responder: Responder) -> None:
        self._services = services
        self._responder = responder
        self._server = services.config.server
        self._store = services.responses

    async def handle(self, exchange: Exchange) -> None:
        """The way of one request: body → chat → parsed request → decision → response."""
        services = self._services
        body = await exchange.body(self._server.max_body_bytes)
        if len(body) <= INLINE_BYTES:
            request = self._read(exchange, body)
        else:
            request = await run_apart(self._read, exchange, body)
        context = KeptContext()
        if request.previous_id is not None or request.references:
            try:
                context = await self._find_context(request, exchange.key_name or NO_OWNER)
            except (sqlite3.Error, StorageError) as error:
                raise refuse_storage_error(error, PATH) from None
        if len(body) <= INLINE_BYTES and not context.history:
            parsed = self._parse(exchange, request, context)
        else:
            parsed = await run_apart(self._parse, exchange, request, context)
        if isinstance(parsed, ToPolicy):
            decision = await services.router.decide(parsed, services.fleet.snapshot())
            execution = ExecutionRequest.for_decision(parsed, decision)
        else:
            execution = ExecutionRequest.for_expert(parsed)  # type: ignore[arg-type]  # no embedder chats
        await self._responder.send(exchange, execution)

    def _read(self, exchange: Exchange, body: bytes) -> ResponsesRequest:
        fields = parse_body(body, self._server.max_text_bytes)
        exchange.model = read_model_name(fields)
        if len(body) > INLINE_BYTES:
            _check_lists(fields)
        return read_responses_request(fields)

    async def _find_context(self, request: ResponsesRequest, owner: str) -> KeptContext:
        """What the store has of the conversation.

        Raises:
            PreviousResponseNotFound: the client has no such response, or one before it is gone.
            InvalidField: no responses are kept here.
        """
        if self._store is None:
            name = "input" if request.previous_id is None else "previous_response_id"
            raise InvalidField(
                f"'{name}': no responses are kept here (responses.enabled): send the whole conversation",
                param=name,
            )
        history: Sequence[bytes] | None = ()
        if request.previous_id is not None:
            history = await asyncio.to_thread(self._store.find_history, request.previous_id, owner)
        if history is None:
            said = f"Previous response with id '{request.previous_id}' not found."
            raise PreviousResponseNotFound(said[:200], param="previous_response_id")
        if sum(map(len, history)) > self._server.max_body_bytes:
            raise body_too_large(self._server.max_body_bytes)
        found = await asyncio.to_thread(self._store.find_items, request.references, owner)
        return KeptContext(
            [Raw(item) for item in history], {ident: Raw(item) for ident, item in found.items()}
        )

    def _parse(self, exchange: Exchange, request: ResponsesRequest, context: KeptContext) -> ParsedRequest:
        names = (exchange.headers.get(b"originator", b""), exchange.headers.get(b"user-agent", b""))
        is_codex = any(name.lower().startswith(CODEX) for name in names)
        form = convert_to_chat(request, context.history, context.references, is_codex)
        warnings = list(form.warnings)
        response_id = "resp_" + exchange.id
        keeper = None
        if request.is_stored and self._store is not None:
            if self._store.degraded:
                warnings.append("store: the response may not be kept: the disk of the gateway has no room")
            owner = exchange.key_name or NO_OWNER
            keeper = _ResponseKeeper(self._store, request, context, response_id, owner)
        elif request.settings.store:
            warnings.append("store: no responses are kept here (responses.enabled)")
        builder = ResponseBuilder(form.shape, response_id)
        writer = ResponseWriter(builder, None if keeper is None else keeper.keep)
        translation = Translation(
            "responses", form.fields, None, writer, tuple(warnings), reasoning=form.reasoning
        )
        spec = replace(CHAT, path=PATH, translate=lambda _: translation)
        return self._services.parser.parse(spec, request.fields, exchange.headers)


def _check_lists(fields: Fields) -> None:
    """Count what is decoded item by item, before it is.

    Raises:
        InvalidField: there are too many.
    """
    for name, limits in (("input", INPUT_LIMITS), ("tools", TOOL_LIMITS)):
        if name in fields:
            check_limits(fields[name], limits, name)


@dataclass(frozen=True, slots=True)
class _ResponseKeeper:
    """Stores one response with its input."""

    store: ResponseStore
    request: ResponsesRequest
    context: KeptContext
    response_id: str
    owner: str

    async def keep(self, response: dict[str, Any]) -> bool:
        """Store it; False, and a line in the log, where that does not work now."""
        try:
            is_stored = await asyncio.to_thread(self._add, response)
        except (sqlite3.Error, StorageError) as error:
            log.warning("a response is not kept: %s", error)
            return False
        if not is_stored:
            log.warning("a response is not kept: it is larger than responses.max_bytes_per_key")
        return is_stored

    def _add(self, response: dict[str, Any]) -> bool:
        request = self.request
        inputs = describe_items(request.items, self.context.references or {}, self.response_id)
        head = {name: value for name, value in response.items() if name != "output"}
        stored = StoredResponse(
            self.response_id,
            self.owner,
            response["created_at"],
            encode({**head, "store": True}),
            request.previous_id,
            [StoredItem(ident, item) for ident, item in inputs],
            [StoredItem(item["id"], encode(item)) for item in response["output"]],
        )
        return self.store.add(stored)


async def get_response(request: Request) -> Response:
    """A response that is kept.

    Raises:
        ResponseNotFound: the client has none of this id.
        InvalidField: it is asked for as a stream.
    """
    if request.query_params.get("stream", "false") != "false":
        raise InvalidField("'stream' must be false: only new responses are streamed", param="stream")
    found = await find_response(request)
    output = b",".join(item.json for item in found.outputs)
    return Response(found.head[:-1] + b',"output":[' + output + b"]}", media_type="application/json")


async def find_response(request: Request) -> StoredResponse:
    """The response that a path names.

    Raises:
        ResponseNotFound: the client has none of this id.
    """
    response_id, store = request.path_params["response_id"], get_services(request).responses
    found = None
    if store is not None:
        found = await asyncio.to_thread(store.find, response_id, get_owner(request))
    if found is None:
        raise ResponseNotFound(f"Response with id '{response_id[:80]}' not found.")
    return found


async def delete_response(request: Request) -> Response:
    """Delete a response that is kept; conversations that go on from it end.

    Raises:
        ResponseNotFound: the client has none of this id.
    """
    response_id, store = request.path_params["response_id"], get_services(request).responses
    if store is None or not await asyncio.to_thread(store.delete, response_id, get_owner(request)):
        raise ResponseNotFound(f"Response with id '{response_id[:80]}' not found.")
    return json_response({"id": response_id, "object": "response", "deleted": True})


async def list_input_items(request: Request) -> Response:
    """A page of the items of a response's request, the last first.

    Raises:
        ResponseNotFound: the client has no response of this id.
        InvalidField: `limit`, `order` or `after` has an invalid value.
    """
    query = request.query_params
    limit = read_page_size(query.get("limit"), MAX_PAGE) if "limit" in query else DEFAULT_PAGE
    if (order := query.get("order", "desc")) not in ("asc", "desc"):
        raise InvalidField("'order' must be asc or desc", param="order")
    found = await find_response(request)
    items = list(found.inputs) if order == "asc" else list(found.inputs)[::-1]
    if (after := query.get("after")) is not None:
        place = next((n for n, item in enumerate(items) if item.id == after), None)
        if place is None:
            raise InvalidField(f"'after' names '{after[:80]}', which is no item of the input", param="after")
        items = items[place + 1 :]
    page = build_page([{"id": item.id, "item": item.json} for item in items[: limit + 1]], limit)
    data = [Raw(item.json) for item in items[:limit]]
    return json_response({**page, "data": data})


ROUTES = [
    Route(PATH + "/{response_id}", get_response, methods=["GET"]),
    Route(PATH + "/{response_id}", delete_response, methods=["DELETE"]),
    Route(PATH + "/{response_id}/input_items", list_input_items, methods=["GET"]),
]
