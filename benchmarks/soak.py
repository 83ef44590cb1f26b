"""A million requests through faults, reloads and killed workers: none lost, memory and handles flat.

    python benchmarks/soak.py [--requests 20000] [--slice 50000] [--workers 2] [--artifact DIR]

A real `thalamus serve` on 127.0.0.1 asks experts of a fake upstream that answers a tenth of its calls with an
error, a limit, garbage, half an answer, or late. The clients ask `auto` and experts by name, with streams and
without, and check that every answer is whole and theirs. Some leave in the middle, a few read slowly. SIGHUP
adds and removes an expert; a worker is killed with SIGKILL, and what it was answering is asked once more.

What a request and its fault are follows from its number, so that runs are alike. One worker is left alone,
so that its memory over the whole run is known; the others are killed in turn. After each slice the clients
rest, for the handles to be counted. Memory is the median of the last 30 s under load. It is compared with
that of the slice that ends at 100,000; a worker that took the place of a killed one counts from its own first
20,000 requests, reckoned as its share of all. Handles are flat where a process has at most two more of its
own, and to clients and to the upstream at most as many as there are clients, since idle ones are kept a
while. The journal has no row of a request whose client had left before it was begun, nor of the last 0.2 s
of a killed worker. With `--workers 1` there is no worker to kill. Last, SIGTERM ends the gateway in the
middle of load: what it had been asked by then is answered, and no process is left. Ctrl-C ends the run, with
what was measured so far.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import re
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.resilience import free_port, gateway, process, wait_for
from gateway.server import choose_loop
from gateway.testing import build_chunk, build_completion, build_stream, write_response

SEED = 11
MB = 1_000_000
N_CLIENTS = 128
HANGS_AFTER_S = 30.0
REST_S = 2.0
RECENT_S = 30
"""A reload holds two applications for some seconds: the median of so many does not see it."""
SETTLED_AFTER, WORKER_SETTLED_AFTER = 100_000, 20_000
MAX_GROWTH, MAX_MORE_HANDLES = 0.05, 2
RELOAD_WITHIN_S = START_WITHIN_S = 60.0
LOAD_BEFORE_END_S, END_WITHIN_S = 4.0, 20.0
ASKED_BEFORE_S = 0.5
"""A request that crosses the end of its idle connection is lost in HTTP/1.1; an older one has been read."""
TIMEOUTS = {"connect_s": 1, "first_token_s": 2, "between_tokens_s": 2, "total_s": 10}


def draw(*parts: object) -> int:
    """A number that follows from the parts, in every process and every run."""
    return zlib.crc32(":".join(map(str, (SEED, *parts))).encode())


# -- the upstream

FAULT_PERCENT = 12
FAULTS = ("error", "garbage", "cut", "slow") * 12 + ("limit",) * 2
"""Few are limits: after two in a row no expert is called for as long as the upstream asks, rightly."""
SLOW_S = (0.2, 3.0)
QUESTION = re.compile(r"Question (\d+)( at length)?:")
MARK = b"NUMBER"
TAIL = ("one ", "two ", "three ", "four.")
WORDS = ("Answer NUMBER: ", *TAIL)
WHOLE = build_completion("echo", words=WORDS)
EVENTS = build_stream("echo", words=WORDS)
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
LONG_PIECE, N_LONG_PIECES = "x" * 16_384, 512
PAUSE_S = 0.005
CUT_AFTER_S = 0.02
"""Lets what was written leave before the reset overtakes it."""


def frame(*events: bytes) -> bytes:
    """Events as chunks of HTTP."""
    return b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in events)


LONG_FRAME = frame(build_chunk("echo", {"content": LONG_PIECE}))


def find_fault(expert: str, number: int) -> str | None:
    """What goes wrong when this expert is asked this question."""
    chance = draw("fault", expert, number)
    return FAULTS[chance // 100 % len(FAULTS)] if chance % 100 < FAULT_PERCENT else None


class EchoUpstream(asyncio.Protocol):
    """A connection of the upstream: it answers a question with its number. `/steady/` has no faults."""

    def __init__(self, calls: Counter[str]) -> None:
        self._calls = calls
        self._data = bytearray()
        self._timer: asyncio.TimerHandle | None = None
        self._rest: Iterator[bytes] = iter(())
        self._is_full = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._calls["open"] += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self._calls["open"] -= 1
        self._rest = iter(())
        if self._timer is not None:
            self._timer.cancel()

    def pause_writing(self) -> None:
        self._is_full = True

    def resume_writing(self) -> None:
        self._is_full = False
        self._pump()

    def data_received(self, data: bytes) -> None:
        self._data += data
        end = self._data.find(b"\r\n\r\n") + 4
        if end < 4:
            return
        head = bytes(self._data[:end])
        length = LENGTH.search(head.lower())
        whole = end + (int(length[1]) if length else 0)
        if len(self._data) >= whole:
            body = bytes(self._data[end:whole])
            del self._data[:whole]
            self._answer(head.split(b" ", 2)[1].decode(), body)

    def _answer(self, path: str, data: bytes) -> None:
        if not data:
            write_response(self._transport, 200, json.dumps(self._calls).encode())
            return
        body = json.loads(data)
        found = QUESTION.search(body["messages"][-1]["content"])
        number = int(found[1]) if found else 0
        fault = None if path.startswith("/steady/") else find_fault(body["model"], number)
        self._calls["calls"] += 1
        self._calls[fault or "fine"] += 1
        if fault == "error":
            write_response(self._transport, 500, b'{"error": {"message": "broken", "type": "server_error"}}')
        elif fault == "limit":
            limit = b'{"error": {"message": "slow down", "type": "rate_limit_error"}}'
            write_response(self._transport, 429, limit, "retry-after: 1\r\n")
        elif fault == "garbage":
            write_response(self._transport, 200, b"not json!")
        else:
            first, last = SLOW_S
            wait_s = first + draw("wait", number) % 1000 / 1000 * (last - first) if fault == "slow" else 0.0
            is_long = found is not None and found[2] is not None
            self._later(wait_s, self._send, b"%d" % number, bool(body.get("stream")), is_long, fault == "cut")

    def _later(self, wait_s: float, do: Any, *arguments: Any) -> None:
        if wait_s:
            self._timer = asyncio.get_running_loop().call_later(wait_s, do, *arguments)
        else:
            do(*arguments)

    def _send(self, number: bytes, stream: bool, is_long: bool, is_cut: bool) -> None:
        if not stream:
            whole = WHOLE.replace(MARK, number)
            head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
            self._transport.write(head % len(whole) + whole[: len(whole) // (2 if is_cut else 1)])
            if is_cut:
                self._transport.close()
            return
        first, *others = EVENTS
        start = STREAM_HEAD + frame(first.replace(MARK, number))
        if is_cut:  # half of them before the first token
            self._transport.write(STREAM_HEAD if int(number) % 2 else start)
            self._later(CUT_AFTER_S, self._transport.abort)
            return
        self._transport.write(start)
        middle = [LONG_FRAME] * N_LONG_PIECES if is_long else []
        self._rest = iter([*middle, frame(*others) + b"0\r\n\r\n"])
        self._later(0.0 if is_long else PAUSE_S, self._pump)

    def _pump(self) -> None:
        while not self._is_full and (piece := next(self._rest, None)) is not None:
            self._transport.write(piece)


async def play_upstream(port: int) -> None:
    """Answer until the process is ended."""
    calls = Counter[str]()
    server = await asyncio.get_running_loop().create_server(lambda: EchoUpstream(calls), "127.0.0.1", port)
    await server.serve_forever()


# -- requests and their answers

STREAM_PERCENT = 40
LEAVE_PER_10_000, SLOW_PER_10_000 = 200, 5
MAX_LEAVE_S = 0.03
READ_BYTES, READ_EVERY_S = 65_536, 0.02
FILLER = (
    "Tell me why the river bends where the old mill stood and the road turns north to the sea " * 4
).split()
LENGTH = re.compile(rb"content-length: *(\d+)")
EXPERT = re.compile(rb"x-thalamus-expert: *(\S+)")


@dataclass(frozen=True, slots=True)
class SoakRequest:
    """One request of a client. `leave_s`: when the client goes away, None where it stays."""

    number: int
    data: bytes
    expert: str
    stream: bool
    is_long: bool
    leave_s: float | None

    @property
    def text(self) -> str:
        """The answer to it, and to no other."""
        return f"Answer {self.number}: {LONG_PIECE * N_LONG_PIECES if self.is_long else ''}{''.join(TAIL)}"


def build_request(number: int, experts: list[str]) -> SoakRequest:
    """The request of this number: half ask `auto`, the others an expert, most of these with a fallback."""
    chance = draw("request", number)
    share, kind = chance % 100, chance // 100 % 10_000
    is_long = LEAVE_PER_10_000 <= kind < LEAVE_PER_10_000 + SLOW_PER_10_000
    stream = is_long or draw("stream", number) % 100 < STREAM_PERCENT
    expert, fallbacks = "auto", [experts[-1]]
    if share >= 50:
        expert = experts[0 if share < 80 else 1 if share < 90 else -1]
    words = " ".join(FILLER[: 4 + chance // 7 % 60])
    prompt = f"Question {number}{' at length' if is_long else ''}: {words}"
    body: dict[str, Any] = {"model": expert, "messages": [{"role": "user", "content": prompt}]}
    if stream:
        body["stream"] = True
    if 50 <= share < 70:
        body["router"] = {"fallbacks": fallbacks}
    leave_s = kind / LEAVE_PER_10_000 * MAX_LEAVE_S if kind < LEAVE_PER_10_000 else None
    data = build_head("POST", "/v1/chat/completions", json.dumps(body).encode())
    return SoakRequest(number, data, expert, stream, is_long, leave_s)


def build_head(method: str, path: str, body: bytes = b"") -> bytes:
    """A request as bytes."""
    return b"%b %b HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: %d\r\n\r\n%b" % (
        *(method.encode(), path.encode()),
        len(body),
        body,
    )


class SoakAnswer:
    """An answer as it came: status, head in lower case, and body without its framing."""

    __slots__ = ("body", "head", "status")

    def __init__(self, head: bytes, body: bytes) -> None:
        self.status = int(head[9:12])
        self.head = head
        self.body = body


class AnswerParser:
    """Bytes of one connection → answers."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._head: bytes | None = None
        self._length: int | None = None
        self._body = bytearray()

    @property
    def is_empty(self) -> bool:
        """Whether nothing of a further answer has come."""
        return not self._data and self._head is None

    def feed(self, data: bytes) -> SoakAnswer | None:
        """The answer that these bytes complete.

        Raises:
            ValueError: they are no answer.
        """
        self._data += data
        if self._head is None:
            end = self._data.find(b"\r\n\r\n")
            if end < 0:
                return None
            self._head = bytes(self._data[:end]).lower()
            del self._data[: end + 4]
            length = LENGTH.search(self._head)
            self._length = int(length[1]) if length else None
        if not (self._take_whole() if self._length is not None else self._take_chunks()):
            return None
        answer = SoakAnswer(self._head, bytes(self._body))
        self._head, self._body = None, bytearray()
        return answer

    def _take_whole(self) -> bool:
        if len(self._data) < (self._length or 0):
            return False
        self._body = self._data[: self._length]
        del self._data[: self._length]
        return True

    def _take_chunks(self) -> bool:
        while (start := self._data.find(b"\r\n") + 2) >= 2:
            size = int(self._data[: start - 2], 16)
            if len(self._data) < start + size + 2:
                return False
            self._body += self._data[start : start + size]
            del self._data[: start + size + 2]
            if not size:
                return True
        return False


