"""`/openapi.json`: the endpoints and the schemas of their bodies."""

from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..requests.options import RouterField
from .answers import json_response
from .batches import BatchRequest
from .feedback import FeedbackRequest

REF = "#/components/schemas/{name}"
ROUTING_HEADERS = (
    "the expert that answered and why: "
    "headers x-thalamus-decision-id, -expert, -policy, -head, -plan, -reason …"
)
POST_ENDPOINTS = {
    "/v1/chat/completions": (
        "Chat",
        f"A chat answer, streamed as server-sent events on `stream: true`; {ROUTING_HEADERS}",
    ),
    "/v1/messages": (
        "Message",
        f"The same in the form of Anthropic's Messages API, errors and streams too; {ROUTING_HEADERS}",
    ),
    "/v1/messages/count_tokens": (
        "MessageTokens",
        "How many tokens a message would have; an estimate, where its model does not count",
    ),
    "/v1/responses": (
        "Response",
        f"The same in the form of OpenAI's Responses API, kept unless `store` is false; {ROUTING_HEADERS}",
    ),
    "/v1/completions": ("Completion", f"A plain completion; {ROUTING_HEADERS}"),
    "/v1/embeddings": (
        "Embedding",
        "One vector per input, and the embedder that read it; `auto` chooses one for each query",
    ),
    "/v1/route": ("Route", "The decision without the call: every candidate, its prediction and the reason"),
    "/v1/feedback": (
        "Feedback",
        "What a client says of an answer, by the id of its decision; said again it is the same",
    ),
    "/v1/batches": ("Batch", "Create a batch from an uploaded file of requests"),
}
GET_ENDPOINTS = {
    "/v1/models": "The models that chat, with the state of each; `?type=all` lists embedders and tools too",
    "/v1/models/{name}": "One model",
    "/v1/files": "The client's files, newest first",
    "/v1/files/{file_id}": "One file without its bytes",
    "/v1/files/{file_id}/content": "The bytes of one file",
    "/v1/batches": "The client's batches, newest first",
    "/v1/batches/{batch_id}": "The progress of a batch and its result files",
    "/v1/responses/{response_id}": "A response that is kept",
    "/v1/responses/{response_id}/input_items": "The items of its request, the last first",
    "/v1/decisions/{decision_id}": "An earlier decision and its outcome",
    "/v1/runners": "The local engines: state, memory, requests; and the devices they share",
    "/v1/runners/{name}/logs": "The last lines an engine wrote",
    "/health/live": "The process answers",
    "/health/ready": "Whether an expert can answer, and what is degraded",
    "/metrics": "Counts and states in Prometheus' text format",
    "/openapi.json": "This document",
}
ACTIONS = {
    "/v1/batches/{batch_id}/cancel": "End a batch; the answers it has are kept",
    "/v1/runners/{name}/load": "Load an engine now",
    "/v1/runners/{name}/unload": "Free an engine's memory; refused while it answers a request",
}
DELETES = {
    "/v1/files/{file_id}": "Delete a file",
    "/v1/responses/{response_id}": "Delete a response; conversations that go on from it end",
}
STREAMS = ("Chat", "Completion", "Message", "Response")
OTHER_TYPES = {"/metrics": "text/plain", "/v1/files/{file_id}/content": "application/octet-stream"}
UNAUTHENTICATED = ("/health/live", "/health/ready")
MODEL = {"type": "string", "description": "`auto`, `auto:<policy>`, an expert's name, or its provider/model"}
TEXTS = {"anyOf": [{"type": "string"}, {"type": "array", "items": {}}]}
MESSAGES = {
    "type": "array",
    "minItems": 1,
    "items": {
        "type": "object",
        "required": ["role"],
        "properties": {"role": {"type": "string"}, "content": {}},
    },
}


INPUT = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}}]}


