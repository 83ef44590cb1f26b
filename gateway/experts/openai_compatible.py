"""Experts that speak OpenAI's protocol: bodies pass through, several deployments share the work."""

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
from msgspec import Raw
from yarl import URL

from ..config import AnswerLimits, DeploymentConfig, ExpertConfig, TimeoutConfig
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
from .http_client import (
    FREE_BYTES,
    Address,
    CertificateError,
    ConnectError,
    ConnectTimeoutError,
    CutAnswerError,
    EncodingError,
    HttpError,
    ProtocolError,
    ProxyError,
    Transport,
    UpstreamResponse,
)
from .parameters import Parameters
from .prompt_preset import PromptPreset
from .types import Call, Endpoint, Fields, Reply, UpstreamError
from .upstreams import UpstreamTable

MAX_LOCATION_CHARS = 200
ENDPOINTS: tuple[Endpoint, ...] = ("chat/completions", "completions", "embeddings")
CLIENT_ERRORS = (HttpError, OSError, MemoryError)  # TimeoutError is an OSError
FOLD_IN_THREAD_BYTES = 256 * 1024
SLOT_WAIT_S = 30.0
"""Longest wait for a free slot, so that a queue moves a request on long before a slow model does."""
LONGEST_FIELD = len(b"event:")


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
        slots = self.slots
        is_limited = slots.limit is not None or slots.rate is not None
        if is_limited:
            await slots.acquire(min(SLOT_WAIT_S, self._timeouts.first_token_s))
        else:
            slots.in_use += 1  # most have no limit: no line to wait in, none to serve
        reply: Reply | None = None
        try:
            reply = await (
                self._stream(address, body, call) if call.stream else self._whole(address, body, call)
            )
        except CLIENT_ERRORS as error:
            raise transport_failure(error) from error
        finally:
            if reply is None or reply.events is None:
                if is_limited:
                    slots.release()
                else:
                    slots.in_use -= 1
        if slots.rate is not None:
            reply.when_counted(slots.rate.charge, call)
        return reply

    async def _whole(self, address: Address, body: bytes, call: Call) -> Reply:
        clock = asyncio.get_running_loop().time
        endpoint, start, total_s = call.endpoint, clock(), self._timeouts.total_s
        limit_s = limit_silence_s(call, self._timeouts, self._longest_s)
        # With its head it is not silent any more: some send one, then blanks.
        response = await address.send(body, start + limit_s, start + total_s)
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
        try:
            usage = check_answer(answer, endpoint == "embeddings")
        except UpstreamError as error:
            _add_wait(error, response)
            raise
        return Reply(body=answer, usage=usage, deployment=self.name)

    async def _stream(self, address: Address, body: bytes, call: Call) -> Reply:
        endpoint = call.endpoint
        first_token_s, total_s = self._timeouts.first_token_s, self._timeouts.total_s
        start = asyncio.get_running_loop().time()
        response = await address.send(body, start + first_token_s)
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
                    answer = await events.read_whole(count)
                usage = check_answer(answer, endpoint == "embeddings")
                return Reply(body=answer, usage=usage, deployment=self.name)
            await events.open()
        except BaseException as error:
            response.close()
            if isinstance(error, UpstreamError):
                _add_wait(error, response)
            raise
        return Reply(events=events, deployment=self.name)

    def _closer(self, response: UpstreamResponse) -> Callable[[], None]:
        def close() -> None:
            response.close()
            self.slots.release()

        return close


def build_reader(
    response: UpstreamResponse, heard: Callable[[], None] | None = None
) -> Callable[[], Awaitable[bytes]]:
    """What reads the next bytes of an answer; `heard` is called with each."""
    readany = response.readany

    async def read() -> bytes:
        if heard is not None:
            heard()
        try:
            return await readany()
        except EncodingError as error:
            raise transport_failure(error) from error
        except CLIENT_ERRORS as error:
            raise UpstreamError("cut", "closed the connection in the middle of its stream") from error

    return read


