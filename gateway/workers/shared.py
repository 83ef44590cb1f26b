"""What the parent owns and its workers share: limits, local engines, the journal, and what each worker knows.

A `WorkerLink` is one worker as the parent sees it. What a worker holds when it dies comes back at once.
"""

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import msgspec
from starlette.types import Message

from ..endpoints.monitoring import CounterKey, OtherProcesses, build_counter, build_gauge
from ..errors import UpstreamError
from ..experts.deployments import ConcurrencyLimit, DeployedExpert
from ..fleet.health import FleetState, PeerReport
from ..fleet.replicas import merge_reports
from ..runners import Lease, RunnerUnavailable
from ..server import Generation, Reloadable
from ..services import Services
from ..storage.journal import Journal, connect_journal, insert_rows
from ..storage.sqlite import StorageError, explain_write_error
from .channel import Channel, ChannelClosedError, RemoteError

REFRESH_WITHIN_S = 1.0
RANKS = ("closed", "half-open", "open")


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """What one worker said of itself last. `samples` are its series for `/metrics`.

    `peers` is what its calls showed of experts, for processes here; `asked` the same for other replicas.
    """

    n_in_flight: int = 0
    samples: Mapping[CounterKey, float] = field(default_factory=dict)
    peers: Mapping[str, PeerReport] = field(default_factory=dict)
    asked: Mapping[str, PeerReport] = field(default_factory=dict)
    states: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    degraded: Sequence[str] = ()

    @classmethod
    def decode(cls, plain: Mapping[str, Any]) -> "WorkerReport":
        """A report from what the worker sent."""
        return cls(
            plain["n_in_flight"],
            {(name, tuple((key, text) for key, text in labels)): v for name, labels, v in plain["samples"]},
            {name: PeerReport(*facts["peer"]) for name, facts in plain["experts"].items()},
            {name: PeerReport(*facts["asked"]) for name, facts in plain["experts"].items()},
            {name: facts["state"] for name, facts in plain["experts"].items()},
            plain["degraded"],
        )


