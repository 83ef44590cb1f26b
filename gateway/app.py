"""The composition root: the whole gateway, put together in one place.

    Front ── gate (who asks) ── POST /v1/chat/completions, /v1/completions ── Asking ── Dispatcher ── experts
                             ├─ POST /v1/embeddings ── Embedding
                             └─ all else ── Starlette: files, batches, models, route, decisions, health …

What is asked in a batch goes the same way from reading on, driven by `batch.Jobs` instead of the front.

What is opened is opened in the lifespan, in this order, and closed in the opposite one: journal, transport,
runners, routing, replicas.
"""

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from routers import ExpertProfile

from .asgi.application import FAILED, Front
from .asgi.authentication import Gate
from .batch.engines import Engine
from .batch.jobs import Jobs
from .batch.lines import EMBEDDED_HERE
from .batch.store import Store
from .config import Config, ExpertConfig
from .embedding import EmbedderPool
from .endpoints import (
    batches,
    chat,
    completions,
    decisions,
    embeddings,
    files,
    health,
    metrics,
    models,
    openapi,
    route,
    runners,
)
from .endpoints.ask import Asking
from .errors import EndpointNotFound, GatewayError, MethodNotAllowed, to_envelope
from .execution.accounting import Ledger
from .execution.responder import Dispatcher
from .experts import Expert, build_expert
from .experts.prices import facts_of
from .experts.profiles import profile_of, profiles
from .experts.transport import Transport
from .fleet import FleetState
from .journal import Journal
from .openai.usage import Price
from .replicas import Replicas
from .routing.embedding_batcher import Gatherer
from .runner_build import build_runners
from .services import Machine

if TYPE_CHECKING:
    from .routing.router import Routing

RoutingOf = Callable[[Config, Sequence[ExpertProfile]], tuple[Any, Gatherer | None]]


def build_app(config: Config) -> Front:
    """The gateway as an ASGI application. No connection is made and no runner started before its lifespan.

    Raises:
        ValueError: an expert cannot be called as configured; says which and why.
        JournalError, StoreError: the journal or the store of batches cannot be opened.
    """
    transport = Transport()
    return front_of(machine_of(config, transport), transport)


def machine_of(config: Config, transport: Transport, routing_of: RoutingOf | None = None) -> Machine:
    """The parts, made from the configuration and of one another."""
    local = build_runners(config)
    experts = {
        expert.name: build_expert(expert, config.timeouts, transport, local) for expert in config.experts
    }
    pool = profiles(config)
    routing, gatherer = (routing_of or _routing)(config, pool)
    fleet = FleetState([profile.name for profile in pool], limits(config), away_s=local.away_s)
    local.on_change.append(fleet.look_again)
    store = Store.open(config.batches_path)
    return Machine(
        config=config,
        profiles=pool,
        policies=config.policies_by_name(),
        experts=experts,
        fleet=fleet,
        routing=routing,
        gatherer=gatherer,
        embedders=pool_of(config),
        journal=Journal.open(config.journal),
        runners=local,
        gate=Gate(config.server, store.salt),
        replicas=_replicas(config, fleet, experts),
        store=store,
    )


def _replicas(config: Config, fleet: FleetState, experts: Mapping[str, Expert]) -> Replicas | None:
    """What is shared through Redis, if one is named: the upstreams that are not this gateway's own."""
    if config.redis is None:
        return None
    shared = [expert.name for expert in config.experts if not (expert.runner or expert.tool)]

    def share(n_replicas: int) -> None:
        for expert in experts.values():
            expert.share(n_replicas)

    return Replicas(config.redis, fleet, shared, share)


def _routing(config: Config, pool: Sequence[ExpertProfile]) -> "tuple[Routing, Gatherer | None]":
    from .routing.build import build_routing  # loads the embedders

    return build_routing(config, pool)


def pool_of(config: Config) -> EmbedderPool | None:
    """The embedders served here, None where the configuration wants none.

    Raises:
        RoutersError: a selection or an expert cannot be served.
        ValueError: an embedder has the name of an expert.
    """
    if not config.embeddings.enabled:
        return None
    pool = EmbedderPool(config.embeddings)
    for name in {expert.name for expert in config.experts}.intersection(pool.names):
        raise ValueError(f"'{name}' is an expert and an embedder; one of them needs another name")
    return pool


def front_of(machine: Machine, transport: Transport) -> Front:
    """The application around a machine."""
    ledger = ledger_of(machine)
    dispatcher = Dispatcher(machine.experts, machine.fleet, ledger)
    asking = Asking(machine, dispatcher)
    hot = {
        chat.PATH: asking.handler(chat.CHAT),
        completions.PATH: asking.handler(completions.COMPLETIONS),
        embeddings.PATH: embeddings.Embedding(machine, dispatcher).handler(),
    }
    jobs = Jobs(machine, ledger, limits(machine.config), lambda: front.n_live)
    front = Front(hot, rest_of(machine, transport, jobs), machine.gate)
    return front


