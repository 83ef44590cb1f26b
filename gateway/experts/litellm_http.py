"""What LiteLLM's connections may do: bounded answers, no redirects, no proxy before local servers.

LiteLLM sends through one class, `LiteLLMAiohttpTransport`, and has no setting for any of this.
"""

import importlib
import zlib
from collections.abc import AsyncIterator
from typing import Any

from ..config import DEFAULT_LIMITS, AnswerLimits
from ..errors import UpstreamError
from .openai_compatible import WatchedConnector

WINDOW_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 47}
STEP_BYTES = 64 * 1024
STREAMS = ("text/event-stream", "application/vnd.amazon.eventstream", "application/x-ndjson")


class LiteLLMRules:
    """Of all experts in the process that are called through LiteLLM; `local_hosts` are asked directly."""

    def __init__(self) -> None:
        self.limits: AnswerLimits = DEFAULT_LIMITS
        self.local_hosts: set[str] = set()

    def max_bytes(self, status: int, content_type: str, path: str) -> int:
        """How long an answer may be."""
        if status >= 300:
            return self.limits.max_error_bytes
        if content_type.startswith(STREAMS):
            return self.limits.max_stream_bytes
        return self.limits.max_embeddings_bytes if "embed" in path else self.limits.max_bytes


RULES = LiteLLMRules()


def limit_stream(stream: Any, coding: str, most: int, is_error: bool) -> AsyncIterator[bytes]:
    """The decoded bytes of a response; what goes beyond the bound ends an error and fails an answer.

    Raises:
        UpstreamError: from iteration: the answer is too long, or its encoding cannot be read.
    """
    if coding and coding not in WINDOW_BITS:
        raise UpstreamError("garbage", "answered in a content encoding that cannot be read")
    inflate = zlib.decompressobj(WINDOW_BITS[coding]) if coding else None

    async def read() -> AsyncIterator[bytes]:
        n_bytes = 0
        async for data in stream:
            rest = data
            while rest:
                try:
                    piece = rest if inflate is None else inflate.decompress(rest, STEP_BYTES)
                except zlib.error:
                    said = "answered in a content encoding that cannot be read"
                    raise UpstreamError("garbage", said) from None
                rest = b"" if inflate is None else inflate.unconsumed_tail
                n_bytes += len(piece)
                if n_bytes > most:
                    if is_error:
                        return
                    raise UpstreamError("garbage", f"answered with more than {most} bytes")
                if piece:
                    yield piece

    return read()


def guard_litellm_http(rules: LiteLLMRules = RULES) -> None:
    """Put the rules into LiteLLM, which has been imported.

    Raises:
        ImportError, AttributeError: this LiteLLM sends in another way.
    """
    httpx = importlib.import_module("httpx")
    transports: Any = importlib.import_module("litellm.llms.custom_httpx.aiohttp_transport")
    handlers: Any = importlib.import_module("litellm.llms.custom_httpx.http_handler")
    base: Any = transports.LiteLLMAiohttpTransport
    if getattr(base, "is_guarded", False):
        return

    class BoundedBody(httpx.AsyncByteStream):  # type: ignore[misc, name-defined]
        def __init__(self, stream: Any, coding: str, most: int, is_error: bool) -> None:
            self._stream = stream
            self._pieces = limit_stream(stream, coding, most, is_error)

        async def __aiter__(self) -> AsyncIterator[bytes]:
            async for piece in self._pieces:
                yield piece

        async def aclose(self) -> None:
            await self._stream.aclose()

    class GuardedTransport(base):  # type: ignore[misc]
        is_guarded = True

        async def handle_async_request(self, request: Any) -> Any:
            request.headers["accept-encoding"] = "identity"
            response = await super().handle_async_request(request)
            headers, status = response.headers, response.status_code
            if 300 <= status < 400:
                # httpx would follow, and takes no key but `authorization` off on the way to another host.
                headers.pop("location", None)
            coding = headers.pop("content-encoding", "identity").strip().lower().replace("identity", "")
            most = rules.max_bytes(status, headers.get("content-type", ""), request.url.path)
            response.stream = BoundedBody(response.stream, coding, most, status >= 300)
            return response

        def _proxy_from_env(self, url: Any) -> Any:
            return None if url.host in rules.local_hosts else super()._proxy_from_env(url)

    transports.LiteLLMAiohttpTransport = GuardedTransport
    handlers.TCPConnector = WatchedConnector
