"""`/health/live` and `/health/ready`: whether the process runs, and whether it should be sent traffic."""

from collections.abc import Iterator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..services import Services
from .answers import get_services, json_response

ABLE = ("closed", "half-open", "ready", "busy", "sleeping", "stopping", "stopped")
"""A local expert that is not in memory is loaded when it is asked for."""


async def live(request: Request) -> Response:
    """That the process answers at all."""
    return json_response({"status": "live"})


async def ready(request: Request) -> Response:
    """200 when somebody can answer and no local expert is still starting, else 503; and what is degraded."""
    services = get_services(request)
    waiting = list(_starting(services))
    able = bool(services.experts) and any(_able(services, name) for name in services.experts)
    facts = list(degraded(services))
    status = "starting" if waiting else "unavailable" if not able else "degraded" if facts else "ready"
    return json_response(
        {
            "status": status,
            "degraded": facts,
            "experts": {name: _state(services, name) for name in services.experts},
            "journal": {"waiting": services.journal.n_waiting, "lost": services.journal.dropped},
            "routing": _routing(services),
        },
        status=200 if able and not waiting else 503,
    )


def degraded(services: Services) -> Iterator[str]:
    """What does not work as configured, one line each."""
    if services.router.degraded:
        yield f"routing: {services.router.degraded}"
    if services.embedders is not None and services.embedders.degraded:
        yield f"embeddings: {services.embedders.degraded}"
    if services.journal.degraded:
        yield services.journal.degraded
    if services.replicas and services.replicas.degraded:
        yield services.replicas.degraded
    for name in services.experts:
        if (state := _state(services, name)) not in (*ABLE, "starting"):
            yield f"expert {name}: {state}"


def _starting(services: Services) -> Iterator[str]:
    for name, runner in services.runners.items():
        if runner.state == "starting" and not services.fleet.state(name)["n_answered"]:
            yield name


def _able(services: Services, name: str) -> bool:
    return _state(services, name) in ABLE


def _state(services: Services, name: str) -> str:
    """A local expert is as its runner is; any other as its calls went."""
    called = str(services.fleet.state(name)["state"])
    runner = services.runners.get(name)
    return called if runner is None or called == "open" else str(runner.state)


def _routing(services: Services) -> dict[str, Any]:
    router = services.router
    batcher = router.batcher
    return {
        "decided": router.n_decided,
        "consulted": router.n_consulted,
        "encoder_waiting": batcher.n_waiting if batcher else 0,
        "encoder_busy_s": round(batcher.busy_s, 3) if batcher else 0.0,
    }


ROUTES = [
    Route("/health/live", live, methods=["GET"]),
    Route("/health/ready", ready, methods=["GET"]),
]
