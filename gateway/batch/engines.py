"""Where the calls of a batch are made: in this process, or wherever an engine takes them."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Protocol

from ..experts.types import Call
from .calling import Caller
from .outcomes import Outcome

Ask = Callable[[Call], Awaitable[Outcome]]


class Engine(Protocol):
    """Makes the calls to one expert after another."""

    @property
    def n_workers(self) -> int:
        """In how many places a local expert answers at a time."""

    def stage(self, expert: str) -> AbstractAsyncContextManager[Ask]:
        """An expert that can be asked, as long as the block lasts."""


class Here:
    """This process and its runners."""

    n_workers = 1

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    @asynccontextmanager
    async def stage(self, expert: str) -> AsyncIterator[Ask]:
        yield partial(self._caller.call, expert)
