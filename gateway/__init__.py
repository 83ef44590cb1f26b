"""Thalamus from Python: `Client` and `AsyncClient` ask a running gateway, typed, over httpx alone.

The server lives in the same package, behind these names: importing `gateway` loads neither.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .client.batches import BatchJob, GatewayFile
    from .client.clients import AsyncChatStream, AsyncClient, ChatStream, Client
    from .client.errors import (
        AuthenticationError,
        BadRequest,
        ConnectionFailed,
        InvalidAnswer,
        NotFound,
        PermissionDenied,
        RateLimited,
        ServerError,
        StatusError,
        StreamError,
        ThalamusError,
        TimedOut,
        UnexpectedResponse,
    )
    from .client.schemas import ParsedAnswer
    from .client.values import (
        Candidate,
        Chat,
        Chunk,
        Embeddings,
        Feedback,
        Health,
        Hints,
        Model,
        PlanSummary,
        Routed,
        RouteDecision,
        ToolCall,
        Usage,
    )

__all__ = [
    "AsyncChatStream",
    "AsyncClient",
    "AuthenticationError",
    "BadRequest",
    "BatchJob",
    "Candidate",
    "Chat",
    "ChatStream",
    "Chunk",
    "Client",
    "ConnectionFailed",
    "Embeddings",
    "Feedback",
    "GatewayFile",
    "Health",
    "Hints",
    "InvalidAnswer",
    "Model",
    "NotFound",
    "ParsedAnswer",
    "PermissionDenied",
    "PlanSummary",
    "RateLimited",
    "RouteDecision",
    "Routed",
    "ServerError",
    "StatusError",
    "StreamError",
    "ThalamusError",
    "TimedOut",
    "ToolCall",
    "UnexpectedResponse",
    "Usage",
]


if not TYPE_CHECKING:  # so that a type checker refuses a name that is misspelt

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        for home in (
            "errors",
            "values",
            "schemas",
            "batches",
            "clients",
        ):  # cheapest first: only `clients` imports httpx
            found = getattr(import_module(f".client.{home}", __name__), name, None)
            if found is not None:
                globals()[name] = found
                return found
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
