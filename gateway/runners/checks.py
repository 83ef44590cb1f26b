"""Checks of a local server: it answers on its health path, generates text, sleeps and wakes.

Before traffic the server is asked one short question, the canary. After a load the answer must be text: not
empty, no unprintable or replacement characters, not one character
over and over (what weights that were never put back give), and no log probability that is not a number. After
waking it must also be the answer given after the load: it is asked for without randomness. A server that
fails is started anew.

A health path often answers while nothing is generated any more. So with requests in flight a server must have
sent something lately; one that has not is asked a short question, and one that stays silent is replaced.
"""

import asyncio
import contextlib
import json
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from .types import Launch, Patience, Probe, RunnerError

MAX_ANSWER_BYTES = 4 * 1024 * 1024

LENGTH: dict[str, Any] = {"max_tokens": 4, "temperature": 0}
ASKED: dict[Probe, tuple[str, dict[str, Any]]] = {
    "text": ("/completions", {"prompt": "The capital of France is", **LENGTH}),
    "chat": (
        "/chat/completions",
        {"messages": [{"role": "user", "content": "What is the capital of France?"}], **LENGTH},
    ),
    "embeddings": ("/embeddings", {"input": "Paris"}),
}


async def is_answering(address: str, path: str, timeout_s: float) -> bool:
    """Whether `GET path` is answered 200 within `timeout_s` seconds."""
    try:
        async with asyncio.timeout(timeout_s):
            status, _ = await ask(address, path)
    except (OSError, TimeoutError):
        return False
    return status == 200


