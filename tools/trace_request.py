"""Counts the modules and functions that one warm `auto` request crosses; run in the root of a checkout.

The application is started in this process over ASGI. Its experts are a small HTTP server here, so that
checkouts of any layout can be measured. Prints one JSON object: {"calls": [[path, function], ...]} in the
order of the first call.
"""

import asyncio
import importlib
import json
import os
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path.cwd()
sys.path.insert(0, str(ROOT))
PACKAGES = ("gateway", "routers", "policies", "calculator")
EXPERTS = ("good-a", "good-b", "good-c")
# Where the application is made: today's name first, then that of the first house.
FACTORIES = (
    ("gateway.app", "create_app"),
    ("gateway.asgi.application", "create_app"),
    ("gateway.app", "build_app"),
)


def find_factory() -> Callable[[Any], Any]:
    for module, name in FACTORIES:
        try:
            return getattr(importlib.import_module(module), name)  # type: ignore[no-any-return]
        except (ImportError, AttributeError):
            continue
    raise SystemExit(f"no application factory found; add it to FACTORIES in {__file__}")


def fit_small_artifact(folder: Path) -> None:
    import numpy as np

    import routers

    kinds = ("math", "law", "code")
    texts = [f"{kind} question number {i} about {i * 7}?" for kind in kinds for i in range(40)]
    measures = {
        "score": np.array([[0.2 + 0.6 * text.startswith(kind) for kind in kinds] for text in texts]),
        "cost_usd": np.tile([1e-4, 4e-4, 1e-3], (len(texts), 1)),
        "output_tokens": np.tile([30.0, 60.0, 90.0], (len(texts), 1)),
    }
    table = routers.OutcomeTable.build(texts, list(EXPERTS), measures)
    extractor = routers.FeatureExtractor(routers.StaticEmbedder())
    routers.fit_artifact(table, extractor, routers.FitSettings("blend")).save(folder)


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    body = json.dumps(
        {
            "id": "1", "object": "chat.completion", "created": 1, "model": "good",
            "choices": [
                {"index": 0, "message": {"role": "assistant", "content": "ok"}, "finish_reason": "stop"}
            ],
            "usage": {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6},
        }
    ).encode()  # fmt: skip
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            for line in head.lower().split(b"\r\n"):
                if line.startswith(b"content-length:"):
                    await reader.readexactly(int(line.split(b":")[1]))
            writer.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
                + body
            )
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def ask(app: Any, text: str) -> int:
    """Sends one request to the application and returns the status."""
    body = json.dumps({"model": "auto", "messages": [{"role": "user", "content": text}]}).encode()
    sent: list[dict[str, Any]] = []
    unread = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if unread:
            return unread.pop()
        return await asyncio.Future()  # the client stays connected

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    path = "/v1/chat/completions"
    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "scheme": "http",
        "headers": [(b"host", b"127.0.0.1:8080"), (b"content-type", b"application/json")],
        "query_string": b"",
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8080),
        "http_version": "1.1",
    }
    await app(scope, receive, send)
    return int(sent[0]["status"])


class CallRecorder:
    """Remembers each function of the checkout at its first call, on every thread."""

    def __init__(self) -> None:
        self.calls: dict[tuple[str, str, int], None] = {}

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        if event != "call" or code.co_name.startswith("<") or not code.co_filename.startswith(f"{ROOT}/"):
            return
        path = os.path.relpath(code.co_filename, ROOT)
        if path.split("/")[0] in PACKAGES:
            self.calls.setdefault((path, code.co_qualname, code.co_firstlineno))

    def install(self) -> None:
        threading.setprofile(self)
        if hasattr(threading, "setprofile_all_threads"):  # Python 3.12
            threading.setprofile_all_threads(self)
        sys.setprofile(self)

    def remove(self) -> None:
        sys.setprofile(None)
        threading.setprofile(None)


async def main() -> None:
    import msgspec

    from gateway.config import Config

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fit_small_artifact(folder / "artifact")
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        base = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        config = {
            "experts": [{"name": name, "model": f"openai/{name}", "api_base": base} for name in EXPERTS],
            "routing": {"artifact": str(folder / "artifact")},
            "journal": {"path": str(folder / "journal.sqlite3")},
            "embeddings": {"enabled": False},
        }
        app = find_factory()(msgspec.convert(config, Config, dec_hook=lambda kind, value: kind(value)))
        to_app: asyncio.Queue[Any] = asyncio.Queue()
        from_app: asyncio.Queue[Any] = asyncio.Queue()
        scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
        lifespan = asyncio.ensure_future(app(scope, to_app.get, from_app.put))
        await to_app.put({"type": "lifespan.startup"})
        started = await from_app.get()
        if started["type"] != "lifespan.startup.complete":
            raise SystemExit(f"the application did not start: {started}")
        for number in range(3):
            status = await ask(app, f"law question {number}")
            if status != 200:
                raise SystemExit(f"a request was answered with {status}")
        await asyncio.sleep(0.5)  # the journal's writer of the first requests is done
        recorder = CallRecorder()
        recorder.install()
        await ask(app, "code question 7 about gamma?")
        await asyncio.sleep(0.3)
        recorder.remove()
        print(json.dumps({"calls": [[path, function] for path, function, _ in recorder.calls]}))
        await to_app.put({"type": "lifespan.shutdown"})
        await lifespan
        server.close()


if __name__ == "__main__":
    asyncio.run(main())
