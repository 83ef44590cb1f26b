"""Every decision of a client, made without I/O: what to ask, whether to ask again, how to read what came.

`clients` sends the requests built here, over sync or async sockets, and hands back what arrived.
"""

import json
import os
import random
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from email.utils import parsedate_to_datetime
from math import isnan
from typing import Any, Generic, Literal, TypeVar
from urllib.parse import quote

import httpx

from .errors import (
    ConnectionFailed,
    StatusError,
    StreamError,
    ThalamusError,
    TimedOut,
    UnexpectedResponse,
    choose_status_class,
)
from .values import (
    Answered,
    Chat,
    Chunk,
    Embeddings,
    Feedback,
    Health,
    Hints,
    Json,
    Model,
    Routed,
    RouteDecision,
    Usage,
)

T = TypeVar("T")
Prompt = str | Sequence[Mapping[str, Any]]
"""A user's message, or a conversation in the chat format."""
Router = Hints | Mapping[str, Any] | None
InputType = Literal["query", "document"]
Thumbs = Literal["up", "down"]

CallTimeout = float | httpx.Timeout | None
"""The longest silence in seconds that one call waits through; None leaves the client's."""

_SAMPLING = (
    "temperature top_p n stop seed logprobs top_logprobs logit_bias presence_penalty frequency_penalty"
)
_OUTPUT = (
    "max_tokens max_completion_tokens response_format modalities audio prediction verbosity stream_options"
)
_TOOLS = "tools tool_choice parallel_tool_calls functions function_call web_search_options"
_ABOUT = "user metadata store service_tier safety_identifier prompt_cache_key prompt_cache_retention"
CHAT_FIELDS = frozenset(f"{_SAMPLING} {_OUTPUT} {_TOOLS} {_ABOUT} reasoning_effort".split())
EMBEDDING_FIELDS = frozenset({"dimensions", "encoding_format", "user"})

FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 30.0  # a gateway that asks for a longer one gets no retry: the caller decides


@dataclass(frozen=True, slots=True)
class ClientReply:
    """A complete answer, decoded."""

    status: int
    payload: Any
    routed: Routed


@dataclass(frozen=True, slots=True)
class ClientCall(Generic[T]):
    """One question to the gateway and how its answer is read.

    `also_ok` is a status ≥ 400 that answers; `form` and `files` make a multipart body; the answer to one that
    is `is_binary` is bytes.
    """

    method: str
    path: str
    parse: Callable[[ClientReply], T]
    body: Json | None = None
    also_ok: int | None = None
    form: Mapping[str, str] | None = None
    files: Mapping[str, tuple[str, bytes]] | None = None
    is_binary: bool = False

    def is_answered_by(self, response: httpx.Response) -> bool:
        return response.is_success or response.status_code == self.also_ok


def build_chat_call(
    messages: Prompt, model: str, router: Router, params: Json, extra_body: Json | None
) -> ClientCall[Chat]:
    return ClientCall(
        "POST",
        "/v1/chat/completions",
        lambda reply: Chat.parse(reply.payload, reply.routed),
        _chat_body(messages, model, router, params, extra_body),
    )


def build_stream_call(
    messages: Prompt, model: str, router: Router, params: Json, extra_body: Json | None
) -> ClientCall[Chat]:
    """A streamed chat whose last chunks tell tokens and cost, unless the caller says otherwise."""
    given = {"stream_options": {"include_usage": True}, **params}
    call = build_chat_call(messages, model, router, given, extra_body)
    body = {**(call.body or {}), "stream": True}
    return replace(call, body={**body, "router": {"explain": True, **body.get("router", {})}})


def build_route_call(
    messages: Prompt, model: str, router: Router, params: Json, extra_body: Json | None
) -> ClientCall[RouteDecision]:
    body = _chat_body(messages, model, router, params, extra_body)
    return ClientCall("POST", "/v1/route", _decision, body)


def build_embeddings_call(
    texts: str | Sequence[str],
    model: str,
    input_type: InputType | None,
    router: Router,
    params: Json,
    extra_body: Json | None,
) -> ClientCall[Embeddings]:
    check_names(params, EMBEDDING_FIELDS, "embeddings")
    given = texts if isinstance(texts, str) else list(texts)
    body = {"model": model, "input": given, **params, **(extra_body or {})}
    if input_type is not None:
        body["input_type"] = input_type
    return ClientCall(
        "POST",
        "/v1/embeddings",
        lambda reply: Embeddings.parse(reply.payload, reply.routed),
        _add_router(body, router),
    )