def judge(request: SoakRequest, answer: SoakAnswer) -> str:
    """What a client got, in words; what begins with WRONG it must never get."""
    if answer.status != 200:
        try:
            has_error = bool(json.loads(answer.body)["error"]["message"])
        except (ValueError, KeyError, TypeError):
            has_error = False
        return f"error {answer.status}" if has_error else f"WRONG: {answer.status} without an error object"
    try:
        text = read_stream(answer.body) if request.stream else read_whole(answer.body)
    except (ValueError, KeyError, TypeError, IndexError):
        return "WRONG: cannot be read"
    if text is None:
        return "error in a stream"
    if text != request.text:
        return "WRONG: not the answer to this question"
    expert = EXPERT.search(answer.head)
    is_other = request.expert != "auto" and (expert is None or expert[1].decode() != request.expert.lower())
    return "answered by a fallback" if is_other or b"; fallback: " in answer.head else "answered"


def read_whole(body: bytes) -> str:
    """The text of an answer that is not a stream."""
    return str(json.loads(body)["choices"][0]["message"]["content"])


def read_stream(body: bytes) -> str | None:
    """The text of a stream; None where it ends with an error, as it may.

    Raises:
        ValueError: it has no end.
    """
    *events, last, after = body.split(b"\n\n")
    if after:
        raise ValueError("half an event")
    text = []
    for event in [*events, last]:
        data = event.removeprefix(b"data: ")
        if data == b"[DONE]":
            continue
        decoded = json.loads(data)
        if "error" in decoded:
            return None
        text += [choice["delta"].get("content") or "" for choice in decoded["choices"]]
    if last != b"data: [DONE]":
        raise ValueError("no end")
    return "".join(text)


