"""The composition root: the whole gateway, put together in one place.

    Application ── Authenticator ─┬─ POST of inference (`build_handlers`) ── CompletionEndpoint
                                  └─ all else ── Starlette: files, batches, models, route, health …
    CompletionEndpoint ── RequestParser ── Router ── Responder ── PlanExecutor ── experts

A line of a batch goes the same way from the parser on, driven by `BatchService` instead of the application.

The lifespan opens journal, transport, runners and replicas in this order, and closes them in reverse.
"""

import contextlib
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from policies import Policy
from routers import ExpertProfile

from .anthropic.answers import MessageWriter
from .asgi.application import AnswerWriter, Application, Handler
from .asgi.authentication import Authenticator
from .asgi.paths import PathTable
from .batches.calling import BatchExecutor
from .batches.lines import EMBEDDED_HERE
from .batches.service import BatchService
from .batches.store import BatchStore
from .config import Config, ExpertConfig, JournalConfig
from .embedding import EmbedderPool
from .endpoints import (
    batches,
    completions,
    decisions,
    feedback,
    files,
    messages,
    models,
    monitoring,
    openapi,
    responses,
    runners,
)
from .endpoints.answers import refuse_storage_error
from .errors import (
    INTERNAL_ERROR,
    EndpointNotFound,
    GatewayError,
    MethodNotAllowed,
    to_envelope,
)
from .execution.executor import Accounting, PlanExecutor
from .execution.responder import Responder
from .experts import Expert, build_expert
from .experts.build import read_parallel_limits
from .experts.deployments import DeployedExpert
from .experts.http_client import Transport
from .experts.litellm import warm_litellm
from .experts.profiles import facts_of, profile_of, profiles
from .experts.upstreams import UpstreamTable
from .fleet.health import FleetState
from .fleet.replicas import Replicas
from .openai.answers import Price
from .prompts.wrappings import build_grammar
from .requests.parsing import COUNT_TOKENS, MESSAGES, SPECS, RequestParser
from .routing.sessions import build_sessions
from .runners import Runners
from .runners.build import build_runners, give_all_cores
from .services import Services
from .storage.clock import StorageClock
from .storage.journal import Journal
from .storage.responses import ResponseStore
from .storage.sqlite import StorageError

if TYPE_CHECKING:
    from .routing.router import Router

RouterFactory = Callable[[Config, Sequence[ExpertProfile]], Any]
log = logging.getLogger("thalamus")


@dataclass(frozen=True, slots=True)
class Parts:
    """What makes the parts that one process owns. Each of several workers gets remote parts instead."""

    runners: Callable[[Config], Runners] = build_runners
    journal: Callable[[JournalConfig], Journal] = Journal.open
    fleet: Callable[..., FleetState] = FleetState
    exchanges: bool = True
    """Whether it takes part in the exchange through Redis."""


def create_app(
    config: Config, counters: monitoring.CarriedCounters | None = None, parts: Parts | None = None
) -> Application:
    """The gateway as an ASGI application. No connection is made and no runner started before its lifespan.

    `counters` are those of applications that it takes over from; `parts` make what it takes over from them.

    Raises:
        ValueError: an expert cannot be called as configured; says which and why.
        StorageError: the journal or the store of batches cannot be opened.
    """
    transport = Transport()
    return build_application(build_services(config, transport, parts=parts), transport, counters)


def build_services(
    config: Config,
    transport: Transport,
    build_router: RouterFactory | None = None,
    parts: Parts | None = None,
) -> Services:
    """The parts, made from the configuration and of one another."""
    parts = parts or Parts()
    transport.limits = config.answers
    # Nothing is started or connected here: the lifespan does that, and can fail with a clear message.
    local = parts.runners(config)
    grammar = build_grammar(config)
    experts = {
        expert.name: build_expert(expert, config.timeouts, transport, local, grammar)
        for expert in config.experts
    }
    if tells_callers := len(config.server.keys_by_name()) > 1:
        for expert in experts.values():
            if isinstance(expert, DeployedExpert):
                expert.tell_callers_apart()
    pool = profiles(config)
    policies, embedders = config.policies_by_name(), build_embedders(config)
    fleet = parts.fleet(
        [profile.name for profile in pool],
        read_parallel_limits(config),
        away_s=local.loads_in_s,
        tells_callers=tells_callers,
    )
    # A loaded or unloaded engine changes how long its expert takes: cached snapshots are stale then.
    local.on_change.append(fleet.invalidate)
    key = config.server.master_key
    store = BatchStore.open(
        config.batches_path, may_wait=True, master_key=key.reveal() if key is not None else None
    )
    journal = parts.journal(config.journal)
    journal.clock = store.clock
    router = (build_router or build_default_router)(config, pool)
    if telling := find_keyword_experts(policies.values(), experts):
        router.ask_keywords_of(telling)
    return Services(
        config=config,
        profiles=pool,
        policies=policies,
        experts=experts,
        fleet=fleet,
        router=router,
        parser=RequestParser(config, policies, experts, embedders, grammar),
        embedders=embedders,
        journal=journal,
        runners=local,
        authenticator=Authenticator(config.server, store.salt),
        replicas=build_replicas(config, fleet, experts) if parts.exchanges else None,
        store=store,
        responses=build_response_store(config, store.clock),
        sessions=build_sessions(config),
    )


