"""What an expert says went wrong: error objects of every form, and whose fault they tell of.

One reading serves HTTP statuses, error objects inside a 200 (whole or streamed) and exceptions of LiteLLM.
"""

import html
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from ..config.secrets import hide_secrets
from ..errors import UpstreamError
from .error_words import (
    FAULT_STATUS,
    GENERIC,
    KIND,
    MAX_LOOK_CHARS,
    OF_REQUEST,
    REFINES,
    WAITS,
    Fault,
    read_status_fault,
    read_text_fault,
    read_word_fault,
    refine_by_text,
)
from .messages import BAD_JSON, decode_object, encode, has_many_parts
from .retry_after import WAIT_TEXT, read_rate_reset_s, read_retry_after_s, read_wait_s

MAX_TEXT_CHARS = 300
MAX_MENDED_BYTES = 4 * 1024 * 1024
MAX_MENDED = 50_000
MAX_PAGE_CHARS = 2048

BOM = b"\xef\xbb\xbf"
PUNCTUATION = (b"", b"{", b"[", b'"', b"<")
ERROR_TEXT = re.compile(r"\s*(?:\w+ ){0,2}\w*(?:error|exception|traceback)\b", re.IGNORECASE)
TITLE = re.compile(r"<title[^>]*>(.*?)</title>", re.IGNORECASE | re.DOTALL)
HIDDEN = re.compile(r"<!--.*?-->|<(script|style)\b.*?</\1>", re.IGNORECASE | re.DOTALL)
TAG = re.compile(r"<[^>]*>")

KEY_REFUSED = "the key was refused, check api_key"
NO_HEADERS: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class ErrorObject:
    """What an expert said of an error, in one form.

    Attributes:
        words: its codes and types in words, the most exact first.
        status: the HTTP status that it names, None where it names none.
        type, code: as OpenAI's error objects have them.
    """

    message: str = ""
    words: tuple[str, ...] = ()
    status: int | None = None
    type: str | None = None
    code: str | None = None
    retry_after_s: float | None = None

    def has_code(self) -> bool:
        """Whether it says in a code or a type, not only in its text, what is wrong."""
        return self.status is not None or any(map(read_word_fault, self.words))

    def fault(self) -> Fault | None:
        """Whose fault it is, by code, then status, then type, then text; None where nothing tells."""
        faults = [fault for word in self.words if (fault := read_word_fault(word))]
        # The exact word counts for more than a number, the number for more than `invalid_request_error`.
        exact = next((fault for fault in faults if fault not in GENERIC), None)
        if exact is not None and (self.status is None or self.code in self.words[:1] or self.status == 400):
            return exact
        if self.status is not None:
            return read_status_fault(self.status)
        return faults[0] if faults else read_text_fault(self.message)


def find_error(value: Any) -> ErrorObject | None:
    """The error that a decoded JSON value is, None where it is none.

    Knows OpenAI's form, vLLM's old one (`{"object": "error"}`), Anthropic's (`{"type": "error"}`), Google's
    list, FastAPI's `detail`, OpenRouter's errors of a choice, flat forms as AWS has them, and bare text.
    """
    if isinstance(value, str):
        return ErrorObject(value)
    if isinstance(value, list):
        found = (find_error(item) for item in value[:3] if isinstance(item, dict))
        return next((error for error in found if error), None)
    if not isinstance(value, dict):
        return None
    if inner := value.get("error"):
        return _read_inner(inner, value)
    if choices := value.get("choices"):
        return _find_in_choices(choices)
    if (errors := value.get("errors")) and isinstance(errors, list):
        return _read_inner(errors[0], value)
    # Mistral puts FastAPI's form under `message`.
    inner = value.get("message")
    if detail := value.get("detail") or (inner.get("detail") if isinstance(inner, dict) else None):
        return _read_detail(detail, value)
    if isinstance(base := value.get("base_resp"), dict) and base.get("status_code"):
        return ErrorObject(str(base.get("status_msg") or ""))
    error = read_fields(value)
    if "error" in (value.get("object"), value.get("type"), value.get("status")):
        return error
    # A message alone may be anything; where it or a code means an error it is one.
    return error if error.message and error.fault() else None