# -- clients


class BrokenConnectionError(Exception):
    """The connection ended before the answer did. `was_killed`: with the worker that had it."""

    def __init__(self, was_killed: bool) -> None:
        super().__init__("the connection ended")
        self.was_killed = was_killed


class ClientConnection(asyncio.Protocol):
    """A connection to the gateway, for one request after another."""

    def __init__(self, is_slow: bool = False) -> None:
        self.was_killed = self.is_closed = False
        self.port = 0
        self.sent_s = 0.0
        self.answer: asyncio.Future[SoakAnswer] | None = None
        self._parser = AnswerParser()
        self._is_slow = is_slow

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._loop = asyncio.get_running_loop()
        self.port = transport.get_extra_info("sockname")[1]

    def send(self, data: bytes) -> asyncio.Future[SoakAnswer]:
        """Send a request; the answer.

        Raises (where it is awaited):
            BrokenConnectionError, ValueError, TimeoutError
        """
        self.answer = self._loop.create_future()
        self.sent_s = self._loop.time()
        if self.is_closed:
            self._fail(BrokenConnectionError(self.was_killed))
        elif not self._parser.is_empty:
            self._fail(ValueError("bytes that no request asked for"))
        else:
            self._transport.write(data)
        return self.answer

    def data_received(self, data: bytes) -> None:
        try:
            answer = self._parser.feed(data)
        except ValueError as error:
            self._fail(error)
            return
        if answer is not None and self.answer is not None and not self.answer.done():
            self.answer.set_result(answer)
            if b"connection: close" in answer.head:
                self.close()
        if self._is_slow and not self.is_closed:
            self._transport.pause_reading()
            self._loop.call_later(READ_EVERY_S, self._read_on)

    def _read_on(self) -> None:
        if not self.is_closed:
            self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_closed = True
        self._fail(BrokenConnectionError(self.was_killed))

    def _fail(self, error: Exception) -> None:
        if self.answer is not None and not self.answer.done():
            self.answer.set_exception(error)

    def stop_waiting(self, now: float) -> None:
        """Give up an answer that does not come."""
        if self.answer is not None and not self.answer.done() and now - self.sent_s > HANGS_AFTER_S:
            self._fail(TimeoutError())

    def close(self) -> None:
        self.is_closed = True
        if self.answer is not None:
            self.answer.cancel()  # it is not awaited any more
        self._transport.abort()


