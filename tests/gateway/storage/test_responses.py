"""Responses that are kept: found by their owner alone, in order, bounded in age and bytes."""

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.storage.clock import StorageClock
from gateway.storage.responses import DAY_S, ResponseStore, StoredItem, StoredResponse
from gateway.storage.sqlite import DiskError, Schema, StorageError, prepare

NOW = 1_800_000_000.0


class WallClock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


def build_store(
    path: Path, max_bytes: int = 10**6, clock: WallClock | None = None, max_bytes_per_key: int = 10**6
) -> ResponseStore:
    read = clock or WallClock()
    times = StorageClock(wall=read, monotonic=read)
    return ResponseStore(path, 30.0, max_bytes, max_bytes_per_key, times).open()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ResponseStore]:
    made = build_store(tmp_path / "responses.sqlite3")
    yield made
    made.close()


def build_response(
    name: str, previous: str | None = None, owner: str = "me", n_bytes: int = 0
) -> StoredResponse:
    inputs = [StoredItem(f"in_{name}", b'"%b?"' % name.encode())]
    outputs = [StoredItem(f"out_{name}", b'"%b!%b"' % (name.encode(), b"x" * n_bytes))]
    return StoredResponse(name, owner, int(NOW), b"{}", previous, inputs, outputs)


def count_rows(path: Path) -> tuple[int, int]:
    with sqlite3.connect(path) as database:
        counted = "SELECT (SELECT count(*) FROM responses), (SELECT count(*) FROM items)"
        n_responses, n_items = database.execute(counted).fetchone()
    database.close()
    return n_responses, n_items


def test_a_response_is_found_as_it_was(store: ResponseStore) -> None:
    response = build_response("a")
    assert store.add(response)
    assert store.find("a", "me") == response
    assert store.find("b", "me") is None


def test_history_is_all_items_oldest_first(store: ResponseStore) -> None:
    for name, previous in (("a", None), ("b", "a"), ("x", "a"), ("c", "b")):
        store.add(build_response(name, previous))
    assert store.find_history("c", "me") == [b'"a?"', b'"a!"', b'"b?"', b'"b!"', b'"c?"', b'"c!"']
    assert store.find_history("x", "me") == [b'"a?"', b'"a!"', b'"x?"', b'"x!"']
    assert store.find_history("z", "me") is None


def test_a_conversation_whose_beginning_is_gone_is_gone(store: ResponseStore) -> None:
    store.add(build_response("a"))
    store.add(build_response("b", "a"))
    assert store.delete("a", "me")
    assert store.find_history("b", "me") is None


def test_nothing_is_found_with_another_key(store: ResponseStore) -> None:
    store.add(build_response("a"))
    store.add(build_response("b", "a", owner="other"))
    assert store.find("a", "other") is None
    assert store.find_history("b", "other") is None
    assert store.find_items(["in_a"], "other") == {}
    assert not store.delete("a", "other")
    assert store.find_items(["in_a", "out_a", "none"], "me") == {"in_a": b'"a?"', "out_a": b'"a!"'}


def test_another_process_finds_it_too(tmp_path: Path, store: ResponseStore) -> None:
    store.add(build_response("a"))
    other = build_store(tmp_path / "responses.sqlite3")
    try:
        other.add(build_response("b", "a"))
        assert len(store.find_history("b", "me") or ()) == 4
    finally:
        other.close()


def test_what_is_too_old_is_not_found_and_then_deleted(tmp_path: Path) -> None:
    clock = WallClock()
    store = build_store(tmp_path / "responses.sqlite3", clock=clock)
    try:
        store.add(build_response("a"))
        clock.now += 30 * DAY_S - 1
        assert store.find("a", "me") is not None
        clock.now += 1
        assert store.find("a", "me") is None
        assert store.find_items(["in_a"], "me") == {}
        assert store.find_history("a", "me") is None
        store._sweep_at = 0.0
        store.add(replace(build_response("b"), created_at=int(clock.now)))
    finally:
        store.close()
    assert count_rows(tmp_path / "responses.sqlite3") == (1, 2)


def test_the_oldest_give_way_to_the_newest(tmp_path: Path) -> None:
    path = tmp_path / "responses.sqlite3"
    store = build_store(path, max_bytes=10_000)
    try:
        for n in range(30):
            assert store.add(build_response(f"r{n}", n_bytes=1000))
        assert store.find("r29", "me") is not None
        assert store.find("r0", "me") is None
        assert not store.add(build_response("large", n_bytes=10_001))
        assert store.find("r29", "me") is not None
    finally:
        store.close()
    assert count_rows(path) == (9, 18)


def test_a_key_with_much_makes_room_among_its_own(tmp_path: Path) -> None:
    path = tmp_path / "responses.sqlite3"
    store = build_store(path, max_bytes=10_000, max_bytes_per_key=5000)
    try:
        store.add(build_response("theirs", owner="other", n_bytes=1000))
        for n in range(30):
            assert store.add(build_response(f"r{n}", n_bytes=1000))
        assert store.find("theirs", "other") is not None
        assert [store.find(f"r{n}", "me") is None for n in (25, 26, 29)] == [True, False, False]
        assert not store.add(build_response("large", n_bytes=5001))
    finally:
        store.close()
    assert count_rows(path) == (5, 10)


def test_a_full_disk_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    is_full = True

    def prepare_if_there_is_room(path: Path, schema: Schema, busy_s: float, directory_mode: int) -> None:
        if is_full:
            raise DiskError("no room", "full")
        prepare(path, schema, busy_s, directory_mode)

    monkeypatch.setattr("gateway.storage.responses.prepare", prepare_if_there_is_room)
    store = build_store(tmp_path / "responses.sqlite3")
    assert store.degraded == "responses: no room"
    with pytest.raises(StorageError):
        store.add(build_response("a"))
    is_full = False
    store._retry_at = 0.0
    assert store.add(build_response("a"))
    assert store.degraded is None
    store.close()


def test_only_its_owner_may_read_the_file(tmp_path: Path, store: ResponseStore) -> None:
    store.add(build_response("a"))
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


def test_a_file_of_another_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "responses.sqlite3"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE theirs (x)")
    database.close()
    with pytest.raises(StorageError, match=r"responses\.path"):
        build_store(path)
