"""Connections to upstreams: one pool for the process, honouring proxies and custom authorities."""

import base64
import ssl
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp
from multidict import CIMultiDict
from yarl import URL

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
    named = urllib.request.getproxies().get(url.scheme)
    if not named or urllib.request.proxy_bypass(url.authority):
        return None
    proxy = URL(named if "://" in named else f"http://{named}")
    if proxy.user is None:
        return Proxy(proxy, {})
    credentials = base64.b64encode(f"{proxy.user}:{proxy.password or ''}".encode()).decode()
    return Proxy(proxy.with_user(None), {"Proxy-Authorization": f"Basic {credentials}"})
