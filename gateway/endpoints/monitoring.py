"""`/health/live`, `/health/ready` and `/metrics`: whether the process may get traffic, and what it counts."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..runners import RunnerState, RunnerStatus
from ..services import Services
from ..telemetry.background import DEATHS
from .answers import get_services, json_response

Samples = Mapping[Any, float]
"""Values by their labels, a tuple."""


async def get_metrics(request: Request) -> Response:
    """All metrics with their current values."""
    # Imported at the first scrape: a gateway that is not scraped starts faster without it.
    from prometheus_client import CollectorRegistry
    from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

    others: OtherProcesses = request.app.state.others
    await others.refresh()
    # A registry per scrape reads the state as it is, so requests update no counters of the library.
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_MetricsCollector(get_services(request), request.app.state.counters, others))
    return Response(generate_latest(registry), headers={"content-type": CONTENT_TYPE_LATEST})


CounterKey = tuple[str, tuple[tuple[str, str], ...]]
"""The name of a series and its labels."""


class CarriedCounters:
    """The counters of a process over all configurations it has served, so that none falls at a reload.

    It hands on the sessions of clients, too.

    A reload builds all parts anew, and the former ones serve on until their requests have ended. `refused` is
    how many requests and connections the server refused, by reason; the server outlives reloads.
    """

    def __init__(self) -> None:
        self.refused: Mapping[str, int] = {}
        self._ended: dict[CounterKey, float] = {}
        self._open: list[Services] = []

    def begin(self, services: Services) -> None:
        """These parts serve from now on, beside others that still drain."""
        if self._open:
            services.sessions.go_on_from(self._open[-1].sessions)
        self._open.append(services)

    def end(self, services: Services) -> None:
        """These parts serve no more: what they counted is kept."""
        if len(self._open) > 1:  # at the end of the process there is no one left to ask
            _add_counts(self._ended, _read_counts(services))
        self._open.remove(services)

    def read_others(self, services: Services) -> dict[CounterKey, float]:
        """What all other parts counted, before these and beside them."""
        total = dict(self._ended)
        for other in self._open:
            if other is not services:
                _add_counts(total, _read_counts(other))
        return total


class OtherProcesses:
    """The processes that serve beside this one, which owns what they share; here there are none."""

    n_in_flight = 0
    """Requests of inference that they answer now."""

    async def refresh(self) -> None:
        """Ask them for what they count, in bounded time."""

    def read_samples(self) -> Sequence[Mapping[CounterKey, float]]:
        """Every series of each, as last heard; counters also of those that have ended."""
        return ()

    def collect_families(self) -> Iterator[Any]:
        """Metrics of the processes themselves."""
        return iter(())

    def list_degraded(self) -> Iterator[str]:
        """What is missing, one line each."""
        return iter(())

    def can_serve(self) -> bool:
        """Whether a request would be accepted."""
        return True


def read_samples(services: Services, counters: CarriedCounters) -> dict[CounterKey, float]:
    """Every series of this process with its value."""
    return {
        (sample.name, tuple(sample.labels.items())): sample.value
        for family in _MetricsCollector(services, counters, OtherProcesses()).collect()
        for sample in family.samples
    }


def _read_counts(services: Services) -> dict[CounterKey, float]:
    return {
        (sample.name, tuple(sample.labels.items())): sample.value
        for family in _collect_families(services)
        if family.type == "counter"
        for sample in family.samples
    }


def _is_counter(key: CounterKey) -> bool:
    return key[0].endswith("_total")


def _add_gauges(total: dict[CounterKey, float], more: Mapping[CounterKey, float]) -> None:
    for key, value in more.items():
        known = total.get(key, 0.0)
        total[key] = max(known, value) if key[0] in LARGEST else known + value


def _add_counts(total: dict[CounterKey, float], more: Mapping[CounterKey, float]) -> None:
    for key, value in more.items():
        total[key] = total.get(key, 0.0) + value


LARGEST = frozenset(
    {
        "thalamus_circuit_open",
        "thalamus_clock_gap_seconds",
        "thalamus_cooldown_seconds",
        "thalamus_failure_rate",
        "thalamus_latency_seconds",
    }
)
"""Gauges of which the largest of all processes is told, not the sum."""
CIRCUIT_GAUGE = {"closed": 0.0, "half-open": 0.5, "open": 1.0}


class _MetricsCollector:
    """The families of one moment, as the client library collects them."""

    def __init__(self, services: Services, counters: CarriedCounters, processes: OtherProcesses) -> None:
        self._services = services
        self._counters = counters
        self._processes = processes

    def describe(self) -> list[Any]:
        """Empty: this registry has no other collector whose names could clash."""
        return []

    def collect(self) -> Iterator[Any]:
        # Experts that are configured no more keep their series: a sum over experts must not fall either.
        others = self._counters.read_others(self._services)
        gauges: dict[CounterKey, float] = {}
        for process in self._processes.read_samples():
            _add_counts(others, {key: value for key, value in process.items() if _is_counter(key)})
            _add_gauges(gauges, {key: value for key, value in process.items() if not _is_counter(key)})
        deaths = {(name,): float(n) for name, n in DEATHS.n_restarts.items()}
        about = "Threads and tasks that died and were started again."
        died = build_counter("thalamus_background_restarts", about, ("name",), deaths)
        turned_away = {(reason,): float(n) for reason, n in self._counters.refused.items()}
        about = "Requests and connections that were refused before anything was done for them."
        refused = build_counter("thalamus_refused", about, ("reason",), turned_away)
        of_processes = [*self._processes.collect_families(), died, refused]
        for family in [*_collect_families(self._services), *of_processes]:
            for n, sample in enumerate(family.samples):
                key = sample.name, tuple(sample.labels.items())
                if family.type != "counter":
                    total = {key: sample.value}
                    _add_gauges(total, {key: gauges.get(key, 0.0)})
                    family.samples[n] = sample._replace(value=total[key])
                else:
                    family.samples[n] = sample._replace(value=sample.value + others.pop(key, 0.0))
            for key in [key for key in others if key[0] == f"{family.name}_total"]:
                family.add_metric([text for _, text in key[1]], others.pop(key))
            yield family
        for (name, labels), value in others.items():
            about = "Counted before the configuration was read again."
            names, texts = tuple(label for label, _ in labels), tuple(text for _, text in labels)
            yield build_counter(name.removesuffix("_total"), about, names, {texts: value})


def _collect_families(services: Services) -> Iterator[Any]:
    yield from _collect_calls(services)
    yield from _collect_routing(services)
    yield from _collect_sessions(services)
    yield from _collect_runners(services)


def _collect_calls(services: Services) -> Iterator[Any]:
    states = {name: services.fleet.own_state(name) for name in services.experts}

    def samples_of(key: str) -> Samples:
        return {(name,): float(state[key] or 0) for name, state in states.items()}  # type: ignore[arg-type]

    yield build_counter(
        "thalamus_calls_answered", "Calls an expert answered.", ("expert",), samples_of("n_answered")
    )
    yield build_counter(
        "thalamus_calls_failed", "Calls on which an expert failed.", ("expert",), samples_of("n_failed")
    )
    yield build_gauge("thalamus_calls_in_flight", "Calls under way.", ("expert",), samples_of("in_flight"))
    about = "Seconds until an expert is tried again."
    yield build_gauge("thalamus_cooldown_seconds", about, ("expert",), samples_of("cooldown_s"))
    opened = "Times an expert failed so often that it was left alone for a while."
    yield build_counter("thalamus_circuit_opened", opened, ("expert",), samples_of("n_opened"))
    alone = "Callers and requests that are kept from an expert which others may call."
    yield build_gauge("thalamus_circuit_held_off", alone, ("expert",), samples_of("n_held_off"))
    failing = "Share of the calls of the last 30 seconds that failed."
    yield build_gauge("thalamus_failure_rate", failing, ("expert",), samples_of("failure_rate"))
    about = "1 while an expert is left alone, 0.5 while one call tests it, else 0."
    openness = {(name,): CIRCUIT_GAUGE[str(state["state"])] for name, state in states.items()}
    yield build_gauge("thalamus_circuit_open", about, ("expert",), openness)
    retries = services.fleet.retries
    further = {("made",): float(retries.n_made), ("spared",): float(retries.n_refused)}
    about = "Further attempts after an expert failed, and those spared because too many fail."
    yield build_counter("thalamus_further_attempts", about, ("result",), further)
    usual = "Running mean of how long an answer takes, or its first token in a stream; 0 before the first."
    yield build_gauge("thalamus_latency_seconds", usual, ("expert",), samples_of("latency_s"))


ROUTING_SERIES = {
    "thalamus_decisions_total": "Requests that were routed.",
    "thalamus_encoder_consulted_total": "Decisions for which the encoder was asked.",
    "thalamus_encoder_busy_seconds_total": "Time the encoder's threads computed.",
    "thalamus_encoder_waiting": "Texts that wait for the encoder.",
    "thalamus_journal_lost_total": "Records that the journal had no room for.",
    "thalamus_journal_waiting": "Records that are not on disk yet.",
}


def _read_routing(services: Services) -> dict[str, float]:
    """The series of routing and of the journal with their values; none has a label."""
    router, batcher = services.router, services.router.batcher
    busy_s, n_waiting = (batcher.busy_s, batcher.n_waiting) if batcher else (0.0, 0)
    lost, unwritten = services.journal.dropped, services.journal.n_waiting
    values = router.n_decided, router.n_consulted, busy_s, n_waiting, lost, unwritten
    return dict(zip(ROUTING_SERIES, map(float, values), strict=True))


def _collect_routing(services: Services) -> Iterator[Any]:
    for name, value in _read_routing(services).items():
        build = build_counter if name.endswith("_total") else build_gauge
        yield build(name.removesuffix("_total"), ROUTING_SERIES[name], (), {(): value})
    about = "Seconds by which the machine's clock differs from the time that was seen to pass."
    yield build_gauge("thalamus_clock_gap_seconds", about, (), {(): abs(services.store.clock.gap_s)})
    lost = {(): float(services.store.n_lost_answers)}
    about = "Answers of batches that were paid and could not be written before the gateway stopped."
    yield build_counter("thalamus_batch_answers_lost", about, (), lost)
    about = "Decisions that did without a part of prediction that failed, was overloaded or is not loaded."
    parts = {(part,): float(n) for part, n in services.router.n_degraded.items()}
    yield build_counter("thalamus_decisions_degraded", about, ("part",), parts)


def _collect_sessions(services: Services) -> Iterator[Any]:
    sessions = services.sessions
    known = {(): float(len(sessions.turns))}
    yield build_gauge("thalamus_session_turns", "Turns of conversations that are remembered.", (), known)
    counts = {
        "expected": ("Calls that were expected to read the prompt cache of an expert.", sessions.n_expected),
        "read": ("Calls that did read it, of those that were expected to.", sessions.n_read),
    }
    for name, (about, by_expert) in counts.items():
        samples = {(expert,): float(by_expert.get(expert, 0)) for expert in services.experts}
        yield build_counter(f"thalamus_prompt_cache_{name}", about, ("expert",), samples)


def _collect_runners(services: Services) -> Iterator[Any]:
    if not services.runners:
        return
    statuses = services.runners.snapshot()
    # One series per state with 0 or 1, as Prometheus stores numbers only (a StateSet of OpenMetrics).
    states = {
        (status.alias, state): float(status.state == state)
        for status in statuses
        for state in get_args(RunnerState)
    }
    yield build_gauge("thalamus_runner_state", "1 for the state a runner is in.", ("runner", "state"), states)
    yield build_counter(
        "thalamus_runner_loads", "Times it was loaded.", ("runner",), _samples_by_runner(statuses, "n_loads")
    )
    restarts = "Times it died or hung and was started again."
    yield build_counter(
        "thalamus_runner_restarts", restarts, ("runner",), _samples_by_runner(statuses, "n_restarts")
    )
    yield build_gauge(
        "thalamus_runner_waiting", "Calls that wait.", ("runner",), _samples_by_runner(statuses, "n_waiting")
    )
    held = "Memory it holds, or would."
    yield build_gauge(
        "thalamus_runner_memory_bytes", held, ("runner",), _samples_by_runner(statuses, "memory_bytes")
    )
    evictions = {(): float(services.runners.n_evictions)}
    yield build_counter("thalamus_evictions", "Runners that left memory to make room.", (), evictions)
    devices = services.runners.memory()
    bounds = {(one.name,): float(one.capacity_bytes) for one in devices if one.capacity_bytes is not None}
    yield build_gauge("thalamus_device_capacity_bytes", "Memory runners may hold.", ("device",), bounds)
    taken = {(one.name,): float(one.held_bytes) for one in devices}
    yield build_gauge("thalamus_device_held_bytes", "Memory that runners hold.", ("device",), taken)


def _samples_by_runner(statuses: tuple[RunnerStatus, ...], key: str) -> Samples:
    return {(status.alias,): float(getattr(status, key) or 0) for status in statuses}


def build_counter(name: str, description: str, labels: tuple[str, ...], samples: Samples) -> Any:
    from prometheus_client.metrics_core import CounterMetricFamily

    # The library appends _total to the name, as OpenMetrics demands of counters.
    return _add_samples(CounterMetricFamily(name, description, labels=labels), samples)


def build_gauge(name: str, description: str, labels: tuple[str, ...], samples: Samples) -> Any:
    from prometheus_client.metrics_core import GaugeMetricFamily

    return _add_samples(GaugeMetricFamily(name, description, labels=labels), samples)


def _add_samples(family: Any, samples: Samples) -> Any:
    for labels, value in samples.items():
        family.add_metric(labels, value)
    return family


READY_STATES = ("closed", "half-open", "ready", "busy", "sleeping", "stopping", "stopped")
"""A local expert that is not in memory is loaded when it is asked for."""


async def get_liveness(request: Request) -> Response:
    """200 as long as the process answers."""
    return json_response({"status": "live"})


async def get_readiness(request: Request) -> Response:
    """200 when an expert can answer and no local expert is starting, else 503; lists what is degraded."""
    services = get_services(request)
    starting = list(_list_starting(services))
    others: OtherProcesses = request.app.state.others
    can_answer = others.can_serve() and any(_can_answer(services, name) for name in services.experts)
    facts = [*list_degraded(services), *others.list_degraded()]
    status = "starting" if starting else "unavailable" if not can_answer else "degraded" if facts else "ready"
    return json_response(
        {
            "status": status,
            "degraded": facts,
            "experts": {name: _describe_state(services, name) for name in services.experts},
            **_describe_routing(services, others),
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
    if services.store.degraded:
        yield services.store.degraded
    if services.journal.degraded:
        yield services.journal.degraded
    if services.responses is not None and services.responses.degraded:
        yield services.responses.degraded
    if services.replicas and services.replicas.degraded:
        yield services.replicas.degraded
    yield from DEATHS.list_degraded()
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


def _describe_routing(services: Services, others: OtherProcesses) -> dict[str, dict[str, Any]]:
    """What routing and the journal count, over all processes."""
    sums = _read_routing(services)
    for samples in others.read_samples():
        sums = {name: value + samples.get((name, ()), 0.0) for name, value in sums.items()}
    decided, consulted, busy_s, n_waiting, lost, unwritten = sums.values()
    routing = {
        "decided": int(decided),
        "consulted": int(consulted),
        "encoder_waiting": int(n_waiting),
        "encoder_busy_s": round(busy_s, 3),
    }
    return {"journal": {"waiting": int(unwritten), "lost": int(lost)}, "routing": routing}


async def get_root(request: Request) -> Response:
    """What this address is, for clients that ask it whether anything answers; it says nothing of a model."""
    return json_response(
        {"object": "gateway", "name": "thalamus", "status": "ok", "endpoints": "/openapi.json"}
    )


ROUTES = [
    Route("/", get_root, methods=["GET"]),
    Route("/health", get_liveness, methods=["GET"]),
    Route("/health/live", get_liveness, methods=["GET"]),
    Route("/health/ready", get_readiness, methods=["GET"]),
    Route("/metrics", get_metrics, methods=["GET"]),
]