def find_keyword_experts(policies: Iterable[Policy], experts: Mapping[str, Expert]) -> dict[str, Expert]:
    """The experts that policies ask for the keywords of prompts."""
    named = {policy.panel.keywords for policy in policies if policy.panel}
    return {name: expert for name, expert in experts.items() if name in named}


def build_response_store(config: Config, clock: StorageClock) -> ResponseStore | None:
    """What keeps responses, None where the operator wants none kept."""
    kept = config.responses
    if not kept.enabled:
        return None
    sizes = kept.max_bytes, kept.max_bytes_per_key
    return ResponseStore(config.responses_path, kept.days, *sizes, clock).open()


def build_replicas(config: Config, fleet: FleetState, experts: Mapping[str, Expert]) -> Replicas | None:
    """What is shared through Redis, if one is named: the upstreams that are not this gateway's own."""
    if config.redis is None:
        return None
    shared = [expert.name for expert in config.experts if not (expert.runner or expert.tool)]

    def share(n_replicas: int) -> None:
        for expert in experts.values():
            expert.share(n_replicas)

    return Replicas(config.redis, fleet, shared, share)


def build_default_router(config: Config, pool: Sequence[ExpertProfile]) -> "Router":
    """The router that the configuration asks for."""
    from .routing.router import build_router  # loads numpy's and ONNX Runtime's libraries: a second

    return build_router(config, pool)


def build_embedders(config: Config) -> EmbedderPool | None:
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


def build_application(
    services: Services,
    transport: Transport,
    counters: monitoring.CarriedCounters | None = None,
    others: monitoring.OtherProcesses | None = None,
) -> Application:
    """The ASGI application around services; `others` serve beside this process."""
    accounting = build_accounting(services)
    others = others or monitoring.OtherProcesses()
    batch_service = BatchService(
        services,
        accounting,
        read_parallel_limits(services.config),
        lambda: application.n_in_flight + others.n_in_flight,
    )
    fallback = build_starlette_app(services, transport, batch_service, counters)
    fallback.state.others = others
    handlers = build_handlers(services, accounting)
    application = Application(handlers, fallback, services.authenticator, fallback.state.paths, WRITERS)
    return application


WRITERS: Mapping[str, Callable[[], AnswerWriter]] = {
    MESSAGES.path: MessageWriter,
    COUNT_TOKENS.path: MessageWriter,
}
"""What writes the answers, and the errors, of paths whose clients speak another format than OpenAI's."""


def build_handlers(services: Services, accounting: Accounting) -> dict[str, Handler]:
    """What answers the requests of inference, by path."""
    windows = {profile.name: profile.context_tokens for profile in services.profiles}
    upstreams = UpstreamTable.of(services.config.experts)
    totals_s = {
        expert.name: (expert.timeouts or services.config.timeouts).total_s
        for expert in services.config.experts
    }
    executor = PlanExecutor(services.experts, services.fleet, windows, upstreams, totals_s)
    responder = Responder(executor, services.fleet, accounting)
    specs = (*SPECS.values(), MESSAGES)
    handlers = {spec.path: completions.CompletionEndpoint(spec, services, responder).handle for spec in specs}
    return {
        **handlers,
        COUNT_TOKENS.path: messages.TokenCountEndpoint(services).handle,
        responses.PATH: responses.ResponsesEndpoint(services, responder).handle,
    }


def build_accounting(services: Services) -> Accounting:
    """The accounting: the price of every expert and embedder, and the journal."""
    here = (*services.embedders.names, EMBEDDED_HERE) if services.embedders else ()
    costs = {**expert_prices(services.config), **dict.fromkeys(here, Price(0.0, 0.0))}
    return Accounting(costs, services.journal, services.sessions)


@contextlib.asynccontextmanager
async def open_batches(
    config: Config, calls: bool = True, engine: BatchExecutor | None = None
) -> AsyncIterator[BatchService]:
    """Batches without a server: the same parts, opened, and closed again however it ends.

    Without `calls` no expert can be asked from here, and none is started: enough to cancel, or where an
    `engine` makes the calls.

    Raises:
        ValueError, StorageError: as `create_app`.
    """
    transport = Transport()
    # No stream waits beside a batch without a server: an engine may have the cores that are left to those.
    services = build_services(give_all_cores(config), transport)
    async with open_services(services, transport) if calls else close_at_end(services):
        yield BatchService(services, build_accounting(services), read_parallel_limits(config), engine=engine)


