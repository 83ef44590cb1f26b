"""Local experts: server processes that the gateway starts, watches and ends."""

from .errors import RunnerError, RunnerFailed, RunnerSettingsError, RunnerUnavailable
from .pool import Runners
from .runner import Runner
from .types import Patience, RunnerSettings, RunnerState, RunnerStatus

__all__ = [
    "Patience",
    "Runner",
    "RunnerError",
    "RunnerFailed",
    "RunnerSettings",
    "RunnerSettingsError",
    "RunnerState",
    "RunnerStatus",
    "RunnerUnavailable",
    "Runners",
]
