"""`/health/live` and `/health/ready`: whether the process runs, and whether it should be sent traffic."""

from collections.abc import Iterator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..services import Services
from .answers import get_services, json_response

READY_STATES = ("closed", "half-open", "ready", "busy", "sleeping", "stopping", "stopped")
"""A local expert that is not in memory is loaded when it is asked for."""


async def get_liveness(request: Request) -> Response:
    """That the process answers at all."""
    return json_response({"status": "live"})


async def get_readiness(request: Request) -> Response:
    """200 when an expert can answer and no local expert is starting, else 503; lists what is degraded."""
    services = get_services(request)
    starting = list(_list_starting(services))
    can_answer = bool(services.experts) and any(_can_answer(services, name) for name in services.experts)
    facts = list(list_degraded(services))
    status = "starting" if starting else "unavailable" if not can_answer else "degraded" if facts else "ready"
    return json_response(
        {
            "status": status,
            "degraded": facts,
            "experts": {name: _describe_state(services, name) for name in services.experts},
            "journal": {"waiting": services.journal.n_waiting, "lost": services.journal.dropped},
            "routing": _describe_routing(services),
        },
        status=200 if can_answer and not starting else 503,
    )


def list_degraded(services: Services) -> Iterator[str]:
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
        if (state := _describe_state(services, name)) not in (*READY_STATES, "starting"):
            yield f"expert {name}: {state}"


def _list_starting(services: Services) -> Iterator[str]:
    for name, runner in services.runners.items():
        if runner.state == "starting" and not services.fleet.state(name)["n_answered"]:
            yield name


def _can_answer(services: Services, name: str) -> bool:
    return _describe_state(services, name) in READY_STATES


def _describe_state(services: Services, name: str) -> str:
    """A local expert is as its runner is; any other as its calls went."""
    called = str(services.fleet.state(name)["state"])
    runner = services.runners.get(name)
    return called if runner is None or called == "open" else str(runner.state)


def _describe_routing(services: Services) -> dict[str, Any]:
    router = services.router
    batcher = router.batcher
    return {
        "decided": router.n_decided,
        "consulted": router.n_consulted,
        "encoder_waiting": batcher.n_waiting if batcher else 0,
        "encoder_busy_s": round(batcher.busy_s, 3) if batcher else 0.0,
    }


ROUTES = [
    Route("/health/live", get_liveness, methods=["GET"]),
    Route("/health/ready", get_readiness, methods=["GET"]),
]
