"""Experts that speak OpenAI's protocol: bodies pass through, several deployments share the work.

One pool of connections serves the process, honouring proxies and custom authorities.
"""

import asyncio
import base64
import contextlib
import functools
import logging
import select
import ssl
import urllib.request
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any, ClassVar, cast

import aiohttp
import msgspec
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import ContentEncodingError
from aiohttp.streams import EMPTY_PAYLOAD
from msgspec import Raw
from multidict import CIMultiDict
from yarl import URL

from ..config import DEFAULT_LIMITS, AnswerLimits, DeploymentConfig, ExpertConfig, TimeoutConfig
from ..config.providers import api_base_of, api_key_of
from ..fleet.circuit_breaker import CircuitBreaker
from ..openai.answers import check_answer
from ..openai.conversion import fold_events
from ..openai.events import EventStream, looks_like_events
from ..openai.failures import BOM, read_failure
from ..openai.retry_after import read_retry_after_s
from .deployments import (
    KEPT_OF_LONGEST,
    ConcurrencyLimit,
    DeployedExpert,
    build_limit,
    find_shortage,
    limit_silence_s,
)
from .parameters import Parameters
from .prompt_preset import PromptPreset
from .types import Call, Endpoint, Fields, Reply, UpstreamError
from .upstreams import UpstreamTable

MAX_LOCATION_CHARS = 200
MAX_LOOK_CHARS = 200
ENDPOINTS: tuple[Endpoint, ...] = ("chat/completions", "completions", "embeddings")
CLIENT_ERRORS = (aiohttp.ClientError, OSError, ValueError, MemoryError)  # TimeoutError is an OSError
AGENT = "thalamus"
log = logging.getLogger("thalamus.upstream")
NO_LIMIT = 0
KEEPALIVE_S = 30.0
FREE_BYTES = 1024 * 1024
"""What an answer may take before the bound of all answers counts: small ones never wait for large ones."""
FOLD_IN_THREAD_BYTES = 256 * 1024
MAX_INTERIM = 16
"""Most interim responses (1xx) before an answer."""
DISTRUST_S = 300.0
REST_S = 0.03
MAX_LOOKED_AT = 32
"""Connections that one call looks at before it opens another."""
SLOT_WAIT_S = 30.0
"""Longest wait for a free slot, so that a queue moves a request on long before a slow model does."""
LONGEST_FIELD = len(b"event:")


@dataclass(frozen=True, slots=True)
class Proxy:
    """The proxy in front of an address, with its own authorisation."""

    url: URL
    headers: dict[str, str]


class WatchedConnection(ResponseHandler):
    """A connection that is closed as soon as more comes than the answer that was asked for.

    aiohttp keeps surplus bytes, and gives them to the next call as its answer. An address that sent some is
    distrusted for a while: each of its connections serves one call, as what comes late looks like an answer.
    """

    distrusted: ClassVar[dict[Any, float]] = {}
    """Until when, by address."""
    answered: Any = None
    """The parser whose answer has come in full; each request has a parser of its own."""
    former: Any = None
    """The body of the answer that came in full last."""
    answered_at = 0.0
    n_interim = 0
    is_settled = False

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.unread = select.poll()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        # AttributeError is asyncio's for a TLS connection that is lost; ValueError a closed descriptor's.
        with contextlib.suppress(AttributeError, ValueError):
            descriptor: int = transport.get_extra_info("socket").fileno()
            self.unread.register(descriptor, select.POLLIN)

    def data_received(self, data: bytes) -> None:
        parser, payload = self._parser, self._payload
        if self.distrusted and self.distrusted.get(self._peer(), 0.0) > monotonic():
            self.force_close()
        # Without bytes it is aiohttp's own call, to go on where reading was paused.
        if data and parser is not None and parser is self.answered:
            self._refuse_surplus()
            return
        is_open = payload is not None and not payload.is_eof()
        super().data_received(data)
        last = self._payload
        # What is read later stands in the buffer: interim responses, the answer, and what follows it.
        codes = [message.code for (message, _), _ in self._buffer] if self._buffer else []
        follows = is_open and last is not None and last is not payload
        if codes and codes[0] < 200:
            self.n_interim += len(codes)
            if self.n_interim > MAX_INTERIM:
                self._buffer.clear()
                self.set_exception(aiohttp.ClientConnectionError("interim responses without an end"))
                return
        if follows or (len(codes) > 1 and max(codes[:-1]) >= 200):
            self._refuse_surplus()
            return
        # The former answer stays in its place until the head of this one is whole. It tells nothing of this
        # call: not after half a head, nor where a slow reader of the former one has aiohttp go on.
        if last is EMPTY_PAYLOAD:
            is_whole = bool(codes) and codes[-1] >= 200
        else:
            is_whole = last is not None and last is not self.former and last.is_eof()
        if is_whole:
            self.answered, self.former, self.n_interim = parser, last, 0
            if not self.is_settled:
                self.answered_at = monotonic()

    def _peer(self) -> Any:
        return self.transport.get_extra_info("peername") if self.transport is not None else None

    def _refuse_surplus(self) -> None:
        peer, now = self._peer(), monotonic()
        if self.distrusted.get(peer, 0.0) <= now:
            log.warning("an upstream at %s sent more than its answer: the rest is dropped", peer)
        for other in [other for other, until in self.distrusted.items() if until <= now]:
            del self.distrusted[other]
        self.distrusted[peer] = now + DISTRUST_S
        self.force_close()
        if self.transport is not None:
            self.transport.close()


