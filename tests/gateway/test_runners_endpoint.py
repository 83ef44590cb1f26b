"""`/v1/runners` and `thalamus runners`, on a real gateway with real processes."""

import asyncio
import contextlib
import json
import sys
import threading
import time
from collections.abc import AsyncIterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from click.testing import CliRunner, Result

from gateway import cli
from gateway.config import parse_config
from gateway.config.client_keys import format_hash
from gateway.server import application
from tests.fakes.serving import KEY, live

TINY = Path(__file__).parents[1] / "fakes" / "tiny_engine.py"
CONFIG = """
experts:
  - {{name: calculator, tool: calculator}}
  - {{name: org/a, runner: {{engine: command, model: a, cmd: "{cmd} --say Aha.", memory: 100MB}}}}
  - {{name: b, runner: {{engine: command, model: b, cmd: "{cmd} --say Bee.", memory: 100MB}}}}
  - {{name: huge, runner: {{engine: command, model: h, cmd: "{cmd}", memory: 2GB}}}}
runners: {{memory: 100MB, logs: "{folder}/logs"}}
journal: {{path: "{folder}/journal.sqlite3"}}
routing: {{artifact: "{folder}/artifact"}}
server: {{master_key: {key}}}
"""


def text(folder: Path) -> str:
    command = f"{sys.executable} -S {TINY} --port ${{PORT}}"
    return CONFIG.format(folder=folder, cmd=command, key=KEY)


@contextlib.asynccontextmanager
async def site(folder: Path) -> AsyncIterator[tuple[str, aiohttp.ClientSession]]:
    (folder / "thalamus.yaml").write_text(text(folder))
    headers = {"authorization": f"Bearer {KEY}"}
    async with (
        live(application(parse_config(text(folder), env={}))) as address,
        aiohttp.ClientSession(headers=headers) as http,
        asyncio.timeout(60),
    ):
        while (await record(http, "GET", f"{address}/health/ready"))[0] != 200:  # noqa: ASYNC110 (it is another's)
            await asyncio.sleep(0.05)
        yield address, http


async def record(http: aiohttp.ClientSession, method: str, url: str, **more: Any) -> tuple[int, Any]:
    async with http.request(method, url, **more) as response:
        return response.status, await response.json(content_type=None)


async def test_runners_are_listed_loaded_and_unloaded(tmp_path: Path) -> None:
    async with site(tmp_path) as (address, http):
        runners = f"{address}/v1/runners"
        _, listed = await record(http, "GET", runners)
        assert {r["id"]: r["state"] for r in listed["data"]} == {
            "org/a": "ready",
            "b": "stopped",
            "huge": "stopped",
        }
        assert listed["memory"][0] | {"free_bytes": 0} == {
            "name": "cpu",
            "capacity_bytes": 100_000_000,
            "held_bytes": 100_000_000,
            "free_bytes": 0,
        }
        assert KEY not in json.dumps(listed)
        status, loaded = await record(http, "POST", f"{runners}/b/load")
        assert (status, loaded["state"], loaded["n_loads"]) == (200, "ready", 1)
        _, listed = await record(http, "GET", runners)
        assert (listed["data"][0]["state"], listed["n_evictions"]) == ("stopped", 1)
        status, unloaded = await record(http, "POST", f"{runners}/b/unload")
        assert (status, unloaded["state"]) == (200, "stopped")
        status, logs = await record(http, "GET", f"{runners}/org/a/logs")
        assert (status, logs["runner"], "loading on" in logs["lines"][0]) == (200, "org/a", True)


async def test_who_answers_cannot_be_unloaded_and_what_never_fits_cannot_be_loaded(tmp_path: Path) -> None:
    async with site(tmp_path) as (address, http):
        body = {"model": "org/a", "messages": [{"role": "user", "content": "slow"}]}
        asking = asyncio.create_task(record(http, "POST", f"{address}/v1/chat/completions", json=body))
        await asyncio.sleep(0.5)
        status, refusal = await record(http, "POST", f"{address}/v1/runners/org/a/unload")
        assert (status, refusal["error"]["code"]) == (409, "runner_in_use")
        assert (await asking)[0] == 200
        status, refusal = await record(http, "POST", f"{address}/v1/runners/huge/load")
        assert (status, "huge needs 2000000000 bytes" in refusal["error"]["message"]) == (503, True)
        status, refusal = await record(http, "POST", f"{address}/v1/runners/calculator/load")
        assert (status, refusal["error"]["code"]) == (404, "runner_not_found")


async def test_a_request_for_an_expert_out_of_memory_loads_it_and_models_tells(tmp_path: Path) -> None:
    async with site(tmp_path) as (address, http):
        _, model = await record(http, "GET", f"{address}/v1/models/b")
        assert model["thalamus"]["runner"]["state"] == "stopped"
        assert model["thalamus"]["runner"]["away_s"] > 0
        for stream in (False, True):
            for name, says in (("b", "Bee."), ("org/a", "Aha.")):
                body = {"model": name, "messages": [{"role": "user", "content": "Hi"}], "stream": stream}
                async with http.post(f"{address}/v1/chat/completions", json=body) as response:
                    assert response.status == 200
                    assert says in await response.text()
        # The last event of a stream comes before its connection to the engine is done with.
        for _ in range(100):
            _, model = await record(http, "GET", f"{address}/v1/models/org/a")
            if model["thalamus"]["runner"]["state"] != "busy":
                break
            await asyncio.sleep(0.02)
        assert model["thalamus"]["runner"] == {"state": "ready", "away_s": 0}
        status, health = await record(http, "GET", f"{address}/health/ready")
        assert (status, health["experts"]["b"], health["degraded"]) == (200, "stopped", [])


