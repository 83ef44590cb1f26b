"""Whether one more request may wait, and when to retry if not."""

from dataclasses import dataclass


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
    leaving_s = queue.ahead_s + n_over * queue.service_s / queue.n_slots if n_over > 0 else 0.0
    return Rejected(max(1.0, leaving_s, wait_s - rule.max_wait_s))
