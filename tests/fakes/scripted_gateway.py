"""A gateway that answers from a script, byte by byte, on a real loopback socket."""

import asyncio
import json
import threading
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self


@dataclass(frozen=True, slots=True)
class Scripted:
    """What the next request gets: blocks are written one at a time, as chunks of the body.

    ending: whole is a proper end, cut drops the connection, hold stays silent until the client leaves.
    A status of 0 sends nothing at all before the ending.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    blocks: tuple[bytes, ...] = ()
    ending: Literal["whole", "cut", "hold"] = "whole"


@dataclass(frozen=True, slots=True)
class Received:
    """A request as it came."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Any


def json_answer(payload: Any, status: int = 200, **headers: str) -> Scripted:
    """A JSON body; header names are written with underscores."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Scripted(status, {"content-type": "application/json", **named}, (json.dumps(payload).encode(),))


def refusal(status: int, message: str = "no", **headers: str) -> Scripted:
    """An error in OpenAI's envelope."""
    error = {"message": message, "type": "some_type", "param": "some_param", "code": "some_code"}
    return json_answer({"error": error}, status, **headers)


def events(*payloads: Any, done: bool = True) -> bytes:
    """Server-sent events, with the closing [DONE]."""
    lines = [f"data: {json.dumps(payload, ensure_ascii=False)}\n\n" for payload in payloads]
    return "".join([*lines, "data: [DONE]\n\n" if done else ""]).encode()


def delta(text: str) -> dict[str, Any]:
    """A chunk of a streamed chat."""
    return {"model": "m", "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}


class ScriptedGateway:
    """Serves `answers` in order, from a thread; `held` is set once a client is held, `left` when it goes."""

    def __init__(self) -> None:
        self.answers: deque[Scripted] = deque()
        self.received: list[Received] = []
        self.held = threading.Event()
        self.left = threading.Event()
        self.n_connections = 0
        self.url = ""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._tasks: set[asyncio.Task[None]] = set()

    def will(self, answers: Iterable[Scripted] | Scripted) -> None:
        self.answers.extend([answers] if isinstance(answers, Scripted) else answers)

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self) -> asyncio.Server:
        return await asyncio.start_server(self._accept, "127.0.0.1", 0)

    async def _stop(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.n_connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            while await self._exchange(reader, writer):
                pass
        except ConnectionError:  # gone while the answer was being written
            self.left.set()
        except (asyncio.CancelledError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its scripted answer; whether the connection lives on."""
        self.received.append(await _request(reader))
        answer = self.answers.popleft()
        if answer.status:
            head = [f"HTTP/1.1 {answer.status} Scripted", "transfer-encoding: chunked"]
            head += [f"{name}: {value}" for name, value in answer.headers.items()]
            writer.write("\r\n".join([*head, "", ""]).encode())
        for block in answer.blocks:
            writer.write(b"%x\r\n%s\r\n" % (len(block), block))
            await writer.drain()
            await asyncio.sleep(0.001)
        if answer.ending == "hold":
            self.held.set()
            if not await reader.read(1):
                self.left.set()
            return False
        if answer.ending == "whole":
            writer.write(b"0\r\n\r\n")
        return answer.ending == "whole"


async def _request(reader: asyncio.StreamReader) -> Received:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    method, path, _ = head[0].split(" ")
    headers = {
        name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)
    }
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    is_json = headers.get("content-type", "").startswith("application/json")
    return Received(method, path, headers, json.loads(body) if body and is_json else body or None)