def _read_inner(inner: Any, outer: Mapping[str, Any]) -> ErrorObject:
    """The error under `error`; what stands beside it may hold its status."""
    if isinstance(inner, dict):
        beside = {name: outer[name] for name in STATUS_FIELDS if name in outer}
        return read_fields({**beside, **inner})
    if isinstance(inner, list) and (first := find_error(inner)):
        return first
    text = inner if isinstance(inner, str) else "" if inner is True else str(inner)
    error = read_fields(outer)
    words = error.words if " " in text else (text, *error.words)
    return replace(error, message=error.message or text, words=words)


def _find_in_choices(choices: Any) -> ErrorObject | None:
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict):
            if inner := choice.get("error"):
                return _read_inner(inner, {})
            if choice.get("finish_reason") == "error":
                return ErrorObject("ended its answer with an error")
    return None


def _read_detail(detail: Any, outer: Mapping[str, Any]) -> ErrorObject:
    """FastAPI's errors: a text, an object, or a list of what is wrong with which field."""
    if isinstance(detail, dict):
        return find_error(detail) or read_fields(detail)
    if not isinstance(detail, list):
        return replace(read_fields(outer), message=str(detail))
    said = []
    for fault in detail[:5]:
        where = fault.get("loc") if isinstance(fault, dict) else None
        path = ".".join(map(str, where)) + ": " if isinstance(where, list) else ""
        said.append(path + (str(fault.get("msg", "")) if isinstance(fault, dict) else str(fault)))
    return ErrorObject("; ".join(said), ("validation_error",), 422)


MESSAGE_FIELDS = (
    "message",
    "error_message",
    "errorMessage",
    "error_msg",
    "msg",
    "error_description",
    "Message",
)
WORD_FIELDS = ("code", "error_code", "__type", "type", "error_type", "status", "reason")
STATUS_FIELDS = ("code", "status_code", "statusCode", "http_status", "http_code", "error_code", "status")


def read_fields(fields: Mapping[str, Any]) -> ErrorObject:
    """The facts of an error that lie flat in one object."""
    texts = (fields.get(name) for name in MESSAGE_FIELDS)
    message = next((text for text in texts if isinstance(text, str) and text), "")
    words = [text for name in WORD_FIELDS if isinstance(text := fields.get(name), str) and text != "error"]
    retry_after_s: float | None = None
    details = fields.get("details")
    for detail in details if isinstance(details, list) else ():
        # Google's RetryInfo and ErrorInfo (google/rpc/error_details.proto).
        if isinstance(detail, dict) and isinstance(delay := detail.get("retryDelay"), str):
            retry_after_s = read_wait_s(delay)
        if isinstance(detail, dict) and isinstance(reason := detail.get("reason"), str):
            words.insert(0, reason)
    if isinstance(metadata := fields.get("metadata"), dict):
        # OpenRouter's own message says only that a provider failed; that provider's words lie beside it.
        if isinstance(raw := metadata.get("raw"), str) and raw not in message:
            message = f"{message}: {raw}" if message else raw
        if isinstance(headers := metadata.get("headers"), dict):
            lowered = {str(name).lower(): str(text) for name, text in headers.items()}
            retry_after_s = read_retry_after_s(lowered) or read_rate_reset_s(lowered)
    code, kind = fields.get("code"), fields.get("type")
    return ErrorObject(
        message,
        tuple(words),
        next((status for name in STATUS_FIELDS if (status := _read_status(fields.get(name)))), None),
        kind if isinstance(kind, str) and kind != "error" else None,
        code if isinstance(code, str) else None,
        retry_after_s,
    )


