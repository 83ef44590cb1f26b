"""What the gateway writes of itself: lines of text or JSON, written by a thread of its own.

`ACCESS` has one line a request, `UPSTREAM` one a failed call, `AUDIT` one a wrong key or change.
No line holds a prompt, an answer or a secret.
"""

import contextlib
import logging
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextvars import ContextVar
from functools import lru_cache
from queue import Empty, SimpleQueue
from typing import Any, TextIO
from urllib.parse import quote

import msgspec

from ..config import Config
from ..config.secrets import hide_secrets, list_secrets
from .background import start_thread

ACCESS = logging.getLogger("thalamus.access")
UPSTREAM = logging.getLogger("thalamus.upstream")
AUDIT = logging.getLogger("thalamus.audit")
SERVED_REQUEST: ContextVar[str] = ContextVar("request_id", default="")
"""The request that is being served; tasks started for it inherit it."""

WRITE_AFTER_S = 0.05
MAX_LINES_AT_ONCE = 2048
"""With the wait before each write this bounds the lines of a second: 256 would bound the requests, too."""
ATOMIC_BYTES = 4096
"""So much is written to a pipe in one piece (PIPE_BUF of Linux): workers share it, and lines stay whole."""
MAX_WAITING = 100_000
MAX_FIELD_CHARS = 256
MIN_SECRET_CHARS = 6
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class AnswerFacts(msgspec.Struct, frozen=True, gc=False):
    """What came of a request for an expert; None is unknown. Cost and tokens are those of all its calls,
    estimated where an expert counted none."""

    status: int
    expert: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: float | None = None
    is_estimated: bool = False


class AccessFacts(msgspec.Struct, frozen=True, gc=False):
    """What is said of one request; `model` is what the client asked for, `key` the name of its key."""

    request_id: str
    method: str
    path: str
    status: int
    duration_ms: float
    model: str | None = None
    answer: AnswerFacts | None = None
    key: str | None = None


RECORD_DEFAULTS = {**logging.makeLogRecord({"name": ACCESS.name}).__dict__, "pathname": __file__}


class AccessRecord(logging.LogRecord):
    """A request as a record of `logging`. Its text is made where it is written, not on the event loop."""

    access: AccessFacts

    def __init__(self, level: int, facts: AccessFacts) -> None:
        # LogRecord's own constructor asks for stack, thread, process and task: more than all else of a line.
        now = time.time()
        self.__dict__ = {
            **RECORD_DEFAULTS,
            "levelno": level,
            "levelname": logging.getLevelName(level),
            "created": now,
            "msecs": now % 1 * 1000,
            "access": facts,
        }

    def getMessage(self) -> str:  # noqa: N802
        return access_line(self.access, _plain)


def access_line(facts: AccessFacts, clean: Callable[[str], str]) -> str:
    """A request in words; `clean` makes the client's own words fit for a log."""
    parts = [f"{facts.method} {clean(facts.path)} {facts.status}"]
    if facts.key is not None:
        parts.append(f"key={facts.key}")
    if facts.model is not None:
        parts.append(f"model={clean(facts.model)}")
    if (answer := facts.answer) is not None:
        if answer.expert is not None:
            parts.append(f"expert={answer.expert}")
        if answer.input_tokens is not None or answer.output_tokens is not None:
            about = "~" if answer.is_estimated else ""
            parts.append(
                f"tokens={about}{_or_unknown(answer.input_tokens)}+{_or_unknown(answer.output_tokens)}"
            )
        if answer.cost_usd is not None:
            parts.append(f"cost_usd={answer.cost_usd:.6g}")
    parts.append(f"{facts.duration_ms:.1f} ms")
    return " ".join(parts)


def _or_unknown(number: int | None) -> str:
    return "?" if number is None else str(number)


def _plain(text: str) -> str:
    """A text in one line, bounded."""
    return CONTROL.sub("?", text[:MAX_FIELD_CHARS])


