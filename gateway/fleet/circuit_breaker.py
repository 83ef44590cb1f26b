"""When to stop calling an expert or one of its deployments, and how to learn that it has recovered.

A failure tells of the expert only where others see it too. So evidence counts *different requests*, and where
keys tell callers apart it has to hold without the caller that failed most. What one request or one caller
alone runs into closes the way to that request or caller, and to no other.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

from ..errors import MAX_RETRY_AFTER_S

N_IN_A_ROW = 8
"""Different requests that fail in a row and open a circuit. An upstream that answers 80 % does this once in
400,000 calls, three in a row once in 125.
"""
N_REFUSED_IN_A_ROW = 20
"""The same for refusals (401, 403, 404 …), which cost little and may be about what was asked."""
N_SLOW, SLOW_S = 3, 5.0
"""With little traffic so many in a row are enough, where they lie so many seconds apart."""
MIN_VOLUME, FAILURE_RATE, WINDOW_S = 30, 0.6, 30.0
"""Or this share of at least so many calls, of the last seconds. Refusals do not count: where some calls are
answered the key is good.
"""
MAX_OUTCOMES, REMEMBERED_S = 200, 300.0
FIRST_COOLDOWN_S, MAX_COOLDOWN_S = 5.0, 60.0
KEY_COOLDOWN_S = 30.0
MIN_WAIT_S = 1.0
LONGEST_WAITS_S = (60.0, 300.0, 1200.0, MAX_RETRY_AFTER_S)
"""A longer wait that an upstream asks for is tested after so long, by one call: it may be a mistake."""
# A probe whose end is never reported must not keep an expert closed off for long.
PROBE_LOST_S = 30.0
MAX_SCOPES = 256
FINGERPRINT_BYTES = 8192

State = Literal["closed", "open", "half-open"]
Cause = Literal["server", "refused", "limit"]
PROMPTS = ("messages", "prompt", "input")


class CallError(Protocol):
    """What a breaker needs to know of a failed call. Experts raise it as `UpstreamError`.

    A protocol and not the class itself, because the experts import this module.
    """

    @property
    def kind(self) -> str: ...
    @property
    def cause(self) -> str: ...
    @property
    def status(self) -> int | None: ...
    @property
    def retry_after_s(self) -> float | None: ...
    @property
    def faults_expert(self) -> bool: ...


def classify_failure(error: CallError) -> Cause:
    """Whether the expert failed, refused what was asked or the key, or has reached a limit."""
    status = error.status
    if error.retry_after_s is not None or status in (429, 498, 529):
        return "limit"
    is_refusal = status is not None and 300 <= status < 500 and status != 408
    return "refused" if is_refusal or error.kind == "quota" else "server"


class CallSource:
    """Whose call it is and what it asks: `request` is equal for equal prompts, however they are asked."""

    __slots__ = ("_fields", "_request", "caller")

    def __init__(self, caller: str | None = None, fields: Mapping[str, object] | None = None) -> None:
        self.caller = caller
        self._fields = fields
        self._request: int | None = None

    @property
    def request(self) -> int:
        # Made when it is needed: most calls meet no circuit that asks for it.
        if self._request is None:
            self._request = hash(tuple(self._read_prompt()))
        return self._request

    def _read_prompt(self) -> Iterable[object]:
        for name in PROMPTS:
            if (value := (self._fields or {}).get(name)) is not None:
                view = memoryview(value)  # type: ignore[arg-type]
                # Both ends of a long prompt tell it from others at a bounded cost.
                yield len(view), bytes(view[:FINGERPRINT_BYTES]), bytes(view[-FINGERPRINT_BYTES:])


class PastCall(NamedTuple):
    """What came of a call; `cause` is None where it was answered."""

    time_s: float
    caller: str | None
    request: int
    cause: Cause | None


Scope = tuple[str | None] | tuple[str | None, int]
"""A caller, or one request of a caller."""
Size = Callable[[Sequence[PastCall]], int]


class Circuit:
    """Whether calls of one scope are let through. Times are seconds of the caller's monotonic clock.

    until: 0 while it is closed
    opened_s: when it was opened last; calls that began before tell nothing new
    probe_since: when the call began that tests it now
    """

    __slots__ = ("asked_to_wait", "n_opened", "opened_s", "probe_since", "until")

    def __init__(self) -> None:
        self.n_opened = 0
        self.until = self.opened_s = 0.0
        self.asked_to_wait = False
        self.probe_since: float | None = None

    def state(self, now: float) -> State:
        if not self.until:
            return "closed"
        return "open" if now < self.until else "half-open"

    def lets_through(self, now: float) -> bool:
        """Whether a call would be admitted; after a cooldown one at a time."""
        if not self.until:
            return True
        return now >= self.until and (self.probe_since is None or now - self.probe_since > PROBE_LOST_S)

    def open(self, error: CallError, now: float) -> None:
        pause_s = compute_pause_s(error, self.n_opened)
        self.n_opened += 1
        self.asked_to_wait = error.retry_after_s is not None
        # max, because calls in progress can fail after one that was asked to wait longer.
        self.until = max(self.until, now + pause_s)
        self.opened_s = now
        self.probe_since = None

    def close(self) -> None:
        self.n_opened = 0
        self.until = 0.0
        self.asked_to_wait = False
        self.probe_since = None


def compute_pause_s(error: CallError, n_opened: int) -> float:
    """How long no call is made after the circuit was opened so many times before, in seconds."""
    # Exponential back-off: 5, 10, 20, 40, 60 s … The bounded exponent keeps the power from overflowing.
    growth = 2.0 ** min(n_opened, 10)
    if error.retry_after_s is not None:
        # RFC 9110, section 10.2.3: Retry-After says when to come back. 0 invites a loop, a day is a mistake
        # or a poison: both ends are bounded, the upper one less with every call that was refused again.
        longest_s = LONGEST_WAITS_S[min(n_opened, len(LONGEST_WAITS_S) - 1)]
        return min(longest_s, max(min(MAX_COOLDOWN_S, MIN_WAIT_S * growth), error.retry_after_s))
    # A rejected key or an empty account does not heal with time, but its owner may mend it meanwhile.
    if classify_failure(error) == "refused":
        return KEY_COOLDOWN_S
    return float(min(MAX_COOLDOWN_S, FIRST_COOLDOWN_S * growth))


class CircuitBreaker(Circuit):
    """The circuit of one expert or deployment for all, and those of single callers and requests.

    outcomes: the last ones, the oldest a failure; empty while nothing fails, so that healthy experts pay
        nothing
    scoped: the circuits of callers and requests that fail where others do not, kept until `forgotten_s`
    deferred: whose probe failed last; others go before it
    is_suspect: a peer reports failures, so that the next one here opens the circuit. Not the report itself:
        the peer's own network may be broken, and one call here tells.
    n_openings: how often the circuit for all was opened
    """

    __slots__ = (
        "deferred",
        "forgotten_s",
        "is_suspect",
        "last_error",
        "n_openings",
        "outcomes",
        "scoped",
        "tells_callers",
    )

    def __init__(self, tells_callers: bool = False) -> None:
        """`tells_callers`: callers have keys of their own, and none of them speaks for all."""
        super().__init__()
        self.tells_callers = tells_callers
        self.outcomes: deque[PastCall] = deque(maxlen=MAX_OUTCOMES)
        self.scoped: dict[Scope, Circuit] = {}
        self.forgotten_s = 0.0
        self.deferred: Scope | None = None
        self.is_suspect = False
        self.last_error: str | None = None
        self.n_openings = 0

    def is_available(self, now: float, source: CallSource | None = None) -> bool:
        """Whether a call would be admitted, without asking for it; of no source in particular if None."""
        if source is None:
            return self.lets_through(now)
        return all(circuit.lets_through(now) for circuit in self._circuits_of(source))

    def admit(self, now: float, source: CallSource | None = None, insist: bool = False) -> bool:
        """Claim a call. `insist` goes through a cooldown that the upstream did not ask for."""
        if self.scoped and now > self.forgotten_s:
            self.scoped.clear()
        if not self.until and not self.scoped:
            return True
        source = source or CallSource()
        circuits = [circuit for circuit in self._circuits_of(source) if circuit.until]
        if insist:
            if any(now < circuit.until and circuit.asked_to_wait for circuit in circuits):
                return False
        elif not all(circuit.lets_through(now) for circuit in circuits) or self._is_deferred(now, source):
            return False
        for circuit in circuits:
            circuit.probe_since = now
        return True

    def _is_deferred(self, now: float, source: CallSource) -> bool:
        """Whether others go first: the last probe failed, and may have failed by what it asked."""
        if not self.until or self.n_opened < 2 or now >= self.until + FIRST_COOLDOWN_S:
            return False
        return self._scope_of(source) == self.deferred

    def _scope_of(self, source: CallSource) -> Scope:
        return (source.caller,) if self.tells_callers else (source.caller, source.request)

    def wait_s(self, now: float, source: CallSource | None = None) -> float:
        """Seconds until a call may be admitted; 0 when it may be now."""
        circuits = [self] if source is None else self._circuits_of(source)
        return max(0.0, *(circuit.until - now for circuit in circuits))

    def record_success(
        self, now: float, source: CallSource | None = None, started_s: float | None = None
    ) -> bool:
        """Note an answer, or the first token of one; True when that changed the state.

        `started_s` is when the call began, now if None.
        """
        if not (self.outcomes or self.until or self.scoped):
            return False
        source = source or CallSource()
        self.is_suspect = False
        changed = False
        for scope, circuit in self._list_circuits(source):
            # A call that began before it opened is no probe: what failed since may still fail.
            if circuit.until and (started_s is None or started_s >= circuit.opened_s):
                changed = True
                self._close(scope, circuit)
        if self.outcomes:
            self._remember(PastCall(now, source.caller, 0, None))
        return changed

    def record_failure(
        self,
        error: CallError,
        now: float,
        source: CallSource | None = None,
        started_s: float | None = None,
        n_pending: int = 0,
        *,
        has_spoken: bool = False,
    ) -> bool:
        """Note a failure; True when that changed the state.

        Args:
            n_pending: calls that may yet be answered. Failures are often faster than answers: of many calls
                that begin at once those that fail are seen first.
            has_spoken: it came after the first token, which was noted as a success.
        """
        source, cause = source or CallSource(), classify_failure(error)
        self.last_error = error.cause
        began_s = now if started_s is None else started_s
        circuits = [circuit for circuit in self._circuits_of(source) if circuit.until]
        if circuits:
            # A call that began before it opened is no probe, and what it tells is known.
            probed = [circuit for circuit in circuits if began_s >= circuit.opened_s]
            for circuit in probed:
                self._open(circuit, error, now, source)
            return bool(probed)
        if has_spoken:
            self._forget_success(source.caller)
        self._remember(PastCall(now, source.caller, source.request, cause))
        opened = self._find_opened(now, source, cause, n_pending)
        if opened is not None:
            self._open(opened, error, now, source)
        return opened is not None

    def release(self, source: CallSource | None = None, started_s: float | None = None) -> bool:
        """Note a call that ended without a verdict; True when that changed the state."""
        changed = False
        for circuit in self._circuits_of(source or CallSource()):
            if circuit.probe_since is not None and (started_s is None or started_s >= circuit.opened_s):
                circuit.probe_since, changed = None, True
        return changed

    # -- scopes

    def _circuits_of(self, source: CallSource) -> list[Circuit]:
        return [circuit for _, circuit in self._list_circuits(source)]

    def _list_circuits(self, source: CallSource) -> list[tuple[Scope | None, Circuit]]:
        """The circuits that a call of this source passes, that of all first."""
        circuits: list[tuple[Scope | None, Circuit]] = [(None, self)]
        if self.scoped:
            for scope in ((source.caller,), (source.caller, source.request)):
                if (circuit := self.scoped.get(scope)) is not None:
                    circuits.append((scope, circuit))
        return circuits

    def _add_scope(self, scope: Scope, now: float) -> Circuit:
        if len(self.scoped) >= MAX_SCOPES:
            # Bounded: those that would let a call through go first, then the oldest.
            over = [name for name, circuit in self.scoped.items() if now >= circuit.until]
            for name in over or list(self.scoped)[:1]:
                del self.scoped[name]
        return self.scoped.setdefault(scope, Circuit())

    def _open(self, circuit: Circuit, error: CallError, now: float, source: CallSource) -> None:
        circuit.open(error, now)
        self.forgotten_s = max(self.forgotten_s, circuit.until + REMEMBERED_S)
        if circuit is self:
            self.n_openings += 1
            self.is_suspect = False
            self.deferred = self._scope_of(source)

    def _close(self, scope: Scope | None, circuit: Circuit) -> None:
        """Close a circuit and forget what opened it."""
        circuit.close()
        if scope is None:
            self.outcomes.clear()
            return
        self.scoped.pop(scope, None)
        kept = [one for one in self.outcomes if (one.caller, one.request)[: len(scope)] != scope]
        self.outcomes = deque(kept, MAX_OUTCOMES)

    # -- evidence

    def _remember(self, outcome: PastCall) -> None:
        outcomes = self.outcomes
        outcomes.append(outcome)
        while outcomes and (outcomes[0].cause is None or outcome.time_s - outcomes[0].time_s > REMEMBERED_S):
            outcomes.popleft()

    def _forget_success(self, caller: str | None) -> None:
        """The answer that had begun has failed after all: it must not count as both."""
        for n in range(len(self.outcomes) - 1, -1, -1):
            if self.outcomes[n].cause is None and self.outcomes[n].caller == caller:
                del self.outcomes[n]
                return

    def _find_opened(self, now: float, source: CallSource, cause: Cause, n_pending: int) -> Circuit | None:
        """The circuit of the widest scope whose calls fail, None where none does."""
        outcomes, caller = list(self.outcomes), source.caller
        own = [one for one in outcomes if one.caller == caller]
        if self.is_suspect and cause == "server":
            return self
        if not self.tells_callers:
            if _are_failing(outcomes, now, n_pending, _count_requests, cause):
                return self
        elif _are_failing(outcomes, now, n_pending, _count_without_worst_caller, cause, 1):
            return self
        elif _are_failing(own, now, n_pending, _count_requests, cause):
            return self._add_scope((caller,), now)
        same = [one for one in own if one.cause is None or one.request == source.request]
        if _are_failing(same, now, n_pending, len, cause, 1):
            return self._add_scope((caller, source.request), now)
        return None

    def n_held_off(self, now: float) -> int:
        """How many callers and requests are refused alone."""
        return sum(now < circuit.until for circuit in self.scoped.values())

    def failure_rate(self, now: float) -> float | None:
        """The share of the last calls that failed, None where none did lately."""
        recent = [one.cause is not None for one in self.outcomes if now - one.time_s <= WINDOW_S]
        return sum(recent) / len(recent) if any(recent) else None

    def has_failed_last(self, now: float) -> bool:
        """Whether the last that was seen of it, not long ago, is a failure."""
        last = self.outcomes[-1] if self.outcomes else None
        return last is not None and last.cause is not None and now - last.time_s <= WINDOW_S


def _count_requests(failures: Sequence[PastCall]) -> int:
    """How many different requests failed: a query that kills its upstream counts once."""
    return len({(one.caller, one.request) for one in failures})


def _count_without_worst_caller(failures: Sequence[PastCall]) -> int:
    """How many different requests failed that are not of the caller with the most of them."""
    counts = Counter(caller for caller, _ in {(one.caller, one.request) for one in failures})
    return sum(counts.values()) - max(counts.values(), default=0)


def _are_failing(
    outcomes: Sequence[PastCall], now: float, n_pending: int, count: Size, cause: Cause, n_limited: int = 2
) -> bool:
    """Whether outcomes, the oldest first, show that calls of their kind fail; `cause` is the last one's.

    Args:
        count: how many of some failures count.
        n_limited: as many in a row open a circuit where the upstream speaks of a limit.
    """
    row: list[PastCall] = []
    for one in reversed(outcomes):
        if one.cause is None:
            break
        row.append(one)
    if cause == "limit":
        return count([one for one in row if one.cause == "limit"]) >= n_limited
    n_row = count(row)
    if n_row >= n_pending:
        failed = [one for one in row if one.cause == "server"]
        if count(failed) >= N_IN_A_ROW or n_row >= N_REFUSED_IN_A_ROW:
            return True
        if count(failed) >= N_SLOW and now - failed[-1].time_s >= SLOW_S:
            return True
    recent = [one for one in outcomes if now - one.time_s <= WINDOW_S]
    n_failed = count([one for one in recent if one.cause == "server"])
    n_calls = n_failed + sum(one.cause is None for one in recent) + n_pending
    return n_calls - n_pending >= MIN_VOLUME and n_failed >= FAILURE_RATE * n_calls


START_TOKENS, MAX_TOKENS, TOKENS_PER_REQUEST = 3.0, 10.0, 0.2


class RetryBudget:
    """Bounds the further attempts that fail, by caller: in an outage each would only add to the load.

    Each request adds a fifth of a token, each further attempt that fails takes one. Without a token an expert
    that failed last is passed over; one that answers is always called, so that fallbacks work.

    n_requests: requests so far
    n_made, n_refused: further attempts that were made, and not
    """

    def __init__(self) -> None:
        self.n_requests = self.n_made = self.n_refused = 0
        self._tokens: dict[str | None, tuple[float, int]] = {}

    def has_token(self, caller: str | None) -> bool:
        return self._read(caller) >= 1.0

    def charge(self, caller: str | None) -> None:
        """A further attempt failed."""
        self._tokens[caller] = (max(0.0, self._read(caller) - 1.0), self.n_requests)

    def _read(self, caller: str | None) -> float:
        # Computed when it is asked for: a request that is answered at once pays for counting itself only.
        tokens, n_seen = self._tokens.get(caller, (START_TOKENS, self.n_requests))
        return min(MAX_TOKENS, tokens + TOKENS_PER_REQUEST * (self.n_requests - n_seen))
