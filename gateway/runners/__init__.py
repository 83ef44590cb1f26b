"""Local experts: server processes that the gateway starts, watches, loads, unloads and ends."""

from .errors import (
    RunnerBusy,
    RunnerError,
    RunnerFailed,
    RunnerSettingsError,
    RunnerTooLarge,
    RunnerUnavailable,
)
from .lease import Lease
from .pool import Runners
from .runner import Runner
from .types import Patience, PoolRule, RunnerSettings, RunnerState, RunnerStatus

__all__ = [
    "Lease",
    "Patience",
    "PoolRule",
    "Runner",
    "RunnerBusy",
    "RunnerError",
    "RunnerFailed",
    "RunnerSettings",
    "RunnerSettingsError",
    "RunnerState",
    "RunnerStatus",
    "RunnerTooLarge",
    "RunnerUnavailable",
    "Runners",
]