async def ask(
    address: str,
    path: str,
    body: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
    method: str | None = None,
) -> tuple[int, bytes]:
    """Status and body of the answer; a GET, or a POST where there is a `body`. Takes as long as it takes.

    Raises:
        OSError: no server answers, or not in HTTP.
    """
    place = urlsplit(address)
    data = b"" if body is None else json.dumps(dict(body)).encode()
    # HTTP/1.0: the answer then ends with the connection and comes in one piece.
    lines = [f"{method or ('GET' if body is None else 'POST')} {path} HTTP/1.0", f"Host: {place.netloc}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    lines += ["Connection: close", f"Content-Length: {len(data)}", "Content-Type: application/json", "", ""]
    reader, writer = await asyncio.open_connection(place.hostname, place.port, limit=MAX_ANSWER_BYTES)
    try:
        writer.write("\r\n".join(lines).encode() + data)
        answer = await _read_all(reader)
    finally:
        # Not `close`, which waits until a server that reads nothing has read all.
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    head, _, rest = answer.partition(b"\r\n\r\n")
    word = head.split(b" ")[1:2]
    if not head.startswith(b"HTTP/") or not word or not word[0][:3].isdigit():
        raise ConnectionError("the answer is not HTTP")
    return int(word[0][:3]), rest


async def _read_all(reader: asyncio.StreamReader) -> bytes:
    parts = bytearray()
    while (data := await reader.read(65536)) and len(parts) < MAX_ANSWER_BYTES:
        parts += data
    return bytes(parts)


class Pulse:
    """When the server last said something, and how many requests wait for it to."""

    __slots__ = ("at_s", "n_in_flight", "suspected")

    def __init__(self) -> None:
        self.n_in_flight = 0
        self.at_s = 0.0
        self.suspected = False

    def begin(self) -> None:
        """A request is sent."""
        # Only the first request sets the clock: the silence is the server's, not one request's.
        if not self.n_in_flight:
            self.beat()
        self.n_in_flight += 1

    def end(self) -> None:
        """A request is over."""
        self.n_in_flight -= 1

    def beat(self) -> None:
        """Something was said."""
        self.at_s = time.monotonic()
        self.suspected = False

    def suspect(self) -> None:
        """A request got nothing within its time-out."""
        self.suspected = True

    def silence_s(self) -> float:
        """Seconds without output while a request waits for it."""
        return time.monotonic() - self.at_s if self.n_in_flight else 0.0


async def smoke_test(
    address: str,
    api_path: str,
    asked: Mapping[str, Any],
    headers: dict[str, str],
    probe: Probe,
    timeout_s: float,
) -> str | None:
    """The text that the server answers; None where `probe` is "none". `asked` are the model and its fields.

    Raises:
        RunnerError: no answer within `timeout_s` seconds, or no sensible one.
    """
    if probe == "none":
        return None
    # Temperature 0 makes the answers before sleeping and after waking comparable.
    path, question = ASKED[probe]
    try:
        async with asyncio.timeout(timeout_s):
            status, answer = await ask(address, api_path + path, {**asked, **question}, headers)
    except TimeoutError:
        raise RunnerError(f"the canary got no answer within {timeout_s:g} s") from None
    except OSError as error:
        raise RunnerError(f"the canary got no answer: {error}") from None
    if status != 200:
        said = answer[:200].decode(errors="replace").replace("\n", " ")
        raise RunnerError(f"the canary was answered {status}: {said}")
    return _parse_vector(answer) if probe == "embeddings" else _parse_text(answer)


def _parse_text(answer: bytes) -> str:
    try:
        choice = json.loads(answer)["choices"][0]
        said = choice.get("message") or {"content": choice["text"]}
        # A model that thinks first may spend all its tokens on that; engines use one of these two names for
        # it.
        text = said.get("content") or said.get("reasoning_content") or said.get("reasoning") or ""
    except (ValueError, LookupError, TypeError, AttributeError):
        raise RunnerError("the canary's answer is no completion") from None
    if fault := _find_fault(text, choice.get("logprobs")):
        raise RunnerError(f"the canary's answer is garbage: {fault}")
    return str(text)


def _find_fault(text: Any, logprobs: Any) -> str | None:
    if not isinstance(text, str) or not (letters := text.strip()):
        return "it is empty"
    if "�" in text or any(not (c.isprintable() or c.isspace()) for c in text):
        return f"{text[:40]!r} is no text"
    if len(letters) > 3 and len(set(letters)) == 1:
        return f"{text[:40]!r} says one thing over and over"
    entries = logprobs.get("content") if isinstance(logprobs, dict) else None
    if any(not math.isfinite(entry.get("logprob") or 0.0) for entry in entries or ()):
        return "a log probability is not a number"
    return None


def _parse_vector(answer: bytes) -> str:
    try:
        vector = json.loads(answer)["data"][0]["embedding"]
        good = len(vector) > 0 and all(math.isfinite(value) for value in vector)
    except (ValueError, LookupError, TypeError):
        raise RunnerError("the canary's answer is not an embedding") from None
    if not good or not any(vector):
        raise RunnerError("the canary's embedding is empty, zero or not a number")
    # Two digits: other batch sizes change the last bits of a vector, wrong weights change the first digits.
    return ",".join(f"{value:.2g}" for value in vector[:8])


async def transition(
    address: str, launch: Launch, headers: Mapping[str, str], timeout_s: float, *, asleep: bool
) -> None:
    """Have it fall asleep, or wake up.

    Raises:
        RunnerError: a step is refused, all take longer than `timeout_s` seconds, or it did not get there.
    """
    what = "fall asleep" if asleep else "wake up"
    try:
        async with asyncio.timeout(timeout_s):
            for step in launch.sleep if asleep else launch.wake:
                status, _ = await ask(address, step.path, step.body or {}, headers)
                if status != 200:
                    raise RunnerError(f"did not {what}: {step.path} was answered {status}")
            _, answer = await ask(address, launch.asleep_path, headers=headers)
    except TimeoutError:
        raise RunnerError(f"did not {what} within {timeout_s:g} s") from None
    except OSError as error:
        raise RunnerError(f"did not {what}: {error}") from None
    if (b"true" in answer) is not asleep:
        raise RunnerError(f"did not {what}, though it said so")


async def wait_until_hung(
    address: str,
    path: str,
    patience: Patience,
    pulse: Pulse,
    n_slots: int,
    question: Callable[[], Awaitable[object]],
) -> str:
    """Returns, with the reason, when `n_missed_probes` in a row went unanswered or it fell silent.

    The question is only asked while fewer than `n_slots` requests are in flight: else it would wait its turn.
    """
    n_missed = 0
    while n_missed < patience.n_missed_probes:
        await asyncio.sleep(patience.probe_every_s)
        n_missed = 0 if await is_answering(address, path, patience.probe_timeout_s) else n_missed + 1
        if pulse.silence_s() > patience.hung_s:
            return f"said nothing for {patience.hung_s:g} s"
        doubtful = pulse.suspected or pulse.silence_s() > patience.silent_s
        if doubtful and pulse.n_in_flight < n_slots and not await _can_generate(pulse, question):
            return "answers on its health path but generates nothing"
    return f"gave no answer to {patience.n_missed_probes} probes in a row"


async def _can_generate(pulse: Pulse, question: Callable[[], Awaitable[object]]) -> bool:
    """Whether it answers anything, a request or the watchdog's own probe."""
    asked_s = time.monotonic()
    try:
        await question()
    except RunnerError:
        # Output for another request in the meantime proves as much as an answer to the probe.
        return pulse.at_s > asked_s
    pulse.beat()
    return True
