"""How long an upstream asks to wait: `Retry-After` in every form, renewed limits, and words of a text."""

import email.utils
import math
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime

from ..errors import MAX_RETRY_AFTER_S

MAX_WAIT_CHARS = 100
NEAR_S = 30 * 86400.0
ISO_DATE = re.compile(r"\d{4}-\d\d-\d\d[T ]")
UNITS = r"(?:ms|milliseconds?|h(?:ou)?rs?|h|min(?:ute)?s?|m|sec(?:ond)?s?|s|days?|d)"
UNIT_S = {"ms": 0.001, "mi": 60.0, "m": 60.0, "h": 3600.0, "ho": 3600.0, "hr": 3600.0}
UNIT_S |= {"s": 1.0, "se": 1.0, "d": 86400.0, "da": 86400.0}
DURATION = re.compile(rf"(\d+(?:\.\d+)?)\s*({UNITS})", re.IGNORECASE)
WAIT_TEXT = re.compile(
    rf"(?:(?:try again|retry)\s+(?:in|after)|wait(?:\s+for)?)\s+((?:\d+(?:\.\d+)?\s*{UNITS}[\s,]*)+)",
    re.IGNORECASE,
)
"""A wait as a message names it: `Please try again in 1m2.5s`."""


def read_retry_after_s(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Seconds, at most an hour, that `retry-after-ms` or `retry-after` asks to wait; None: neither does."""
    milliseconds = headers.get("retry-after-ms")
    if milliseconds is not None and (seconds := read_wait_s(milliseconds + "ms", now)) is not None:
        return seconds
    value = headers.get("retry-after")
    return None if value is None else read_wait_s(value, now)


def read_rate_reset_s(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Seconds until the limit that is used up is renewed, from the headers `…ratelimit…reset…`."""
    used_up: list[float] = []
    others: list[float] = []
    for name, value in headers.items():
        lowered = name.lower()
        if "ratelimit" not in lowered or "reset" not in lowered:
            continue
        if (wait_s := read_wait_s(value, now)) is None:
            continue
        left = headers.get(name.replace("reset", "remaining").replace("Reset", "Remaining"))
        (used_up if left is not None and left.strip() in ("0", "0.0") else others).append(wait_s)
    # Without a word on what is left, the first to be renewed: a second refusal costs little.
    return max(used_up) if used_up else min(others, default=None)


def read_wait_s(value: str, now: float | None = None) -> float | None:
    """Seconds, at most an hour, from a number, a duration (`6m0s`), a date or a time since 1970.

    None where the value names no time to come. Never raises.
    """
    now = time.time() if now is None else now
    text = value.strip()[:MAX_WAIT_CHARS]
    seconds = _read_seconds(text, now)
    if seconds is None:
        seconds = _read_date_s(text, now)
    # A date in the past tells of a clock that is wrong, not of a wait that is over.
    if seconds is None or not 0 <= seconds < math.inf:
        return None
    return min(seconds, MAX_RETRY_AFTER_S)


def _read_seconds(text: str, now: float) -> float | None:
    try:
        number = float(text)
    except ValueError:
        if not text or DURATION.sub("", text).strip(" ,") or text.startswith("-"):
            return None
        return sum(float(match[1]) * UNIT_S[match[2][:2].lower()] for match in DURATION.finditer(text))
    # Some write the moment, in seconds or milliseconds since 1970, where a number of seconds is due.
    for moment in (number, number / 1000):
        if abs(moment - now) < NEAR_S:
            return moment - now
    return number


def _read_date_s(text: str, now: float) -> float | None:
    """Seconds until a date as HTTP (RFC 9110, section 5.6.7) or ISO 8601 writes it."""
    try:
        if ISO_DATE.match(text):
            moment = datetime.fromisoformat(text)
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - now
        date = email.utils.parsedate_tz(text)
        return None if date is None else email.utils.mktime_tz(date) - now
    except (ValueError, OverflowError, TypeError, IndexError):
        return None
