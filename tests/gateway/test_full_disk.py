"""A gateway on a disk that is full or cannot be written: it serves, says so, and recovers by itself."""

import asyncio
import contextlib
import errno
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest

from gateway.batches import store as store_module
from gateway.cli import doctor
from gateway.config import Config, JournalConfig
from gateway.storage import sqlite as sqlite_module
from gateway.storage.journal import SCHEMA
from gateway.storage.sqlite import explain_write_error, prepare
from gateway.testing import FakeUpstream
from tests.fakes.serving import LiveApp, gateway

LINES = b'{"custom_id": "a"}\n'


@dataclass
class Disk:
    """A disk that takes nothing until `heal` is called."""

    folder: Path
    status: int
    heal: Callable[[], object]


@contextlib.contextmanager
def mount(folder: Path, options: str) -> Iterator[None]:
    """A file system in memory; skips the test where none may be mounted."""
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root mounts file systems")
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no file system may be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(params=["full", "full_file_system", "read_only_file_system"])
def disk(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    monkeypatch.setattr(store_module, "REOPEN_S", 0.1)
    monkeypatch.setattr("gateway.storage.responses.REOPEN_S", 0.1)
    folder = tmp_path / "state"
    folder.mkdir()
    if request.param == "full":
        full = OSError(errno.ENOSPC, "No space left on device")
        is_full = True
        ensure_schema = sqlite_module._ensure_schema

        def refuse(*arguments: Any) -> None:
            if is_full:
                raise full
            ensure_schema(*arguments)

        def empty() -> None:
            nonlocal is_full
            is_full = False

        monkeypatch.setattr(sqlite_module, "_ensure_schema", refuse)
        yield Disk(folder, 507, empty)
    elif request.param == "full_file_system":
        with mount(folder, "size=1m"):
            (folder / "fill").write_bytes(bytes(1 << 20))
            yield Disk(folder, 507, (folder / "fill").unlink)
    else:
        with mount(folder, "size=4m,ro"):
            remount = ["mount", "-o", "remount,rw", str(folder)]
            yield Disk(folder, 503, lambda: subprocess.run(remount, check=True))


async def read_degraded(live: LiveApp) -> list[str]:
    async with live.http.get(live.base.removesuffix("/v1") + "/health/ready") as response:
        assert response.status == 200
        facts: list[str] = (await response.json())["degraded"]
        return facts


async def test_it_serves_refuses_what_it_cannot_keep_and_recovers(disk: Disk) -> None:
    async with FakeUpstream() as upstream:
        expert = {"name": "good", "model": "openai/good", "api_base": upstream.base_url}
        async with (
            gateway({"experts": [expert]}, str(disk.folder / "j.sqlite3"), "good") as live,
            openai.AsyncOpenAI(base_url=live.base, api_key="none", max_retries=0) as ai,
        ):
            answer = await live.chat("auto")
            assert answer.status == 200
            waiting = {fact.partition(":")[0] for fact in await read_degraded(live)}
            assert waiting == {"batches", "journal", "responses"}
            about = {"decision_id": answer.headers["x-thalamus-decision-id"], "score": 1.0}
            refused = await live.post("feedback", about)
            assert refused.status == disk.status
            assert "disk" in refused.error["message"]
            response = await ai.responses.create(model="auto", input="Hi")
            assert (response.status, response.to_dict()["store"]) == ("completed", False)
            for attempt in (
                ai.responses.create(model="auto", input="Hi", previous_response_id="resp_1"),
                ai.responses.retrieve("resp_1"),
                ai.responses.delete("resp_1"),
                ai.files.create(file=("in.jsonl", LINES), purpose="batch"),
                ai.files.retrieve("file-1"),
                ai.batches.retrieve("batch_1"),
                ai.batches.cancel("batch_1"),
            ):
                with pytest.raises(openai.APIStatusError, match="disk") as caught:
                    await attempt
                assert caught.value.status_code == disk.status
            disk.heal()
            async with asyncio.timeout(10):
                while await read_degraded(live):
                    await live.http.get(f"{live.base}/batches")
                    await asyncio.sleep(0.05)
            made = await ai.files.create(file=("in.jsonl", LINES), purpose="batch")
            assert (await ai.files.content(made.id)).content == LINES
            response = await ai.responses.create(model="auto", input="Hi")
            assert (await ai.responses.retrieve(response.id)).output_text == response.output_text
            assert (await live.post("feedback", about)).status == 200
            assert (await live.read_record(answer))["status"] == 200
            assert live.services.journal.dropped == 0


async def test_batches_go_on_when_the_disk_is_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.fakes.batches import line, open_batch_gateway

    monkeypatch.setattr("gateway.batches.service.RETRY_S", 0.05)
    monkeypatch.setattr(store_module, "REOPEN_S", 0.0)
    async with open_batch_gateway(tmp_path, ["says-a", "hang"]) as at:
        batch = await at.begin(line("1", "hang"))
    ensure_schema = sqlite_module._ensure_schema

    def refuse(*_: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(sqlite_module, "_ensure_schema", refuse)
    async with open_batch_gateway(tmp_path, ["says-a", "hang"]) as at:
        with pytest.raises(openai.APIStatusError, match="cannot be written"):
            await at.ai.batches.retrieve(batch.id)
        monkeypatch.setattr(sqlite_module, "_ensure_schema", ensure_schema)
        async with asyncio.timeout(10):
            while not at.upstream.calls:  # noqa: ASYNC110 (nothing tells)
                await asyncio.sleep(0.02)
        await at.ai.batches.cancel(batch.id)
        assert (await at.wait_for_end(batch)).status == "cancelled"


def test_a_full_disk_is_named_where_sqlite_tells_of_an_error_of_its_own(tmp_path: Path) -> None:
    with mount(tmp_path, "size=1m"):
        (tmp_path / "fill").write_bytes(bytes(1 << 20))
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR
        assert explain_write_error(error, tmp_path / "j.sqlite3") == "the disk is full (disk I/O error)"
        (tmp_path / "fill").unlink()
        assert explain_write_error(error, tmp_path / "j.sqlite3") == "disk I/O error"


@pytest.mark.parametrize("is_there", [True, False])
def test_doctor_says_to_make_room_for_the_journal(tmp_path: Path, is_there: bool) -> None:
    with mount(tmp_path, "size=1m"):
        config = Config(journal=JournalConfig(path=str(tmp_path / "j.sqlite3")))
        if is_there:
            prepare(tmp_path / "j.sqlite3", SCHEMA, 1.0)
        (tmp_path / "fill").touch()
        free = shutil.disk_usage(tmp_path).free
        # What is there can still be opened: there is room for the files of WAL mode.
        (tmp_path / "fill").write_bytes(bytes(free - (60 * 1024 if is_there else 0)))
        before = sorted(one.name for one in tmp_path.iterdir())
        (finding,) = doctor._check_journal(config)
        assert (finding.outcome, "make room" in finding.fix) == ("failure", True)
        assert sorted(one.name for one in tmp_path.iterdir()) == before
        (tmp_path / "fill").unlink()
        (finding,) = doctor._check_journal(config)
        assert (finding.outcome, finding.message) == ("ok", config.journal.path)


@pytest.mark.parametrize("options", ["size=1m"])
def test_what_is_there_is_read_on_a_full_disk(tmp_path: Path, options: str) -> None:
    with mount(tmp_path, options):
        store_module.BatchStore.open(tmp_path).close()
        (tmp_path / "fill").touch()
        free = shutil.disk_usage(tmp_path).free
        (tmp_path / "fill").write_bytes(bytes(free - 80 * 1024))  # room for the files of WAL mode alone
        store = store_module.BatchStore.open(tmp_path)
        assert store.list_all() == []
        store.close()
