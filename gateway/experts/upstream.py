"""Connections to upstreams: one pool for the process, honouring proxies and custom authorities."""

import base64
import email.utils
import re
import ssl
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp
import msgspec
from multidict import CIMultiDict
from yarl import URL

from ..errors import UpstreamError

AGENT = "thalamus"
NO_LIMIT = 0
KEEPALIVE_S = 30.0


@dataclass(frozen=True, slots=True)
class Proxy:
    """The proxy in front of an address, with its own authorisation."""

    url: URL
    headers: dict[str, str]


class Transport:
    """An aiohttp session that is opened inside the running loop and closed with the server."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        connector = aiohttp.TCPConnector(
            limit=NO_LIMIT, keepalive_timeout=KEEPALIVE_S, ssl=ssl.create_default_context(), ttl_dns_cache=60
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None, sock_read=None),
            trust_env=False,  # aiohttp would read the environment and netrc anew for every request
        )

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    @property
    def session(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("the transport is not open")
        return self._session


class Address:
    """One URL to post to, with everything about it that does not change from call to call."""

    def __init__(self, transport: Transport, url: str, headers: Mapping[str, str], connect_s: float) -> None:
        self.url = URL(url)
        self._transport = transport
        self._headers = CIMultiDict(
            {
                "content-type": "application/json",
                "accept-encoding": "identity",
                "user-agent": AGENT,
                **headers,
            }
        )
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect_s)
        self._proxy = proxy_for(self.url)
        if self._proxy is not None and self.url.scheme == "http":
            self._headers.update(self._proxy.headers)  # no tunnel: the proxy reads the request itself

    async def post(self, body: bytes) -> aiohttp.ClientResponse:
        """Send and wait for the head of the answer. Redirects would carry keys elsewhere."""
        session = self._transport.session
        if self._proxy is None:
            return await session.post(
                self.url, data=body, headers=self._headers, timeout=self._timeout, allow_redirects=False
            )
        return await session.post(
            self.url,
            data=body,
            headers=self._headers,
            timeout=self._timeout,
            allow_redirects=False,
            proxy=self._proxy.url,
            proxy_headers=self._proxy.headers,
        )


def proxy_for(url: URL) -> Proxy | None:
    """What HTTPS_PROXY, HTTP_PROXY and NO_PROXY say of an address."""
    # Read once per address: aiohttp's `trust_env` would read the environment for every request.
    named = urllib.request.getproxies().get(url.scheme)
    if not named or urllib.request.proxy_bypass(url.authority):
        return None
    proxy = URL(named if "://" in named else f"http://{named}")
    if proxy.user is None:
        return Proxy(proxy, {})
    credentials = base64.b64encode(f"{proxy.user}:{proxy.password or ''}".encode()).decode()
    return Proxy(proxy.with_user(None), {"Proxy-Authorization": f"Basic {credentials}"})


MOVES_ON = frozenset({401, 403, 408, 429})
SECRET_STATUS = frozenset({401, 403})
"""An upstream that refuses a key may quote the key in its error."""

LOOKED_AT_BYTES = 8192
TOO_LONG = re.compile(
    rb"context_length_exceeded|exceed_context_size|string_above_max_length|context length|context window"
    rb"|context size|maximum context|prompt is too long|input is too long|too many (?:input )?tokens"
    rb"|reduce the length|input token count|maximum number of tokens",
    re.IGNORECASE,
)


def status_failure(status: int, body: bytes, content_type: str, retry_after: str | None) -> UpstreamError:
    """The failure that an HTTP status other than 200 stands for."""
    # Upstreams answer 400, 413 or 422; only the text tells a long prompt from a bad request.
    too_long = status in (400, 413, 422) and TOO_LONG.search(body[:LOOKED_AT_BYTES]) is not None
    refused = 400 <= status < 500 and status not in MOVES_ON and not too_long
    # OpenAI's 401 repeats the key it was shown, in part.
    text = "" if status in SECRET_STATUS else error_text(body)
    return UpstreamError(
        "refused" if refused else "status",
        f"answered {status}{': ' + text if text else ''}",
        status=status,
        body=body if refused or too_long else None,
        content_type=content_type,
        retry_after_s=retry_after_s(retry_after) if status in (429, 503) else None,
        context_too_long=too_long,
    )


def error_text(body: bytes) -> str:
    """The message of an error body, kept short; empty where there is none."""
    try:
        error = msgspec.json.decode(body[: LOOKED_AT_BYTES * 4])
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return ""
    if isinstance(error, dict):
        error = error.get("error", error)
    if isinstance(error, dict):
        error = error.get("message", "")
    return error[:300] if isinstance(error, str) else ""


def retry_after_s(value: str | None, now: float | None = None) -> float | None:
    """Seconds named by a Retry-After header, as a number or a date; None where it names none."""
    if value is None:
        return None
    try:
        # RFC 9110, section 10.2.3: seconds, or an HTTP date.
        seconds = float(value)
    except ValueError:
        date = email.utils.parsedate_tz(value)
        if date is None:
            return None
        seconds = email.utils.mktime_tz(date) - (time.time() if now is None else now)
    return max(0.0, seconds) if seconds < float("inf") else None


def transport_failure(error: Exception) -> UpstreamError:
    """The failure that an exception of the HTTP client stands for. Its own words may hold addresses."""
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return UpstreamError("connect", "could not be connected to in time", status=504)
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return UpstreamError(
            "connect", "has a certificate that is not trusted (SSL_CERT_FILE names other authorities)"
        )
    if isinstance(error, aiohttp.ClientConnectorError):
        return UpstreamError("connect", "cannot be connected to")
    if isinstance(error, aiohttp.ClientPayloadError):
        return UpstreamError("cut", "closed the connection in the middle of its answer")
    if isinstance(error, TimeoutError):
        return UpstreamError("timeout", "took longer than its time-out allows")
    return UpstreamError("reset", "closed the connection without an answer")