class SoakClients:
    """All clients: they take the next number, ask, and count what came of it."""

    def __init__(self, port: int, experts: list[str]) -> None:
        self.counts = Counter[str]()
        self.n_resets = self.n_asked = 0
        self.examples: deque[str] = deque(maxlen=20)
        self.is_stopped = self.is_busy = False
        self.ended_s: float | None = None
        self.port = port
        self.connections: set[ClientConnection] = set()
        self._experts = experts
        self._idle: list[ClientConnection] = []
        self._killed_ports: set[int] = set()
        self._numbers: Iterator[int] = iter(())

    async def run_slice(self, n: int) -> None:
        """Ask n further questions; ends when all have come to an end."""
        self._numbers = iter(range(self.n_asked, self.n_asked + n))
        watchdog = asyncio.create_task(self._watch())
        self.is_busy = True
        await asyncio.gather(*(self._run_client() for _ in range(N_CLIENTS)))
        self.is_busy = False
        watchdog.cancel()

    def stop(self) -> None:
        """Ask nothing further."""
        self.is_stopped = True

    async def _run_client(self) -> None:
        while not self.is_stopped and (number := next(self._numbers, None)) is not None:
            self.n_asked += 1
            request = build_request(number, self._experts)
            outcome = await self._ask(request)
            self.counts[outcome] += 1
            if outcome.startswith(("LOST", "WRONG")):
                self.examples.append(f"{number} ({request.expert}, stream {request.stream}): {outcome}")

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(1)
            now = asyncio.get_running_loop().time()
            for connection in self.connections:
                connection.stop_waiting(now)

    async def _ask(self, request: SoakRequest) -> str:
        sent_s = asyncio.get_running_loop().time()
        outcome = await self._ask_again(request)
        if self.ended_s is None or not outcome.startswith("LOST: ") or sent_s < self.ended_s - ASKED_BEFORE_S:
            return outcome
        return "asked at the end of the gateway"

    async def _ask_again(self, request: SoakRequest) -> str:
        try:
            try:
                return await self._try(request)
            except BrokenConnectionError as error:
                if not error.was_killed:
                    raise
                self.n_resets += 1
            outcome = await self._try(request)
            return "answered after a kill" if outcome.startswith("answered") else outcome
        except BrokenConnectionError:
            return "LOST: the connection ended"
        except TimeoutError:
            return f"LOST: no answer in {HANGS_AFTER_S:g} s"
        except OSError as error:
            return f"LOST: {type(error).__name__}"
        except ValueError as error:
            return f"WRONG: {error}"

    async def _try(self, request: SoakRequest) -> str:
        connection = await self._connect(request.is_long)
        is_kept = False
        try:
            answer = connection.send(request.data)
            if request.leave_s is not None:
                await asyncio.wait([answer], timeout=request.leave_s)
                if not answer.done():
                    return "left by the client"
            outcome = judge(request, await answer)
            is_kept = not (request.is_long or connection.is_closed)
            return outcome
        finally:
            if is_kept:
                self._idle.append(connection)
            else:
                connection.close()
                self.connections.discard(connection)

    async def _connect(self, is_long: bool) -> ClientConnection:
        while self._idle and not is_long:
            if not (connection := self._idle.pop()).is_closed:
                return connection
            self.connections.discard(connection)
        connection = await connect(self.port, is_long)
        # A busy machine comes back here long after a worker, since killed, has accepted it.
        connection.was_killed |= connection.port in self._killed_ports
        self.connections.add(connection)
        return connection

    def mark_killed(self, ports: set[int]) -> None:
        """The worker that has the connections from these ports is about to be killed."""
        self._killed_ports = ports
        for connection in self.connections:
            connection.was_killed |= connection.port in ports