def build_models_call() -> ClientCall[tuple[Model, ...]]:
    return ClientCall("GET", "/v1/models?type=all", lambda reply: Model.parse_list(reply.payload))


def build_decision_call(decision_id: str) -> ClientCall[RouteDecision]:
    return ClientCall("GET", f"/v1/decisions/{quote(decision_id, safe='')}", _decision)


def build_feedback_call(
    decision: str | Answered,
    score: float | None,
    thumbs: Thumbs | None,
    among: Sequence[str | Answered] | None,
    chosen: str | None,
    comment: str | None,
    user: str | None,
) -> ClientCall[Feedback]:
    given = {
        "decision_id": _id_of(decision),
        "score": score,
        "thumbs": thumbs,
        "among": None if among is None else [_id_of(one) for one in among],
        "chosen": chosen,
        "comment": comment,
        "user": user,
    }
    return ClientCall("POST", "/v1/feedback", lambda reply: Feedback.parse(reply.payload), drop_unset(given))


def _id_of(decision: str | Answered) -> str:
    found = decision if isinstance(decision, str) else decision.decision_id
    if not found:
        raise ValueError("this answer has no decision id: it did not come through a Thalamus gateway")
    return found


def build_health_call() -> ClientCall[Health]:
    return ClientCall(
        "GET", "/health/ready", lambda reply: Health(reply.status < 400, reply.payload), also_ok=503
    )


def _decision(reply: ClientReply) -> RouteDecision:
    return RouteDecision.parse(reply.payload)


def check_names(params: Json, known: Collection[str], what: str) -> None:
    """Refuse an argument that the format does not have.

    Raises:
        TypeError: names the argument, the nearest known one, and the place for others.
    """
    for name in params:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            fix = f"did you mean '{near[0]}'? " if near else ""
            raise TypeError(
                f"{what}() has no argument '{name}'; {fix}fields of one provider go into extra_body={{…}}"
            )


def drop_unset(fields: Json) -> dict[str, Any]:
    """The fields that have a value."""
    return {name: value for name, value in fields.items() if value is not None}


def _chat_body(
    messages: Prompt, model: str, router: Router, params: Json, extra_body: Json | None
) -> dict[str, Any]:
    check_names(params, CHAT_FIELDS, "chat")
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    body = {"model": model, "messages": list(messages), **params, **(extra_body or {})}
    return _add_router(body, router)


def _add_router(body: dict[str, Any], router: Router) -> dict[str, Any]:
    if router is not None:
        body["router"] = router.as_json() if isinstance(router, Hints) else dict(router)
    return body


@dataclass(frozen=True, slots=True)
class GatewayAddress:
    """Where the gateway is and how it is asked."""

    url: httpx.URL
    timeout: httpx.Timeout
    max_retries: int
    headers: Mapping[str, str] = field(repr=False)

    @classmethod
    def at(
        cls, base_url: str, api_key: str | None, timeout: float | httpx.Timeout, max_retries: int
    ) -> "GatewayAddress":
        """A checked address and key.

        Raises:
            ValueError: an address or a key that cannot work, said without repeating either.
        """
        if api_key is None:
            api_key = os.environ.get("THALAMUS_API_KEY", "")
        headers = {"user-agent": "thalamus-client", "accept": "application/json, text/event-stream"}
        if api_key := api_key.strip():
            if not (api_key.isascii() and api_key.isprintable()):
                raise ValueError("api_key holds characters that an HTTP header cannot carry")
            headers["authorization"] = f"Bearer {api_key}"
        if max_retries < 0:
            raise ValueError(f"max_retries must be 0 or more, not {max_retries}")
        return cls(_parse_base_url(base_url), _as_timeout(timeout), max_retries, headers)

    def request(self, call: ClientCall[Any], timeout: CallTimeout = None) -> httpx.Request:
        wait = self.timeout if timeout is None else _as_timeout(timeout)
        return httpx.Request(
            call.method,
            self.url.copy_with(raw_path=self.url.raw_path.rstrip(b"/") + call.path.encode()),
            headers=dict(self.headers),
            json=call.body,
            data=call.form,
            files=call.files,
            extensions={"timeout": wait.as_dict()},
        )

    def pause_s(self, outcome: httpx.Response | httpx.TransportError, n_tried: int) -> float:
        """Seconds to wait before asking again, after what was no answer.

        Only what surely, or most likely, was not worked on is asked again: a connection that failed before
        any answer, 429 and 503. A read timeout is not: the work may be under way.

        Raises:
            ThalamusError: what went wrong, when asking again would not help or was done often enough.
        """
        error = (
            build_status_error(outcome)
            if isinstance(outcome, httpx.Response)
            else build_connection_error(outcome)
        )
        asked_s = error.retry_after_s if isinstance(error, StatusError) else None
        if n_tried > self.max_retries or not _can_retry(outcome) or (asked_s or 0.0) > LONGEST_PAUSE_S:
            raise error from (outcome if isinstance(outcome, Exception) else None)
        if asked_s is not None:
            return asked_s
        # Exponential backoff with jitter: clients that failed together do not come back together.
        spread = random.uniform(0.5, 1)  # noqa: S311  keeps clients from coming back all at once; no secret
        return spread * min(FIRST_PAUSE_S * 2.0 ** (n_tried - 1), LONGEST_PAUSE_S)