def ledger_of(machine: Machine) -> Ledger:
    """What everything costs, and the journal it is told to."""
    here = (*machine.embedders.names, EMBEDDED_HERE) if machine.embedders else ()
    costs = {**prices(machine.config), **dict.fromkeys(here, Price(0.0, 0.0))}
    return Ledger(costs, machine.journal)


@contextlib.asynccontextmanager
async def batches_of(config: Config, calls: bool = True, engine: Engine | None = None) -> AsyncIterator[Jobs]:
    """Batches without a server: the same parts, opened, and closed again however it ends.

    Without `calls` no expert can be asked from here, and none is started: enough to cancel, or where an
    `engine` makes the calls.

    Raises:
        ValueError, JournalError, StoreError: as `build_app`.
    """
    transport = Transport()
    machine = machine_of(config, transport)
    async with running(machine, transport) if calls else keeping(machine):
        yield Jobs(machine, ledger_of(machine), limits(config), engine=engine)


def rest_of(machine: Machine, transport: Transport, jobs: Jobs) -> Starlette:
    """Everything that is not hot, and the lifespan of all."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with running(machine, transport):
            await jobs.start()
            try:
                yield
            finally:
                await jobs.stop()

    app = Starlette(
        routes=[
            *models.ROUTES,
            *route.ROUTES,
            *decisions.ROUTES,
            *files.ROUTES,
            *runners.ROUTES,
            *batches.ROUTES,
            *health.ROUTES,
            *metrics.ROUTES,
            *openapi.ROUTES,
        ],
        exception_handlers={HTTPException: _refused, GatewayError: _refused, Exception: _failed},
        lifespan=lifespan,
    )
    app.state.machine = machine
    app.state.jobs = jobs
    return app


@contextlib.asynccontextmanager
async def keeping(machine: Machine) -> AsyncIterator[None]:
    """What is kept on disk, open already, closed again however it ends."""
    try:
        yield
    finally:
        if machine.gatherer is not None:
            machine.gatherer.close()
        if machine.embedders is not None:
            machine.embedders.close()
        await machine.journal.close()
        machine.store.close()


@contextlib.asynccontextmanager
async def running(machine: Machine, transport: Transport) -> AsyncIterator[None]:
    """Everything opened, and closed again however it ends."""
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(keeping(machine))
        await transport.open()
        stack.push_async_callback(transport.close)
        for expert in machine.experts.values():
            stack.push_async_callback(expert.close)
        if machine.runners:
            stack.push_async_callback(machine.runners.stop)
            await machine.runners.start()
        if machine.replicas is not None:
            stack.push_async_callback(machine.replicas.close)
            await machine.replicas.start()
        yield


def limits(config: Config) -> dict[str, int | None]:
    """How many calls each expert serves at a time; None where there is no bound."""
    return {expert.name: max_parallel(expert) for expert in config.experts}


def max_parallel(expert: ExpertConfig) -> int | None:
    if expert.runner is not None:
        return expert.runner.n_parallel
    bounds = [place.max_parallel for place in expert.places()]
    known = [bound for bound in bounds if bound is not None]
    return sum(known) if len(known) == len(bounds) else None


def prices(config: Config) -> Mapping[str, Price]:
    """What each expert charges."""
    return {expert.name: price_of(expert) for expert in config.experts}


def price_of(expert: ExpertConfig) -> Price:
    """What an expert charges for a token."""
    profile = profile_of(expert)
    facts = facts_of(expert.model) if expert.input_cost_per_token is None and not expert.is_local else None
    return Price(
        profile.input_usd_per_token,
        profile.output_usd_per_token,
        facts.cached_input_usd_per_token if facts else None,
        facts.reasoning_usd_per_token if facts else None,
    )


async def _refused(request: Request, error: Exception) -> Response:
    """Starlette's refusals and ours, in OpenAI's envelope."""
    refusal = error if isinstance(error, GatewayError) else _in_our_words(request, error)
    headers = {name.decode(): value.decode() for name, value in refusal.headers()}
    return Response(to_envelope(refusal), refusal.status, headers, media_type="application/json")


async def _failed(request: Request, error: Exception) -> Response:
    """A fault of ours, in the same envelope; Starlette raises it again, and the front logs it."""
    return await _refused(request, GatewayError(FAILED))


def _in_our_words(request: Request, error: Exception) -> GatewayError:
    path, method = request.url.path, request.method
    if isinstance(error, HTTPException) and error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "").split(", ")
        return MethodNotAllowed(f"{path} does not take {method}", allowed)
    return EndpointNotFound(f"there is no {method} {path} here; /openapi.json lists what there is")