@pytest.mark.parametrize("stream", [False, True])
async def test_the_seconds_of_a_load_do_not_count_as_an_experts_latency(tmp_path: Path, stream: bool) -> None:
    async with site(tmp_path) as (address, http):
        body = {"model": "b", "messages": [{"role": "user", "content": "Hi"}], "stream": stream}
        began_s = time.monotonic()
        async with http.post(f"{address}/v1/chat/completions", json=body) as response:
            await response.read()
        took_s = time.monotonic() - began_s
        _, model = await record(http, "GET", f"{address}/v1/models/b")
        assert model["thalamus"]["latency_s"] < took_s / 2


async def test_the_log_of_an_engine_is_for_the_master_key_alone_and_holds_no_secret(tmp_path: Path) -> None:
    other, upstream = "sk-51c0e6d1f9a84b27", "sk-upstream-17d2c0f5be2a94c6"
    config = text(tmp_path).replace(f"master_key: {KEY}", f"master_key: {KEY}, keys: {{app: {other}}}")
    command = f"{sys.executable} -c 'print(\\\"{upstream} key {KEY} in a line\\\")' ${{PORT}}"
    runner = f'{{engine: command, model: c, cmd: "{command}", memory: 1MB}}'
    config = config.replace("experts:\n", f"experts:\n  - {{name: chatty, runner: {runner}}}\n")
    async with live(application(parse_config(config, env={}))) as address, aiohttp.ClientSession() as http:
        url = f"{address}/v1/runners/chatty/logs"
        master, app = ({"authorization": f"Bearer {key}"} for key in (KEY, other))
        async with asyncio.timeout(30):
            while not (error := await read_last_error(http, address, app)):  # noqa: ASYNC110 (nothing tells)
                await asyncio.sleep(0.05)
        assert "last line: [key] key [key] in a line" in error
        _, logs = await record(http, "GET", url, headers=master)
        assert logs["lines"][0] == "[key] key [key] in a line"
        status, refusal = await record(http, "GET", url, headers=app)
        assert (status, refusal["error"]["code"]) == (403, "forbidden")


async def read_last_error(http: aiohttp.ClientSession, address: str, headers: dict[str, str]) -> str | None:
    _, listed = await record(http, "GET", f"{address}/v1/runners", headers=headers)
    error: str | None = listed["data"][0]["last_error"]
    return error


async def test_without_the_key_runners_are_nobodys_business(tmp_path: Path) -> None:
    async with site(tmp_path) as (address, _), aiohttp.ClientSession() as stranger:
        assert (await record(stranger, "GET", f"{address}/v1/runners"))[0] == 401
        assert (await record(stranger, "POST", f"{address}/v1/runners/b/load"))[0] == 401


async def test_the_command_lists_loads_unloads_and_reads_logs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("THALAMUS_CONFIG", raising=False)
    async with site(tmp_path) as (address, _):

        async def run(*args: str) -> Result:
            line = ["runners", *args, "--url", address]
            return await asyncio.to_thread(CliRunner().invoke, cli.main, line)

        listed = await run()
        assert "org/a" in listed.output
        assert "cpu: 95 MiB of 95 MiB held" in listed.output
        assert (await run("load", "b")).output.startswith("b is ready")
        assert json.loads((await run("list", "--json")).output)["data"][0]["state"] == "stopped"
        assert (await run("unload", "b")).output.startswith("b is stopped")
        assert "loading on" in (await run("logs", "org/a")).output
        missing = await run("load", "missing")
        assert missing.exit_code == 1
        assert missing.output == "Error: there is no local expert 'missing'; there are: org/a, b, huge\n"


async def test_the_command_takes_a_key_from_the_environment_where_the_file_has_hashes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("THALAMUS_API_KEY", raising=False)
    async with site(tmp_path) as (address, _):
        hashed = text(tmp_path).replace(f"master_key: {KEY}", f"keys: {{ci: '{format_hash(KEY)}'}}")
        (tmp_path / "hashed.yaml").write_text(hashed)
        command = ["runners", "--config", str(tmp_path / "hashed.yaml"), "--url", address]
        refused = await asyncio.to_thread(CliRunner().invoke, cli.main, command)
        assert (refused.exit_code, "set THALAMUS_API_KEY" in refused.output) == (1, True)
        monkeypatch.setenv("THALAMUS_API_KEY", KEY)
        listed = await asyncio.to_thread(CliRunner().invoke, cli.main, command)
        assert listed.exit_code == 0, listed.output
        assert "org/a" in listed.output


def test_no_gateway_is_one_line_that_says_how_to_start_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "thalamus.yaml").write_text("experts: []\n")
    result = CliRunner().invoke(cli.main, ["runners", "--url", "http://127.0.0.1:9"])
    assert (result.exit_code, result.output.count("\n")) == (1, 1)
    assert "`thalamus serve` starts one" in result.output


@pytest.mark.parametrize("body", [b"[]", b'{"detail": "Not Found"}', b'{"error": "not found"}', b"\xff", b""])
def test_another_server_in_the_gateways_place_is_one_line_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(404)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    monkeypatch.chdir(tmp_path)
    (tmp_path / "thalamus.yaml").write_text("experts: []\n")
    with HTTPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        line = ["runners", "--url", f"http://127.0.0.1:{server.server_port}"]
        result = CliRunner().invoke(cli.main, line)
    assert (result.exit_code, result.output.count("\n")) == (1, 1)
    assert (
        f"Error: the server at http://127.0.0.1:{server.server_port} is not a Thalamus gateway"
        in result.output
    )
