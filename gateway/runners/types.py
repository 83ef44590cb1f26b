"""What a runner is asked to do, how it stands, and how patient its supervisor is."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from .errors import RunnerSettingsError

RunnerState = Literal["stopped", "starting", "ready", "stopping", "failed"]
"""starting covers the pause before a restart; failed means that it will not be tried again by itself."""


@dataclass(frozen=True, slots=True)
class RunnerSettings:
    """What to serve and how much room it gets. Experts with equal settings share one process.

    `context_tokens` is the window of each of the `n_parallel` requests served at a time. None leaves the
    choice to the engine: half the usable cores, as many layers on the GPU as fit.
    """

    engine: str
    model: str
    context_tokens: int = 4096
    n_parallel: int = 2
    n_threads: int | None = None
    n_gpu_layers: int | None = None

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
class Launch:
    """How to start one server process: its command line and what it is told once it runs.

    `message` goes through a private socket as one line of JSON, so that secrets in it show neither in the
    process list nor in the environment. The process answers on that socket with the address it listens on.
    """

    argv: tuple[str, ...]
    message: Mapping[str, Any] = field(repr=False)
    health_path: str = "/health"
    api_path: str = "/v1"


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a supervisor waits for what; all in seconds.

    A death is answered at once, further ones after pauses that double from `first_pause_s` to `max_pause_s`,
    until the process has served for `stable_s`. `n_failed_starts` in a row that never got ready are the end.
    """

    load_timeout_s: float = 180.0
    probe_every_s: float = 2.0
    probe_timeout_s: float = 5.0
    n_missed_probes: int = 3
    grace_s: float = 3.0
    first_pause_s: float = 0.25
    max_pause_s: float = 30.0
    stable_s: float = 10.0
    n_failed_starts: int = 5

    def pause_s(self, n_failures: int) -> float:
        """Seconds to wait before the next start, after `n_failures` in a row."""
        if n_failures <= 1:
            return 0.0
        return min(self.max_pause_s, self.first_pause_s * 2.0 ** min(n_failures - 2, 30))


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