async def connect(port: int, is_slow: bool = False) -> ClientConnection:
    """A new connection; a slow one has little room for what it does not read."""
    loop = asyncio.get_running_loop()
    client = socket.socket()
    client.setblocking(False)
    if is_slow:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, READ_BYTES)
    try:
        await loop.sock_connect(client, ("127.0.0.1", port))
    except BaseException:
        client.close()
        raise
    _, connection = await loop.create_connection(lambda: ClientConnection(is_slow), sock=client)
    return connection


async def fetch(port: int, path: str) -> bytes:
    """What is at a path."""
    connection = await connect(port)
    try:
        async with asyncio.timeout(HANGS_AFTER_S):
            return (await connection.send(build_head("GET", path))).body
    finally:
        connection.close()


# -- the gateway, watched and troubled


@dataclass(slots=True)
class ProcessRecord:
    """One process of the gateway: megabytes of late, what they and its handles were once it had settled.

    born_at: how many requests all workers together had had when it came
    replaced: it took the place of a killed one
    handles: files and pipes; sockets with clients; sockets with the upstream
    """

    role: str
    born_at: int
    replaced: bool
    recent_mb: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT_S))
    settled_mb: float | None = None
    settled_handles: tuple[int, int, int] | None = None
    handles: tuple[int, int, int] = (0, 0, 0)

    @property
    def mb(self) -> float:
        """The median of the last seconds."""
        return statistics.median(self.recent_mb) if self.recent_mb else 0.0

    @property
    def growth(self) -> float | None:
        """Since it had settled; None where it has not."""
        return self.mb / self.settled_mb - 1 if self.settled_mb else None


class GatewayWatch:
    """Memory and handles of all processes of the gateway."""

    def __init__(self, parent: int, n_workers: int, port: int, upstream: int) -> None:
        self.records: dict[int, ProcessRecord] = {}
        self.ended: list[ProcessRecord] = []
        self._parent = psutil.Process(parent)
        self._n_workers = n_workers
        self._port, self._upstream = port, upstream

    def find_workers(self) -> list[psutil.Process]:
        """The workers, the eldest first."""
        found = []
        for child in self._parent.children():
            with contextlib.suppress(psutil.Error):
                if "gateway.workers.worker" in " ".join(child.cmdline()):
                    found.append(child)
        return sorted(found, key=lambda child: child.create_time())

    def look(self, n_done: int, is_busy: bool) -> None:
        """Note which processes there are, and their memory under load."""
        there = {self._parent.pid: self._parent, **{one.pid: one for one in self.find_workers()}}
        for pid in [pid for pid in self.records if pid not in there]:
            self.ended.append(self.records.pop(pid))
        for pid, one in there.items():
            if pid not in self.records:
                main = "parent" if self._n_workers > 1 else "gateway"
                role = main if one is self._parent else f"worker {pid}"
                self.records[pid] = ProcessRecord(role, n_done, bool(n_done))
            record = self.records[pid]
            with contextlib.suppress(psutil.Error):
                if is_busy or not record.recent_mb:
                    record.recent_mb.append(one.memory_info().rss / MB)
            n_own = (n_done - record.born_at) / self._n_workers
            if record.replaced and record.settled_mb is None and n_own >= WORKER_SETTLED_AFTER:
                record.settled_mb = record.mb

    def count_handles(self) -> None:
        """Count the handles of now, while no request is under way."""
        for pid, record in self.records.items():
            with contextlib.suppress(psutil.Error):
                record.handles = self._count_handles_of(psutil.Process(pid))

    def _count_handles_of(self, one: psutil.Process) -> tuple[int, int, int]:
        sockets = [each for each in one.net_connections("tcp") if each.raddr]
        n_clients = sum(each.laddr.port == self._port for each in sockets)
        n_upstream = sum(each.raddr.port == self._upstream for each in sockets)
        return one.num_fds() - n_clients - n_upstream, n_clients, n_upstream

    def settle(self) -> None:
        """Compare the first processes with what they have now; later ones settle by themselves."""
        for record in self.records.values():
            record.settled_handles = record.handles
            if not record.replaced:
                record.settled_mb = record.mb

    def kill_one(self, clients: SoakClients) -> bool:
        """Kill a worker, the one that has lived longest but for the eldest of all; whether there is one."""
        workers = self.find_workers()[1:]
        if not workers:
            return False
        # Stopped first, so that it takes no connection between the look at those it has and its end.
        workers[0].suspend()
        sockets = workers[0].net_connections("tcp")
        clients.mark_killed({one.raddr.port for one in sockets if one.raddr and one.laddr.port == self._port})
        workers[0].kill()
        return True


