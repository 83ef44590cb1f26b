"""Files and batches of a gateway: `client.files` and `client.batches`, named as in OpenAI's client."""

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import quote

from .exchange import CallTimeout, ClientCall, drop_unset
from .values import Json

T = TypeVar("T")


class SyncAsk(Protocol):
    """How a client asks its gateway."""

    def __call__(self, call: ClientCall[T], timeout: CallTimeout) -> T: ...


class AsyncAsk(Protocol):
    """As `SyncAsk`, awaited."""

    async def __call__(self, call: ClientCall[T], timeout: CallTimeout) -> T: ...


ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
POLL_S = 2.0


@dataclass(frozen=True, slots=True)
class GatewayFile:
    """A file that the gateway keeps."""

    id: str
    filename: str
    n_bytes: int
    raw: Json

    @classmethod
    def parse(cls, raw: Json) -> "GatewayFile":
        return cls(raw["id"], raw["filename"], raw["bytes"], raw)


@dataclass(frozen=True, slots=True)
class BatchJob:
    """A batch and its progress; counts are lines. `errors` tell what is wrong with the input, by line."""

    id: str
    status: str
    n_total: int
    n_completed: int
    n_failed: int
    output_file_id: str | None
    error_file_id: str | None
    errors: tuple[Json, ...]
    cost_usd: float | None
    raw: Json

    @property
    def has_ended(self) -> bool:
        return self.status in ENDED

    @classmethod
    def parse(cls, raw: Json) -> "BatchJob":
        counts = raw["request_counts"]
        return cls(
            id=raw["id"],
            status=raw["status"],
            n_total=counts["total"],
            n_completed=counts["completed"],
            n_failed=counts["failed"],
            output_file_id=raw["output_file_id"],
            error_file_id=raw["error_file_id"],
            errors=tuple((raw.get("errors") or {}).get("data", ())),
            cost_usd=(raw.get("thalamus") or {}).get("cost_usd"),
            raw=raw,
        )


Lines = str | Path | bytes | Sequence[Mapping[str, Any]]
"""A path, the bytes of a file, or its lines as objects."""


def _read_lines(lines: Lines) -> tuple[str, bytes]:
    """The name and the bytes of a file."""
    if isinstance(lines, str | Path):
        return Path(lines).name, Path(lines).read_bytes()
    if isinstance(lines, bytes):
        return "input.jsonl", lines
    return "input.jsonl", b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def _build_upload(name: str, data: bytes) -> ClientCall[GatewayFile]:
    return ClientCall(
        "POST",
        "/v1/files",
        lambda reply: GatewayFile.parse(reply.payload),
        form={"purpose": "batch"},
        files={"file": (name, data)},
    )


def _build_page_call(path: str, parse: Callable[[Json], T], after: str | None) -> ClientCall[tuple[T, ...]]:
    query = "?limit=100" + (f"&after={quote(after, safe='')}" if after else "")
    return ClientCall("GET", path + query, lambda reply: tuple(parse(one) for one in reply.payload["data"]))


def _build_file_call(file_id: str) -> ClientCall[GatewayFile]:
    return ClientCall("GET", f"/v1/files/{_path(file_id)}", lambda reply: GatewayFile.parse(reply.payload))


def _build_content_call(file_id: str) -> ClientCall[bytes]:
    path = f"/v1/files/{_path(file_id)}/content"
    return ClientCall("GET", path, lambda reply: reply.payload, is_binary=True)


def _build_delete_call(file_id: str) -> ClientCall[bool]:
    return ClientCall("DELETE", f"/v1/files/{_path(file_id)}", lambda reply: bool(reply.payload["deleted"]))


def _build_batch_call(
    file: str | GatewayFile,
    endpoint: str,
    window: str,
    max_usd: float | None,
    metadata: Mapping[str, str] | None,
) -> ClientCall[BatchJob]:
    notes = {**(metadata or {}), **({} if max_usd is None else {"max_usd": str(max_usd)})}
    body = {
        "input_file_id": file if isinstance(file, str) else file.id,
        "endpoint": endpoint,
        "completion_window": window,
        "metadata": notes or None,
    }
    return ClientCall("POST", "/v1/batches", _job, drop_unset(body))


def _build_job_call(batch: "str | BatchJob", action: str = "") -> ClientCall[BatchJob]:
    batch_id = batch if isinstance(batch, str) else batch.id
    return ClientCall("POST" if action else "GET", f"/v1/batches/{_path(batch_id)}{action}", _job)


def _job(reply: Any) -> BatchJob:
    return BatchJob.parse(reply.payload)


def _path(name: str) -> str:
    return quote(name, safe="")


def _parse_rows(parts: Sequence[bytes]) -> list[Json]:
    return [json.loads(line) for part in parts for line in part.split(b"\n") if line.strip()]


def _result_files(batch: BatchJob) -> list[str]:
    return [file_id for file_id in (batch.output_file_id, batch.error_file_id) if file_id is not None]


class Files:
    """The client's files on the gateway."""

    def __init__(self, ask: SyncAsk) -> None:
        self._ask = ask

    def create(self, lines: Lines, *, timeout: CallTimeout = None) -> GatewayFile:
        """Upload the lines of a batch: a path, bytes, or objects."""
        return self._ask(_build_upload(*_read_lines(lines)), timeout)

    def retrieve(self, file_id: str, *, timeout: CallTimeout = None) -> GatewayFile:
        """One file without its bytes."""
        return self._ask(_build_file_call(file_id), timeout)

    def list(self, *, after: str | None = None, timeout: CallTimeout = None) -> tuple[GatewayFile, ...]:
        """The newest hundred files, or those after one."""
        return self._ask(_build_page_call("/v1/files", GatewayFile.parse, after), timeout)

    def content(self, file_id: str, *, timeout: CallTimeout = None) -> bytes:
        """The bytes of a file."""
        return self._ask(_build_content_call(file_id), timeout)

    def delete(self, file_id: str, *, timeout: CallTimeout = None) -> bool:
        """Delete a file."""
        return self._ask(_build_delete_call(file_id), timeout)


