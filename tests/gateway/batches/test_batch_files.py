"""`/v1/files` through OpenAI's own client: kept on disk as they come, each for its owner alone."""

import asyncio
import contextlib
import errno
import io
import os
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, cast

import openai
import pytest

from gateway.batches import files as files_module
from gateway.batches.files import FileStore
from gateway.batches.store import NAME, BatchStore
from gateway.batches.types import Batch, FileNotKnown, KeyStorageFull, StorageFull, StoredFile
from gateway.config import parse_config
from gateway.config.client_keys import make_former_id
from gateway.config.schema import BatchConfig
from gateway.storage import sqlite as sqlite_module
from gateway.storage.sqlite import StorageError
from tests.fakes.serving import KEY, LiveApp, gateway

LINES = b'{"custom_id": "a"}\n{"custom_id": "b"}\n'
PURPOSE = b'--x\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
FILE = b'--x\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n' + LINES + b"\r\n"


@contextlib.asynccontextmanager
async def client(
    tmp_path: Path, key: str | None = None, **batches: Any
) -> AsyncIterator[tuple[openai.AsyncOpenAI, LiveApp]]:
    server = {"master_key": key} if key else {}
    config = {"experts": [], "server": server, "batches": batches}
    async with (
        gateway(config, str(tmp_path / "j.sqlite3")) as live,
        openai.AsyncOpenAI(base_url=live.base, api_key=key or "none", max_retries=0) as made,
    ):
        yield made, live


def list_stored(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "batches" / "files").iterdir())


async def test_a_file_is_kept_listed_read_and_deleted(tmp_path: Path) -> None:
    async with client(tmp_path) as (ai, _):
        made = await ai.files.create(file=("in.jsonl", LINES), purpose="batch")
        assert (made.filename, made.bytes, made.purpose, made.status) == (
            "in.jsonl",
            len(LINES),
            "batch",
            "processed",
        )
        assert await ai.files.retrieve(made.id) == made
        assert (await ai.files.content(made.id)).content == LINES
        assert [file.id async for file in ai.files.list()] == [made.id]
        assert (await ai.files.delete(made.id)).deleted
        assert [file.id async for file in ai.files.list()] == []
        assert list_stored(tmp_path) == []
        with pytest.raises(openai.NotFoundError, match="no file"):
            await ai.files.content(made.id)


@pytest.mark.parametrize(
    ("header", "status", "content"),
    [
        ("bytes=2-4", 206, LINES[2:5]),
        ("bytes=3-", 206, LINES[3:]),
        ("bytes=-4", 206, LINES[-4:]),
        ("bytes=0-999999", 206, LINES),
        ("bytes=9-1", 200, LINES),
        ("bytes=-", 200, LINES),
        ("lines=1-2", 200, LINES),
        ("bytes=0-1,4-5", 200, LINES),
        ("bytes=x", 200, LINES),
        ("bytes=999999-", 416, b""),
        ("bytes=-0", 416, b""),
    ],
)
async def test_a_range_of_a_file_is_sent_or_refused_as_an_error_object(
    tmp_path: Path, header: str, status: int, content: bytes
) -> None:
    async with client(tmp_path) as (ai, live):
        made = await ai.files.create(file=("in.jsonl", LINES), purpose="batch")
        url = f"{live.base}/files/{made.id}/content"
        headers = {"authorization": f"Bearer {ai.api_key}", "range": header}
        async with live.http.get(url, headers=headers) as response:
            assert response.status == status
            if status == 416:
                assert (await response.json())["error"]["code"] == "range_not_satisfiable"
            else:
                assert await response.read() == content


async def test_files_are_paged_newest_first(tmp_path: Path) -> None:
    async with client(tmp_path) as (ai, _):
        made = [(await ai.files.create(file=(f"{n}", LINES), purpose="batch")).id for n in range(5)]
        first = await ai.files.list(limit=2)
        assert ([file.id for file in first.data], first.has_more) == (made[:2:-1], True)
        assert [file.id async for file in first] == made[::-1]
        assert [file.id async for file in ai.files.list(order="asc", limit=3)] == made
        assert [file.id async for file in ai.files.list(purpose="batch_output")] == []


