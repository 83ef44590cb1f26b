"""A clock that jumps, in either direction, neither deletes what is young nor keeps what is old for ever."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.batches import store as store_module
from gateway.batches.files import FileStore
from gateway.batches.store import BatchStore
from gateway.batches.types import Batch, StoredFile
from gateway.config import JournalConfig
from gateway.config.schema import BatchConfig
from gateway.storage.clock import CONFIRM_S, TOLERANCE_S, ClockRecord, StorageClock
from gateway.storage.journal import NAMES, Journal
from tests.fakes.batches import line, open_batch_gateway
from tests.gateway.storage.test_journal import entry, rows, until

NOW = 1_800_000_000.0
HOUR_S, DAY_S, YEAR_S = 3600.0, 86_400.0, 365 * 86_400.0


class HostClock:
    """A machine whose clock can be set."""

    def __init__(self) -> None:
        self.wall_s = NOW
        self.up_s = 100.0

    def run(self, seconds: float) -> None:
        self.wall_s += seconds
        self.up_s += seconds

    def build_clock(self, known: ClockRecord | None = None) -> StorageClock:
        return StorageClock(known, lambda: self.wall_s, lambda: self.up_s)


@pytest.fixture
def machine() -> HostClock:
    return HostClock()


def test_a_clock_that_runs_is_believed(machine: HostClock) -> None:
    clock = machine.build_clock()
    for step_s in (60.0, DAY_S, 60.0):
        machine.run(step_s)
        machine.wall_s += 20.0  # a time server corrects it
        assert clock.stamp() == clock.expiry_time() == machine.wall_s
    machine.wall_s -= TOLERANCE_S / 2
    assert clock.stamp() == clock.expiry_time() == machine.wall_s


@pytest.mark.parametrize("jump_s", [DAY_S, 10 * YEAR_S])
def test_a_jump_forward_counts_after_a_day_of_running(machine: HostClock, jump_s: float) -> None:
    clock = machine.build_clock()
    machine.wall_s += jump_s
    assert clock.expiry_time() == NOW
    machine.run(CONFIRM_S - 60)
    assert clock.expiry_time() == pytest.approx(NOW + CONFIRM_S - 60)
    assert clock.stamp() == machine.wall_s
    machine.run(61)
    assert clock.expiry_time() == machine.wall_s


def test_a_jump_that_is_taken_back_has_no_effect(machine: HostClock) -> None:
    clock = machine.build_clock()
    for jump_s in (10 * YEAR_S, -10 * YEAR_S):
        machine.wall_s += jump_s
        clock.stamp()
        machine.run(HOUR_S / 2)
        machine.wall_s -= jump_s
        assert clock.stamp() == clock.expiry_time() == machine.wall_s
        assert clock.gap_s == 0


def test_behind_its_time_stamps_go_on_and_nothing_new_is_old(machine: HostClock) -> None:
    clock = machine.build_clock()
    machine.wall_s -= 10 * YEAR_S
    machine.run(HOUR_S)
    assert clock.stamp() == NOW + HOUR_S
    assert clock.expiry_time() == machine.wall_s
    machine.run(CONFIRM_S)
    assert clock.stamp() == clock.expiry_time() == machine.wall_s


def test_a_wrong_clock_at_boot_is_known_by_what_was_kept(machine: HostClock) -> None:
    known = machine.build_clock().to_record()
    machine.wall_s += 10 * YEAR_S
    clock = machine.build_clock(ClockRecord.decode(known.encode()))
    assert clock.expiry_time() == NOW
    assert clock.find_last_stamp() is None


def test_a_machine_that_is_off_every_night_comes_to_an_end(machine: HostClock) -> None:
    known = machine.build_clock().to_record()
    lags = []
    for _ in range(12):
        machine.wall_s += 16 * HOUR_S
        clock = machine.build_clock(known)
        for _ in range(8 * 60):
            machine.run(60)
            clock.stamp()
        lags.append(clock.gap_s)
        known = clock.to_record()
    assert min(lags) == 0
    assert max(lags) <= 3 * 16 * HOUR_S


def test_a_damaged_record_is_none() -> None:
    assert ClockRecord.decode(b"yesterday") is None
    assert ClockRecord.decode(b"") is None


def test_a_jump_has_one_line_in_the_log(machine: HostClock, caplog: pytest.LogCaptureFixture) -> None:
    clock = machine.build_clock()
    machine.wall_s += YEAR_S
    for _ in range(3):
        machine.run(60)
        clock.stamp()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "365.0 days ahead of" in record.getMessage()
    assert "for 24 hours of running" in record.getMessage()


@pytest.fixture
def open_store(
    machine: HostClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], BatchStore]]:
    """Opens the store of one folder, as a start does."""
    monkeypatch.setattr(store_module, "StorageClock", machine.build_clock)
    opened: list[BatchStore] = []

    def open_again() -> BatchStore:
        opened.append(BatchStore.open(tmp_path))
        return opened[-1]

    yield open_again
    for store in opened:
        store.close()


def keep_file(store: BatchStore, days: float) -> StoredFile:
    files = FileStore(store, BatchConfig())
    upload = files.begin("me")
    upload.write(b"x")
    file = upload.keep("in.jsonl", "batch", round(days * DAY_S))
    upload.close()
    return file


def list_kept(store: BatchStore) -> list[str]:
    """The files that are left after a sweep."""
    files = FileStore(store, BatchConfig())
    store.keep_clock()
    files.delete_expired()
    files.delete_strays()
    found = [file.id for file in store.list_files("me", None, None, 100)]
    assert all(files.path(file_id).exists() for file_id in found)
    return found


def test_a_boot_ten_years_ahead_deletes_no_file_and_hides_none(
    machine: HostClock, open_store: Callable[[], BatchStore]
) -> None:
    store = open_store()
    old = keep_file(store, 30)
    store.keep_clock()
    machine.wall_s += 10 * YEAR_S
    store = open_store()
    new = keep_file(store, 30)
    machine.run(HOUR_S)
    assert list_kept(store) == [new.id, old.id]
    machine.wall_s -= 10 * YEAR_S  # the time server answers
    assert list_kept(store) == [new.id, old.id]
    machine.run(31 * DAY_S)
    assert list_kept(store) == []


def test_files_of_a_clock_that_was_behind_live_as_long_as_others(
    machine: HostClock, open_store: Callable[[], BatchStore]
) -> None:
    store = open_store()
    store.keep_clock()
    machine.wall_s -= 10 * YEAR_S
    file = keep_file(store, 2)
    assert list_kept(store) == [file.id]
    machine.wall_s += 10 * YEAR_S
    assert list_kept(store) == [file.id]
    for _ in range(3):
        machine.run(DAY_S)
        kept = list_kept(store)
    assert kept == []


def test_files_of_a_clock_that_was_ahead_do_not_live_for_ever(
    machine: HostClock, open_store: Callable[[], BatchStore]
) -> None:
    machine.wall_s += 10 * YEAR_S
    store = open_store()  # the first start of all believes its clock
    file = keep_file(store, 2)
    batch = Batch(id="batch_1", owner="me", window_s=DAY_S, times={"created_at": int(store.clock.stamp())})
    store.add_batch(batch)
    machine.wall_s -= 10 * YEAR_S
    for _ in range(30):
        machine.run(HOUR_S)
        assert list_kept(store) == [file.id]
    found = store.find_batch("batch_1")
    assert found is not None
    assert 0 < found.expires_at - machine.wall_s < 2 * DAY_S
    machine.run(2 * DAY_S)
    assert list_kept(store) == []


@pytest.fixture
async def journal(machine: HostClock, tmp_path: Path) -> Journal:
    journal = Journal.open(JournalConfig(path=str(tmp_path / "j.sqlite3"), max_days=30))
    journal.clock = machine.build_clock()
    return journal


async def add(journal: Journal, machine: HostClock, *ids: str) -> None:
    for one in ids:
        journal.record(entry(one, time=machine.wall_s))
    await until(lambda: journal.n_waiting == 0)
    journal._tidy()


async def test_no_jump_deletes_a_record_that_is_young(machine: HostClock, journal: Journal) -> None:
    await add(journal, machine, "a")
    for n, jump_s in enumerate((10 * YEAR_S, -10 * YEAR_S, -10 * YEAR_S, 10 * YEAR_S)):
        machine.wall_s += jump_s
        await add(journal, machine, f"b{n}")
    assert rows(journal) == 5
    for n in range(2):  # what was dated in the future is dated anew when it is the first
        machine.run(31 * DAY_S)
        await add(journal, machine, f"c{n}")
        journal._tidy()
    assert rows(journal, "group_concat(id)") == "c1"
    await journal.close()


async def test_records_of_a_clock_that_was_ahead_do_not_live_for_ever(
    machine: HostClock, journal: Journal
) -> None:
    machine.wall_s += 10 * YEAR_S
    journal.clock = machine.build_clock()
    await add(journal, machine, "a", "b")
    machine.wall_s -= 10 * YEAR_S
    await add(journal, machine, "c")
    machine.run(2 * DAY_S)
    await add(journal, machine, "d")
    assert rows(journal) == 4
    machine.run(31 * DAY_S)
    await add(journal, machine, "e")
    assert rows(journal) == 1
    await journal.close()


async def test_a_jump_forward_ends_no_batch(machine: HostClock, tmp_path: Path) -> None:
    async with open_batch_gateway(tmp_path, ["says-a", "hang"]) as at:
        clock = at.live.services.store.clock
        batch = await at.begin(line("1", "says-a"), line("2", "hang"))
        read_wall = clock._read_wall
        clock._read_wall = lambda: read_wall() + 10 * YEAR_S
        late = await at.begin(line("1", "says-a"))
        assert (await at.wait_for_end(late)).status == "completed"
        assert (await at.ai.batches.retrieve(batch.id)).status == "in_progress"
        await at.ai.batches.cancel(batch.id)
        await at.wait_for_end(batch)


def test_an_entry_keeps_its_time_where_the_clock_is_believed(machine: HostClock, tmp_path: Path) -> None:
    journal = Journal(JournalConfig(path=str(tmp_path / "j.sqlite3")))
    journal.clock = machine.build_clock()
    made = entry("a", time=NOW)
    time_of = NAMES.index("time")
    assert [row[time_of] for row in journal._build_rows([made])] == [NOW]
    machine.wall_s -= YEAR_S
    assert [row[time_of] for row in journal._build_rows([made])] == [NOW + YEAR_S]
