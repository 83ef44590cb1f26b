"""Batches for tests: their lines, a gateway with OpenAI's client in front, and what came of it all."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final

import openai

from gateway.testing import FakeUpstream
from tests.fakes.serving import KEY, LiveApp, gateway

CHAT: Final = "/v1/chat/completions"


def line(custom_id: str, model: str, text: str = "Hi", **more: Any) -> dict[str, Any]:
    """One line of input."""
    body = {"model": model, "messages": [{"role": "user", "content": text}], **more}
    return {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": body}


def jsonl(*lines: Any) -> bytes:
    """Lines as a file; bytes as they are."""
    return b"".join((one if isinstance(one, bytes) else json.dumps(one).encode()) + b"\n" for one in lines)


def rows(text: bytes) -> list[dict[str, Any]]:
    return [json.loads(one) for one in text.splitlines()]


def read_content(row: dict[str, Any]) -> str:
    """What the model says in a line of output."""
    return str(row["response"]["body"]["choices"][0]["message"]["content"])


class BatchTestGateway:
    """OpenAI's client, a gateway and the upstream behind it."""

    def __init__(self, ai: openai.AsyncOpenAI, live: LiveApp, upstream: FakeUpstream) -> None:
        self.ai = ai
        self.live = live
        self.upstream = upstream

    async def begin(self, *lines: Any, window: Any = "24h", endpoint: Any = CHAT, **metadata: str) -> Any:
        file = await self.ai.files.create(file=("in.jsonl", jsonl(*lines)), purpose="batch")
        return await self.ai.batches.create(
            input_file_id=file.id, endpoint=endpoint, completion_window=window, metadata=metadata or None
        )

    async def wait_for_end(self, batch: Any, within_s: float = 20.0) -> Any:
        """The batch, once nothing changes any more."""
        async with asyncio.timeout(within_s):
            while True:
                now = await self.ai.batches.retrieve(batch.id)
                if now.status in ("completed", "failed", "expired", "cancelled"):
                    return now
                await asyncio.sleep(0.02)

    async def results(self, batch: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Output and errors of a batch that has ended."""
        return await self.file(batch.output_file_id), await self.file(batch.error_file_id)

    async def file(self, file_id: str | None) -> list[dict[str, Any]]:
        return rows((await self.ai.files.content(file_id)).content) if file_id else []

    async def run(self, *lines: Any, **more: Any) -> tuple[Any, list[dict[str, Any]], list[dict[str, Any]]]:
        """Begin a batch, wait for its end: the batch, its output, its errors."""
        batch = await self.wait_for_end(await self.begin(*lines, **more))
        return (batch, *await self.results(batch))


@contextlib.asynccontextmanager
async def open_batch_gateway(
    tmp_path: Path,
    models: Sequence[str],
    pool: Sequence[str] = (),
    key: str = KEY,
    upstream: FakeUpstream | None = None,
    experts: dict[str, Any] | None = None,
    **config: Any,
) -> AsyncIterator[BatchTestGateway]:
    """A gateway whose experts are these models of the fake upstream, each by its own name."""
    async with contextlib.AsyncExitStack() as stack:
        behind = upstream if upstream is not None else await stack.enter_async_context(FakeUpstream())
        named = [
            {"name": name, "model": f"openai/{name}", "api_base": behind.base_url, **(experts or {})}
            for name in models
        ]
        whole = {"experts": named, "server": {"master_key": key}, **config}
        live = await stack.enter_async_context(gateway(whole, str(tmp_path / "j.sqlite3"), *pool))
        ai = openai.AsyncOpenAI(base_url=live.base, api_key=key, max_retries=0)
        yield BatchTestGateway(await stack.enter_async_context(ai), live, behind)