async def test_a_file_whose_bytes_are_gone_is_not_found_but_can_be_deleted(tmp_path: Path) -> None:
    async with client(tmp_path) as (ai, _):
        made = await ai.files.create(file=("in.jsonl", LINES), purpose="batch")
        (tmp_path / "batches" / "files" / made.id).unlink()
        with pytest.raises(openai.NotFoundError, match="are gone"):
            await ai.files.content(made.id)
        with pytest.raises(openai.NotFoundError, match="are gone"):
            await ai.batches.create(
                input_file_id=made.id, endpoint="/v1/chat/completions", completion_window="24h"
            )
        assert (await ai.files.delete(made.id)).deleted


async def test_a_page_size_that_is_none_is_refused(tmp_path: Path) -> None:
    async with client(tmp_path) as (_, live):
        for path in ("files", "batches"):
            for limit in ("0", "²", "٣", "9" * 5000, "1.5", ""):
                async with live.http.get(f"{live.base}/{path}", params={"limit": limit}) as answer:
                    assert (answer.status, limit) == (400, limit)
                    assert (await answer.json())["error"]["param"] == "limit"


async def test_a_file_belongs_to_the_name_of_its_key(tmp_path: Path) -> None:
    others = {"laptop": [KEY + "-laptop"], "ci": [KEY + "-ci"]}
    config = {"experts": [], "server": {"master_key": KEY, "keys": others}}
    async with gateway(config, str(tmp_path / "j.sqlite3")) as live:
        async with openai.AsyncOpenAI(base_url=live.base, api_key=KEY + "-laptop", max_retries=0) as ai:
            made = await ai.files.create(file=("in.jsonl", LINES), purpose="batch")
        for key in (KEY, KEY + "-ci"):
            async with openai.AsyncOpenAI(base_url=live.base, api_key=key, max_retries=0) as ai:
                assert [file.id async for file in ai.files.list()] == []
                for act in (ai.files.retrieve, ai.files.content, ai.files.delete):
                    with pytest.raises(openai.NotFoundError):
                        await act(made.id)
                with pytest.raises(openai.NotFoundError):
                    await ai.batches.create(
                        input_file_id=made.id, endpoint="/v1/chat/completions", completion_window="24h"
                    )
    # Another value of the same name, with the former one beside it and then without.
    for values in ([KEY + "-new", KEY + "-laptop"], [KEY + "-new"]):
        config = {"experts": [], "server": {"keys": {"laptop": values}}}
        async with gateway(config, str(tmp_path / "j.sqlite3")) as live:
            for value in values:
                async with openai.AsyncOpenAI(base_url=live.base, api_key=value, max_retries=0) as ai:
                    assert (await ai.files.content(made.id)).content == LINES


async def test_what_the_master_key_left_by_its_id_is_found_by_its_name(tmp_path: Path) -> None:
    async with client(tmp_path, KEY) as (ai, live):
        made = await ai.files.create(file=("in.jsonl", LINES), purpose="batch")
        live.services.store.add_batch(Batch(id="batch_1", owner="master", status="completed"))
    with contextlib.closing(sqlite3.connect(tmp_path / "batches" / NAME)) as database:
        for table in ("files", "batches"):
            database.execute(f"UPDATE {table} SET owner = '0123456789ab'")
        database.execute("PRAGMA user_version=2")
        database.commit()
    async with client(tmp_path, KEY + "-another") as (ai, _):
        assert (await ai.files.content(made.id)).content == LINES
        assert [batch.id async for batch in ai.batches.list()] == ["batch_1"]


async def test_gateways_of_different_keys_on_one_store_get_each_what_its_own_key_left(tmp_path: Path) -> None:
    keys = KEY, KEY + "-another"
    async with client(tmp_path, KEY) as (ai, live):
        files = [(await ai.files.create(file=("in.jsonl", LINES), purpose="batch")).id for _ in range(3)]
        salt = live.services.store.salt
    owners = (*(make_former_id(key, salt) for key in keys), "0123456789ab")
    with contextlib.closing(sqlite3.connect(tmp_path / "batches" / NAME)) as database:
        for owner, file in zip(owners, files, strict=True):
            database.execute("UPDATE files SET owner = ? WHERE id = ?", (owner, file))
        database.execute("PRAGMA user_version=2")
        database.commit()
    async with client(tmp_path, keys[0]) as (ai, _):
        assert [file.id async for file in ai.files.list()] == [files[0]]
        for other in files[1:]:
            with pytest.raises(openai.NotFoundError):
                await ai.files.content(other)


