"""`/v1/files` through OpenAI's own client: kept on disk as they come, each for its owner alone."""

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest

from gateway.batches.files import FileStore
from gateway.batches.store import NAME, BatchStore
from gateway.batches.types import Batch, StoredFile
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
        store = BatchStore.open(tmp_path / "batches")
        with store.transaction() as database:
            database.execute("UPDATE files SET expires_at = ? WHERE id = ?", (int(time.time()) - 1, made.id))
        with pytest.raises(openai.NotFoundError):
            await ai.files.retrieve(made.id)
        with pytest.raises(openai.NotFoundError):
            await ai.files.content(made.id)
        assert [one.id async for one in ai.files.list()] == [kept.id]
        FileStore(store, 1).delete_expired()
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