ROUTES: Sequence[Route] = [
    *models.ROUTES,
    *decisions.ROUTES,
    *feedback.ROUTES,
    *files.ROUTES,
    *runners.ROUTES,
    *batches.ROUTES,
    *responses.ROUTES,
    *monitoring.ROUTES,
    *openapi.ROUTES,
]


def build_starlette_app(
    services: Services,
    transport: Transport,
    batch_service: BatchService | None,
    counters: monitoring.CarriedCounters | None = None,
) -> Starlette:
    """Everything that is not hot, and the lifespan of all. A worker has no `batch_service`."""

    carried = counters or monitoring.CarriedCounters()

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with open_services(services, transport):
            if batch_service is not None:
                await batch_service.start()
            carried.begin(services)
            try:
                yield
            finally:
                if batch_service is not None:
                    await batch_service.stop()
                carried.end(services)

    app = Starlette(
        routes=ROUTES,
        exception_handlers={
            HTTPException: handle_error,
            GatewayError: handle_error,
            sqlite3.OperationalError: handle_database_error,
            StorageError: handle_database_error,
            Exception: handle_failure,
        },
        lifespan=lifespan,
    )
    app.state.paths = PathTable([*SPECS, *WRITERS, responses.PATH, *(route.path for route in ROUTES)])
    app.state.services = services
    app.state.counters = carried
    app.state.batches = batch_service
    return app


@contextlib.asynccontextmanager
async def close_at_end(services: Services) -> AsyncIterator[None]:
    """Close what is kept on disk, and the router, however the block ends."""
    try:
        yield
    finally:
        services.router.close()
        if services.embedders is not None:
            services.embedders.close()
        await services.journal.close()
        services.store.close()
        if services.responses is not None:
            services.responses.close()


@contextlib.asynccontextmanager
async def open_services(services: Services, transport: Transport) -> AsyncIterator[None]:
    """Everything opened, and closed again however it ends."""
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(close_at_end(services))
        await transport.open()
        # Closed in reverse: experts release their calls before the connections go.
        stack.push_async_callback(transport.close)
        warm_litellm(services.experts.values())
        for expert in services.experts.values():
            stack.push_async_callback(expert.close)
        if services.runners:
            stack.push_async_callback(services.runners.stop)
            await services.runners.start()
        if services.replicas is not None:
            stack.push_async_callback(services.replicas.close)
            await services.replicas.start()
        # Before the experts: a call for keywords that hangs must not hold up the end.
        stack.callback(services.router.close)
        yield


def expert_prices(config: Config) -> Mapping[str, Price]:
    """What each expert charges."""
    return {expert.name: expert_price(expert) for expert in config.experts}


def expert_price(expert: ExpertConfig) -> Price:
    """What an expert charges for a token."""
    profile = profile_of(expert)
    facts = facts_of(expert.model) if expert.input_cost_per_token is None and not expert.is_local else None
    return Price(
        profile.input_usd_per_token,
        profile.output_usd_per_token,
        profile.cached_input_usd_per_token,
        facts.reasoning_usd_per_token if facts else None,
        facts.written_usd_per_token if facts else None,
    )


async def handle_error(request: Request, error: Exception) -> Response:
    """Starlette's refusals and ours, in OpenAI's envelope."""
    refusal = error if isinstance(error, GatewayError) else as_gateway_error(request, error)
    headers = {name.decode(): value.decode() for name, value in refusal.headers()}
    return Response(to_envelope(refusal), refusal.status, headers, media_type="application/json")


async def handle_database_error(request: Request, error: Exception) -> Response:
    """A database that another process writes to, or whose disk is full or fails: the log has the cause."""
    return await handle_error(request, refuse_storage_error(error, f"{request.method} {request.url.path}"))


async def handle_failure(request: Request, error: Exception) -> Response:
    """A fault of ours, in the same envelope; Starlette raises it again, and the front logs it."""
    return await handle_error(request, GatewayError(INTERNAL_ERROR))


def as_gateway_error(request: Request, error: Exception) -> GatewayError:
    path, method = request.url.path, request.method
    if isinstance(error, HTTPException) and error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "").split(", ")
        return MethodNotAllowed(f"{path} does not take {method}", allowed)
    nearest = request.app.state.paths.suggest(path)
    hint = f"; the nearest is {nearest}" if nearest else ""
    return EndpointNotFound(
        f"there is no {method} {path[:256]} here{hint}; /openapi.json lists what there is"
    )