@pytest.mark.parametrize(
    ("file", "purpose", "said"),
    [(("a", LINES), "fine-tune", "'purpose' must be"), (("a", b"x" * 101), "batch", "larger than 100")],
)
async def test_what_cannot_be_kept_leaves_nothing_behind(
    tmp_path: Path, file: Any, purpose: Any, said: str
) -> None:
    async with client(tmp_path, max_file_bytes=100) as (ai, _):
        with pytest.raises(openai.APIStatusError, match=said) as refused:
            await ai.files.create(file=file, purpose=purpose)
        assert refused.value.status_code in (400, 413)
        assert list_stored(tmp_path) == []


async def test_a_file_far_too_large_is_refused_before_it_is_read(tmp_path: Path) -> None:
    async with client(tmp_path, max_file_bytes=100) as (_, live):
        head = f"POST /v1/files HTTP/1.1\r\nhost: {live.base[7:-3]}\r\ncontent-length: 9999999999\r\n\r\n"
        host, _, port = live.base[7:-3].partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(head.encode())
        assert b" 413 " in await asyncio.wait_for(reader.readline(), 2)
        writer.close()


@pytest.mark.parametrize(
    ("kind", "body", "said"),
    [
        ("application/json", b"{}", "multipart/form-data"),
        ("multipart/form-data", b"", "multipart/form-data"),
        ("multipart/form-data; boundary=x", b"nothing like it", "cannot be read"),
        ("multipart/form-data; boundary=x", b"--x--\r\n", "'file' is missing"),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\ncontent-disposition: form-data; name="purpose"\r\n\r\n' + b"y" * 5000 + b"\r\n--x--\r\n",
            "too long",
        ),
        (
            "multipart/form-data; boundary=x",
            b"".join(b'--x\r\ncontent-disposition: form-data; name="%d"\r\n\r\n\r\n' % n for n in range(33)),
            "at most 32 fields",
        ),
        ("multipart/form-data; boundary=x", PURPOSE + FILE, "cut off"),
        ("multipart/form-data; boundary=x", PURPOSE + FILE[:-12], "cut off"),
    ],
)
async def test_a_form_at_fault_is_refused(tmp_path: Path, kind: str, body: bytes, said: str) -> None:
    async with client(tmp_path) as (_, live):
        answer = await live.post("files", body, content_type=kind)
        assert (answer.status, said in answer.error["message"]) == (400, True), answer.error
        assert list_stored(tmp_path) == []


async def test_a_client_that_goes_away_leaves_nothing_behind(tmp_path: Path) -> None:
    async with client(tmp_path) as (_, live):
        host, _, port = live.base[7:-3].partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        head = f"POST /v1/files HTTP/1.1\r\nhost: {host}\r\ncontent-type: multipart/form-data; boundary=x\r\n"
        part = '--x\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\nabc'
        writer.write((head + "content-length: 5000\r\n\r\n" + part).encode())
        await writer.drain()
        async with asyncio.timeout(5):
            while not list_stored(tmp_path):  # noqa: ASYNC110 (nothing tells)
                await asyncio.sleep(0.01)
            writer.transport.abort()
            while list_stored(tmp_path):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert await reader.read() == b""


def test_another_programs_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"not a database at all, and longer than its header would be" * 20)
    with pytest.raises(StorageError, match="cannot be opened"):
        BatchStore.open(tmp_path)


def test_a_newer_store_is_refused(tmp_path: Path) -> None:
    store = BatchStore.open(tmp_path)
    with store.transaction() as database:
        database.execute("PRAGMA user_version=99")
    store.close()
    with pytest.raises(StorageError, match="newer Thalamus"):
        BatchStore.open(tmp_path)