def _read_status(value: Any) -> int | None:
    """A number of HTTP's range, also as text; FastChat and old vLLM append two digits (40303, 42901)."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    if 400 <= number < 600:
        return int(number)
    if not 40000 <= number < 60000:
        return None
    # FastChat's 403xx speak of the request: 40301 of its model, 40302 of a value, 40303 of its length.
    return {40301: 404, 40302: 400, 40303: 400}.get(int(number), int(number) // 100)


def judge_error(error: ErrorObject, http_status: int) -> Fault | None:
    """Whose fault an error is that came with this HTTP status; None: with a 200, and nothing tells."""
    said = error.fault()
    if http_status == 200:
        fault = said
    else:
        fault = read_status_fault(http_status)
        # Only a code changes whose fault a status is: a text may quote the request.
        if said in REFINES.get(http_status, ()) and error.has_code():
            fault = said
    return refine_by_text(fault, error.message[:MAX_LOOK_CHARS])


def build_failure(
    error: ErrorObject, http_status: int = 200, *, body: bytes = b"", headers: Mapping[str, str] = NO_HEADERS
) -> UpstreamError:
    """The failure that an error stands for.

    Args:
        http_status: 200 for an error inside an answer or a stream.
        body: what the expert sent; goes back to the client where the request is at fault.
        headers: of the response, names in lower case (or any case in a multidict).
    """
    fault = judge_error(error, http_status)
    status = _status_of(fault, error.status if http_status == 200 else http_status)
    if status == 503 and http_status == 200 and any("overload" in word.lower() for word in error.words):
        status = 529  # as Anthropic answers where it may still choose the status
    # An upstream that refuses a key may quote the key in its error.
    text = one_line(error.message)
    if fault == "key":
        text = "access was refused, check the key and what it may use" if status == 403 else KEY_REFUSED
    head = f"reported error {status}" if status else "reported an error"
    if http_status != 200:
        head = f"answered {http_status}"
    goes_back = fault in OF_REQUEST or status == 402
    # Only words of the known vocabulary: others may be the request's own, or a key.
    code = next(
        (
            word
            for word in (error.code, *error.words)
            if word and word.replace("_", "").isalnum() and read_word_fault(word)
        ),
        None,
    )
    return UpstreamError(
        "error_event" if fault is None else KIND.get(fault, "status"),
        f"{head}: {text}" if text else head,
        status=status,
        body=_envelope(error, body) if goes_back else None,
        retry_after_s=_wait_of(error, fault, headers) if fault in WAITS else None,
        context_too_long=fault == "too_long",
        cause=f"{head} ({one_line(code)})" if code and fault != "key" else head,
    )


def read_failure(http_status: int, body: bytes, headers: Mapping[str, str] = NO_HEADERS) -> UpstreamError:
    """The failure that a response with a status other than 200 stands for."""
    value = decode_leniently(body)
    error = find_error(value)
    is_page = error is None and not isinstance(value, dict)
    if error is None:
        error = read_fields(value) if isinstance(value, dict) else ErrorObject(first_line(body))
    failure = build_failure(error, http_status, body=body, headers=headers)
    # Not a word of a model's server: the address is wrong, which the operator mends and not the client.
    if is_page and http_status in (404, 405):
        failure.body = None
    return failure


def find_failure(payload: bytes) -> UpstreamError | None:
    """The failure that a whole answer, or the data of an event, tells of; None where it is no error."""
    if has_many_parts(payload):
        return None  # no error is so long; decoding it would fill the memory
    value = decode_leniently(payload)
    if value is None and payload.lstrip()[:1] not in PUNCTUATION:
        text = first_line(payload)
        value = text if ERROR_TEXT.match(text) or read_text_fault(text) else None
    error = find_error(value)
    return build_failure(error, body=payload) if error is not None else None


def _status_of(fault: Fault | None, status: int | None) -> int | None:
    """The HTTP status of a fault: the one that was named, where it can mean that fault."""
    if fault is None:
        return status
    if status is not None:
        if read_status_fault(status) == fault or (fault == "quota" and status == 429):
            return status
        if fault in OF_REQUEST and 400 <= status < 500 and status not in (401, 429):
            return status
    return FAULT_STATUS[fault]


def _wait_of(error: ErrorObject, fault: Fault, headers: Mapping[str, str]) -> float | None:
    wait_s = read_retry_after_s(headers)
    if wait_s is None:
        wait_s = error.retry_after_s
    # OpenAI sends these headers with every answer; only with a refused rate do they say when to come back.
    if wait_s is None and fault == "rate":
        wait_s = read_rate_reset_s(headers)
    if wait_s is None and (match := WAIT_TEXT.search(error.message[:MAX_LOOK_CHARS])):
        wait_s = read_wait_s(match[1])
    return wait_s


def _envelope(error: ErrorObject, body: bytes) -> bytes:
    """What the expert sent, where OpenAI's clients can read it; else its text as OpenAI's error object."""
    try:
        fields = decode_object(body)
        if "choices" not in fields and decode_object(fields["error"]).get("message", b"")[:1] == b'"':
            return body
    except (*BAD_JSON, KeyError, TypeError):
        pass
    kind = error.type or "invalid_request_error"
    message = one_line(error.message) or "the expert refused the request without saying why"
    return encode({"error": {"message": message, "type": kind, "param": None, "code": error.code}})


# -- texts


def decode_leniently(body: bytes) -> Any:
    """A JSON value, also with Python's NaN and Infinity; None where it is no JSON."""
    try:
        return msgspec.json.decode(body)
    except BAD_JSON:
        pass
    try:
        return msgspec.json.decode(without_nan(body))
    except BAD_JSON:
        return None


