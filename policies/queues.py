"""Queues of experts: their order, when one may displace another expert, admission and arrival rates."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from .memory import Queue, Snapshot

_SOON_S = 1e-3


@dataclass(frozen=True, slots=True)
class TurnRule:
    """How waiting requests of different experts are weighed against each other.

    tau_s:       a queue that waited this long counts double
    max_wait_s:  a queue goes before all others in time to be answered when its oldest request waited so long
    swap_weight: how much the requests delayed by a swap count against those that ask for it
    patient_s:   from this age on a queue of patient requests gains weight against experts in use, so that a
        batch is served now and then beside traffic that never pauses
    """

    tau_s: float = 10.0
    max_wait_s: float = 60.0
    swap_weight: float = 1.0
    patient_s: float = 600.0


def order_queues(snapshot: Snapshot, rule: TurnRule) -> tuple[Queue, ...]:
    """The queues in the order of service: due ones, oldest first; then by priority; then by weight.

    Reference: Read-ME (arXiv 2410.19123), algorithm 1: the longest queue first.
    Differs: age counts and waiting is bounded; the algorithm starves short queues.
    """
    first = find_due(snapshot, rule)

    # Priority does not precede being due: otherwise a steady stream of high priority would starve the others.
    # The name comes last, so that the order never depends on how the snapshot was assembled.
    def key(queue: Queue) -> tuple[bool, float, int, float, str]:
        is_due = queue.expert in first
        oldest_s = queue.oldest_s * is_due  # among those that are not due, age counts in the weight only
        return (
            not is_due,
            oldest_s,
            -queue.priority,
            -queue_weight(queue, snapshot.now_s, rule),
            queue.expert,
        )

    return tuple(sorted(snapshot.queue.values(), key=key))


def find_due(snapshot: Snapshot, rule: TurnRule) -> frozenset[str]:
    """The experts whose queues must go now to be served within the bound on waiting.

    A turn takes an eviction, a load and the answers. The current turn and the queues that waited longer come
    first, as many at once as there are residents now. Patient queues have no bound and delay no other.
    """

    def place(queue: Queue) -> tuple[bool, float, str]:
        return not _is_current(queue, snapshot, rule), queue.oldest_s, queue.expert

    n_at_once = max(1, sum(resident.state != "leaving" for resident in snapshot.residents))
    queues = sorted((queue for queue in snapshot.queue.values() if not queue.patient), key=place)
    # Due: age + (turns before + one later turn) / n_at_once + start-up ≥ bound. One turn of a later queue may
    # begin before this one is found due; the longest is the worst case.
    leads_s = [_startup_s(queue, snapshot) for queue in queues]
    turns_s = [lead_s + queue.drain_s for lead_s, queue in zip(leads_s, queues, strict=True)]
    found, before_s = set(), 0.0
    for n, queue in enumerate(queues):
        others_s = (before_s + max(turns_s[n + 1 :], default=0.0)) / n_at_once
        if snapshot.now_s - queue.oldest_s + others_s + leads_s[n] >= rule.max_wait_s:
            found.add(queue.expert)
        before_s += turns_s[n]
    return frozenset(found)


def _startup_s(queue: Queue, snapshot: Snapshot) -> float:
    """Seconds until its expert can answer, once it is its turn."""
    resident = snapshot.resident.get(queue.expert)
    ready = resident is not None and resident.state == "ready"
    return 0.0 if ready else snapshot.longest_answer_s + snapshot.load_s(queue.expert)


def _is_current(queue: Queue, snapshot: Snapshot, rule: TurnRule) -> bool:
    """Whether the queue has the current turn, or its expert is being loaded."""
    resident = snapshot.resident.get(queue.expert)
    return resident is not None and (resident.state == "loading" or is_in_turn(queue.expert, snapshot, rule))


def queue_weight(queue: Queue, now_s: float, rule: TurnRule) -> float:
    """The weight of a queue in requests: its length, times one plus the age of its oldest over τ."""
    # n · (1 + age / τ): age multiplies length, so that no waiting queue is outweighed for ever.
    return queue.n_waiting * (1.0 + max(0.0, now_s - queue.oldest_s) / rule.tau_s)


def is_in_turn(expert: str, snapshot: Snapshot, rule: TurnRule, wanting: Queue | None = None) -> bool:
    """Whether requests that the expert was loaded for still wait: until then it is not displaced.

    A turn lasts no longer than the bound on waiting, or than the load took. That of patient requests does
    not hold against others that are `wanting`.
    """
    # Without turns, experts that are all overdue would displace each other for every request.
    queue, resident = snapshot.queue.get(expert), snapshot.resident[expert]
    if queue is not None and queue.patient and wanting is not None and not wanting.patient:
        return False
    longest_s = max(rule.max_wait_s, snapshot.load_s(expert))
    on_s = snapshot.now_s - resident.ready_s
    return queue is not None and queue.oldest_s <= resident.ready_s and on_s <= longest_s


def can_displace(
    wanting: Queue, expert: str, snapshot: Snapshot, rule: TurnRule, first: frozenset[str]
) -> bool:
    """Whether a queue may take the memory of another expert; `first` are the experts that are due.

    It may when it is due, unless the other's queue is due too and older; or when it has priority; or when its
    weight exceeds that of the other's queue plus, if the other was used since, the requests that the swap
    is expected to delay. Patient requests wait until the other has been unused for as long as a swap takes.
    """
    other = snapshot.queue.get(expert)
    if wanting.expert in first:
        return other is None or expert not in first or wanting.oldest_s < other.oldest_s
    if other is not None:
        if expert in first or wanting.priority < other.priority:
            return False
        if wanting.priority > other.priority:
            return True
    resident = snapshot.resident[expert]
    is_answering = resident.n_busy > resident.n_patient
    swap_s = snapshot.load_s(wanting.expert) + snapshot.load_s(expert)
    rate_per_s = snapshot.rate_per_s.get(expert, 0.0)
    if wanting.patient and resident.n_uses:
        # One use tells no rate yet, but the next message of a conversation comes soon or not at all.
        rate_per_s = max(rate_per_s, 1.0 / max(_SOON_S, snapshot.now_s - resident.last_used_s))
        # A batch keeps its line full, so that its length says nothing.
        over_s = max(0.0, snapshot.now_s - wanting.oldest_s - rule.patient_s)
        return not is_answering and 1.0 + over_s / rule.tau_s > swap_s * rate_per_s
    # A client that asks two experts alternately delays at most the requests that arrive during both loads:
    # rate · (load of the one + load of the other).
    used = is_answering or resident.last_used_s > wanting.oldest_s
    delayed = rule.swap_weight * swap_s * rate_per_s if used else 0.0
    against = delayed + (queue_weight(other, snapshot.now_s, rule) if other is not None else 0.0)
    return queue_weight(wanting, snapshot.now_s, rule) > against


@dataclass(frozen=True, slots=True)
class AdmissionRule:
    """The bounds on the queue of one expert: its length and its expected wait."""

    max_waiting: int = 256
    max_wait_s: float = 120.0


@dataclass(frozen=True, slots=True)
class QueueState:
    """The queue of one expert when a request arrives.

    n_slots:   requests it answers at once
    service_s: recent mean seconds for one answer
    ahead_s:   seconds until it answers at all: its load and the turns before it
    """

    n_waiting: int
    n_busy: int
    n_slots: int
    service_s: float
    ahead_s: float = 0.0

    def wait_s(self) -> float:
        """Expected seconds until one more request would start."""
        # Answers leave evenly, n_slots per service_s: k requests too many wait k · service / slots.
        n_before = self.n_busy + self.n_waiting + 1 - self.n_slots
        return self.ahead_s + max(0, n_before) * self.service_s / self.n_slots


@dataclass(frozen=True, slots=True)
class Admitted:
    """The request may wait, `wait_s` seconds as expected."""

    wait_s: float


@dataclass(frozen=True, slots=True)
class Rejected:
    """The request may not wait; after `retry_after_s` seconds it may."""

    retry_after_s: float


Admission = Admitted | Rejected


def admit(queue: QueueState, rule: AdmissionRule) -> Admission:
    """Whether one more request may join the queue."""
    wait_s = queue.wait_s()
    n_over = queue.n_waiting + 1 - rule.max_waiting
    if n_over <= 0 and wait_s <= rule.max_wait_s:
        return Admitted(wait_s)
    # Retry-After below one second would only make clients poll.
    pauses_s = [1.0, wait_s - rule.max_wait_s]
    if n_over > 0:
        pauses_s.append(queue.ahead_s + n_over * queue.service_s / queue.n_slots)
    return Rejected(max(pauses_s))


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Per expert the time of its last request and the mean gap between requests.

    weight: of the latest gap in the running mean, in (0, 1]
    """

    weight: float = 0.2
    last_s: Mapping[str, float] = field(default_factory=dict)
    gap_s: Mapping[str, float] = field(default_factory=dict)

    def after(self, expert: str, now_s: float) -> "Arrivals":
        """The arrivals with one more request."""
        last_s = {**self.last_s, expert: now_s}
        if expert not in self.last_s:
            return Arrivals(self.weight, last_s, self.gap_s)
        gap_s = max(0.0, now_s - self.last_s[expert])
        # Exponential mean: g + (1 − w)(m − g) = w·g + (1 − w)·m, but exactly g where m = g.
        mean_s = gap_s + (1.0 - self.weight) * (self.gap_s.get(expert, gap_s) - gap_s)
        return Arrivals(self.weight, last_s, {**self.gap_s, expert: mean_s})

    def next_use_s(self, now_s: float) -> dict[str, float]:
        """Expected seconds until the next request: the mean gap, or the time since the last if longer.

        Experts with fewer than two requests are left out.
        """
        return {expert: max(gap_s, now_s - self.last_s[expert]) for expert, gap_s in self.gap_s.items()}

    def rate_per_s(self, now_s: float) -> dict[str, float]:
        """Requests a second; falls as the time since the last request grows."""
        return {expert: 1.0 / max(1e-6, in_s) for expert, in_s in self.next_use_s(now_s).items()}