async def test_a_file_is_gone_after_the_time_that_its_client_gave_it(tmp_path: Path) -> None:
    async with client(tmp_path) as (ai, _):
        after: Any = {"anchor": "created_at", "seconds": 7200}
        made = await ai.files.create(file=("in.jsonl", LINES), purpose="batch", expires_after=after)
        assert made.expires_at == made.created_at + 7200
        assert (await ai.files.retrieve(made.id)).expires_at == made.expires_at
        kept = await ai.files.create(file=("in.jsonl", LINES), purpose="batch")
        assert kept.expires_at == kept.created_at + 30 * 86_400
        store = BatchStore.open(tmp_path / "batches")
        with store.transaction() as database:
            database.execute("UPDATE files SET expires_at = ? WHERE id = ?", (int(time.time()) - 1, made.id))
        with pytest.raises(openai.NotFoundError):
            await ai.files.retrieve(made.id)
        with pytest.raises(openai.NotFoundError):
            await ai.files.content(made.id)
        assert [one.id async for one in ai.files.list()] == [kept.id]
        FileStore(store, BatchConfig()).delete_expired()
        store.close()
        assert list_stored(tmp_path) == [kept.id]


@pytest.mark.parametrize(
    "after",
    [
        {"anchor": "created_at", "seconds": 3599},
        {"anchor": "created_at", "seconds": 2_592_001},
        {"anchor": "last_active_at", "seconds": 7200},
        {"anchor": "created_at"},
        {"seconds": 7200},
    ],
)
async def test_a_time_out_of_bounds_is_refused_and_nothing_kept(tmp_path: Path, after: Any) -> None:
    async with client(tmp_path) as (ai, _):
        with pytest.raises(openai.BadRequestError) as caught:
            await ai.files.create(file=("in.jsonl", LINES), purpose="batch", expires_after=after)
        assert caught.value.param == "expires_after"
        assert list_stored(tmp_path) == []


@pytest.mark.parametrize("days", [7, 0.5, None])
async def test_the_configuration_says_how_long_a_file_stays_that_has_no_time(
    tmp_path: Path, days: float | None
) -> None:
    async with client(tmp_path, file_days=days) as (ai, _):
        made = await ai.files.create(file=("in.jsonl", LINES), purpose="batch")
        assert made.expires_at == (None if days is None else made.created_at + days * 86_400)
        after: Any = {"anchor": "created_at", "seconds": 2_592_000}
        longer = await ai.files.create(file=("in.jsonl", LINES), purpose="batch", expires_after=after)
        assert longer.expires_at == longer.created_at + 2_592_000


def test_an_empty_age_keeps_files() -> None:
    batches = parse_config("batches: {file_days: , output_days: 0.5}", env={}).batches
    assert (batches.file_days, batches.output_days) == (None, 0.5)


def expire(store: BatchStore, file_id: str) -> None:
    with store.transaction() as database:
        database.execute("UPDATE files SET expires_at = 1 WHERE id = ?", (file_id,))


@contextlib.contextmanager
def open_files(tmp_path: Path, **config: Any) -> Iterator[tuple[BatchStore, FileStore]]:
    store = BatchStore.open(tmp_path)
    try:
        yield store, FileStore(store, BatchConfig(**config))
    finally:
        store.close()


def upload(files: FileStore, owner: str, n_bytes: int) -> StoredFile:
    sink = files.begin(owner)
    try:
        for _ in range(n_bytes):
            sink.write(b"x")
        return sink.keep("in.jsonl", "batch")
    finally:
        sink.close()


def test_what_a_batch_reads_stays_until_it_has_ended(tmp_path: Path) -> None:
    with open_files(tmp_path) as (store, files):
        read, other = (upload(files, "me", 3).id for _ in range(2))
        store.add_batch(Batch(id="batch_1", owner="me", input_file_id=read, status="in_progress"))
        for file_id in (read, other):
            expire(store, file_id)
        files.delete_expired()
        assert (files.path(read).exists(), files.path(other).exists()) == (True, False)
        store.change("batch_1", status="completed")
        files.delete_expired()
        assert not files.path(read).exists()
        # A batch that is added when its input has just been deleted is refused: it could only fail.
        with pytest.raises(FileNotKnown):
            store.add_batch(Batch(id="batch_2", owner="me", input_file_id=read))


