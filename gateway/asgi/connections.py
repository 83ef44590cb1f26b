"""All connections of one process: how many, what they hold, how long each may take, and how they come in.

A connection is in at most one register at a time for each thing that it waits for. The registers are
dictionaries in the order of entry, so that a look at the first ones finds all that are due.
"""

import asyncio
import contextlib
import errno
import logging
import resource
import socket
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..config import LimitsConfig
from ..errors import GatewayError, HeadTooLarge, RequestTooSlow, ServerBusy, UrlTooLong
from .admission import Admission

if TYPE_CHECKING:
    from .protocol import HttpProtocol, RequestCycle

N_SPARE = 64
"""Connections beyond the most, so that health endpoints answer also then."""
BODY_GRACE_S = 10.0
LINGER_S = 2.0
"""How long the rest of a refused request is read and thrown away.

Closed at once, the kernel would answer that rest with a reset, and the client lose the refusal (RFC 9112,
section 9.6).
"""
LONGEST_SWEEP_S = 1.0
SHORTEST_SWEEP_S = 0.02
N_ACCEPTED_PER_TURN = 16
FULL_PAUSE_S = 0.25
MAX_FILES = 65_536
OUT_OF_FILES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

log = logging.getLogger("thalamus")


class Blocked:
    """A client that does not read: how long, and how much waits for it."""

    __slots__ = ("n_at_first", "n_bytes", "progress_s", "since_s")

    def __init__(self, now_s: float, n_bytes: int) -> None:
        self.since_s = self.progress_s = now_s
        self.n_bytes = self.n_at_first = n_bytes


