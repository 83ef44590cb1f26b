"""When to leave an expert, or one deployment of it, alone, and how to find out that it is back."""

from typing import Literal

from ..experts.types import UpstreamError

N_FAILURES_TO_OPEN = 3
FIRST_COOLDOWN_S = 5.0
MAX_COOLDOWN_S = 60.0
KEY_COOLDOWN_S = 30.0
MAX_RETRY_AFTER_S = 3600.0
PROBE_LOST_S = 120.0

State = Literal["closed", "open", "half-open"]


class CircuitBreaker:
    """Whether one place may be called. Times are seconds of a monotonic clock, given by the caller."""

    __slots__ = ("asked_to_wait", "last_error", "n_failures", "n_opened", "probe_since", "until")

    def __init__(self) -> None:
        self.n_failures = 0
        self.n_opened = 0
        self.until = 0.0
        self.asked_to_wait = False
        self.probe_since: float | None = None
        self.last_error: str | None = None

    def state(self, now: float) -> State:
        if not self.until:
            return "closed"
        return "open" if now < self.until else "half-open"

    def available(self, now: float) -> bool:
        """Whether a call would be admitted, without asking for it."""
        if not self.until:
            return True
        return now >= self.until and (self.probe_since is None or now - self.probe_since > PROBE_LOST_S)

    def admit(self, now: float) -> bool:
        """Claim a call; after a cooldown only one at a time."""
        if not self.until:
            return True
        if not self.available(now):
            return False
        self.probe_since = now
        return True

    def succeeded(self) -> bool:
        """Note a success; True when that changed the state."""
        if not self.n_failures and not self.until:
            return False
        self.n_failures = self.n_opened = 0
        self.until = 0.0
        self.asked_to_wait = False
        self.probe_since = None
        return True

    def failed(self, error: UpstreamError, now: float) -> bool:
        """Note a failure; True when that changed the state."""
        self.n_failures += 1
        self.last_error = error.message
        pause_s = self._pause_s(error)
        probing, self.probe_since = self.probe_since is not None, None
        if not pause_s:
            return probing
        self.n_opened += 1
        self.asked_to_wait = error.retry_after_s is not None
        self.until = max(self.until, now + pause_s)
        return True

    def suspect(self) -> None:
        """Somebody else has trouble here: the next failure counts as if it were the last of a row."""
        self.n_failures = max(self.n_failures, N_FAILURES_TO_OPEN - 1)

    def abandoned(self) -> bool:
        """Note a call that ended without a verdict."""
        probing, self.probe_since = self.probe_since is not None, None
        return probing

    def _pause_s(self, error: UpstreamError) -> float:
        if error.retry_after_s is not None:
            return min(error.retry_after_s, MAX_RETRY_AFTER_S)
        if error.status in (401, 403):
            return KEY_COOLDOWN_S
        if error.status != 429 and not self.until and self.n_failures < N_FAILURES_TO_OPEN:
            return 0.0
        return float(min(MAX_COOLDOWN_S, FIRST_COOLDOWN_S * 2.0 ** min(self.n_opened, 10)))