class SoakTroubles:
    """Reloads and kills, again and again; none while `calm` is held."""

    def __init__(self, path: Path, configs: list[dict[str, Any]], pid: int, port: int) -> None:
        self.calm = asyncio.Lock()
        self.n_reloads = self.n_kills = 0
        self.failed: list[str] = []
        self._path = path
        self._configs = configs
        self._pid, self._port = pid, port

    async def reload_forever(self, every_s: float) -> None:
        """Have the gateway read another configuration, and wait until it serves it."""
        while True:
            await asyncio.sleep(every_s)
            async with self.calm:
                has_spare = self.n_reloads % 2 == 0
                fresh = self._path.with_suffix(".new")
                fresh.write_text(json.dumps(self._configs[has_spare]) + "\n")
                fresh.replace(self._path)
                os.kill(self._pid, signal.SIGHUP)
                try:
                    async with asyncio.timeout(RELOAD_WITHIN_S):
                        await self._wait_reloaded(has_spare)
                except (OSError, TimeoutError, BrokenConnectionError) as error:
                    self.failed.append(f"reload {self.n_reloads + 1}: {error or type(error).__name__}")
                self.n_reloads += 1

    async def end_under_load(self, clients: SoakClients, child: "subprocess.Popen[bytes]") -> None:
        """End the gateway with SIGTERM while clients ask; notes what is wrong with its end."""
        processes = psutil.Process(child.pid).children(recursive=True)
        load = asyncio.create_task(clients.run_slice(10_000_000))
        await asyncio.sleep(LOAD_BEFORE_END_S)
        start = clients.ended_s = asyncio.get_running_loop().time()
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(child.wait, END_WITHIN_S)
        took_s = asyncio.get_running_loop().time() - start
        clients.stop()
        await load
        if child.returncode != 0:
            self.failed.append(f"SIGTERM under load: exit status {child.returncode} after {took_s:.1f} s")
        if left := [one.pid for one in processes if one.is_running()]:
            self.failed.append(f"SIGTERM under load: {len(left)} processes of the gateway are left")
        print(f"SIGTERM under load: the gateway ended after {took_s:.1f} s")

    async def _wait_reloaded(self, has_spare: bool) -> None:
        for _ in itertools.count():
            if (b'"spare"' in await fetch(self._port, "/v1/models")) is has_spare:
                return
            await asyncio.sleep(0.2)

    async def kill_forever(self, every_s: float, watch: GatewayWatch, clients: SoakClients) -> None:
        """Kill a worker, and wait for another in its place."""
        while True:
            await asyncio.sleep(every_s)
            async with self.calm:
                n_before = len(watch.find_workers())
                if watch.kill_one(clients):
                    self.n_kills += 1
                    for _ in range(int(START_WITHIN_S / 0.2)):
                        await asyncio.sleep(0.2)
                        if len(watch.find_workers()) >= n_before:
                            break
                    else:
                        self.failed.append(f"kill {self.n_kills}: no other worker in {START_WITHIN_S:g} s")


def build_config(
    upstream: str, folder: Path, arguments: argparse.Namespace, has_spare: bool
) -> dict[str, Any]:
    """The gateway's configuration. All experts but the last of `name_experts` fail at times."""
    names = name_experts(arguments.artifact)
    experts: list[dict[str, Any]] = [
        {
            "name": name,
            "model": f"openai/{model}",
            "api_base": f"{upstream}/faulty/v1",
            "quality": 0.9 - n / 20,
        }
        for n, (name, model) in enumerate(names)
    ]
    experts[-1]["api_base"] = f"{upstream}/steady/v1"
    experts[1]["max_parallel"] = N_CLIENTS  # workers ask their parent for such slots
    policy: dict[str, Any] = {"encoder": "adaptive" if arguments.artifact else "never"}
    if has_spare:
        experts.append({**experts[0], "name": "spare"})
        policy["require"] = {"exclude": ["spare"]}
    return {
        "experts": experts,
        "policies": {"auto": policy},
        "timeouts": TIMEOUTS,
        "server": {"workers": arguments.workers, "log_level": "error"},
        "journal": {"path": str(folder / "journal.sqlite3")},
        "routing": {"artifact": str(arguments.artifact or folder / "none")},
        "embeddings": {"enabled": False},
    }