class Redactor:
    """Takes secrets out of texts: those that are known, and what looks like one."""

    def __init__(self, secrets: Collection[str]) -> None:
        spellings = {spelling for one in secrets for spelling in (one, quote(one, safe=""), repr(one)[1:-1])}
        known = sorted((one for one in spellings if len(one) >= MIN_SECRET_CHARS), key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, known))) if known else None
        self.field = lru_cache(maxsize=1024)(self._field)

    def __call__(self, text: str) -> str:
        return hide_secrets(self.hide_known(text))

    def hide_known(self, text: str) -> str:
        """The text without the secrets that are known; JSON stays JSON."""
        return text if self._known is None else self._known.sub("[key]", text)

    def _field(self, text: str) -> str:
        # Bounded only afterwards: half of a key is not recognised.
        return _plain(self(text[: 64 * MAX_FIELD_CHARS]))


class Lines:
    """Turns records into lines, as text or as JSON."""

    def __init__(self, redact: Redactor, as_json: bool) -> None:
        self._redact = redact
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        """One record with its line end; only a traceback in text has several lines."""
        if isinstance(record, AccessRecord):
            if not self._as_json:
                line = access_line(record.access, self._redact.field)
                return f"{_time_text(record)} {record.access.request_id} {line}\n"
            facts: dict[str, Any] = {"event": "request", **_as_fields(record.access, self._redact.field)}
            return self._json_line(record, facts)
        request_id: str = getattr(record, "request_id", "")
        message = CONTROL.sub("?", self._redact(record.getMessage().replace("\n", "; ")))
        trace = self._redact(_describe_exception(record, bool(request_id)))
        if not self._as_json:
            head = f"{_time_text(record)} {request_id or '-'} {message}\n"
            return head + trace
        facts = {"event": getattr(record, "event", "log"), "logger": record.name, "message": message}
        if request_id:
            facts["request_id"] = request_id
        more: Mapping[str, Any] = getattr(record, "facts", {})
        facts |= {name: self._redact(v) if isinstance(v, str) else v for name, v in more.items()}
        return self._json_line(record, facts | ({"traceback": trace} if trace else {}))

    @staticmethod
    def _json_line(record: logging.LogRecord, facts: Mapping[str, Any]) -> str:
        head = {"time": _iso_time(record), "level": record.levelname.lower()}
        return msgspec.json.encode({**head, **facts}).decode() + "\n"


def _as_fields(facts: AccessFacts, clean: Callable[[str], str]) -> dict[str, Any]:
    answer = facts.answer or AnswerFacts(facts.status)
    return {
        "request_id": facts.request_id,
        "method": facts.method,
        "path": clean(facts.path),
        "key": facts.key,
        "model": None if facts.model is None else clean(facts.model),
        "expert": answer.expert,
        "status": facts.status,
        "input_tokens": answer.input_tokens,
        "output_tokens": answer.output_tokens,
        **({"tokens_estimated": True} if answer.is_estimated else {}),
        "cost_usd": answer.cost_usd,
        "ms": round(facts.duration_ms, 3),
    }


def _time_text(record: logging.LogRecord) -> str:
    return f"{_iso_time(record)} {record.levelname:7}"


def _iso_time(record: logging.LogRecord) -> str:
    return f"{_second(int(record.created))}.{int(record.msecs):03}Z"


@lru_cache(maxsize=2)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def _describe_exception(record: logging.LogRecord, in_request: bool) -> str:
    """The traceback of a record. In a request it names exceptions without their texts."""
    error = record.exc_info[1] if record.exc_info else None
    if error is None:
        return ""
    if not in_request and record.name.startswith("thalamus"):
        return "".join(traceback.format_exception(error))
    # An exception's own words may quote the prompt ("could not convert string to float: '…'").
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "".join(
        "".join(traceback.format_tb(one.__traceback__)) + f"{type(one).__qualname__}\n"
        for one in reversed(chain)
    )