class WorkerLink:
    """One worker: the calls it makes, and what it holds of the parent's parts."""

    def __init__(self, workers: "WorkerLinks", n: int) -> None:
        self.n = n
        self.report = WorkerReport()
        self.channel: Channel | None = None
        self.is_serving = False
        self.n_silent = 0
        self._workers = workers
        self._grants: dict[int, Callable[[], None]] = {}
        self._leases: dict[int, Lease] = {}

    @property
    def handlers(self) -> Mapping[str, Callable[..., Any]]:
        """What the worker may call."""
        names = ("take_slot", "take_runner", "release", "charge", "note_output", "note_silence", "wait_lost")
        mine = {name: getattr(self, name) for name in names}
        return mine | {"report": self.take_report, "write_rows": self.write_rows, "request": self.request}

    async def take_slot(self, number: int, expert: str, n_deployment: int, timeout_s: float) -> None:
        """Take a slot of a deployment for the worker.

        Raises:
            UpstreamError: there is none.
        """
        limit = self._find_limit(expert, n_deployment)
        if limit is None:
            raise UpstreamError("busy", "is configured no more", status=503)
        generation = self._workers.generation
        await limit.acquire(timeout_s)
        self._grant(number, generation, limit.release)

    def charge(self, expert: str, n_deployment: int, n_tokens: int) -> None:
        """Count the tokens of an answer that the worker gave."""
        limit = self._find_limit(expert, n_deployment)
        if limit is not None and limit.rate is not None:
            limit.rate.charge(n_tokens)

    def _find_limit(self, expert: str, n_deployment: int) -> ConcurrencyLimit | None:
        found = self._workers.services.experts.get(expert)
        if isinstance(found, DeployedExpert) and n_deployment < len(found.deployments):
            limit: ConcurrencyLimit = found.deployments[n_deployment].slots
            return limit
        return None

    async def take_runner(self, number: int, expert: str, wait_s: float, priority: int) -> dict[str, Any]:
        """Take a turn at a local engine for the worker.

        Raises:
            RunnerUnavailable: there is none.
        """
        generation, runners = self._workers.generation, self._workers.services.runners
        if expert not in runners:
            raise RunnerUnavailable(f"{expert} is configured no more")
        lease = await runners.take(expert, wait_s=wait_s, priority=priority)
        self._leases[number] = lease
        self._grant(number, generation, lease.release)
        return {
            "url": lease.url,
            "alias": lease.alias,
            "headers": lease.headers,
            "waited_s": lease.waited_s,
            "runner": lease.runner.name,
        }

    def note_output(self, number: int) -> None:
        """The engine of a lease has said something."""
        if lease := self._leases.get(number):
            lease.note_output()

    def note_silence(self, number: int) -> None:
        """The engine of a lease has said nothing for too long."""
        if lease := self._leases.get(number):
            lease.note_silence()

    async def wait_lost(self, runner: str, url: str, within_s: float) -> bool:
        """Whether the engine at an address is gone."""
        for known in self._workers.services.runners.runners:
            if known.name == runner:
                return await Lease(known, url, 0.0, lambda _: None).wait_lost(within_s)
        return True

    def _grant(self, number: int, generation: Generation, release: Callable[[], None]) -> None:
        # After a reload the former parts must stay until what was taken of them is back.
        generation.hold()

        def give_back() -> None:
            release()
            generation.let_go()

        self._grants[number] = give_back

    def release(self, number: int) -> None:
        """Take back what was given under this number; a second time nothing happens."""
        self._leases.pop(number, None)
        if give_back := self._grants.pop(number, None):
            give_back()

    def close(self) -> None:
        """The worker has ended: all that it held is free again."""
        for number in list(self._grants):
            self.release(number)
        self._workers.drop(self)

    def take_report(self, plain: Mapping[str, Any]) -> None:
        """Keep what the worker says of itself; its peers hear at once of an expert that fails."""
        self.n_silent = 0
        before, self.report = self.report.peers, WorkerReport.decode(plain)
        if _list_failing(before) != _list_failing(self.report.peers):
            self._workers.tell_peers()

    async def write_rows(self, rows: Sequence[bytes]) -> None:
        """Write rows of the worker's journal; they are on disk when this returns.

        Raises:
            StorageError: they cannot be written now.
        """
        journal = self._workers.services.journal
        if isinstance(journal, SharedJournal):
            await asyncio.to_thread(journal.insert, rows)

    async def request(self, number: int, scope: dict[str, Any]) -> None:
        """Answer a request that the worker passes on, message by message."""
        channel = self.channel
        if channel is None:
            return

        async def receive() -> Message:
            message: Message = await channel.call("receive", number)
            return message

        async def send(message: Message) -> None:
            await channel.call("send", number, message)

        headers = [(name, value) for name, value in scope["headers"]]
        whole = {**scope, "headers": headers, "type": "http", "asgi": {"version": "3.0"}, "state": {}}
        await self._workers.app(whole, receive, send)


def _list_failing(peers: Mapping[str, PeerReport]) -> list[str]:
    return [name for name, report in peers.items() if report.failing or report.wait_s]