class Connections:
    """The connections of a process, and what all of them may take together.

    Attributes:
        idle, heads, bodies, lingering, closing: since when a connection waits for a request, for the end of a
            head, for the end of a body, for the rest of a refused request, and for its last bytes to be read.
        blocked: connections whose client does not read.
        held_bytes: bytes of request bodies in memory.
        admission: whose turn it is among the requests that have come in.
        refused: how many requests and connections were refused, by the limit that they reached or the code of
            the error.
    """

    def __init__(self, limits: LimitsConfig) -> None:
        self.limits = limits
        self.admission = Admission(limits)
        self.all: set[HttpProtocol] = set()
        self.idle: dict[HttpProtocol, float] = {}
        self.heads: dict[HttpProtocol, float] = {}
        self.bodies: dict[HttpProtocol, float] = {}
        self.lingering: dict[HttpProtocol, float] = {}
        self.closing: dict[HttpProtocol, float] = {}
        self.blocked: dict[HttpProtocol, Blocked] = {}
        self.held_bytes = 0
        self.refused: Counter[str] = Counter()
        self._by_address: Counter[str] = Counter()
        self._timer: asyncio.TimerHandle | None = None
        self._swept_s = 0.0

    def configure(self, limits: LimitsConfig) -> None:
        """Other limits hold from now on."""
        self.limits = self.admission.limits = limits

    def join(self, connection: "HttpProtocol") -> None:
        """A connection was made; where there are too many it is marked as spare, or closed."""
        limits = self.limits
        self.all.add(connection)
        loop = asyncio.get_running_loop()
        if self._timer is None:
            self._swept_s = loop.time()
            self._timer = loop.call_later(self._interval_s(), self._sweep, loop)
        address = connection.address
        self._by_address[address] += 1
        most = limits.max_connections_per_address
        if most is not None and self._by_address[address] > most:
            self.note("max_connections_per_address")
            connection.abort()
        elif len(self.all) > limits.max_connections and not self._make_room():
            connection.is_spare = True
            if len(self.all) > limits.max_connections + N_SPARE:
                self.note("max_connections")
                connection.abort()
        self.heads[connection] = loop.time()

    def leave(self, connection: "HttpProtocol") -> None:
        """A connection is gone."""
        self.all.discard(connection)
        for register in (self.idle, self.heads, self.bodies, self.lingering, self.closing, self.blocked):
            register.pop(connection, None)
        self._by_address[connection.address] -= 1
        if self._by_address[connection.address] <= 0:
            del self._by_address[connection.address]

    def hold(self, cycle: "RequestCycle", n_bytes: int) -> None:
        """A request keeps so many bytes more of its body in memory.

        Raises:
            ServerBusy: there is no room for them, and no unfinished body to make room.
        """
        cycle.held_bytes += n_bytes
        self.held_bytes += n_bytes
        while self.held_bytes > self.limits.max_held_bytes:
            # The largest unfinished body goes first: half-sent bodies must not keep all others out.
            victim = max(self.bodies, key=lambda other: other.held_bytes, default=None)
            if victim is None or not victim.held_bytes:
                full = "request bodies take all memory that they may (server.limits.max_held_bytes)"
                raise ServerBusy(full, limit="max_held_bytes")
            self.bodies.pop(victim)
            largest = "request bodies take all memory that they may; this one is the largest"
            victim.give_up(ServerBusy(largest, limit="max_held_bytes"))

    def release(self, cycle: "RequestCycle", n_bytes: int | None = None) -> None:
        """A request needs so many bytes, or all of them, no longer."""
        n_bytes = cycle.held_bytes if n_bytes is None else min(n_bytes, cycle.held_bytes)
        cycle.held_bytes -= n_bytes
        self.held_bytes -= n_bytes

    def block(self, connection: "HttpProtocol") -> None:
        """The client of a connection does not read what waits for it."""
        now_s = asyncio.get_running_loop().time()
        self.blocked[connection] = Blocked(now_s, connection.n_unsent())

    def note(self, what: str) -> None:
        """Count a refusal; of each kind one in a hundred is logged, so that an attack fills no disk."""
        self.refused[what] += 1
        if self.refused[what] % 100 == 1:
            log.warning("refused a request: %s (%d so far)", what, self.refused[what])

    def head_error(self, n_headers: int, n_head: int, n_url: int) -> GatewayError | None:
        """The refusal of a head that is too large."""
        limits = self.limits
        if n_url > limits.max_url_bytes:
            return UrlTooLong(f"the address is longer than {limits.max_url_bytes} bytes (max_url_bytes)")
        if n_headers > limits.max_headers:
            return HeadTooLarge(f"the request has more than {limits.max_headers} headers (max_headers)")
        if n_head > limits.max_head_bytes:
            return HeadTooLarge(f"the head is larger than {limits.max_head_bytes} bytes (max_head_bytes)")
        return None

    def _make_room(self) -> bool:
        """Close the connection that waits longest without a request; False where all have one."""
        oldest = [next(iter(register.items())) for register in (self.idle, self.heads) if register]
        if not oldest:
            return False
        self.note("max_connections")
        min(oldest, key=lambda entry: entry[1])[0].abort()
        return True

    def _interval_s(self) -> float:
        limits = self.limits
        least = min(limits.head_s, limits.body_s, limits.idle_s, limits.write_s)
        return max(SHORTEST_SWEEP_S, min(LONGEST_SWEEP_S, least / 4))

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        """Close what has taken too long. Its cost is that of what is due, and of bodies under way."""
        limits, now_s = self.limits, loop.time()
        for connection in _due(self.heads, now_s - limits.head_s):
            self.heads.pop(connection, None)
            slow = RequestTooSlow(f"the head did not arrive within {limits.head_s:g} s (head_s)")
            connection.give_up(slow)
        for connection in _due(self.idle, now_s - limits.idle_s):
            self.idle.pop(connection, None)
            connection.close()
        for connection in _due(self.lingering, now_s - LINGER_S):
            self.lingering.pop(connection, None)
            connection.close()
        for connection in _due(self.closing, now_s - limits.write_s):
            connection.abort()
        waited_s = now_s - self._swept_s
        for connection in list(self.bodies):
            connection.pace_body(waited_s)
        for connection, blocked in list(self.blocked.items()):
            self.look_at(connection, blocked, now_s)
        self._swept_s = now_s
        self._timer = loop.call_later(self._interval_s(), self._sweep, loop) if self.all else None

    def look_at(self, connection: "HttpProtocol", blocked: Blocked, now_s: float) -> None:
        """Let a client go that reads nothing, or next to nothing."""
        n_bytes = connection.n_unsent()
        if n_bytes < blocked.n_bytes:
            blocked.progress_s = now_s
        blocked.n_bytes = n_bytes
        # A byte now and then is no progress: in all it has as long as a slow line would take.
        pace = self.limits.min_body_bytes_per_s
        longest_s = self.limits.write_s + (blocked.n_at_first / pace if pace else float("inf"))
        if now_s - blocked.progress_s > self.limits.write_s or now_s - blocked.since_s > longest_s:
            self.note("slow_reader")
            connection.abort()


