"""An expert behind one or several deployments: a call, who is called, when another is, what limits calls."""

import asyncio
import errno
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from time import monotonic
from typing import Generic, Protocol, TypeVar

import msgspec
from msgspec import Raw
from msgspec.structs import replace
from yarl import URL

from ..config import AnswerLimits, DeploymentConfig, TimeoutConfig
from ..fleet.circuit_breaker import CallSource, CircuitBreaker
from ..openai.answers import check_answer
from ..openai.conversion import fold_events
from ..openai.events import EventStream, looks_like_events
from ..openai.failures import BOM, read_failure
from ..openai.retry_after import read_retry_after_s
from ..waiting import MAX_WAITING_PER_SLOT, WaitingLine
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
from .parameters import Parameters, names_field
from .prompt_preset import PromptPreset
from .types import Call, Endpoint, Fields, Reply, UpstreamError, ask_for_usage
from .upstreams import UpstreamTable, log_failure

MINUTE_S = 60.0
MAX_LOCATION_CHARS = 200
CLIENT_ERRORS = (HttpError, OSError, MemoryError)  # TimeoutError is an OSError
FOLD_IN_THREAD_BYTES = 256 * 1024
SLOT_WAIT_S = 30.0
"""Longest wait for a free slot, so that a queue moves a request on long before a slow model does."""
LONGEST_FIELD = len(b"event:")
LONGER_THAN_USUAL = 2.0
KEPT_OF_LONGEST = 0.95
"""What each answer leaves of the longest of late: a mean would give up on every long one among short ones."""


class RateLimit:
    """At most `calls` calls begin, and `tokens` tokens are used, in any minute; None for any number.

    Tokens are known when an answer ends: a call begins while those of the last minute are below the limit.
    """

    def __init__(self, calls: int | None, tokens: int | None, clock: Callable[[], float] = monotonic) -> None:
        self._configured = (calls, tokens)
        self._calls, self._tokens = calls, tokens
        self._clock = clock
        self._begun: deque[float] = deque()
        self._used: deque[tuple[float, int]] = deque()
        self._n_used = 0

    def wait_s(self) -> float:
        """Seconds until a call may begin; 0 when it may now."""
        now = self._clock()
        self._forget(now - MINUTE_S)
        ends = []
        if self._calls is not None and len(self._begun) >= self._calls:
            ends.append(self._begun[len(self._begun) - self._calls])
        if self._tokens is not None and self._n_used >= self._tokens:
            ends.append(self._find_room_for_tokens())
        return max((end + MINUTE_S - now for end in ends), default=0.0)

    def check(self) -> None:
        """Check that a call may begin.

        Raises:
            UpstreamError: the minute is used up; `retry_after_s` says when it is not.
        """
        if (wait_s := self.wait_s()) > 0:
            raise UpstreamError(
                "busy", "has had its calls or tokens of this minute", status=429, retry_after_s=wait_s
            )

    def begin(self) -> None:
        """Count a call that begins now.

        Raises:
            UpstreamError: as `check`.
        """
        self.check()
        if self._calls is not None:
            self._begun.append(self._clock())

    def charge(self, n_tokens: int) -> None:
        """Count the tokens of an answer."""
        if self._tokens is not None and n_tokens > 0:
            self._used.append((self._clock(), n_tokens))
            self._n_used += n_tokens

    def share(self, n_replicas: int) -> None:
        """Use an even share, at least one: other replicas call the same upstream."""
        self._calls, self._tokens = (
            None if limit is None else max(1, limit // n_replicas) for limit in self._configured
        )

    def _forget(self, before: float) -> None:
        while self._begun and self._begun[0] <= before:
            self._begun.popleft()
        while self._used and self._used[0][0] <= before:
            self._n_used -= self._used.popleft()[1]

    def _find_room_for_tokens(self) -> float:
        """When the answer was given that has to be forgotten before the next call."""
        left = self._n_used
        for used_at, n_tokens in self._used:
            left -= n_tokens
            if self._tokens is not None and left < self._tokens:
                return used_at
        return self._clock()


class ConcurrencyLimit:
    """At most `limit` calls run at a time, None for any number; a bounded number of others wait in line.

    A `rate` limits them further: a call that it does not admit is refused and does not wait.
    """

    def __init__(self, limit: int | None, rate: RateLimit | None = None) -> None:
        self.limit = self._configured = limit
        self.rate = rate
        self.in_use = 0
        self._line = WaitingLine(self._has_room, self._begin, self._end)

    @property
    def load(self) -> float:
        """Running and waiting calls per slot; infinite where none may begin now."""
        if self.rate is not None and self.rate.wait_s() > 0:
            return float("inf")
        return (self.in_use + len(self._line.waiting)) / (self.limit or 1)

    async def acquire(self, timeout_s: float) -> None:
        """Wait for a slot; call `release` once when done with it.

        Raises:
            UpstreamError: too many calls wait already, no slot came free within `timeout_s` seconds, or the
                rate admits none.
        """
        if self.rate is not None:
            self.rate.check()  # before the line: a call that may not begin must not hold a place in it
        limit = self.limit
        # Serving on every release keeps the line empty while there is room, so this call overtakes none.
        if limit is None or self.in_use < limit:
            self.in_use += 1
        else:
            await self._wait(limit, timeout_s)
        if self.rate is not None:
            try:
                self.rate.begin()
            except UpstreamError:
                self.release()
                raise

    async def _wait(self, limit: int, timeout_s: float) -> None:
        if len(self._line.waiting) >= limit * MAX_WAITING_PER_SLOT:
            raise UpstreamError(
                "busy", f"serves {limit} at a time and too many wait already", retry_after_s=1
            )
        try:
            await self._line.wait(self._line.enter(), timeout_s)
        except TimeoutError:
            raise UpstreamError("busy", f"had no free slot within {timeout_s:g} s", retry_after_s=1) from None

    def release(self) -> None:
        """Return a slot; the next call in line takes it."""
        self.in_use -= 1
        if self._line.waiting:
            self._line.serve()

    def share(self, n_replicas: int) -> None:
        """Use an even share of the configured limit, at least one: other replicas call the same upstream."""
        if self.rate is not None:
            self.rate.share(n_replicas)
        if self._configured is not None:
            self.limit = max(1, self._configured // n_replicas)
            self._line.serve()

    def _has_room(self) -> bool:
        return self.limit is None or self.in_use < self.limit

    def _begin(self) -> None:
        self.in_use += 1

    def _end(self) -> None:
        self.in_use -= 1


def limit_silence_s(call: Call, timeouts: TimeoutConfig, longest_s: float) -> float:
    """Seconds until the head of an answer that is not streamed; all of the attempt where no other can answer.

    Such an answer has no first token: its head comes when all of it is there. So the limit grows with
    `longest_s`, the longest that an answer took of late.
    """
    if not call.has_fallback:
        return timeouts.total_s
    return min(timeouts.total_s, max(timeouts.first_token_s, LONGER_THAN_USUAL * longest_s))


SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EADDRNOTAVAIL})