def _as_timeout(timeout: float | httpx.Timeout) -> httpx.Timeout:
    if isinstance(timeout, httpx.Timeout):
        return timeout
    if not timeout > 0:
        raise ValueError(f"timeout must be more than 0 seconds, not {timeout}")
    return httpx.Timeout(timeout, connect=min(timeout, 10.0))


def _can_retry(outcome: httpx.Response | httpx.TransportError) -> bool:
    if isinstance(outcome, httpx.Response):
        return outcome.status_code in (429, 503)
    return isinstance(outcome, httpx.ConnectTimeout) or not isinstance(outcome, httpx.TimeoutException)


def _parse_base_url(base_url: str) -> httpx.URL:
    try:
        url = httpx.URL(base_url)
    except (httpx.InvalidURL, TypeError):
        url = httpx.URL()
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError("base_url must look like http://127.0.0.1:8080")
    # httpx would send them as basic authentication, in place of the key.
    if url.userinfo:
        raise ValueError("base_url must not hold credentials: give the gateway's key as api_key")
    path = url.path.rstrip("/").removesuffix("/v1")  # other clients want the /v1 in the address
    return url.copy_with(path=path or "/", query=None, fragment=None)


@contextmanager
def raise_client_errors() -> Iterator[None]:
    """Turns what a socket can raise into the SDK's errors."""
    try:
        yield
    except httpx.RequestError as failure:
        raise build_connection_error(failure) from failure


def build_connection_error(failure: httpx.RequestError) -> ThalamusError:
    url = failure.request.url
    where = f"{url.scheme}://{url.netloc.decode()}"
    if isinstance(failure, httpx.ConnectError | httpx.ConnectTimeout):
        kind = TimedOut if isinstance(failure, httpx.ConnectTimeout) else ConnectionFailed
        return kind(f"cannot reach the gateway at {where}: {failure or 'timed out'}")
    if isinstance(failure, httpx.TimeoutException):
        return TimedOut(f"no word from the gateway at {where} within the timeout")
    return ConnectionFailed(
        f"the connection to the gateway at {where} broke: {failure or type(failure).__name__}"
    )


def build_status_error(response: httpx.Response) -> StatusError:
    """The refusal as an error, for any body; a key echoed in it is struck out."""
    facts = parse_error_body(response.content)
    message = str(facts.get("message") or f"the gateway answered {response.reason_phrase or 'no'}")
    key = response.request.headers.get("authorization", "").removeprefix("Bearer ")
    return choose_status_class(response.status_code)(
        message.replace(key, "***") if key else message,
        status=response.status_code,
        type=as_text(facts.get("type")),
        code=as_text(facts.get("code")),
        param=as_text(facts.get("param")),
        request_id=response.headers.get("x-request-id"),
        retry_after_s=_retry_after_s(response.headers.get("retry-after")),
    )


