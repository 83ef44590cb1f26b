"""The time by which stored things age, which a wrong clock of the machine cannot make jump.

The wall clock may be wrong at boot and be set while the process runs. So it is compared with the time that
has passed since it was last believed: where both differ by more than an hour, stamps are made by the later of
the two and ages are counted by the earlier, until the process has run for a day beside the new time. So
nothing is deleted at once after a jump forward, and nothing made after a jump backward is old at once.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

TOLERANCE_S = 3600.0
"""A difference that counts as none: a restart, the steps of a time server."""
CONFIRM_S = 86_400.0
"""After so long of running beside a new time it is believed: an operator has a day to set it."""
WEEK_S = 7 * 86_400.0

log = logging.getLogger("thalamus")


def read_monotonic() -> float:
    """Seconds since some moment, those in which the machine slept included where the system counts them."""
    boot = getattr(time, "CLOCK_BOOTTIME", None)  # Linux; elsewhere a long sleep looks like a jump
    return time.monotonic() if boot is None else time.clock_gettime(boot)


@dataclass(frozen=True, slots=True)
class ClockRecord:
    """What is kept of a clock over restarts.

    reached_s:   the believed time, seconds since 1970
    confirmed_s: for how long the process has run beside a wall clock that differs from it
    """

    reached_s: float
    confirmed_s: float = 0.0

    def encode(self) -> bytes:
        return f"{self.reached_s:.0f} {self.confirmed_s:.0f}".encode()

    @classmethod
    def decode(cls, data: bytes) -> "ClockRecord | None":
        """The record; None where it is damaged, as a clock works without one."""
        try:
            reached, confirmed = map(float, data.split())
        except ValueError:
            return None
        return cls(reached, confirmed)


class StorageClock:
    """Wall time, unless it disagrees with the time that has passed. Any thread may ask.

    `known` is what was kept at the last run; without it the wall clock is believed at first.
    """

    def __init__(
        self,
        known: ClockRecord | None = None,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = read_monotonic,
    ) -> None:
        self._read_wall = wall
        self._read_monotonic = monotonic
        self._lock = threading.Lock()
        self._wall = wall()
        self._monotonic = monotonic()
        self._reached, self._confirmed_s, self._is_disputed = self._wall, 0.0, False
        self.remember(known)

    def remember(self, known: ClockRecord | None) -> None:
        """Go on from what was kept at the last run."""
        if known is not None:
            with self._lock:
                self._reached, self._confirmed_s = known.reached_s, known.confirmed_s

    def stamp(self) -> float:
        """Seconds since 1970 for what is made now: the later of both times."""
        with self._lock:
            self._advance()
            return max(self._wall, self._reached)

    def expiry_time(self) -> float:
        """Seconds since 1970 up to which what has an end has ended: the earlier of both times."""
        with self._lock:
            self._advance()
            return min(self._wall, self._reached)

    @property
    def gap_s(self) -> float:
        """By how much the wall clock is ahead of the believed time; 0 where they agree."""
        with self._lock:
            self._advance()
            return self._wall - self._reached

    def find_last_stamp(self) -> float | None:
        """The latest stamp that can be right; None where the time is in dispute, and any may be."""
        with self._lock:
            self._advance()
            return None if self._is_disputed else self._reached + TOLERANCE_S

    def to_record(self) -> ClockRecord:
        """What to keep over a restart."""
        with self._lock:
            self._advance()
            return ClockRecord(self._reached, self._confirmed_s)

    def _advance(self) -> None:
        wall, monotonic = self._read_wall(), self._read_monotonic()
        passed_s = max(0.0, monotonic - self._monotonic)
        was_set = abs(wall - self._wall - passed_s) > TOLERANCE_S
        self._wall, self._monotonic = wall, monotonic
        self._reached += passed_s
        # What an earlier run confirmed holds on: a machine that runs eight hours a day must come to an end.
        self._confirmed_s = 0.0 if was_set else self._confirmed_s + passed_s
        if abs(wall - self._reached) > TOLERANCE_S and self._confirmed_s < CONFIRM_S:
            if not self._is_disputed or was_set:
                self._report(wall - self._reached)
            self._is_disputed = True
            return
        if self._is_disputed:
            log.info("the machine's clock is believed: files and records age by it again")
        self._reached, self._confirmed_s, self._is_disputed = wall, 0.0, False

    def _report(self, gap_s: float) -> None:
        level = logging.WARNING if abs(gap_s) > WEEK_S else logging.INFO
        days, side = abs(gap_s) / 86_400, "ahead of" if gap_s > 0 else "behind"
        text = (
            "the machine's clock is %.1f days %s the time that this gateway saw pass: files, batches and the "
            "journal age as if it had not moved, for %.0f hours of running"
        )
        log.log(level, text, days, side, (CONFIRM_S - self._confirmed_s) / 3600)
