"""When to stop calling an expert or one of its deployments, and how to learn that it has recovered."""

from typing import Literal, Protocol

from ..errors import MAX_RETRY_AFTER_S

N_FAILURES_TO_OPEN = 3
FIRST_COOLDOWN_S = 5.0
MAX_COOLDOWN_S = 60.0
KEY_COOLDOWN_S = 30.0
# A probe whose end is never reported must not keep an expert closed off forever.
PROBE_LOST_S = 120.0

State = Literal["closed", "open", "half-open"]


class CallError(Protocol):
    """What a breaker needs to know of a failed call. Experts raise it as `UpstreamError`.

    A protocol and not the class itself, because the experts import this module.
    """

    @property
    def cause(self) -> str: ...
    @property
    def status(self) -> int | None: ...
    @property
    def retry_after_s(self) -> float | None: ...
    @property
    def faults_expert(self) -> bool: ...


class CircuitBreaker:
    """Whether one expert or deployment may be called. Times are seconds of the caller's monotonic clock."""

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

    def is_available(self, now: float) -> bool:
        """Whether a call would be admitted, without asking for it."""
        if not self.until:
            return True
        return now >= self.until and (self.probe_since is None or now - self.probe_since > PROBE_LOST_S)

    def admit(self, now: float) -> bool:
        """Claim a call; after a cooldown only one at a time."""
        if not self.until:
            return True
        if not self.is_available(now):
            return False
        self.probe_since = now
        return True

    def record_success(self) -> bool:
        """Note a success; True when that changed the state."""
        if not self.n_failures and not self.until:
            return False
        self.n_failures = self.n_opened = 0
        self.until = 0.0
        self.asked_to_wait = False
        self.probe_since = None
        return True

    def record_failure(self, error: CallError, now: float) -> bool:
        """Note a failure; True when that changed the state."""
        self.n_failures += 1
        self.last_error = error.cause
        pause_s = self._pause_s(error)
        probing, self.probe_since = self.probe_since is not None, None
        if not pause_s:
            return probing
        self.n_opened += 1
        self.asked_to_wait = error.retry_after_s is not None
        # max, because calls in progress can fail after one that was asked to wait longer.
        self.until = max(self.until, now + pause_s)
        return True

    def suspect(self) -> None:
        """A peer reports failures: the next failure here opens the breaker at once."""
        # Not open at once: the peer's own network may be broken, and one call here tells.
        self.n_failures = max(self.n_failures, N_FAILURES_TO_OPEN - 1)

    def release(self) -> bool:
        """Note a call that ended without a verdict."""
        probing, self.probe_since = self.probe_since is not None, None
        return probing

    def _pause_s(self, error: CallError) -> float:
        # RFC 9110, section 10.2.3: Retry-After says when to come back. The cap bounds a mistaken date.
        if error.retry_after_s is not None:
            return min(error.retry_after_s, MAX_RETRY_AFTER_S)
        # A rejected key or an empty account does not heal with time, but its owner may mend it meanwhile.
        if error.status in (401, 402, 403):
            return KEY_COOLDOWN_S
        if error.status not in (429, 529) and not self.until and self.n_failures < N_FAILURES_TO_OPEN:
            return 0.0
        # Exponential back-off: 5, 10, 20, 40, 60 s … The bounded exponent keeps the power from overflowing.
        return float(min(MAX_COOLDOWN_S, FIRST_COOLDOWN_S * 2.0 ** min(self.n_opened, 10)))
