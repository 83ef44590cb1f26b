"""The same batch on a Ray of this machine, two workers for each expert, one of them killed in between."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from gateway.app import open_batches
from gateway.batches.lines import read_file_mark
from gateway.batches.store import new_id
from gateway.batches.types import Batch
from gateway.config import Config
from gateway.testing import FakeUpstream
from tests.fakes.batches import jsonl, line, read_content, rows

pytest.importorskip("ray")
pytestmark = pytest.mark.filterwarnings("ignore")
N_LINES = 24


def actors() -> list[psutil.Process]:
    """The processes that host experts."""
    found = psutil.process_iter(["cmdline"])
    return [one for one in found if "ray::ExpertActor" in " ".join(one.info["cmdline"] or ())]


async def kill_one(upstream: Any) -> None:
    """Kill a worker, once one has been asked."""
    while not upstream.calls or not actors():  # noqa: ASYNC110 (nothing tells)
        await asyncio.sleep(0.05)
    actors()[0].kill()


async def test_a_batch_on_ray_gives_what_it_gives_here_though_a_worker_dies(tmp_path: Path) -> None:
    from gateway.batches.ray_executor import ray_executor

    async with FakeUpstream() as upstream:
        experts: list[dict[str, Any]] = [
            {"name": name, "model": f"openai/{name}", "api_base": upstream.base_url, "max_parallel": 4}
            for name in ("slow-300", "says-b")
        ]
        experts.append({"name": "local", "runner": {"model": "bundled/smollm2-135m", "context_tokens": 256}})
        settings = {
            "experts": experts,
            "journal": {"path": str(tmp_path / "j.sqlite3")},
            "routing": {"artifact": str(tmp_path / "none")},
            "runners": {"logs": str(tmp_path / "logs")},
            "embeddings": {"enabled": False},
        }
        config = msgspec.convert(settings, Config)
        source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
        names = ("slow-300", "says-b", "local")
        source.write_bytes(jsonl(*(line(str(n), names[n % 3], max_tokens=2) for n in range(N_LINES))))
        batch = Batch(
            id=new_id("batch"),
            input_path=str(source),
            input_mark=read_file_mark(source),
            out_path=str(out),
            times={"created_at": int(time.time())},
        )
        with ray_executor(config, None, 2) as engine:
            async with open_batches(config, calls=False, engine=engine) as jobs, asyncio.timeout(120):
                killing = asyncio.ensure_future(kill_one(upstream))
                await asyncio.to_thread(jobs._store.add_batch, batch)
                done = await jobs.run(batch.id)
                await killing
        assert done is not None
        assert (done.status, done.n_completed, done.n_failed) == ("completed", N_LINES, 0), json.dumps(
            done.to_openai()
        )
        output = rows(out.read_bytes())
        assert [row["custom_id"] for row in output] == [str(n) for n in range(N_LINES)]
        assert [row["thalamus"]["expert"] for row in output] == [*names] * (N_LINES // 3)
        assert {read_content(row) for row in output[1::3]} == {"b"}
        assert not actors()