def _due(register: "dict[HttpProtocol, float]", until_s: float) -> "list[HttpProtocol]":
    """Those at the beginning of a register that entered it before a time."""
    due = []
    for connection, since_s in register.items():
        if since_s > until_s:
            break
        due.append(connection)
    return due


class Acceptor:
    """Accepts the connections of a listening socket; stands in for an `asyncio.Server`.

    libuv, and with it uvloop, accepts one connection in each turn of the loop (since its version 1.45): under
    load the five hundredth waited for seconds.
    """

    def __init__(self, listener: socket.socket, make_protocol: Callable[[], asyncio.Protocol]) -> None:
        self.sockets = (listener,)
        self._listener = listener
        self._make_protocol = make_protocol
        self._loop = asyncio.get_running_loop()
        self._opening: set[asyncio.Task[object]] = set()
        self._later: asyncio.TimerHandle | None = None
        set_socket_options(listener)
        listener.setblocking(False)
        self._loop.add_reader(listener.fileno(), self._accept)

    def close(self) -> None:
        """Accept no more; connections that were accepted stay."""
        if self._later is not None:
            self._later.cancel()
        if self._listener.fileno() >= 0:
            self._loop.remove_reader(self._listener.fileno())
            self._listener.close()

    async def wait_closed(self) -> None:
        """Wait until those are open that were accepted last."""
        await asyncio.gather(*self._opening, return_exceptions=True)

    def _accept(self) -> None:
        # Few in a turn: a flood of connections must not keep requests waiting.
        for _ in range(N_ACCEPTED_PER_TURN):
            if not self._accept_one():
                return

    def _accept_one(self) -> bool:
        """Accept a connection; False where none waits, or none can be accepted now."""
        try:
            accepted, _address = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return False
        except OSError as error:
            if error.errno not in OUT_OF_FILES:
                raise
            log.warning("no connection can be accepted for now: %s", error.strerror)
            self._pause(FULL_PAUSE_S)
            return False
        opening = self._loop.create_task(self._loop.connect_accepted_socket(self._make_protocol, accepted))
        self._opening.add(opening)
        opening.add_done_callback(self._forget)
        return True

    def _forget(self, opening: "asyncio.Task[object]") -> None:
        self._opening.discard(opening)
        if not opening.cancelled() and (error := opening.exception()) is not None:
            log.debug("a connection ended before it began: %s", error)

    def _pause(self, pause_s: float) -> None:
        """Accept none for a while; the socket stays readable, and the loop would turn without end."""
        self._loop.remove_reader(self._listener.fileno())
        self._later = self._loop.call_later(
            pause_s, self._loop.add_reader, self._listener.fileno(), self._accept
        )


def raise_file_limit() -> None:
    """Let the process open as many files as the system allows it, within reason: each connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # macOS says "unlimited" and refuses it
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def set_socket_options(listener: socket.socket) -> None:
    """Options that Linux hands on to every connection of a listening socket."""
    options = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1), (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    for name, value in (
        ("TCP_KEEPIDLE", 60),  # a client that vanished without a word is noticed after two minutes
        ("TCP_KEEPINTVL", 15),
        ("TCP_KEEPCNT", 4),
        (
            "TCP_NOTSENT_LOWAT",
            1 << 17,
        ),  # else the kernel buffers megabytes for each client that does not read
    ):
        if (option := getattr(socket, name, None)) is not None:
            options.append((socket.IPPROTO_TCP, option, value))
    for level, option, value in options:
        with contextlib.suppress(OSError):  # a Unix socket has none of these
            listener.setsockopt(level, option, value)
