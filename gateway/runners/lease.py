"""The right to send one request to a runner: as long as it is held, the runner is not unloaded."""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

from .runner import Runner

LOOK_EVERY_S = 0.02


class Lease:
    """A turn at a runner that is ready. `url` and `headers` say where and how to ask, `alias` for whom.

    It began at `since_s`, after `waited_s` in line.

    Give it back with `release`, or by leaving its `with`; once is enough.
    """

    def __init__(
        self,
        runner: Runner,
        url: str,
        since_s: float,
        give_back: "Callable[[Lease], None]",
        waited_s: float = 0.0,
    ) -> None:
        self.runner = runner
        self.url = url
        self.since_s = since_s
        self.waited_s = waited_s
        self._give_back: Callable[[Lease], None] | None = give_back

    @property
    def alias(self) -> str:
        return self.runner.alias

    @property
    def headers(self) -> dict[str, str]:
        return self.runner.headers

    def heard(self) -> None:
        """Something came of the request: the runner is alive."""
        self.runner.pulse.beat()

    def missed(self) -> None:
        """Nothing came of the request within its time-out: the runner had better be looked after."""
        self.runner.pulse.suspect()

    async def lost(self, within_s: float) -> bool:
        """Whether the process it is for is gone; its supervisor needs a moment to notice."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + within_s
        while self.runner.base_url == self.url:
            if loop.time() >= deadline:
                return False
            await asyncio.sleep(LOOK_EVERY_S)
        return True

    def release(self) -> None:
        """End the turn."""
        give_back, self._give_back = self._give_back, None
        if give_back is not None:
            give_back(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
