"""What can go wrong with a local expert.

RunnerError
├── RunnerSettingsError   the configuration asks for something that cannot be started
└── RunnerUnavailable     the process is not there now
    ├── RunnerFailed      and will not come back by itself
    ├── RunnerBusy        too many wait for it
    └── RunnerTooLarge    it fits on no device
"""

# ruff: noqa: N818  `except RunnerUnavailable` reads as what happened


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