@cache
def build_document() -> dict[str, Any]:
    """The whole document, OpenAPI 3.1."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Thalamus",
            "version": _read_version(),
            "description": "Learned routing between language models",
        },
        "paths": _build_paths(),
        "components": {
            "schemas": _build_schemas(),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
        # The empty object makes the key optional (OpenAPI 3.1, Security Requirement Object).
        "security": [{}, {"bearer": []}, {"key": []}],
    }


def _build_paths() -> dict[str, dict[str, Any]]:
    paths: dict[str, dict[str, Any]] = {
        path: {"get": _describe(path, summary)} for path, summary in GET_ENDPOINTS.items()
    }
    for path, (name, summary) in POST_ENDPOINTS.items():
        paths.setdefault(path, {})["post"] = _describe_post(name, summary)
    for path, summary in ACTIONS.items():
        paths[path] = {"post": _describe(path, summary)}
    form = {"multipart/form-data": {"schema": _UPLOAD}}
    upload = _describe("/v1/files", "Add a file")
    paths["/v1/files"]["post"] = {**upload, "requestBody": {"required": True, "content": form}}
    for path, summary in DELETES.items():
        paths[path]["delete"] = _describe(path, summary)
    return paths


def _build_schemas() -> dict[str, Any]:
    # From the struct that parses the field, so that the two cannot disagree.
    _, structs = msgspec.json.schema_components(
        [RouterField, FeedbackRequest, BatchRequest], ref_template=REF
    )
    structs["Feedback"] = structs.pop("FeedbackRequest")
    structs["Batch"] = structs.pop("BatchRequest")
    ours = {"model": MODEL, "router": {"$ref": REF.format(name="RouterField")}}
    bodies: dict[str, tuple[list[str], dict[str, Any]]] = {
        "Chat": (["model", "messages"], {"messages": MESSAGES, "stream": {"type": "boolean"}}),
        "Message": (
            ["model", "messages", "max_tokens"],
            {"messages": MESSAGES, "max_tokens": {"type": "integer"}, "stream": {"type": "boolean"}},
        ),
        "MessageTokens": (["model", "messages"], {"messages": MESSAGES}),
        "Response": (["model"], {"input": INPUT, "stream": {"type": "boolean"}, **_RESPONSE}),
        "Completion": (["model", "prompt"], {"prompt": TEXTS, "stream": {"type": "boolean"}}),
        "Embedding": (["model", "input"], {"input": TEXTS, **_EMBEDDING}),
        "Route": ([], {"messages": MESSAGES, "prompt": TEXTS}),
    }
    requests = {
        name: {
            "type": "object",
            "required": required,
            "properties": {**ours, **fields},
            # Unknown fields are passed to the expert as they are.
            "additionalProperties": True,
        }
        for name, (required, fields) in bodies.items()
    }
    return {**requests, **structs, "Error": _ERROR}


_RESPONSE = {
    "instructions": {"type": ["string", "array", "null"]},
    "previous_response_id": {"type": ["string", "null"], "description": "the response to go on from"},
    "store": {
        "type": ["boolean", "null"],
        "description": "whether the response is kept; the default is true",
    },
    "tools": {"type": "array", "items": {"type": "object"}},
    "max_output_tokens": {"type": ["integer", "null"]},
}
_EMBEDDING = {
    "input_type": {
        "enum": ["query", "document", None],
        "description": "the default is document; documents are always embedded by the base embedder",
    },
    "encoding_format": {"enum": ["float", "base64", None]},
    "dimensions": {"type": ["integer", "null"]},
}
_UPLOAD = {
    "type": "object",
    "required": ["purpose", "file"],
    "properties": {"purpose": {"const": "batch"}, "file": {"type": "string", "format": "binary"}},
}
_TEXT_OR_NULL = {"type": ["string", "null"]}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": _TEXT_OR_NULL,
                "code": _TEXT_OR_NULL,
            },
        }
    },
}


def _describe_post(name: str, summary: str) -> dict[str, Any]:
    schema = {"schema": {"$ref": REF.format(name=name)}}
    return {
        "summary": summary,
        "operationId": name.lower(),
        "requestBody": {"required": True, "content": {"application/json": schema}},
        "responses": _describe_responses("text/event-stream" if name in STREAMS else None),
    }


def _describe(path: str, summary: str) -> dict[str, Any]:
    names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    operation: dict[str, Any] = {"summary": summary, "responses": _describe_responses(OTHER_TYPES.get(path))}
    if names:
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
        ]
    return {**operation, "security": []} if path in UNAUTHENTICATED else operation


def _describe_responses(other_type: str | None = None) -> dict[str, Any]:
    error = {"application/json": {"schema": {"$ref": REF.format(name="Error")}}}
    content: dict[str, Any] = {"application/json": {"schema": {"type": "object"}}}
    if other_type is not None:
        content[other_type] = {"schema": {"type": "string"}}
    return {
        "200": {"description": "The answer", "content": content},
        "default": {"description": "An error in OpenAI's form", "content": error},
    }


def _read_version() -> str:
    try:
        return version("thalamus-gateway")
    except PackageNotFoundError:
        # Run from a checkout that is not installed.
        return "0"


async def get_openapi(request: Request) -> Response:
    """The document."""
    return json_response(build_document())


ROUTES = [Route("/openapi.json", get_openapi, methods=["GET"])]
