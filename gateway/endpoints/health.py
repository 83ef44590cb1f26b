"""`/health/live` and `/health/ready`: whether the process runs, and whether it should receive traffic."""

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
    """200 as long as the process answers."""
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
        # 503 keeps load balancers away (RFC 9110, section 15.6.4). A degraded gateway answers, so it is 200.
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
        # One that has answered before is restarting, which must not take the gateway out of service.
        if runner.state == "starting" and not services.fleet.state(name)["n_answered"]:
            yield name


def _can_answer(services: Services, name: str) -> bool:
    return _describe_state(services, name) in READY_STATES


def _describe_state(services: Services, name: str) -> str:
    """The state of a local expert's runner; for other experts that of their circuit breaker."""
    called = str(services.fleet.state(name)["state"])
    runner = services.runners.get(name)
    # An open breaker outranks the runner, whose process may be up and fail every call.
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
