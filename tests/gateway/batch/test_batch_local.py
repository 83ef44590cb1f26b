"""Batches over local engines: two real ones, memory for one of them, each loaded once."""

import json
import time
from pathlib import Path

import msgspec

from gateway.app import ledger_of, limits, machine_of, running
from gateway.batch.calling import Courtesy
from gateway.batch.jobs import Jobs
from gateway.batch.source import mark_of
from gateway.batch.store import fresh
from gateway.batch.types import Batch
from gateway.config import Config
from gateway.runners import Runner
from gateway.transport import Transport
from tests.fakes.batches import jsonl, line, rows

N_LINES = 10


def configuration(tmp_path: Path) -> Config:
    experts = [
        {
            "name": name,
            "runner": {"model": "bundled/smollm2-135m", "context_tokens": tokens, "memory": "1GiB"},
        }
        for name, tokens in (("north", 256), ("south", 320))
    ]
    return msgspec.convert(
        {
            "experts": experts,
            "runners": {"memory": "1GiB", "logs": str(tmp_path / "logs")},
            "routing": {"artifact": str(tmp_path / "none")},
            "embeddings": {"enabled": False},
            "journal": {"path": str(tmp_path / "j.sqlite3")},
        },
        Config,
    )


async def test_each_local_expert_is_loaded_once_however_the_lines_are_mixed(tmp_path: Path) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    names = ("south", "north")
    source.write_bytes(jsonl(*(line(str(n), names[n % 2], max_tokens=2) for n in range(N_LINES))))
    batch = Batch(
        id=fresh("batch"),
        input_path=str(source),
        input_mark=mark_of(source),
        out_path=str(out),
        times={"created_at": int(time.time())},
    )
    config, transport = configuration(tmp_path), Transport()
    machine = machine_of(config, transport)
    loaded: list[str] = []

    def changed(runner: Runner) -> None:
        if runner.state == "ready" and loaded[-1:] != [runner.name]:
            loaded.append(runner.name)

    assert machine.runners is not None
    for runner in machine.runners.runners:
        runner.on_change.append(changed)
    async with running(machine, transport):
        machine.store.add_batch(batch)
        done = await Jobs(machine, ledger_of(machine), limits(config)).work(batch.id)
    assert done is not None
    assert (done.status, done.n_completed) == ("completed", N_LINES)
    assert [row["thalamus"]["expert"] for row in rows(out.read_bytes())] == [*names] * (N_LINES // 2)
    assert sorted(loaded) == ["north", "south"], json.dumps(loaded)


def test_a_batch_takes_less_beside_live_requests_and_a_while_after() -> None:
    live, now = 1, 100.0
    courtesy = Courtesy(lambda: live, lambda: now)
    assert (courtesy.allowed(16), courtesy.allowed(1)) == (4, 1)
    live, now = 0, 105.0
    assert courtesy.allowed(16) == 8
    now = 111.0
    assert courtesy.allowed(16) == 16
