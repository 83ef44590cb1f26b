"""`/health/live` and `/health/ready`: whether the process runs, and whether it should be sent traffic."""

from collections.abc import Iterator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..services import Machine
from .answers import answer, machine_of

ABLE = ("closed", "half-open", "ready", "busy", "sleeping", "stopping", "stopped")
"""A local expert that is not in memory is loaded when it is asked for."""


async def live(request: Request) -> Response:
    """That the process answers at all."""
    return answer({"status": "live"})


async def ready(request: Request) -> Response:
    """200 when somebody can answer and no local expert is still starting, else 503; and what is degraded."""
    machine = machine_of(request)
    waiting = list(_starting(machine))
    able = bool(machine.experts) and any(_able(machine, name) for name in machine.experts)
    facts = list(degraded(machine))
    status = "starting" if waiting else "unavailable" if not able else "degraded" if facts else "ready"
    return answer(
        {
            "status": status,
            "degraded": facts,
            "experts": {name: _state(machine, name) for name in machine.experts},
            "journal": {"waiting": machine.journal.n_waiting, "lost": machine.journal.dropped},
            "routing": _routing(machine),
        },
        status=200 if able and not waiting else 503,
    )


def degraded(machine: Machine) -> Iterator[str]:
    """What does not work as configured, one line each."""
    if machine.routing.degraded:
        yield f"routing: {machine.routing.degraded}"
    if machine.embedders is not None and machine.embedders.degraded:
        yield f"embeddings: {machine.embedders.degraded}"
    if machine.journal.degraded:
        yield machine.journal.degraded
    if machine.replicas and machine.replicas.degraded:
        yield machine.replicas.degraded
    for name in machine.experts:
        if (state := _state(machine, name)) not in (*ABLE, "starting"):
            yield f"expert {name}: {state}"


def _starting(machine: Machine) -> Iterator[str]:
    for name, runner in machine.runners.items():
        if runner.state == "starting" and not machine.fleet.state(name)["n_answered"]:
            yield name


def _able(machine: Machine, name: str) -> bool:
    return _state(machine, name) in ABLE


def _state(machine: Machine, name: str) -> str:
    """A local expert is as its runner is; any other as its calls went."""
    called = str(machine.fleet.state(name)["state"])
    runner = machine.runners.get(name)
    return called if runner is None or called == "open" else str(runner.state)


def _routing(machine: Machine) -> dict[str, Any]:
    routing, gatherer = machine.routing, machine.gatherer
    return {
        "decided": routing.n_decided,
        "consulted": routing.n_consulted,
        "encoder_waiting": gatherer.n_waiting if gatherer else 0,
        "encoder_busy_s": round(gatherer.busy_s, 3) if gatherer else 0.0,
    }


ROUTES = [
    Route("/health/live", live, methods=["GET"]),
    Route("/health/ready", ready, methods=["GET"]),
]