def max_answer_bytes(limits: AnswerLimits, endpoint: Endpoint) -> int:
    """The bound of a whole answer of an endpoint."""
    return limits.max_embeddings_bytes if endpoint == "embeddings" else limits.max_bytes


async def read_body(response: UpstreamResponse, transport: Transport, endpoint: Endpoint) -> bytes:
    """The body, up to a limit: an answer or an error page that never ends must not fill the memory.

    Raises:
        UpstreamError: an answer is longer than its bound.
    """
    is_answer, most = response.status == 200, transport.limits.max_error_bytes
    # Most answers come in one piece with their head.
    if response.is_over and response.n_buffered <= min(most, FREE_BYTES) and not response.is_encoded:
        return b"".join(response.parts)
    parts: list[bytes] = []
    n_bytes = 0
    try:
        with transport.hold(max_answer_bytes(transport.limits, endpoint)) as count:
            while data := await response.readany():
                parts.append(data)
                n_bytes += len(data)
                if is_answer:
                    count(len(data))
                elif n_bytes > most:
                    break
            return b"".join(parts)[: None if is_answer else most]
    finally:
        response.close()  # nothing happens where all of it was read


def _add_wait(error: UpstreamError, response: UpstreamResponse) -> None:
    """How long to wait after an error inside a 200, the headers may say."""
    if error.retry_after_s is None and error.status in (429, 503, 529):
        error.retry_after_s = read_retry_after_s(response.headers)


class OpenAIExpert(DeployedExpert[Deployment]):
    """An expert that speaks OpenAI's protocol."""


def openai_expert(config: ExpertConfig, timeouts: TimeoutConfig, transport: Transport) -> OpenAIExpert:
    """The expert that a configuration describes.

    Raises:
        ValueError: neither the configuration nor the provider gives its address, or a header cannot be sent.
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
    try:
        addresses = {
            endpoint: Address(
                transport, f"{base.rstrip('/')}/{endpoint}", headers, timeouts.connect_s, config.is_local
            )
            for endpoint in ENDPOINTS
        }
    except ValueError as error:
        raise ValueError(f"experts '{config.name}': {error}") from error
    return Deployment(
        f"{config.name}#{n}",
        deployment.model or config.upstream_model,
        addresses,
        timeouts,
        build_limit(deployment),
    )


def status_failure(response: UpstreamResponse, body: bytes) -> UpstreamError:
    """The failure that a response with a status other than 200 stands for; `body` is all that was read."""
    if 300 <= response.status < 400:
        cause = f"answered {response.status}, a redirect"
        return UpstreamError("status", _describe_redirect(response), status=response.status, cause=cause)
    return read_failure(response.status, body, response.headers)


def _describe_redirect(response: UpstreamResponse) -> str:
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
    if (shortage := find_shortage((error, error.__cause__))) is not None:
        return shortage
    if isinstance(error, ConnectTimeoutError):
        return UpstreamError("connect", "could not be connected to in time", status=504)
    if isinstance(error, CertificateError):
        return UpstreamError(
            "connect", "has a certificate that is not trusted (SSL_CERT_FILE names other authorities)"
        )
    if isinstance(error, ProxyError):
        said = f"answered {error.status}" if error.status else "answered in no form that can be read"
        return UpstreamError("connect", f"cannot be connected to: the proxy {said}")
    if isinstance(error, ConnectError):
        return UpstreamError("connect", "cannot be connected to")
    if isinstance(error, EncodingError):
        return UpstreamError("garbage", "answered in a content encoding that cannot be read")
    if isinstance(error, ProtocolError):
        return UpstreamError("garbage", "answered with a head that is too large or cannot be read")
    if isinstance(error, CutAnswerError):
        return UpstreamError("cut", "closed the connection in the middle of its answer")
    if isinstance(error, TimeoutError):
        return UpstreamError("timeout", "took longer than its time-out allows")
    return UpstreamError("reset", "closed the connection without an answer")
