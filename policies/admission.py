"""Whether one more request may wait, and when to come back if not."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AdmissionRule:
    """What may wait for one expert: how many, and for how long they may expect to."""

    max_waiting: int = 256
    max_wait_s: float = 120.0


@dataclass(frozen=True, slots=True)
class Line:
    """How an expert's line stands when one more comes.

    n_slots:   requests it answers at once
    service_s: how long it answers one, of late
    ahead_s:   seconds until it answers at all: its load, and the turns that come before it
    """

    n_waiting: int
    n_busy: int
    n_slots: int
    service_s: float
    ahead_s: float = 0.0

    def wait_s(self) -> float:
        """Expected seconds until one more would begin to be answered."""
        n_before = self.n_busy + self.n_waiting + 1 - self.n_slots
        return self.ahead_s + max(0, n_before) * self.service_s / self.n_slots


@dataclass(frozen=True, slots=True)
class Admitted:
    """It may wait; `wait_s` is what it has to expect."""

    wait_s: float


@dataclass(frozen=True, slots=True)
class Rejected:
    """It may not; in `retry_after_s` there should be room for it."""

    retry_after_s: float


Admission = Admitted | Rejected


def admit(line: Line, rule: AdmissionRule) -> Admission:
    """Whether one more request may join the line."""
    wait_s = line.wait_s()
    n_over = line.n_waiting + 1 - rule.max_waiting
    if n_over <= 0 and wait_s <= rule.max_wait_s:
        return Admitted(wait_s)
    leaving_s = line.ahead_s + n_over * line.service_s / line.n_slots if n_over > 0 else 0.0
    return Rejected(max(1.0, leaving_s, wait_s - rule.max_wait_s))
