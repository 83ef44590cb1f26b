"""Clients with keys of their own: what each may see, and who knows them by name."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from gateway.cli import main
from gateway.cli.serve import build_banner
from gateway.config import Config, Secret, ServerConfig, parse_config
from gateway.config.client_keys import format_hash, hash_key
from gateway.testing import FakeUpstream
from tests.fakes.batches import BatchTestGateway, line, open_batch_gateway
from tests.fakes.serving import KEY, LiveApp, gateway

LAPTOP, CI = KEY + "-laptop", KEY + "-ci"


@contextlib.asynccontextmanager
async def serve(tmp_path: Path, **limits: Any) -> AsyncIterator[tuple[LiveApp, FakeUpstream]]:
    async with FakeUpstream() as upstream:
        experts = [
            {"name": name, "model": f"openai/{name}", "api_base": upstream.base_url}
            for name in ("good", "hang")
        ]
        server = {"master_key": KEY, "keys": {"laptop": [LAPTOP], "ci": [format_hash(CI)]}, "limits": limits}
        config = {"experts": experts, "server": server}
        async with gateway(config, str(tmp_path / "j.sqlite3"), "good") as live:
            yield live, upstream


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


async def test_logs_and_the_journal_name_the_key(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "thalamus")
    async with serve(tmp_path) as (live, _):
        for key, name in ((KEY, "master"), (LAPTOP, "laptop"), (CI, "ci")):
            caplog.clear()
            answer = await live.chat("good", headers=bearer(key))
            assert (await live.read_record(answer))["key_id"] == name
            body = {"decision_id": answer.headers["x-thalamus-decision-id"], "score": 1}
            assert (await live.post("feedback", body, **bearer(key))).status == 200
            lines = {record.name: record.getMessage() for record in caplog.records}
            assert f" key={name} " in lines["thalamus.access"]
            assert lines["thalamus.audit"].startswith(f"POST /v1/feedback 200 by key {name} from 127.0.0.1")
            assert key not in caplog.text


async def test_a_decision_is_shown_to_its_client_and_the_master_key(tmp_path: Path) -> None:
    async with serve(tmp_path) as (live, _):
        answer = await live.chat("good", headers=bearer(LAPTOP))
        decision = answer.headers["x-thalamus-decision-id"]
        statuses = []
        for key in (LAPTOP, CI, KEY):
            async with live.http.get(f"{live.base}/decisions/{decision}", headers=bearer(key)) as shown:
                statuses.append(shown.status)
        assert statuses == [200, 404, 200]
        said = {"decision_id": decision, "score": 1}
        assert [(await live.post("feedback", said, **bearer(key))).status for key in (LAPTOP, CI, KEY)] == [
            *(200, 404, 404)
        ]


async def test_clients_take_turns_by_name(tmp_path: Path) -> None:
    async with serve(tmp_path, max_running=1, max_waiting=2, max_wait_s=30) as (live, upstream):
        waiting = [asyncio.ensure_future(live.chat("hang", headers=bearer(LAPTOP)))]
        async with asyncio.timeout(10):
            while not upstream.calls:  # noqa: ASYNC110 (nothing tells)
                await asyncio.sleep(0.005)
            waiting += [asyncio.ensure_future(live.chat("good", headers=bearer(LAPTOP))) for _ in range(2)]
            while live.connections.admission.n_waiting < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            # All places are taken by one client: its last one is given up for the first of another.
            other = asyncio.ensure_future(live.chat("good", headers=bearer(CI)))
            done, _ = await asyncio.wait({*waiting[1:], other}, return_when=asyncio.FIRST_COMPLETED)
            assert [task.result().status for task in done] == [503]
            assert not other.done()
            waiting[0].cancel()
            assert (await other).status == 200
        await asyncio.gather(*waiting, return_exceptions=True)


async def test_the_fleet_tells_callers_apart_where_there_are_several(tmp_path: Path) -> None:
    async with serve(tmp_path) as (live, _):
        assert live.services.fleet._health["good"].breaker.tells_callers
    config = {"experts": [{"name": "good", "model": "openai/good", "api_base": "http://127.0.0.1:9"}]}
    for keys, tells in ({"a": [LAPTOP]}, False), ({"a": [LAPTOP], "b": [CI]}, True):
        named = {**config, "server": {"keys": keys}}
        async with gateway(named, str(tmp_path / "j.sqlite3")) as live:
            assert live.services.fleet._health["good"].breaker.tells_callers is tells


async def test_the_lines_of_a_batch_are_called_for_its_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = {"master_key": KEY, "keys": {"laptop": [LAPTOP]}}
    async with open_batch_gateway(tmp_path, ["good"], key=LAPTOP, server=server) as at:
        callers = watch_callers(at, monkeypatch)
        batch, output, _ = await at.run(line("1", "good"), line("2", "good"))
        assert (batch.status, len(output)) == ("completed", 2)
        assert callers == {"laptop"}
        entry = await at.live.services.journal.get(output[0]["response"]["request_id"])
        assert entry is not None
        assert entry["key_id"] == "laptop"


def watch_callers(at: BatchTestGateway, monkeypatch: pytest.MonkeyPatch) -> set[str | None]:
    """The callers that the fleet is told of from now on."""
    callers: set[str | None] = set()
    fleet = at.live.services.fleet
    admit = fleet.admit

    def note(expert: str, caller: str | None = None, *more: Any, **named: Any) -> bool:
        callers.add(caller)
        return admit(expert, caller, *more, **named)

    monkeypatch.setattr(fleet, "admit", note)
    return callers


def test_a_new_key_is_printed_with_its_hash() -> None:
    printed = CliRunner().invoke(main, ["config", "new-key", "laptop"])
    assert printed.exit_code == 0
    key, _, text = printed.output.partition("\n")
    config = parse_config(text, env={})
    (kept,) = config.server.keys["laptop"]
    assert kept.reveal() == format_hash(key) == f"sha256:{hash_key(key).hex()}"


def test_the_greeting_names_a_variable_that_holds_a_key() -> None:
    by_reference = Secret(LAPTOP, variables=("LAPTOP_KEY",))
    for key, variable in ((by_reference, "LAPTOP_KEY"), (Secret(format_hash(CI)), "THALAMUS_API_KEY")):
        config = Config(server=ServerConfig(keys={"laptop": (key,)}))
        banner = build_banner(config, "http://127.0.0.1:8080")
        assert f"Bearer ${variable}" in banner
        assert "api_key=your key" in banner
