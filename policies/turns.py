"""The order of the queues, and when one expert may take the memory of another."""

from dataclasses import dataclass

from .memory import Queue, Snapshot


@dataclass(frozen=True, slots=True)
class TurnRule:
    """How waiting requests of different experts are weighed against each other.

    tau_s:       a queue that waited this long counts double
    max_wait_s:  a queue goes before all others in time to be answered when its oldest request waited so long
    swap_weight: how much the requests delayed by a swap count against those that ask for it
    """

    tau_s: float = 10.0
    max_wait_s: float = 60.0
    swap_weight: float = 1.0


def order_queues(snapshot: Snapshot, rule: TurnRule) -> tuple[Queue, ...]:
    """The queues in the order of service: due ones, oldest first; then by priority; then by weight.

    Reference: Read-ME (arXiv 2410.19123), algorithm 1: the longest queue first.
    Differs: age counts and waiting is bounded; the algorithm starves short queues.
    """
    first = find_due(snapshot, rule)

    def key(queue: Queue) -> tuple[bool, float, int, float, str]:
        is_due = queue.expert in first
        oldest_s = queue.oldest_s if is_due else 0.0
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
    first, as many at once as there are residents now.
    """

    def place(queue: Queue) -> tuple[bool, float, str]:
        return not _is_current(queue, snapshot, rule), queue.oldest_s, queue.expert

    n_at_once = max(1, sum(resident.state != "leaving" for resident in snapshot.residents))
    queues = sorted(snapshot.queue.values(), key=place)
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
    return queue.n_waiting * (1.0 + max(0.0, now_s - queue.oldest_s) / rule.tau_s)


def is_in_turn(expert: str, snapshot: Snapshot, rule: TurnRule) -> bool:
    """Whether requests that the expert was loaded for still wait: until then it is not displaced.

    A turn lasts no longer than the bound on waiting, or than the load took.
    """
    queue, resident = snapshot.queue.get(expert), snapshot.resident[expert]
    longest_s = max(rule.max_wait_s, snapshot.load_s(expert))
    on_s = snapshot.now_s - resident.ready_s
    return queue is not None and queue.oldest_s <= resident.ready_s and on_s <= longest_s


def can_displace(
    wanting: Queue, expert: str, snapshot: Snapshot, rule: TurnRule, first: frozenset[str]
) -> bool:
    """Whether a queue may take the memory of another expert; `first` are the experts that are due.

    It may when it is due, unless the other's queue is due too and older; or when it has priority; or when its
    weight exceeds that of the other's queue plus, if the other was used since, the requests that the swap
    is expected to delay.
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
    used = resident.n_busy > 0 or resident.last_used_s > wanting.oldest_s
    swap_s = snapshot.load_s(wanting.expert) + snapshot.load_s(expert)
    delayed = rule.swap_weight * swap_s * snapshot.rate_per_s.get(expert, 0.0) if used else 0.0
    against = delayed + (queue_weight(other, snapshot.now_s, rule) if other is not None else 0.0)
    return queue_weight(wanting, snapshot.now_s, rule) > against