class WorkerLinks(OtherProcesses):
    """All workers, as the parent's application sees them. `app` and `services` are those that serve now."""

    app: Reloadable
    services: Services

    def __init__(self, n_workers: int) -> None:
        self.n_workers = n_workers
        self.links: dict[int, WorkerLink] = {}
        self.troubles: dict[int, str] = {}
        self.n_restarts = 0
        self._ended: dict[CounterKey, float] = {}
        self._cooling: dict[str, float] = {}

    @property
    def generation(self) -> Generation:
        """The application that serves now."""
        return self.app.current

    @property
    def n_in_flight(self) -> int:  # type: ignore[override]
        """Requests of inference that workers answer now."""
        return sum(link.report.n_in_flight for link in self.links.values())

    def drop(self, link: WorkerLink) -> None:
        """A worker has ended: keep its counters, and the cooldowns that it knew of."""
        if self.links.get(link.n) is link:
            del self.links[link.n]
        for key, value in link.report.samples.items():
            if key[0].endswith("_total"):
                self._ended[key] = self._ended.get(key, 0.0) + value
        now = monotonic()
        for name, report in link.report.peers.items():
            if report.wait_s:
                self._cooling[name] = max(self._cooling.get(name, 0.0), now + report.wait_s)

    def list_reports(self, without: WorkerLink | None = None) -> list[Mapping[str, PeerReport]]:
        """What the workers say of experts, and what those said that have ended."""
        now = monotonic()
        self._cooling = {name: until for name, until in self._cooling.items() if until > now}
        left = {name: PeerReport(wait_s=until - now) for name, until in self._cooling.items()}
        return [left, *(link.report.peers for link in self.links.values() if link is not without)]

    def tell_peers(self) -> None:
        """Tell every worker what the others, the parent and other replicas know of experts."""
        fleet, runners = self.services.fleet, self.services.runners
        away_s = {name: runners.loads_in_s(name) for name in runners}
        if not isinstance(fleet, SharedFleet):
            return
        fleet.merge_workers()
        for link in self.links.values():
            if link.channel is not None and link.is_serving:
                known = fleet.collect_for(link)
                plain = {name: [one.in_flight, one.wait_s, one.failing] for name, one in known.items()}
                link.channel.post("hear", plain, away_s)

    async def refresh(self) -> None:
        """Ask every worker for a report; one that does not answer in time keeps its last one."""
        links = [link for link in self.links.values() if link.is_serving and link.channel is not None]
        await asyncio.gather(*(self._refresh(link) for link in links))

    @staticmethod
    async def _refresh(link: WorkerLink) -> None:
        with contextlib.suppress(TimeoutError, RemoteError, ChannelClosedError):
            async with asyncio.timeout(REFRESH_WITHIN_S):
                if link.channel is not None:
                    link.take_report(await link.channel.call("report"))

    def read_samples(self) -> Sequence[Mapping[CounterKey, float]]:
        """The series of every worker; of those that have ended, the counters."""
        return [self._ended, *(link.report.samples for link in self.links.values())]

    def collect_families(self) -> Iterator[Any]:
        """How many workers serve, and how often one was started again."""
        n_serving = sum(link.is_serving for link in self.links.values())
        yield build_gauge("thalamus_workers", "Processes that answer requests.", (), {(): float(n_serving)})
        about = "Times a worker ended and was started again."
        yield build_counter("thalamus_worker_restarts", about, (), {(): float(self.n_restarts)})

    def list_degraded(self) -> Iterator[str]:
        """Workers that are missing, and what those that serve do without."""
        for n in range(1, self.n_workers + 1):
            link = self.links.get(n)
            if link is None or not link.is_serving:
                yield f"worker {n} of {self.n_workers}: {self.troubles.get(n, 'starting')}"
            else:
                yield from (f"worker {n}: {line}" for line in link.report.degraded)

    def can_serve(self) -> bool:
        """Whether any worker accepts requests."""
        return any(link.is_serving for link in self.links.values())

    async def flush_journals(self) -> None:
        """Have every worker send the rows that wait there, in bounded time."""
        links = [link for link in self.links.values() if link.channel is not None]
        calls = (link.channel.call("flush") for link in links if link.channel is not None)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(REFRESH_WITHIN_S):
                await asyncio.gather(*calls, return_exceptions=True)


