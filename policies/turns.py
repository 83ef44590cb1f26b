"""Whose turn it is: which expert's queue goes before which, and when one may take another's room."""

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


def serving_order(snapshot: Snapshot, rule: TurnRule) -> tuple[Queue, ...]:
    """The queues, whose turn comes first: who is due, oldest first; then by priority; then by claim.

    Reference: Read-ME (arXiv 2410.19123), algorithm 1: the longest queue first.
    Differs: age counts and waiting is bounded; the algorithm starves short queues.
    """
    first = due(snapshot, rule)

    def key(queue: Queue) -> tuple[bool, float, int, float, str]:
        is_due = queue.expert in first
        oldest_s = queue.oldest_s if is_due else 0.0
        return (not is_due, oldest_s, -queue.priority, -claim(queue, snapshot.now_s, rule), queue.expert)

    return tuple(sorted(snapshot.queue.values(), key=key))


def due(snapshot: Snapshot, rule: TurnRule) -> frozenset[str]:
    """Whose queues must go now to be served within the bound: after one more turn of others it is too late.

    A turn takes room, a load and answers. Whose turn it is and whoever waited longer come first, as many at
    once as there are residents now.
    """

    def place(queue: Queue) -> tuple[bool, float, str]:
        return not _is_on(queue, snapshot, rule), queue.oldest_s, queue.expert

    n_at_once = max(1, sum(resident.state != "leaving" for resident in snapshot.residents))
    queues = sorted(snapshot.queue.values(), key=place)
    leads_s = [_lead_s(queue, snapshot) for queue in queues]
    turns_s = [lead_s + queue.drain_s for lead_s, queue in zip(leads_s, queues, strict=True)]
    found, before_s = set(), 0.0
    for n, queue in enumerate(queues):
        others_s = (before_s + max(turns_s[n + 1 :], default=0.0)) / n_at_once
        if snapshot.now_s - queue.oldest_s + others_s + leads_s[n] >= rule.max_wait_s:
            found.add(queue.expert)
        before_s += turns_s[n]
    return frozenset(found)


def _lead_s(queue: Queue, snapshot: Snapshot) -> float:
    """Seconds until its expert can answer at all, once it is its turn."""
    resident = snapshot.resident.get(queue.expert)
    ready = resident is not None and resident.state == "ready"
    return 0.0 if ready else snapshot.longest_answer_s + snapshot.load_s(queue.expert)


def _is_on(queue: Queue, snapshot: Snapshot, rule: TurnRule) -> bool:
    """Whether it is their turn now, or they are being loaded for."""
    resident = snapshot.resident.get(queue.expert)
    return resident is not None and (resident.state == "loading" or in_turn(queue.expert, snapshot, rule))


def claim(queue: Queue, now_s: float, rule: TurnRule) -> float:
    """How much a queue weighs, in requests: its length, more the longer its oldest has waited."""
    return queue.n_waiting * (1.0 + max(0.0, now_s - queue.oldest_s) / rule.tau_s)


def in_turn(expert: str, snapshot: Snapshot, rule: TurnRule) -> bool:
    """Whether requests that it was loaded for still wait: until they are served its room is its own.

    Without this, experts that are all overdue would take the room from each other request by request. It
    lasts no longer than anybody may wait, or than the load took.
    """
    queue, resident = snapshot.queue.get(expert), snapshot.resident[expert]
    longest_s = max(rule.max_wait_s, snapshot.load_s(expert))
    on_s = snapshot.now_s - resident.ready_s
    return queue is not None and queue.oldest_s <= resident.ready_s and on_s <= longest_s


def may_displace(
    wanting: Queue, expert: str, snapshot: Snapshot, rule: TurnRule, first: frozenset[str]
) -> bool:
    """Whether those who wait for one expert may have the room of another; `first` are the experts due.

    They may when they are due, unless the other's are too and waited longer, or have priority, or when their
    claim exceeds that of the other's and, if it has been in use since they came, of those who are expected
    for it while the two are swapped: who asks one expert after the other waits no longer than a swap takes.
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
    against = delayed + (claim(other, snapshot.now_s, rule) if other is not None else 0.0)
    return claim(wanting, snapshot.now_s, rule) > against
