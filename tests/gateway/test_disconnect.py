"""A client that goes away stops the upstream, whole or streaming."""

import asyncio
import contextlib
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest

from gateway.errors import STOPPED
from gateway.execution.responder import CLIENT_LEFT
from gateway.testing import FakeUpstream
from tests.fakes.serving import gateway

SEEN_WITHIN_S = 2.0


@pytest.mark.parametrize("path", ["chat/completions", "completions", "messages"])
@pytest.mark.parametrize(("model", "stream"), [("hang", False), ("hang", True), ("stall-2", True)])
async def test_a_client_that_goes_away_is_seen_upstream(
    tmp_path: Path, path: str, model: str, stream: bool
) -> None:
    async with FakeUpstream() as upstream:
        experts = [{"name": model, "model": f"openai/{model}", "api_base": upstream.base_url}]
        async with gateway({"experts": experts}, str(tmp_path / "j.sqlite3")) as live:
            body = {
                "model": model,
                "stream": stream,
                "max_tokens": 9,
                "prompt": "x",
                "messages": [{"role": "user", "content": "x"}],
            }
            async with aiohttp.ClientSession() as client:
                asking = asyncio.ensure_future(read(client, f"{live.base}/{path}", body))
                await until(lambda: bool(upstream.calls))
                await asyncio.sleep(0.06)
                assert not upstream.aborted
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
                await until(lambda: upstream.aborted == [model], SEEN_WITHIN_S)
            state = live.services.fleet.state(model)
            assert (state["in_flight"], state["state"], state["n_failed"]) == (0, "closed", 0)


async def test_a_client_that_goes_away_after_a_large_body_is_seen_upstream(tmp_path: Path) -> None:
    # So much at once that the connection is not read any more before the body is taken from it.
    body = json.dumps({"model": "hang", "messages": [{"role": "user", "content": "x" * 120_000}]}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    async with FakeUpstream() as upstream:
        experts = [{"name": "hang", "model": "openai/hang", "api_base": upstream.base_url}]
        async with gateway({"experts": experts}, str(tmp_path / "j.sqlite3")) as live:
            port = int(live.base.removesuffix("/v1").rpartition(":")[2])
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(head.encode() + body)
            await until(lambda: bool(upstream.calls))
            writer.transport.abort()
            await until(lambda: upstream.aborted == ["hang"], SEEN_WITHIN_S)


async def test_the_journal_tells_of_a_client_that_went_away(tmp_path: Path) -> None:
    async with FakeUpstream() as upstream:
        experts = [{"name": "stall-2", "model": "openai/stall-2", "api_base": upstream.base_url}]
        async with gateway({"experts": experts}, str(tmp_path / "j.sqlite3")) as live:
            body = {"model": "stall-2", "stream": True, "messages": [{"role": "user", "content": "x"}]}
            async with live.http.post(f"{live.base}/chat/completions", json=body) as response:
                decision = response.headers["x-thalamus-decision-id"]
                await response.content.readany()
            await until(lambda: bool(upstream.aborted))
            entry = await live.services.journal.get(decision)
            assert entry is not None
            assert (entry["status"], entry["cost_usd"]) == (499, None)
            (attempt,) = entry["attempts"]
            assert (attempt["verdict"], attempt["error"]) == ("abandoned", CLIENT_LEFT)


@pytest.mark.parametrize(("model", "stream"), [("stall-2", True), ("hang", True), ("hang", False)])
async def test_the_journal_tells_of_an_answer_that_the_end_of_the_gateway_cut(
    tmp_path: Path, model: str, stream: bool
) -> None:
    async with FakeUpstream() as upstream:
        experts = [{"name": model, "model": f"openai/{model}", "api_base": upstream.base_url}]
        async with gateway({"experts": experts}, str(tmp_path / "j.sqlite3")) as live:
            before = asyncio.all_tasks()
            asking = asyncio.ensure_future(live.chat(model, stream=stream))
            await until(lambda: bool(upstream.calls))
            await asyncio.sleep(0.1)
            # As uvicorn does once `server.drain_s` is over.
            served = [task for task in asyncio.all_tasks() - before if "Cycle.run" in repr(task)]
            assert len(served) == 1
            for task in served:
                task.cancel()
            async with asyncio.timeout(10):
                answer = await asking
        if answer.status == 200:
            assert b"stream_stopped" in answer.body
        else:
            assert (answer.status, answer.error["message"]) == (503, STOPPED)
        with contextlib.closing(sqlite3.connect(tmp_path / "j.sqlite3")) as database:
            ((status, error, attempts),) = database.execute("SELECT status, error, attempts FROM decisions")
        assert (status, error) == (503, STOPPED)
        verdicts = [(one["verdict"], one["error"]) for one in json.loads(attempts)]
        assert verdicts == [("abandoned", STOPPED if model == "stall-2" else None)]


async def read(client: aiohttp.ClientSession, url: str, body: object) -> bytes:
    async with client.post(url, json=body) as response:
        return await response.read()


async def until(holds: Callable[[], bool], timeout_s: float = 2.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not holds():  # noqa: ASYNC110 (nothing tells)
            await asyncio.sleep(0.005)