class QueuedHandler(logging.Handler):
    """Puts records into a queue; a thread makes lines of them and writes, so no caller waits for a disk."""

    def __init__(self, stream: TextIO, lines: Lines) -> None:
        super().__init__()
        self.lines = lines
        self.n_dropped = 0
        self._stream = stream
        self._queue: SimpleQueue[logging.LogRecord | None] = SimpleQueue()
        self._stopping = threading.Event()
        self._in_hand: list[logging.LogRecord | None] = []
        self._thread = start_thread("log", self._run, self._stopping)

    def emit(self, record: logging.LogRecord) -> None:
        if self._queue.qsize() >= MAX_WAITING:  # what reads the log has stopped reading
            self.n_dropped += 1
            return
        if not isinstance(record, AccessRecord):
            record.request_id = SERVED_REQUEST.get()
            # Arguments may change before they are written.
            record.msg, record.args = record.getMessage(), ()
        self._queue.put(record)

    def close(self) -> None:
        """Write what waits, and end the thread."""
        self._stopping.set()
        self._queue.put(None)
        self._thread.join(5.0)
        super().close()

    def _run(self) -> None:
        # What is in hand is kept beside the queue: a thread that dies has not written it.
        records, ended = self._in_hand, None in self._in_hand
        while records or not ended:
            if not records:
                records.append(self._queue.get())
            # A wait, so that many lines share one write, and a burst does not wake this thread for each.
            self._stopping.wait(WRITE_AFTER_S)
            with contextlib.suppress(Empty):
                while len(records) < MAX_LINES_AT_ONCE:
                    records.append(self._queue.get_nowait())
            ended = None in records
            self._write([record for record in records if record is not None])
            records.clear()

    def _write(self, records: Iterable[logging.LogRecord]) -> None:
        lines = [self._format(record) for record in records]
        if self.n_dropped:
            n, self.n_dropped = self.n_dropped, 0
            text = f"{n} lines were not written: the log is read too slowly"
            lines.append(self._format(logging.makeLogRecord({"msg": text, "levelname": "WARNING"})))
        # A closed pipe must end neither the thread nor the gateway.
        with contextlib.suppress(OSError, ValueError):
            for piece in join_lines(lines):
                self._stream.write(piece)
                self._stream.flush()

    def _format(self, record: logging.LogRecord) -> str:
        try:
            return self.lines.format(record)
        except Exception as error:  # a line that cannot be made must not end the log
            return f"{_time_text(record)} a line of {record.name} cannot be written: {type(error).__name__}\n"


def join_lines(lines: Iterable[str]) -> Iterator[str]:
    """The lines in pieces of at most `ATOMIC_BYTES`; a longer line is a piece of its own."""
    piece, n_bytes = "", 0
    for line in lines:
        n_more = len(line.encode())
        if piece and n_bytes + n_more > ATOMIC_BYTES:
            yield piece
            piece, n_bytes = "", 0
        piece, n_bytes = piece + line, n_bytes + n_more
    if piece:
        yield piece


class ServerLog:
    """The log of a serving process, as a context manager; `configure` follows the configuration."""

    def __init__(self, config: Config, stream: TextIO | None = None) -> None:
        self._handler = QueuedHandler(stream or sys.stderr, build_lines(config))
        self.configure(config)

    def configure(self, config: Config) -> None:
        """Write as this configuration asks, and hide its secrets."""
        self._handler.lines = build_lines(config)
        logging.getLogger("thalamus").setLevel(config.server.log_level.upper())

    def __enter__(self) -> "ServerLog":
        root = logging.getLogger()
        self._former = root.handlers[:], root.level
        # Libraries log addresses with keys at `info` and prompts at `debug`: theirs begin at warnings.
        root.handlers, root.level = [self._handler], logging.WARNING
        return self

    def __exit__(self, *_: object) -> None:
        root = logging.getLogger()
        root.handlers, root.level = self._former
        self._handler.close()


def build_lines(config: Config) -> Lines:
    """What makes the lines that a configuration asks for."""
    return Lines(Redactor(list_secrets(config)), config.server.log_format == "json")