def test_bytes_that_a_crash_left_behind_are_deleted_when_they_are_old(tmp_path: Path) -> None:
    with open_files(tmp_path) as (_, files):
        kept = upload(files, "me", 3).id
        under_way = files.begin("me")
        for name in ("file-stray", "file-stray.part", kept, under_way.id):
            files.path(name).touch()
        for name in ("file-stray", "file-stray.part", kept):
            os.utime(files.path(name), (1, 1))
        files.delete_strays()
        assert sorted(path.name for path in (tmp_path / "files").iterdir()) == sorted([kept, under_way.id])
        under_way.close()


async def test_a_sweep_runs_when_a_gateway_starts(tmp_path: Path) -> None:
    async with client(tmp_path) as (ai, live):
        made = await ai.files.create(file=("in.jsonl", LINES), purpose="batch")
        expire(live.services.store, made.id)
    async with client(tmp_path), asyncio.timeout(10):
        while list_stored(tmp_path):  # noqa: ASYNC110 (nothing tells)
            await asyncio.sleep(0.01)


def test_a_key_has_a_quota_and_all_keys_have_one(tmp_path: Path) -> None:
    with open_files(tmp_path, max_stored_bytes_per_key=100, max_stored_bytes=150) as (store, files):
        first = upload(files, "me", 60)
        with pytest.raises(KeyStorageFull, match=r"batches\.max_stored_bytes_per_key") as refused:
            upload(files, "me", 41)
        assert refused.value.status == 413
        upload(files, "me", 40)
        with pytest.raises(StorageFull, match=r"batches\.max_stored_bytes\)") as full:
            upload(files, "you", 51)
        assert (full.value.status, dict(full.value.headers())[b"x-should-retry"]) == (507, b"false")
        upload(files, "you", 50)
        assert len(list((tmp_path / "files").iterdir())) == 3  # what was refused left nothing behind
        expire(store, first.id)
        upload(files, "me", 60)  # what has expired makes room at once


def test_uploads_at_the_same_time_share_the_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files_module, "CHECK_EVERY_BYTES", 0)
    with open_files(tmp_path, max_stored_bytes_per_key=100) as (_, files):
        one, two = files.begin("me"), files.begin("me")
        one.write(b"x" * 60)
        with pytest.raises(KeyStorageFull):
            two.write(b"x" * 60)
        two.close()
        one.write(b"x" * 40)
        one.keep("in.jsonl", "batch")
        one.close()
        with pytest.raises(KeyStorageFull):
            files.check_room("me")


def test_a_file_is_counted_again_when_it_is_kept(tmp_path: Path) -> None:
    with open_files(tmp_path, max_stored_bytes_per_key=100) as (_, files):
        one, two = files.begin("me"), files.begin("me")
        for sink in (one, two):  # neither looks again before 4 MiB
            for _ in range(60):
                sink.write(b"x")
        with pytest.raises(KeyStorageFull):
            one.keep("in.jsonl", "batch")
        one.close()
        assert two.keep("in.jsonl", "batch").n_bytes == 60


def test_results_count_while_they_are_written_and_are_kept_above_the_quota(tmp_path: Path) -> None:
    with open_files(tmp_path, max_stored_bytes_per_key=100) as (store, files):
        store.add_batch(
            Batch(id="batch_1", owner="me", status="in_progress", output_bytes=90, error_bytes=20)
        )
        with pytest.raises(KeyStorageFull):
            files.check_room("me", 1)
        files.check_room("you", 100)
        files.path("file-1").write_bytes(b"x" * 200)
        store.change("batch_1", status="completed")
        assert files.keep("file-1", "me", "out.jsonl", "batch_output").n_bytes == 200
        assert store.count_bytes("me") == (200, 200)


