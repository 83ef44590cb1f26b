"""`/v1/runners`: the state and memory of the local engines; loading and unloading them by hand."""

from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..config.client_keys import MASTER
from ..config.secrets import list_secrets
from ..errors import BadRequest, EndpointNotFound, Forbidden, Unavailable
from ..runners import Runners, RunnerUnavailable
from ..telemetry.logs import Redactor
from .answers import get_services, json_response

STATE_FIELDS = ("engine", "model", "experts", "state", "device", "memory_bytes", "load_s", "up_s", "pid")
COUNT_FIELDS = ("n_in_flight", "n_waiting", "n_loads", "n_restarts", "last_error")


class RunnerNotFound(EndpointNotFound):
    code = "runner_not_found"


class RunnerInUse(BadRequest):
    status = 409
    code = "runner_in_use"


async def list_runners(request: Request) -> Response:
    """All runners, and the devices they share."""
    runners = get_services(request).runners
    data = [_describe_runner(runners, status.alias) for status in runners.snapshot()]
    memory = [asdict(device) for device in runners.memory()]
    return json_response(
        {"object": "list", "data": data, "memory": memory, "n_evictions": runners.n_evictions}
    )


async def load_runner(request: Request) -> Response:
    """Load an expert's engine and answer when it is ready.

    Raises:
        RunnerNotFound: no such local expert. Unavailable: it cannot be loaded now.
    """
    runners, name = _find_runner(request)
    try:
        await runners.load(name, wait_s=get_services(request).config.timeouts.load_s)
    except RunnerUnavailable as error:
        raise Unavailable(str(error)) from error
    return json_response(_describe_runner(runners, name))


async def unload_runner(request: Request) -> Response:
    """Free the memory of an expert's engine; the next request for it loads it again.

    Raises:
        RunnerNotFound: no such local expert. RunnerInUse: it answers a request, or is being loaded.
    """
    runners, name = _find_runner(request)
    try:
        await runners.unload(name)
    except RunnerUnavailable as error:
        # 409 and not 503: the request conflicts with the runner's state (RFC 9110, section 15.5.10).
        raise RunnerInUse(str(error)) from error
    return json_response(_describe_runner(runners, name))


async def get_logs(request: Request) -> Response:
    """The last lines an expert's engine wrote, without secrets.

    Raises:
        Forbidden: it may quote what other clients said, and this is not the master key.
        RunnerNotFound: no such local expert.
    """
    config = get_services(request).config
    if len(config.server.keys_by_name()) > 1 and request.state.key_name != MASTER:
        raise Forbidden("the log of an engine may quote other clients: only server.master_key may read it")
    runners, name = _find_runner(request)
    redact = Redactor(list_secrets(config))
    return json_response({"runner": runners[name].name, "lines": list(map(redact, runners[name].log_tail))})


def _find_runner(request: Request) -> tuple[Runners, str]:
    """The pool, and the name of an expert or a runner in it."""
    runners, name = get_services(request).runners, request.path_params["name"]
    for runner in runners.runners:
        if name == runner.name or name in runner.experts:
            # Experts may share a runner: any of their names, or its own, means the same process.
            return runners, runner.experts[0]
    known = ", ".join(runners) or "none"
    raise RunnerNotFound(f"there is no local expert '{name[:128]}'; there are: {known}", param="name")


def _describe_runner(runners: Runners, name: str) -> dict[str, Any]:
    status = next(s for s in runners.snapshot() if name == s.alias or name in s.experts)
    facts = asdict(status)
    return {
        "id": status.alias,
        "object": "runner",
        **{key: facts[key] for key in (*STATE_FIELDS, *COUNT_FIELDS)},
        "pinned": runners[status.experts[0]].settings.pinned,
    }


ROUTES = [
    Route("/v1/runners", list_runners, methods=["GET"]),
    Route("/v1/runners/{name:path}/load", load_runner, methods=["POST"]),
    Route("/v1/runners/{name:path}/unload", unload_runner, methods=["POST"]),
    Route("/v1/runners/{name:path}/logs", get_logs, methods=["GET"]),
]
