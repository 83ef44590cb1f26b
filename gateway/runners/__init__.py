"""Local experts: server processes that the gateway starts, watches, loads, unloads and ends."""

from .pool import Runners, ServingPool
from .queue import Lease
from .runner import Runner
from .types import (
    Adapter,
    ModelChoice,
    Patience,
    PoolRule,
    RunnerBusy,
    RunnerError,
    RunnerFailed,
    RunnerSettings,
    RunnerSettingsError,
    RunnerState,
    RunnerStatus,
    RunnerTooLarge,
    RunnerUnavailable,
)

__all__ = [
    "Adapter",
    "Lease",
    "ModelChoice",
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
    "ServingPool",
]
