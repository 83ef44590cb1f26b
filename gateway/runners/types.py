"""Settings, states, time limits and errors of runners.

RunnerError
├── RunnerSettingsError   the configuration asks for something that cannot be started
└── RunnerUnavailable     the process is not there now
    ├── RunnerFailed      it failed to start several times in a row
    ├── RunnerBusy        too many requests wait for it
    └── RunnerTooLarge    it fits on no device
"""

# ruff: noqa: N818  `except RunnerUnavailable` reads as what happened

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from policies import ResidencyRule

RunnerState = Literal["stopped", "starting", "ready", "busy", "sleeping", "stopping", "failed"]
"""starting covers the pause before a restart and waking up; busy is ready with requests in flight; failed
means that it will not be tried again by itself."""

Probe = Literal["chat", "text", "embeddings", "none"]
"""What the canary asks before the first request; text is the cheapest, where the engine completes text."""


class RunnerError(Exception):
    """A local expert cannot be used."""


class RunnerSettingsError(RunnerError):
    """One line that names the field at fault and what to do."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class RunnerUnavailable(RunnerError):
    """Not ready, or not within the time given; another expert may serve."""


class RunnerFailed(RunnerUnavailable):
    """Gave up after starts that failed in a row; `start()` tries again."""


class RunnerBusy(RunnerUnavailable):
    """Too many requests wait in line; `retry_after_s` says when it may be better."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RunnerTooLarge(RunnerUnavailable):
    """More than a device may hold beside what is pinned there."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter over the model of a runner, and the name of the expert that answers with it."""

    name: str
    path: str
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """How a request reaches one model of an engine: its base, or the base with one adapter.

    `model` is the name to ask for, None where it is the engine's own; `fields` are added to the body, in
    place of the client's.
    """

    adapter: str | None = None
    model: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunnerSettings:
    """What to serve and how much room it gets. Experts with equal settings share one process.

    `context_tokens` is the window of each of the `n_parallel` requests served at a time. None leaves the
    choice to the engine: half the usable cores, as many layers on the GPU as fit, as many requests as it can.

    `adapters` are loaded beside the model; an expert of the name of one is answered with it, all others by
    the model alone.

    `command`, `env` and `health_path` are for engines that are started by a command line, `args` are added to
    that of vLLM, `url` is of one that runs already, `options` are llama.cpp's own, by name. `embeds` says
    that it answers embeddings. `memory_bytes` is what it holds on `device` while loaded; without it the
    engine guesses before the first load, and the load is measured. It is unloaded after `ttl_s` of idleness,
    and never to make room when `pinned`. `sleep_level` 0 ends the process to unload it; 1 and 2 send it to
    sleep.
    """

    engine: str
    model: str
    context_tokens: int = 4096
    n_parallel: int | None = None
    n_threads: int | None = None
    n_gpu_layers: int | None = None
    args: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    health_path: str | None = None
    url: str | None = None
    device: str | None = None
    memory_bytes: int | None = None
    ttl_s: float | None = None
    pinned: bool = False
    sleep_level: int | None = None
    canary: Probe = "chat"
    options: tuple[tuple[str, Any], ...] = ()
    adapters: tuple[Adapter, ...] = ()
    embeds: bool = False

    def has_same_process(self, other: "RunnerSettings") -> bool:
        """Whether the process is the same: when it is unloaded is told to none."""
        return replace(self, ttl_s=other.ttl_s, pinned=other.pinned) == other

    def choose_model(self, expert: str | None = None) -> ModelChoice:
        """How a request for an expert reaches its model; without one, the base model."""
        adapter = next((one for one in self.adapters if one.name == expert), None)
        name = None if adapter is None else adapter.name
        if self.engine == "vllm":
            return ModelChoice(name, model=name)
        n_fixed = len(dict(self.options).get("loras", ()))
        if self.engine != "llama.cpp" or not (n_fixed or self.adapters):
            return ModelChoice(name)
        # All of them, and never left to the client or to llama.cpp's default: it clears the prompt cache of a
        # slot only where a request names its adapters, and would go on from what another adapter computed.
        scales = [1.0] * n_fixed + [one.scale if one is adapter else 0.0 for one in self.adapters]
        return ModelChoice(name, fields={"lora": [{"id": n, "scale": s} for n, s in enumerate(scales)]})

    @property
    def choices(self) -> tuple[ModelChoice, ...]:
        """How requests reach each model: the base first."""
        return tuple(self.choose_model(name) for name in (None, *(one.name for one in self.adapters)))

    def check(self) -> None:
        """Refuse numbers no engine could serve.

        Raises:
            RunnerSettingsError: names the field and the least it may be.
        """
        least = {"context_tokens": 16, "n_parallel": 1, "n_threads": 1, "n_gpu_layers": 0}
        for name, bound in least.items():
            value = getattr(self, name)
            if value is not None and value < bound:
                raise RunnerSettingsError(f"runner.{name}", f"must be at least {bound}, not {value}")