def name_experts(artifact: Path | None) -> list[tuple[str, str]]:
    """Names and models: those that the artifact knows, if there is one."""
    if artifact is None:
        return [(name, name) for name in ("large", "medium", "steady")]
    fitted = json.loads((artifact / "manifest.json").read_text())["experts"]
    return [(one["name"], one["model"]) for one in fitted]


# -- the report


METRIC = re.compile(r"^(thalamus_\w+)(?:\{[^}]*\})? (\S+)$", re.MULTILINE)


SERIES = {"thalamus_journal_lost_total": "dropped", "thalamus_circuit_opened_total": "openings"}


class SoakReport:
    """Prints what each slice brought, and the verdict."""

    def __init__(
        self, folder: Path, clients: SoakClients, watch: GatewayWatch, troubles: SoakTroubles, upstream: int
    ) -> None:
        self._folder = folder
        self._clients, self._watch, self._troubles = clients, watch, troubles
        self._upstream = upstream
        self._before = Counter[str]()
        self._n_slices = 0
        self._n_settled: int | None = None

    async def print_slice(self, took_s: float) -> None:
        """Count handles and print; call it while no request is under way."""
        self._watch.count_handles()
        n_done = self._clients.counts.total()
        if self._n_settled is None and n_done >= SETTLED_AFTER:
            self._watch.settle()
            self._n_settled = n_done
        now = await self._read_totals()
        since = Counter(now)
        since.subtract(self._before)
        self._before = now
        n = since["requests"]
        self._n_slices += 1
        print(f"slice {self._n_slices}: {n:,} of {n_done:,} requests, {took_s:.1f} s, {n / took_s:,.0f}/s")
        came = {name: count for name, count in since.items() if name in self._clients.counts and count}
        print("   " + ", ".join(f"{name} {count:,}" for name, count in sorted(came.items())))
        print(
            f"   reset by killed workers {since['resets']}; workers killed {since['kills']}, reloads"
            f" {since['reloads']}; upstream calls per request {since['calls'] / max(1, n):.3f}, of them with"
            f" a fault {100 * (1 - since['fine'] / max(1, since['calls'])):.1f} %; circuits opened"
            f" {since['openings']}; journal rows {since['rows']:,}, dropped {since['dropped']}"
        )
        for record in self._watch.records.values():
            print(
                f"   {record.role:14} {record.mb:6.1f} MB; handles: own {record.handles[0]}, clients"
                f" {record.handles[1]}, upstream {record.handles[2]}"
            )
        sys.stdout.flush()

    async def _read_totals(self) -> Counter[str]:
        totals = Counter(self._clients.counts)
        totals["requests"] = totals.total()
        totals["resets"] = self._clients.n_resets
        totals["kills"], totals["reloads"] = self._troubles.n_kills, self._troubles.n_reloads
        totals.update(json.loads(await fetch(self._upstream, "/stats")))
        metrics = (await fetch(self._clients.port, "/metrics")).decode()
        for name, value in METRIC.findall(metrics):
            if name in SERIES:
                totals[SERIES[name]] += int(float(value))
        address = f"file:{self._folder / 'journal.sqlite3'}?mode=ro"
        with contextlib.closing(sqlite3.connect(address, uri=True)) as database:
            totals["rows"] = database.execute("SELECT coalesce(max(seq), 0) FROM decisions").fetchone()[0]
        return totals

    def print_verdict(self) -> bool:
        """Whether all goals are met."""
        counts = self._clients.counts
        print(f"in all {counts.total():,} requests")
        for name, count in sorted(counts.items()):
            print(f"   {name:45} {count:9,}")
        n_bad = sum(
            count for name, count in counts.items() if name.startswith(("LOST", "WRONG", "error 500"))
        )
        verdicts = [(n_bad == 0, f"lost, wrong, or told of an error of the gateway: {n_bad}")]
        verdicts += [(False, example) for example in self._clients.examples]
        verdicts += [(False, failure) for failure in self._troubles.failed]
        text = (self._folder / "gateway.log").read_text(errors="replace")
        n_traces, n_kept = text.count("Traceback"), text.count("not reloaded")
        verdicts.append((not n_traces and not n_kept, f"tracebacks {n_traces}, reloads refused {n_kept}"))
        for ok, line in [*verdicts, *self._judge_processes()]:
            print(f"{'ok' if ok else 'MISSED':7} {line}")
        own_mb = psutil.Process().memory_info().rss / MB
        n_kills, n_reloads = self._troubles.n_kills, self._troubles.n_reloads
        print(f"({n_kills} kills, {n_reloads} reloads; the clients hold {own_mb:.0f} MB)")
        return all(ok for ok, _ in verdicts) and all(ok for ok, _ in self._judge_processes())

    def _judge_processes(self) -> Iterator[tuple[bool, str]]:
        if self._n_settled is None:
            yield True, f"memory and handles: no verdict on fewer than {SETTLED_AFTER:,} requests"
            return
        for record in self._watch.records.values():
            since = f"its own first {WORKER_SETTLED_AFTER:,}" if record.replaced else f"{self._n_settled:,}"
            if record.growth is not None:
                line = (
                    f"{record.role}: {record.settled_mb:.1f} → {record.mb:.1f} MB, {record.growth:+.1%} since"
                )
                yield record.growth <= MAX_GROWTH, f"{line} {since} requests"
            if record.settled_handles is not None:
                more = record.handles[0] - record.settled_handles[0]
                line = f"{record.role}: handles {record.settled_handles} → {record.handles}"
                is_flat = more <= MAX_MORE_HANDLES and max(record.handles[1:]) <= N_CLIENTS
                yield is_flat, f"{line} (own, clients, upstream)"
        grown = [record.growth for record in self._watch.ended if record.growth is not None]
        if grown:
            line = f"{len(grown)} replaced workers: memory at most {max(grown):+.1%} from their own first"
            yield max(grown) <= MAX_GROWTH, f"{line} {WORKER_SETTLED_AFTER:,} requests to their end"