class WatchedConnector(aiohttp.TCPConnector):
    """Connections that are used again only if nothing came on them after their answer.

    A new connection rests once before its second call: a server that answers twice shows it by then.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # aiohttp has no public place for a protocol of one's own; a test fails where this has no effect.
        watched: Any = functools.partial(WatchedConnection, loop=self._loop)
        self._factory = watched

    async def _get(self, key: Any, traces: list[Any]) -> Any:
        # The connection used last comes first: few are busy, the others end by their time-out. Taken in turn,
        # all that a burst opened would stay, and each call would find one whose memory has left the caches.
        rested, now = self._conns.get(key), monotonic()
        if rested is None:
            return None
        for _ in range(min(len(rested), MAX_LOOKED_AT)):
            rested.rotate(1)
            connection = cast("WatchedConnection", rested[0][0])
            connection.is_settled = connection.is_settled or now - connection.answered_at >= REST_S
            if not connection.is_settled:
                continue
            # What the event loop has not read yet was sent without being asked for.
            if connection.unread.poll(0):
                rested.popleft()
                connection.close()
                continue
            return await super()._get(key, traces)
        return None


class Transport:
    """An aiohttp session that is opened inside the running loop and closed with the server.

    `limits` bounds what upstreams may send; `n_held_bytes` are those of answers that are being read now.
    """

    session: aiohttp.ClientSession
    """There from `open` on."""

    def __init__(self, limits: AnswerLimits = DEFAULT_LIMITS) -> None:
        self.limits = limits
        self.n_held_bytes = 0

    async def open(self) -> None:
        connector = WatchedConnector(
            limit=NO_LIMIT, keepalive_timeout=KEEPALIVE_S, ssl=ssl.create_default_context(), ttl_dns_cache=60
        )
        self.session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None, sock_read=None),
            trust_env=False,  # aiohttp would read the environment and netrc anew for every request
            max_line_size=self.limits.max_header_bytes,
            max_field_size=self.limits.max_header_bytes,
        )

    @contextlib.contextmanager
    def hold(self, max_bytes: int) -> Iterator[Callable[[int], None]]:
        """Room for one whole answer while it is read; what it gives counts further bytes.

        Raises:
            UpstreamError: from that, where the answer or all answers together grow beyond their bound.
        """
        n_bytes = 0

        def count(n: int) -> None:
            nonlocal n_bytes
            n_bytes += n
            self.n_held_bytes += n
            if n_bytes > max_bytes:
                raise UpstreamError("garbage", f"answered with more than {max_bytes} bytes")
            if n_bytes > FREE_BYTES and self.n_held_bytes > self.limits.max_bytes_in_all:
                raise UpstreamError(
                    "busy", "answers at length while many others do", status=503, retry_after_s=1
                )

        try:
            yield count
        finally:
            self.n_held_bytes -= n_bytes

    async def close(self) -> None:
        if hasattr(self, "session"):
            await self.session.close()


class Address:
    """One URL to post to, with everything about it that does not change from call to call."""

    def __init__(
        self,
        transport: Transport,
        url: str,
        headers: Mapping[str, str],
        connect_s: float,
        is_local: bool = False,
    ) -> None:
        self.url = URL(url)
        self.transport = transport
        self._headers = CIMultiDict(
            {
                "content-type": "application/json",
                "accept-encoding": "identity",
                "user-agent": AGENT,
                **headers,
            }
        )
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect_s)
        # A local server is asked by this machine itself: a proxy would see its prompts.
        self._proxy = None if is_local else proxy_for(self.url)
        if self._proxy is not None and self.url.scheme == "http":
            self._headers.update(self._proxy.headers)  # no tunnel: the proxy reads the request itself

    async def post(self, body: bytes, more: Mapping[str, str] | None = None) -> aiohttp.ClientResponse:
        """Send and wait for the head of the answer; `more` are headers of this call alone.

        Redirects would carry keys elsewhere.
        """
        session = self.transport.session
        headers = self._headers if more is None else CIMultiDict({**self._headers, **more})
        if self._proxy is None:
            return await session.post(
                self.url, data=body, headers=headers, timeout=self._timeout, allow_redirects=False
            )
        return await session.post(
            self.url,
            data=body,
            headers=headers,
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


_encode = msgspec.json.Encoder().encode


class Deployment:
    """One deployment of an expert: its addresses, and how it fares."""

    def __init__(
        self,
        name: str,
        model: str,
        addresses: dict[Endpoint, Address],
        timeouts: TimeoutConfig,
        limit: ConcurrencyLimit | None = None,
        heard: Callable[[], None] | None = None,
    ) -> None:
        """`heard` is called whenever something comes of a call."""
        self.name = name
        self.breaker = CircuitBreaker()
        self.slots = limit or ConcurrencyLimit(None)
        self._model = Raw(_encode(model))
        self._addresses = addresses
        self._timeouts = timeouts
        self._longest_s = 0.0
        self._heard = heard

    async def call(self, call: Call, fields: Fields) -> Reply:
        """Ask this deployment.

        Raises:
            UpstreamError: there is no answer.
        """
        body = _encode({"model": self._model, **fields})
        address = self._addresses[call.endpoint]
        await self.slots.acquire(min(SLOT_WAIT_S, self._timeouts.first_token_s))
        reply: Reply | None = None
        try:
            reply = await (
                self._stream(address, body, call) if call.stream else self._whole(address, body, call)
            )
        except CLIENT_ERRORS as error:
            raise transport_failure(error) from error
        finally:
            if reply is None or reply.events is None:
                self.slots.release()
        if self.slots.rate is not None:
            reply.when_counted(self.slots.rate.charge, call)
        return reply

    async def _whole(self, address: Address, body: bytes, call: Call) -> Reply:
        clock = asyncio.get_running_loop().time
        endpoint, start, total_s = call.endpoint, clock(), self._timeouts.total_s
        limit_s = limit_silence_s(call, self._timeouts, self._longest_s)
        async with asyncio.timeout_at(start + limit_s) as timer:
            response = await address.post(body)
            if limit_s < total_s:
                timer.reschedule(start + total_s)  # it is not silent: some send a head, then blanks
            answer = await read_body(response, address.transport, endpoint)
        self._longest_s = max(clock() - start, KEPT_OF_LONGEST * self._longest_s)
        # Redirects (3xx) are failures too: following one would carry the key to another host.
        if response.status != 200:
            raise status_failure(response, answer)
        # Some stream where no stream was asked for. An answer begins with a brace, events never do.
        if answer[:1] != b"{" and looks_like_events(answer.removeprefix(BOM).lstrip()[:LONGEST_FIELD]):
            answer = answer.removeprefix(BOM).lstrip()
            if len(answer) < FOLD_IN_THREAD_BYTES:
                answer = fold_events(answer, endpoint)
            else:
                answer = await asyncio.to_thread(fold_events, answer, endpoint)
        return self._reply(response, answer, endpoint)

    async def _stream(self, address: Address, body: bytes, call: Call) -> Reply:
        endpoint = call.endpoint
        first_token_s, total_s = self._timeouts.first_token_s, self._timeouts.total_s
        start = asyncio.get_running_loop().time()
        async with asyncio.timeout_at(start + first_token_s):
            response = await address.post(body)
        try:
            if response.status != 200:
                async with asyncio.timeout_at(start + first_token_s):
                    raise status_failure(response, await read_body(response, address.transport, endpoint))
            events = EventStream(
                build_reader(response, self._heard),
                self._closer(response),
                first_token_s=first_token_s,
                between_s=self._timeouts.between_tokens_s,
                end_at=start + total_s,
                limits=address.transport.limits,
                hides_usage=call.hides_usage,
            )
            # Servers and proxies mislabel both: what it is its first bytes tell, in doubt its label.
            head = await events.peek()
            is_json_or_page = head[:1] in b'{["<'
            labelled = response.content_type == "text/event-stream"
            if is_json_or_page or not (labelled or looks_like_events(head)):
                with address.transport.hold(max_answer_bytes(address.transport.limits, endpoint)) as count:
                    return self._reply(response, await events.read_whole(count), endpoint)
            await self._open(response, events)
        except BaseException:
            response.close()
            raise
        return Reply(events=events, deployment=self.name)

    def _reply(self, response: aiohttp.ClientResponse, answer: bytes, endpoint: Endpoint) -> Reply:
        """A whole answer as a reply.

        Raises:
            UpstreamError: it is none.
        """
        try:
            usage = check_answer(answer, endpoint == "embeddings")
        except UpstreamError as error:
            raise _with_wait(error, response) from None
        return Reply(body=answer, usage=usage, deployment=self.name)

    async def _open(self, response: aiohttp.ClientResponse, events: EventStream) -> None:
        try:
            await events.open()
        except UpstreamError as error:
            raise _with_wait(error, response) from None

    def _closer(self, response: aiohttp.ClientResponse) -> Callable[[], None]:
        def close() -> None:
            response.close()
            self.slots.release()

        return close


def build_reader(
    response: aiohttp.ClientResponse, heard: Callable[[], None] | None = None
) -> Callable[[], Awaitable[bytes]]:
    """What reads the next bytes of an answer; `heard` is called with each."""
    readany = response.content.readany

    async def read() -> bytes:
        if heard is not None:
            heard()
        try:
            return await readany()
        except CLIENT_ERRORS as error:
            raise UpstreamError("cut", "closed the connection in the middle of its stream") from error

    return read


def max_answer_bytes(limits: AnswerLimits, endpoint: Endpoint) -> int:
    """The bound of a whole answer of an endpoint."""
    return limits.max_embeddings_bytes if endpoint == "embeddings" else limits.max_bytes


async def read_body(response: aiohttp.ClientResponse, transport: Transport, endpoint: Endpoint) -> bytes:
    """The body, up to a limit: an answer or an error page that never ends must not fill the memory.

    Raises:
        UpstreamError: an answer is longer than its bound.
    """
    is_answer, most = response.status == 200, transport.limits.max_error_bytes
    try:
        length = response.content_length
        if (
            length is not None
            and length <= min(most, FREE_BYTES)
            and "content-encoding" not in response.headers
        ):
            return await response.read()
        parts: list[bytes] = []
        n_bytes = 0
        with transport.hold(max_answer_bytes(transport.limits, endpoint)) as count:
            while data := await response.content.readany():
                parts.append(data)
                n_bytes += len(data)
                if is_answer:
                    count(len(data))
                elif n_bytes > most:
                    response.close()
                    break
            return b"".join(parts)[: None if is_answer else most]
    except BaseException:
        response.close()
        raise


def _with_wait(error: UpstreamError, response: aiohttp.ClientResponse) -> UpstreamError:
    """An error inside a 200: how long to wait, the headers may say."""
    if error.retry_after_s is None and error.status in (429, 503, 529):
        error.retry_after_s = read_retry_after_s(response.headers)
    return error


class OpenAIExpert(DeployedExpert[Deployment]):
    """An expert that speaks OpenAI's protocol."""