class Batches:
    """The client's batches on the gateway."""

    def __init__(self, ask: SyncAsk) -> None:
        self._ask = ask

    def create(
        self,
        file: str | GatewayFile,
        *,
        endpoint: str = "/v1/chat/completions",
        window: str = "24h",
        max_usd: float | None = None,
        metadata: Mapping[str, str] | None = None,
        timeout: CallTimeout = None,
    ) -> BatchJob:
        """Start a batch over an uploaded file; at `max_usd` no further call is made."""
        call = _build_batch_call(file, endpoint, window, max_usd, metadata)
        return self._ask(call, timeout)

    def retrieve(self, batch: str | BatchJob, *, timeout: CallTimeout = None) -> BatchJob:
        """The state of a batch now."""
        return self._ask(_build_job_call(batch), timeout)

    def list(self, *, after: str | None = None, timeout: CallTimeout = None) -> tuple[BatchJob, ...]:
        """The newest hundred batches, or those after one."""
        call = _build_page_call("/v1/batches", BatchJob.parse, after)
        return self._ask(call, timeout)

    def cancel(self, batch: str | BatchJob, *, timeout: CallTimeout = None) -> BatchJob:
        """Make no further call; the results so far stay."""
        return self._ask(_build_job_call(batch, "/cancel"), timeout)

    def wait(self, batch: str | BatchJob, *, poll_s: float = POLL_S, timeout: CallTimeout = None) -> BatchJob:
        """The batch once it has ended."""
        while not (found := self.retrieve(batch, timeout=timeout)).has_ended:
            time.sleep(poll_s)
        return found

    def results(self, batch: BatchJob, *, timeout: CallTimeout = None) -> Sequence[Json]:
        """The lines of output of a batch that has ended, then those of its errors."""
        return _parse_rows([self._ask(_build_content_call(one), timeout) for one in _result_files(batch)])


class AsyncFiles:
    """As `Files`, awaited."""

    def __init__(self, ask: AsyncAsk) -> None:
        self._ask = ask

    async def create(self, lines: Lines, *, timeout: CallTimeout = None) -> GatewayFile:
        """Upload the lines of a batch: a path, bytes, or objects."""
        name, data = await asyncio.to_thread(_read_lines, lines)
        return await self._ask(_build_upload(name, data), timeout)

    async def retrieve(self, file_id: str, *, timeout: CallTimeout = None) -> GatewayFile:
        """One file without its bytes."""
        return await self._ask(_build_file_call(file_id), timeout)

    async def list(self, *, after: str | None = None, timeout: CallTimeout = None) -> tuple[GatewayFile, ...]:
        """The newest hundred files, or those after one."""
        call = _build_page_call("/v1/files", GatewayFile.parse, after)
        return await self._ask(call, timeout)

    async def content(self, file_id: str, *, timeout: CallTimeout = None) -> bytes:
        """The bytes of a file."""
        return await self._ask(_build_content_call(file_id), timeout)

    async def delete(self, file_id: str, *, timeout: CallTimeout = None) -> bool:
        """Delete a file."""
        return await self._ask(_build_delete_call(file_id), timeout)


class AsyncBatches:
    """As `Batches`, awaited."""

    def __init__(self, ask: AsyncAsk) -> None:
        self._ask = ask

    async def create(
        self,
        file: str | GatewayFile,
        *,
        endpoint: str = "/v1/chat/completions",
        window: str = "24h",
        max_usd: float | None = None,
        metadata: Mapping[str, str] | None = None,
        timeout: CallTimeout = None,
    ) -> BatchJob:
        """Start a batch over an uploaded file; at `max_usd` no further call is made."""
        call = _build_batch_call(file, endpoint, window, max_usd, metadata)
        return await self._ask(call, timeout)

    async def retrieve(self, batch: str | BatchJob, *, timeout: CallTimeout = None) -> BatchJob:
        """The state of a batch now."""
        return await self._ask(_build_job_call(batch), timeout)

    async def list(self, *, after: str | None = None, timeout: CallTimeout = None) -> tuple[BatchJob, ...]:
        """The newest hundred batches, or those after one."""
        call = _build_page_call("/v1/batches", BatchJob.parse, after)
        return await self._ask(call, timeout)

    async def cancel(self, batch: str | BatchJob, *, timeout: CallTimeout = None) -> BatchJob:
        """Make no further call; the results so far stay."""
        return await self._ask(_build_job_call(batch, "/cancel"), timeout)

    async def wait(
        self, batch: str | BatchJob, *, poll_s: float = POLL_S, timeout: CallTimeout = None
    ) -> BatchJob:
        """The batch once it has ended."""
        while not (found := await self.retrieve(batch, timeout=timeout)).has_ended:  # noqa: ASYNC110
            await asyncio.sleep(poll_s)
        return found

    async def results(self, batch: BatchJob, *, timeout: CallTimeout = None) -> Sequence[Json]:
        """The lines of output of a batch that has ended, then those of its errors."""
        return _parse_rows(
            [await self._ask(_build_content_call(one), timeout) for one in _result_files(batch)]
        )
