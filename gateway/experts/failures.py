"""The failure that a status, an error body or an exception of the HTTP client stands for."""

import email.utils
import re
import time

import aiohttp
import msgspec

from ..errors import UpstreamError

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
