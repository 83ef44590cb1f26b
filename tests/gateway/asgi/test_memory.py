"""What requests leave in memory: nothing that only the garbage collector would free."""

import asyncio
import contextlib
import gc
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.testing import FakeUpstream
from tests.fakes.serving import LiveApp, gateway

N = 20
OURS = ("Exchange", "RequestCycle", "HttpProtocol")


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[LiveApp]:
    async with FakeUpstream(keep_calls=False) as upstream:
        names = ("good", "slow-50", "status-500", "cut-2", "hang")
        experts: list[dict[str, Any]] = [
            {"name": name, "model": f"openai/{name}", "api_base": upstream.base_url} for name in names
        ]
        # Two deployments: one call that fails twice, or once.
        deployments = [
            {"model": f"openai/{name}", "api_base": upstream.base_url} for name in ("status-500", "good")
        ]
        experts.append({"name": "half", "deployments": deployments})
        experts.append({"name": "twice", "deployments": [deployments[0], deployments[0]]})
        async with gateway(
            {"experts": experts, "embeddings": {"enabled": False}}, str(tmp_path / "journal.sqlite3"), "good"
        ) as app:
            yield app


@contextlib.contextmanager
def without_collector() -> Iterator[None]:
    """What is there already is set aside: looking through all modules' objects takes seconds."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.fixture(scope="module", autouse=True)
def give_back_what_was_set_aside() -> Iterator[None]:
    yield
    gc.unfreeze()


def count_ours() -> Counter[str]:
    """How many objects of requests and connections came since the collector was stopped."""
    names = (type(thing).__name__ for thing in gc.get_objects())
    return Counter(name for name in names if name in OURS)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "model", ["good", "slow-50", "status-500", "cut-2", "half", "twice", "unknown", "auto"]
)
async def test_a_request_is_freed_when_it_ends(app: LiveApp, model: str, stream: bool) -> None:
    await app.chat(model, stream=stream)
    with without_collector():
        before = count_ours()
        for n in range(N):
            await app.chat(model, stream=stream, router={"fallbacks": ["good"]} if n % 2 else {})
        await asyncio.sleep(0.01)
        assert (count_ours() - before).total() <= 2


async def test_a_connection_is_freed_when_its_client_leaves(app: LiveApp) -> None:
    with without_collector():
        before = count_ours()
        for _ in range(N):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.05):  # beyond the moment at which a watcher is started
                    await app.chat("hang")
        await asyncio.sleep(0.05)
        assert (count_ours() - before).total() <= 2


async def test_a_connection_that_waits_for_a_request_keeps_nothing_of_the_last_one(app: LiveApp) -> None:
    with without_collector():
        before = count_ours()["RequestCycle"]
        await asyncio.gather(*(app.chat("slow-50") for _ in range(N)))
        await asyncio.sleep(0.01)
        assert len(app.connections.idle) >= N
        assert count_ours()["RequestCycle"] == before