def openai_expert(config: ExpertConfig, timeouts: TimeoutConfig, transport: Transport) -> OpenAIExpert:
    """The expert that a configuration describes.

    Raises:
        ValueError: neither the configuration nor the provider gives its address.
    """
    deployments = [
        _build_deployment(n, deployment, config, timeouts, transport)
        for n, deployment in enumerate(config.effective_deployments(), start=1)
    ]
    upstreams = UpstreamTable.of([config])
    return OpenAIExpert(
        config.name, PromptPreset(config), deployments, Parameters(config), upstreams, timeouts.total_s
    )


def _build_deployment(
    n: int, deployment: DeploymentConfig, config: ExpertConfig, timeouts: TimeoutConfig, transport: Transport
) -> Deployment:
    base = api_base_of(config.provider, deployment.api_base)
    if base is None:
        raise ValueError(
            f"experts '{config.name}': api_base is missing; {config.provider} has no address of its own"
        )
    key = api_key_of(
        config.provider, deployment.api_key.reveal() if deployment.api_key else None, deployment.api_base
    )
    headers = {"authorization": f"Bearer {key}"} if key else {}
    headers |= {name: value.reveal() for name, value in deployment.headers.items()}
    addresses = {
        endpoint: Address(
            transport, f"{base.rstrip('/')}/{endpoint}", headers, timeouts.connect_s, config.is_local
        )
        for endpoint in ENDPOINTS
    }
    return Deployment(
        f"{config.name}#{n}",
        deployment.model or config.upstream_model,
        addresses,
        timeouts,
        build_limit(deployment),
    )