async def test_a_client_is_refused_by_quota_before_its_file_is_sent_and_may_begin_no_batch(
    tmp_path: Path,
) -> None:
    async with client(tmp_path, max_stored_bytes=len(LINES)) as (ai, live):
        head = f"POST /v1/files HTTP/1.1\r\nhost: {live.base[7:-3]}\r\ncontent-length: 99999\r\n\r\n"
        host, _, port = live.base[7:-3].partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(head.encode())
        assert b" 507 " in await asyncio.wait_for(reader.readline(), 10)
        writer.close()
        made = await ai.files.create(file=("in.jsonl", LINES), purpose="batch")
        with pytest.raises(openai.APIStatusError, match="max_stored_bytes") as refused:
            await ai.files.create(file=("in.jsonl", LINES), purpose="batch")
        assert (refused.value.status_code, refused.value.code) == (507, "storage_full")
        with pytest.raises(openai.APIStatusError, match="max_stored_bytes"):
            await ai.batches.create(
                input_file_id=made.id, endpoint="/v1/chat/completions", completion_window="24h"
            )
        assert list_stored(tmp_path) == [made.id]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
    ],
)
def test_a_full_disk_is_a_507(tmp_path: Path, error: OSError) -> None:
    with open_files(tmp_path) as (_, files):
        sink = files.begin("me")
        sink._file.close()
        sink._file = cast("Any", FullFile(error))
        with pytest.raises(StorageFull, match="disk"):
            sink.write(b"x")
        sink.close()
        assert list((tmp_path / "files").iterdir()) == []


class FullFile(io.BytesIO):
    """A file on a disk that takes no more."""

    def __init__(self, error: OSError) -> None:
        super().__init__()
        self.error = error

    def write(self, data: Any) -> int:
        raise self.error


def test_a_store_of_the_version_before_keeps_its_files(tmp_path: Path) -> None:
    store = BatchStore.open(tmp_path)
    store.add_file(StoredFile("file-1", "me", "in.jsonl", "batch", 3, 100))
    store.close()
    with contextlib.closing(sqlite3.connect(tmp_path / NAME)) as database:
        database.execute("ALTER TABLE files DROP COLUMN expires_at")
        database.execute("ALTER TABLE batches DROP COLUMN output_expires_s")
        database.execute("PRAGMA user_version=1")
        database.commit()
    store = BatchStore.open(tmp_path)
    found = store.find_file("file-1", "me")
    assert found is not None
    assert (found.name, found.expires_at) == ("in.jsonl", None)
    store.close()


def test_reading_waits_for_no_other_process_that_writes(tmp_path: Path) -> None:
    store = BatchStore.open(tmp_path)
    store.add_file(StoredFile("file-1", "me", "in.jsonl", "batch", 3, 100))
    with contextlib.closing(sqlite3.connect(tmp_path / NAME, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        writing = threading.Thread(target=store.delete_file, args=("file-1",))
        writing.start()
        while not store._lock.locked():
            pass
        assert store.find_file("file-1", "me") is not None
        assert writing.is_alive()
        other.execute("ROLLBACK")
        writing.join()
    assert store.find_file("file-1", "me") is None
    store.close()


async def test_a_store_that_another_process_writes_to_is_a_503_and_delays_no_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_module, "WAIT_S", 0.1)
    async with client(tmp_path) as (ai, _):
        kept = await ai.files.create(file=("a.jsonl", LINES), purpose="batch")
        with contextlib.closing(sqlite3.connect(tmp_path / "batches" / NAME, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            asking = [
                asyncio.ensure_future(ai.files.create(file=("b.jsonl", LINES), purpose="batch"))
                for _ in range(20)
            ]
            # One thread waits for the lock; those that wait for this thread give up soon.
            async with asyncio.timeout(8):
                while sum(one.done() for one in asking) < 19:  # noqa: ASYNC110 (nothing tells)
                    await asyncio.sleep(0.02)
            done, waiting = await asyncio.wait(asking, timeout=0.2)
            assert (len(done), len(waiting)) == (19, 1)
            for ended in done:
                error = ended.exception()
                assert isinstance(error, openai.InternalServerError)
                assert (error.status_code, error.code) == (503, "database_unavailable")
                assert error.response.headers["retry-after"] == "5"
            assert [file.id for file in (await ai.files.list()).data] == [kept.id]
            other.execute("ROLLBACK")
            late = await waiting.pop()
        assert {file.id for file in (await ai.files.list()).data} == {kept.id, late.id}
    assert len(list_stored(tmp_path)) == 2