class SharedFleet(FleetState):
    """The parent's fleet: to other replicas and to readers it says what all workers know."""

    workers: WorkerLinks | None = None
    _replicas: Mapping[str, PeerReport] = {}

    def export(self, expert: str, same_host: bool = False) -> PeerReport:
        """What the calls of all processes here showed, for the other replicas."""
        own = super().export(expert, same_host)
        if same_host or self.workers is None:
            return own
        reports = [link.report.asked for link in self.workers.links.values()]
        return merge_reports([{expert: own}, *reports])[expert]

    def merge_peers(self, others: Mapping[str, PeerReport]) -> None:
        """Replace what other replicas reported."""
        self._replicas = dict(others)
        self.merge_workers()

    def merge_workers(self) -> None:
        """Take over what the workers say, beside what other replicas said."""
        workers = self.workers.list_reports() if self.workers else []
        super().merge_peers(merge_reports([self._replicas, *workers]))

    def collect_for(self, link: WorkerLink) -> Mapping[str, PeerReport]:
        """What all others know, for one worker."""
        own = {name: super(SharedFleet, self).export(name, same_host=True) for name in self._health}
        workers = self.workers.list_reports(without=link) if self.workers else []
        return merge_reports([self._replicas, own, *workers])

    def state(self, expert: str) -> dict[str, object]:
        """The state of one expert over all processes here."""
        states: list[Mapping[str, Any]] = [self.own_state(expert)]
        if self.workers is not None:
            links = self.workers.links.values()
            states += [link.report.states[expert] for link in links if expert in link.report.states]
        merged = merge_states(states)
        return {**merged, "in_flight_elsewhere": self._replicas.get(expert, PeerReport()).in_flight}


def merge_states(states: Sequence[Mapping[str, Any]]) -> dict[str, object]:
    """One expert as several processes see it: counts are sums, of all else the worst holds."""
    merged: dict[str, Any] = {}
    for key in states[0]:
        known = [state[key] for state in states if state.get(key) is not None]
        if key == "state":
            merged[key] = max(known, key=RANKS.index)
        elif key == "last_error" or not known:
            merged[key] = known[0] if known else None
        else:
            is_count = key.startswith("n_") or key == "in_flight"
            merged[key] = sum(known) if is_count else max(known)
    return merged


class SharedJournal(Journal):
    """The parent's journal: it writes the rows of workers, and finds those that they have not sent yet."""

    workers: WorkerLinks | None = None

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        # Held by the thread that writes, not by the task that waits: a worker's death cancels the task alone.
        self._insert_lock = threading.Lock()
        self._inserting: sqlite3.Connection | None = None

    def insert(self, rows: Sequence[bytes]) -> None:
        """Put rows of a worker on disk; those that are there already stay.

        Raises:
            StorageError: they cannot be written now.
        """
        try:
            with self._insert_lock:
                self._insert(rows)
        except sqlite3.Error as error:
            self._let_go()
            reason = explain_write_error(error, Path(self._config.path))
            raise StorageError(f"the journal cannot be written: {reason}") from None

    def _insert(self, rows: Sequence[bytes]) -> None:
        # Kept open: the end of the last connection of a file copies its whole log and waits for the disk.
        self._ensure_prepared()
        if self._inserting is None:
            self._inserting = connect_journal(Path(self._config.path))
        self._inserting.execute("BEGIN IMMEDIATE")
        with self._inserting:  # commits, or undoes
            insert_rows(self._inserting, [msgspec.msgpack.decode(row) for row in rows])

    def _let_go(self) -> None:
        with self._insert_lock:
            inserting, self._inserting = self._inserting, None
        if inserting is not None:
            with contextlib.suppress(sqlite3.Error):
                inserting.close()

    async def close(self) -> None:
        """Write what waits, and stop."""
        await asyncio.to_thread(self._let_go)
        await super().close()

    async def get(self, decision_id: str) -> dict[str, Any] | None:
        """The decision and its outcome, from whichever worker; None where there is no such entry."""
        found = await super().get(decision_id)
        if found is None and self.workers is not None:
            await self.workers.flush_journals()
            found = await super().get(decision_id)
        return found