def status_failure(response: aiohttp.ClientResponse, body: bytes) -> UpstreamError:
    """The failure that a response with a status other than 200 stands for; `body` is all that was read."""
    if 300 <= response.status < 400:
        cause = f"answered {response.status}, a redirect"
        return UpstreamError("status", _describe_redirect(response), status=response.status, cause=cause)
    return read_failure(response.status, body, response.headers)


def _describe_redirect(response: aiohttp.ClientResponse) -> str:
    said = f"answered {response.status}"
    try:
        target = response.url.join(URL(response.headers["location"]))
        # Neither user nor query: either may hold a secret.
        where = str(target.with_user(None).with_query(None).with_fragment(None))[:MAX_LOCATION_CHARS]
    except (KeyError, ValueError, TypeError):
        return f"{said}, a redirect without an address"
    return f"{said}, a redirect to {where}: redirects are not followed, correct api_base"


def transport_failure(error: Exception) -> UpstreamError:
    """The failure that an exception of the HTTP client stands for. Its own words may hold addresses."""
    if (shortage := find_shortage((error, error.__cause__, getattr(error, "os_error", None)))) is not None:
        return shortage
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return UpstreamError("connect", "could not be connected to in time", status=504)
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return UpstreamError(
            "connect", "has a certificate that is not trusted (SSL_CERT_FILE names other authorities)"
        )
    if isinstance(error, aiohttp.ClientConnectorError):
        return UpstreamError("connect", "cannot be connected to")
    if isinstance(error.__cause__, ContentEncodingError) or "content-encoding" in str(error)[:MAX_LOOK_CHARS]:
        return UpstreamError("garbage", "answered in a content encoding that cannot be read")
    if isinstance(error, aiohttp.ClientResponseError):
        return UpstreamError("garbage", "answered with a head that is too large or cannot be read")
    if isinstance(error, aiohttp.ClientPayloadError):
        return UpstreamError("cut", "closed the connection in the middle of its answer")
    if isinstance(error, TimeoutError):
        return UpstreamError("timeout", "took longer than its time-out allows")
    return UpstreamError("reset", "closed the connection without an answer")