def without_nan(body: bytes) -> bytes:
    """JSON as Python's `json` writes it, its NaN and Infinity as null; strings stay as they are."""
    body = body.removeprefix(BOM)
    n_found = body.count(b"NaN") + body.count(b"Infinity")
    # The event loop stands still meanwhile: what is too much for that is left as it is.
    if not n_found or n_found > MAX_MENDED or len(body) > MAX_MENDED_BYTES:
        return body
    parts: list[bytes] = []
    kept = seen = n_quotes = 0
    for start, end in sorted([*_find_all(body, b"NaN"), *_find_all(body, b"Infinity")]):
        between = body[seen:start]
        if b"\\" in between:
            between = between.replace(b"\\\\", b"").replace(b'\\"', b"")
        n_quotes += between.count(b'"')
        seen = end
        if n_quotes % 2 == 0:  # outside of strings
            parts += (body[kept:start].removesuffix(b"-"), b"null")
            kept = end
    return b"".join([*parts, body[kept:]])


def _find_all(body: bytes, word: bytes) -> Iterator[tuple[int, int]]:
    start = body.find(word)
    while start >= 0:
        yield start, start + len(word)
        start = body.find(word, start + len(word))


def first_line(body: bytes) -> str:
    """What a page or a text says in one line: an HTML page's title, or its first text."""
    text = body[:MAX_LOOK_CHARS].decode("utf-8", "replace")
    if text.lstrip("\ufeff \t\r\n")[:1] != "<":
        return next((one_line(line) for line in text.splitlines() if line.strip()), "")
    if (title := TITLE.search(text)) and (said := one_line(html.unescape(TAG.sub(" ", title[1])))):
        return said
    # Each open comment is searched to the end: of a longer text that takes the event loop too long.
    parts = TAG.split(HIDDEN.sub(" ", text[:MAX_PAGE_CHARS]))
    return next((one_line(html.unescape(part)) for part in parts if part.strip()), "an HTML page")


def one_line(text: str) -> str:
    """A text in one line of at most 300 characters, without what looks like a key."""
    return hide_secrets(" ".join(text[:MAX_LOOK_CHARS].split()))[:MAX_TEXT_CHARS]