def find_shortage(causes: Iterable[BaseException | None]) -> UpstreamError | None:
    """The failure where the gateway itself lacks what a call needs, None where it does not."""
    for cause in causes:
        if isinstance(cause, MemoryError):
            what = "memory"
        elif isinstance(cause, socket.gaierror):
            # getaddrinfo hides the number behind "system error".
            if cause.errno not in (socket.EAI_SYSTEM, socket.EAI_MEMORY):
                continue
            what = "what looking up a name takes"
        elif isinstance(cause, OSError) and cause.errno in SHORTAGES:
            what = errno.errorcode[cause.errno]
            what = "free file descriptors" if what in ("EMFILE", "ENFILE") else f"resources ({what})"
        else:
            continue
        return UpstreamError("unsent", f"was not called: the gateway is out of {what}", status=503)
    return None


class CallableDeployment(Protocol):
    """One address of an expert, with its health and its limit."""

    name: str
    breaker: CircuitBreaker
    slots: ConcurrencyLimit

    async def call(self, call: Call, fields: Fields) -> Reply:
        """Ask this deployment.

        Raises:
            UpstreamError: there is no answer.
        """


D = TypeVar("D", bound=CallableDeployment)


class DeployedExpert(Generic[D]):
    """An expert behind one or several deployments.

    A call goes to the healthy deployment with the least load; where it fails in a way that another may not,
    the next is tried, each once.
    """

    def __init__(
        self,
        name: str,
        preset: PromptPreset,
        deployments: Sequence[D],
        parameters: Parameters,
        upstreams: UpstreamTable,
        total_s: float,
    ) -> None:
        """`upstreams` is what the log says of the deployments, `total_s` how long all may take together."""
        self.name = name
        self._total_s = total_s
        self._upstreams = upstreams
        self._preset = preset
        self._parameters = parameters
        self.deployments = tuple(deployments)
        self._turn = 0
        self._counts = True
        """Whether it is asked to count the tokens of its streams; no longer once it has refused to."""
        self._takes_reasoning = True
        """Whether it gets back what experts thought; no longer once it has refused that."""

    async def call(self, call: Call) -> Reply:
        # Most experts have no preset: the client's own bytes go upstream.
        fields = call.fields if self._preset.is_plain else self._preset.apply(call)
        ask = self.deployments[0].call if len(self.deployments) == 1 else self._ask
        if call.endpoint == "embeddings":
            return await ask(call, fields)
        given, plain = call, fields
        if call.translation is not None and self._takes_reasoning:
            fields = call.translation.add_reasoning(fields)
        is_reasoned, asked = fields is not plain, (call, fields)
        if call.stream and self._counts:
            call, fields = ask_for_usage(call, fields)
        while True:
            sent = fields
            warnings: tuple[str, ...] = ()
            if not self._parameters.is_plain:
                sent, warnings = self._parameters.adapt(fields)
            try:
                reply = await ask(call, sent)
            except UpstreamError as error:
                # A field that the client did not send must not cost it the answer.
                if is_reasoned and error.status in (400, 422) and names_field(error, "reasoning"):
                    self._takes_reasoning = False
                    return await self.call(given)
                if (
                    fields is not asked[1]
                    and error.status in (400, 422)
                    and names_field(error, "stream_options")
                ):
                    self._counts = False
                    call, fields = asked
                    continue
                form = self._parameters.learn(error, sent) if error.kind == "unsupported" else None
                # Ends: each field has two names, and a name that was refused is not tried again.
                if form != "renamed":
                    error.can_adapt = form == "left_out"
                    raise
            else:
                reply.warnings = (*warnings, *reply.warnings)
                return reply

    async def _ask(self, call: Call, fields: Fields) -> Reply:
        """Ask the deployments, one after another."""
        untried, source = list(self.deployments), CallSource(call.caller, call.fields)
        end_at = asyncio.get_running_loop().time() + self._total_s
        failure: UpstreamError | None = None
        while (deployment := self._pick(untried, source, is_first=failure is None)) is not None:
            untried.remove(deployment)
            start = monotonic()
            try:
                # The first has a limit of its own; all together have the same.
                async with asyncio.timeout_at(end_at):
                    asked = replace(call, has_fallback=True) if untried and not call.stream else call
                    reply = await deployment.call(asked, fields)
                if reply.events is not None:
                    reply.events.limit(end_at)
            except UpstreamError as error:
                failure = error.with_traceback(None)  # it has this frame, and this frame has it
            except TimeoutError:
                failure = UpstreamError("timeout", "took longer in all than its time-out allows")
            except BaseException:
                deployment.breaker.release(source, start)
                raise
            else:
                deployment.breaker.record_success(monotonic(), source, start)
                return reply
            failure.deployment = deployment.name
            _note(deployment, failure, source, start)
            # Another deployment of the same model has the same window: a long prompt moves the plan on
            # instead.
            same = failure.context_too_long or failure.kind == "unsupported"
            if not failure.moves_on or same or asyncio.get_running_loop().time() >= end_at:
                break
            # The last failure is the expert's, which the plan's executor logs.
            if untried:
                log_failure(self._upstreams.find(self.name, deployment.name), failure)
        raise failure or UpstreamError("connect", "has no deployment")

    def _pick(self, deployments: Sequence[D], source: CallSource, is_first: bool) -> D | None:
        """The least loaded of those that may be called, in turn among equals.

        If none may, the first call goes to any, since the expert itself was admitted; a further one to none.
        """
        now = monotonic()
        # Equal load is the usual case: without a turn the first deployment would get everything.
        self._turn += 1
        ready = [one for one in deployments if one.breaker.is_available(now, source)]
        ready = ready or (list(deployments) if is_first else [])
        if not ready:
            return None
        n = self._turn % len(ready)
        chosen = min([*ready[n:], *ready[:n]], key=lambda deployment: deployment.slots.load)
        chosen.breaker.admit(now, source)
        return chosen

    def share(self, n_replicas: int) -> None:
        for deployment in self.deployments:
            deployment.slots.share(n_replicas)

    def tell_callers_apart(self) -> None:
        """Let the failures of one caller hold off that caller alone: callers have keys of their own."""
        for deployment in self.deployments:
            deployment.breaker.tells_callers = True

    async def close(self) -> None:
        """Nothing is held: connections are the transport's."""


def _note(deployment: CallableDeployment, error: UpstreamError, source: CallSource, start: float) -> None:
    breaker = deployment.breaker
    if error.faults_expert:
        breaker.record_failure(error, monotonic(), source, start, deployment.slots.in_use)
    else:
        breaker.release(source, start)


def build_limit(deployment: DeploymentConfig) -> ConcurrencyLimit:
    """The limit of a deployment's calls, at a time and in a minute."""
    is_rated = deployment.rpm is not None or deployment.tpm is not None
    return ConcurrencyLimit(
        deployment.max_parallel, RateLimit(deployment.rpm, deployment.tpm) if is_rated else None
    )


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
