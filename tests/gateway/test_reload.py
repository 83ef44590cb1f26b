"""Swapping applications under way: no request is dropped, and a bad one changes nothing."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

import gateway.server
from gateway.config import parse_config
from gateway.server import Reloadable, StartupError, describe_changes, settle


class App:
    """Answers with its name; remembers its lifespan. `hold` keeps requests until it is set."""

    def __init__(self, name: str, fails: bool = False) -> None:
        self.name = name
        self.fails = fails
        self.log: list[str] = []
        self.hold = asyncio.Event()
        self.hold.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self.hold.wait()
            self.log.append("answered")
            await send({"type": "answer", "name": self.name})
            return
        await receive()
        if self.fails:
            raise RuntimeError("no room")
        self.log.append("started")
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self.log.append("stopped")
        await send({"type": "lifespan.shutdown.complete"})


class Served:
    """A server's side of an application."""

    def __init__(self, app: Reloadable) -> None:
        self.app = app
        self.orders: asyncio.Queue[Any] = asyncio.Queue()
        self.record: asyncio.Queue[Any] = asyncio.Queue()
        self.task = asyncio.create_task(app({"type": "lifespan"}, self.orders.get, self.record.put))

    async def order(self, word: str) -> str:
        await self.orders.put({"type": f"lifespan.{word}"})
        message = await asyncio.wait_for(self.record.get(), 5)
        return str(message["type"])

    async def ask(self) -> str:
        answers: asyncio.Queue[Any] = asyncio.Queue()
        await self.app({"type": "http"}, self.orders.get, answers.put)
        return str((await answers.get())["name"])


@pytest.fixture(autouse=True)
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The garbage collector as before, once a test has ended."""
    thresholds = gc.get_threshold()
    monkeypatch.setattr(gateway.server, "SETTLE_AFTER_S", 0.01)
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)


@pytest.fixture
async def live() -> AsyncIterator[tuple[Served, App]]:
    old = App("old")
    live = Served(Reloadable(old))
    assert await live.order("startup") == "lifespan.startup.complete"
    yield live, old
    if not live.task.done():
        await live.order("shutdown")
        await live.task


async def test_after_a_swap_the_new_one_answers_and_the_old_one_stops(
    live: tuple[Served, App],
) -> None:
    server, old = live
    assert await server.ask() == "old"
    await server.app.swap(App("new"))
    assert await server.ask() == "new"
    await asyncio.sleep(0.02)
    assert old.log == ["started", "answered", "stopped"]


async def test_who_is_being_served_is_served_to_the_end_by_the_old_one(
    live: tuple[Served, App],
) -> None:
    server, old = live
    old.hold.clear()
    under_way = asyncio.create_task(server.ask())
    await asyncio.sleep(0.01)
    await server.app.swap(App("new"))
    assert await server.ask() == "new"
    assert "stopped" not in old.log
    old.hold.set()
    assert await under_way == "old"
    await asyncio.sleep(0.02)
    assert old.log == ["started", "answered", "stopped"]


async def test_one_that_does_not_start_leaves_the_old_one_in_place(live: tuple[Served, App]) -> None:
    server, old = live
    with pytest.raises(StartupError, match="no room"):
        await server.app.swap(App("bad", fails=True))
    assert await server.ask() == "old"
    assert "stopped" not in old.log


async def test_shutdown_stops_those_that_still_drain_too(live: tuple[Served, App]) -> None:
    server, old = live
    old.hold.clear()
    under_way = asyncio.create_task(server.ask())
    await asyncio.sleep(0.01)
    new = App("new")
    await server.app.swap(new)
    assert await server.order("shutdown") == "lifespan.shutdown.complete"
    assert (old.log[-1], new.log[-1]) == ("stopped", "stopped")
    old.hold.set()
    await under_way
    await server.task


async def test_a_first_one_that_does_not_start_is_told_to_the_server() -> None:
    live = Served(Reloadable(App("bad", fails=True)))
    assert await live.order("startup") == "lifespan.startup.failed"
    await live.task


async def test_what_has_ended_is_freed_though_it_was_kept_from_the_garbage_collector() -> None:
    first = App("first")
    first.__dict__["me"] = first  # real applications have cycles too
    gone = [weakref.ref(first)]
    live = Served(Reloadable(first))
    assert await live.order("startup") == "lifespan.startup.complete"
    del first
    settle()
    for name in ("second", "third"):
        fresh = App(name)
        fresh.__dict__["me"] = fresh
        gone.append(weakref.ref(fresh))
        await live.app.swap(fresh)
        del fresh
        await asyncio.sleep(0.1)
    assert [app() is None for app in gone] == [True, True, False]
    assert await live.order("shutdown") == "lifespan.shutdown.complete"
    await live.task


def test_the_experts_that_changed_are_named() -> None:
    old = parse_config("experts: [{name: a, tool: calculator}, {name: b, tool: calculator}]")
    new = parse_config("experts: [{name: a, tool: calculator, quality: 0.5}, {name: c, tool: calculator}]")
    assert describe_changes(old, new) == ["added: c", "removed: b", "changed: a"]
    assert describe_changes(old, old) == ["experts as before"]
    names = ", ".join(f"{{name: e{n}, tool: calculator}}" for n in range(12))
    (added, _) = describe_changes(old, parse_config(f"experts: [{names}]"))
    assert added == "added: e0, e1, e2, e3, e4, e5, e6, e7, e8, e9 and 2 more"