@dataclass(frozen=True, slots=True)
class Step:
    """One request that changes how deep a server sleeps; `path` is from its root."""

    path: str
    body: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start one server process: its command line and what it is told once it runs.

    `message` goes through a private socket as one line of JSON, so that secrets in it show neither in the
    process list nor in the environment. The process answers on that socket with the address it listens on.

    `device` is where it holds `memory_bytes`, as far as that is known before it runs. `sleep` are the
    requests that put the server to sleep, `wake` those that wake it. `serves` is the name it answers to; it
    `completes` where it answers `/completions` too. One with a family of processes is given `grace_s` seconds
    to end them itself, however it came to its end. It answers `n_slots` requests at a time.
    """

    argv: tuple[str, ...]
    message: Mapping[str, Any] = field(repr=False)
    health_path: str = "/health"
    api_path: str = "/v1"
    device: str = "cpu"
    memory_bytes: int | None = None
    sleep: tuple[Step, ...] = ()
    wake: tuple[Step, ...] = ()
    asleep_path: str = "/is_sleeping"
    serves: str | None = None
    grace_s: float | None = None
    completes: bool = False
    n_slots: int = 1


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a supervisor waits for what; all in seconds. No state is left waited for without a bound.

    A death is answered at once, further ones after pauses that double from `first_pause_s` to `max_pause_s`,
    until the process has served for `stable_s`. `n_failed_starts` in a row that never got ready are the end,
    until a request comes `retry_failed_s` later. A server that has said nothing for `silent_s` with
    requests in flight is asked something short; one that has said nothing for `hung_s` is replaced unasked.
    """

    load_timeout_s: float = 180.0
    wake_timeout_s: float = 60.0
    sleep_timeout_s: float = 60.0
    canary_timeout_s: float = 60.0
    probe_every_s: float = 2.0
    probe_timeout_s: float = 5.0
    n_missed_probes: int = 3
    silent_s: float = 60.0
    hung_s: float = 900.0
    grace_s: float = 3.0
    gone_s: float = 30.0
    first_pause_s: float = 0.25
    max_pause_s: float = 30.0
    stable_s: float = 10.0
    n_failed_starts: int = 5
    retry_failed_s: float = 30.0

    def pause_s(self, n_failures: int) -> float:
        """Seconds to wait before the next start, after `n_failures` in a row."""
        if n_failures <= 1:
            return 0.0
        # The exponent is bounded, because a float overflows at 2.0 ** 1024.
        return min(self.max_pause_s, self.first_pause_s * 2.0 ** min(n_failures - 2, 30))


@dataclass(frozen=True, slots=True)
class PoolRule:
    """How runners share memory.

    `memory` is what may be held on each device, by name; `each` goes for devices not named. Without either it
    is what the device has, less a margin. Logs are kept in `log_folder`. Calls of batches in flight keep
    others waiting for `batch_grace_s` seconds at most.
    """

    memory: Mapping[str, int] = field(default_factory=dict)
    each: int | None = None
    residency: ResidencyRule = field(default_factory=ResidencyRule)
    log_folder: Path | None = None
    batch_grace_s: float = 5.0


@dataclass(frozen=True, slots=True)
class RunnerStatus:
    """One runner at one moment, for `/v1/runners` and health."""

    engine: str
    model: str
    alias: str
    experts: tuple[str, ...]
    state: RunnerState
    pid: int | None
    base_url: str | None
    n_restarts: int
    load_s: float | None
    up_s: float | None
    last_error: str | None
    device: str
    memory_bytes: int | None
    n_in_flight: int
    n_loads: int
    n_waiting: int = 0


@dataclass(frozen=True, slots=True)
class DeviceMemoryStatus:
    """A device at one moment; None where nothing bounds it, or nothing measures it."""

    name: str
    capacity_bytes: int | None
    held_bytes: int
    free_bytes: int | None


# ruff: noqa: N818  `except RunnerUnavailable` reads as what happened
