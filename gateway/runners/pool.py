"""All local experts: who shares a process with whom, and the starting and stopping of all."""

import asyncio
from collections.abc import Iterator, Mapping

from .errors import RunnerSettingsError
from .runner import Runner
from .types import Patience, RunnerSettings, RunnerStatus
from .weights import short_name


class Runners(Mapping[str, Runner]):
    """Expert name → its runner; experts with equal settings have the same one.

    A server calls itself by one name only, whatever the request says: the expert's when it serves a single
    expert, else that of the weights its experts share.
    """

    def __init__(self, wanted: Mapping[str, RunnerSettings], patience: Patience | None = None) -> None:
        shared: dict[RunnerSettings, list[str]] = {}
        for expert, settings in wanted.items():
            shared.setdefault(settings, []).append(expert)
        self._by_expert: dict[str, Runner] = {}
        for settings, experts in shared.items():
            alias = experts[0] if len(experts) == 1 else short_name(settings.model)
            runner = Runner(settings, alias, tuple(experts), patience)
            self._by_expert.update(dict.fromkeys(experts, runner))

    def __getitem__(self, expert: str) -> Runner:
        return self._by_expert[expert]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_expert)

    def __len__(self) -> int:
        return len(self._by_expert)

    @property
    def runners(self) -> tuple[Runner, ...]:
        """Each once, in the order of the configuration."""
        return tuple({id(runner): runner for runner in self._by_expert.values()}.values())

    def check(self) -> None:
        """Whether all can be started as configured.

        Raises:
            RunnerSettingsError: of the first that cannot; names expert and field.
        """
        for runner in self.runners:
            try:
                runner.check()
            except RunnerSettingsError as error:
                field = f"experts.{runner.experts[0]}.{error.field}"
                raise RunnerSettingsError(field, error.problem) from None

    async def start(self) -> None:
        """Begin to supervise all, at once; `wait_ready` of each tells when it serves.

        Raises:
            RunnerSettingsError: one cannot be started as configured; then none is.
        """
        self.check()
        await asyncio.gather(*(runner.start() for runner in self.runners))

    async def stop(self) -> None:
        """End all at once; returns when every process is gone."""
        await asyncio.gather(*(runner.stop() for runner in self.runners))

    def snapshot(self) -> tuple[RunnerStatus, ...]:
        """How each stands now."""
        return tuple(runner.status() for runner in self.runners)