def parse_error_body(body: bytes) -> Json:
    """The facts of an error body; none if it is not OpenAI's error object."""
    try:
        error = json.loads(body)["error"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return {}
    return error if isinstance(error, dict) else {"message": error}


def as_text(value: object) -> str | None:
    return None if value is None else str(value)


def _retry_after_s(header: str | None) -> float | None:
    """Seconds from now; the header gives seconds or a date."""
    if header is None:
        return None
    try:
        # Seconds or an HTTP date: RFC 9110, section 10.2.3.
        wait_s = float(header)
    except ValueError:
        try:
            wait_s = parsedate_to_datetime(header).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return None if isnan(wait_s) else max(0.0, wait_s)


def parse_reply(call: ClientCall[T], response: httpx.Response) -> T:
    """The call's answer from a complete response.

    Raises:
        UnexpectedResponse: it is not in the gateway's protocol.
    """
    try:
        payload = response.content if call.is_binary else response.json()
        return call.parse(ClientReply(response.status_code, payload, Routed.parse(response.headers)))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        message = f"{call.path} gave an answer that is not a Thalamus gateway's: is base_url right?"
        raise UnexpectedResponse(message) from error


class Transcript:
    """A streamed answer as it comes: bytes in, chunks out, until [DONE]."""

    def __init__(self) -> None:
        self.done = False
        self.texts: list[str] = []
        self.usage: Usage | None = None
        self.finish_reason: str | None = None
        self.cost_usd: float | None = None
        self._events = EventDecoder()

    def feed(self, block: bytes) -> Iterator[Chunk]:
        """The chunks that `block` completes.

        Raises:
            StreamError: the gateway reported a failure, or sent what is no chunk.
        """
        for data in self._events.feed(block):
            if self.done:
                return
            # OpenAI's mark for a complete answer; a proxy that cuts the connection sends none.
            if data == "[DONE]":
                self.done = True
                return
            chunk = _chunk(data)
            self._add(chunk)
            yield chunk

    def _add(self, chunk: Chunk) -> None:
        self.texts.append(chunk.text)
        self.usage = chunk.usage or self.usage
        self.finish_reason = chunk.finish_reason or self.finish_reason
        facts = chunk.raw.get("thalamus")
        if isinstance(facts, dict) and isinstance(facts.get("cost_usd"), int | float):
            self.cost_usd = float(facts["cost_usd"])

    def end(self, failure: httpx.RequestError | None = None) -> None:
        """The stream is over; `failure` if the connection broke.

        Raises:
            StreamError: it ended before [DONE]: the answer is not complete.
        """
        if not self.done:
            cause = f": {build_connection_error(failure)}" if failure else ""
            raise StreamError(f"the stream ended before the answer was complete{cause}") from failure


def _chunk(data: str) -> Chunk:
    try:
        raw = json.loads(data)
        if not isinstance(raw, dict):
            raise ValueError("not an object")
        if not raw.get("error"):
            return Chunk.parse(raw)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise StreamError("the stream holds an event that is no chunk of an answer") from error
    facts = parse_error_body(data.encode())
    raise StreamError(
        str(facts.get("message") or "the gateway reported a failure"),
        type=as_text(facts.get("type")),
        code=as_text(facts.get("code")),
    )


class EventDecoder:
    """Server-sent events from bytes cut anywhere: within a character, a line end or an event.

    Only the field `data` is kept. Lines end with LF, CR or CRLF, and with nothing else: U+2028 is text.
    """

    def __init__(self) -> None:
        self._line = b""
        self._data: list[str] = []
        self._after_cr = False

    def feed(self, block: bytes) -> Iterator[str]:
        """The data of each event that `block` completes."""
        if self._after_cr and block.startswith(b"\n"):  # the second half of a CRLF whose CR ended a line
            block = block[1:]
        self._after_cr = block.endswith(b"\r")
        # `splitlines` of bytes knows LF, CR and CRLF alone, as the specification does (WHATWG HTML, server-
        # sent events); that of str would also split at U+2028.
        lines = (self._line + block).splitlines(keepends=True)
        self._line = lines.pop() if lines and not lines[-1].endswith((b"\r", b"\n")) else b""
        for line in lines:
            content = line.rstrip(b"\r\n").decode(errors="replace")
            if content:
                self._take(content)
            elif self._data:
                data, self._data = "\n".join(self._data), []
                yield data

    def _take(self, line: str) -> None:
        name, _, value = line.removeprefix("\ufeff").partition(":")
        if name == "data":
            self._data.append(value.removeprefix(" "))