# -- one run


async def soak(arguments: argparse.Namespace, folder: Path, upstream: int) -> bool:
    """Run all slices; whether all goals are met."""
    configs = [
        build_config(f"http://127.0.0.1:{upstream}", folder, arguments, has_spare)
        for has_spare in (False, True)
    ]
    with gateway(folder, configs[0]) as (url, child):
        port = int(url.rpartition(":")[2])
        clients = SoakClients(port, [name for name, _ in name_experts(arguments.artifact)])
        watch = GatewayWatch(child.pid, arguments.workers, port, upstream)
        troubles = SoakTroubles(folder / "thalamus.yaml", configs, child.pid, port)
        report = SoakReport(folder, clients, watch, troubles, upstream)
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, clients.stop)
        tasks = [
            asyncio.create_task(troubles.reload_forever(arguments.reload_every)),
            asyncio.create_task(troubles.kill_forever(arguments.kill_every, watch, clients)),
            asyncio.create_task(watch_forever(watch, clients)),
        ]
        try:
            while not clients.is_stopped and clients.n_asked < arguments.requests:
                start = time.monotonic()
                await clients.run_slice(min(arguments.slice, arguments.requests - clients.n_asked))
                took_s = time.monotonic() - start
                async with troubles.calm:
                    await asyncio.sleep(REST_S)
                    await report.print_slice(took_s)
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            print(*(repr(one) for one in results if isinstance(one, Exception)), sep="\n", end="")
        if not clients.is_stopped:
            await troubles.end_under_load(clients, child)
        return report.print_verdict()


async def watch_forever(watch: GatewayWatch, clients: SoakClients) -> None:
    while True:
        watch.look(clients.counts.total(), clients.is_busy)
        await asyncio.sleep(1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--slice", type=int, default=50_000, help="requests between two rests")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--artifact", type=Path, help="route with this artifact, among the experts it knows")
    parser.add_argument("--reload-every", type=float, default=30.0, help="seconds between reloads")
    parser.add_argument("--kill-every", type=float, default=60.0, help="seconds between kills of a worker")
    parser.add_argument("--upstream", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    with asyncio.Runner(loop_factory=choose_loop()) as runner:
        if arguments.upstream:
            runner.run(play_upstream(arguments.upstream))
            return
        with tempfile.TemporaryDirectory() as scratch:
            folder, port = Path(scratch), free_port()
            command = (sys.executable, __file__, "--upstream", str(port))
            with process(*command, log=folder / "upstream.log"):
                wait_for(f"http://127.0.0.1:{port}/stats")
                is_met = runner.run(soak(arguments, folder, port))
    if not is_met:
        raise SystemExit("FAILED")


if __name__ == "__main__":
    main()
