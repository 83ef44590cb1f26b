"""Dates as people write them, and dates written back."""

import calendar
import re
from datetime import date, timedelta

from .types import Directives, NotComputable, Refused

MONTHS = {name.lower(): n for n, name in enumerate(calendar.month_name) if name}
MONTHS |= {name.lower(): n for n, name in enumerate(calendar.month_abbr) if name} | {"sept": 9}
WEEKDAYS = {name.lower(): n for n, name in enumerate(calendar.day_name)}
MONTH = "(?:" + "|".join(sorted(MONTHS, key=len, reverse=True)) + r")\.?"

_DAY_NAME = "(?:(?:" + "|".join(WEEKDAYS) + "),? )?"
_DAY = r"\d{1,2}(?:st|nd|rd|th)?"
_FORMS = (
    re.compile(_DAY_NAME + r"(?P<year>\d{4})[-/.](?P<month>\d{1,2})[-/.](?P<day>\d{1,2})"),
    re.compile(
        _DAY_NAME
        + rf"(?P<month>{MONTH}) (?:the )?(?P<day>{_DAY})(?:,| of)? ?(?:in |the year )?(?P<year>\d{{4}})"
    ),
    re.compile(
        _DAY_NAME
        + rf"(?:the )?(?P<day>{_DAY})(?: of)?[ -](?P<month>{MONTH})(?:,? (?:in |of )?|-)(?P<year>\d{{4}})"
    ),
    re.compile(_DAY_NAME + rf"(?P<month>{MONTH}) (?:the )?(?P<day>{_DAY})"),
    re.compile(_DAY_NAME + rf"(?:the )?(?P<day>{_DAY})(?: of)? (?P<month>{MONTH})"),
)
_FIXED = {
    "christmas": (12, 25), "christmas day": (12, 25), "christmas eve": (12, 24), "new year's day": (1, 1),
    "new year's eve": (12, 31), "new year": (1, 1), "new year's": (1, 1), "halloween": (10, 31),
    "valentine's day": (2, 14),
}  # fmt: skip
_RELATIVE = {
    "today": 0, "today's date": 0, "now": 0, "tomorrow": 1, "yesterday": -1, "day after tomorrow": 2,
    "day before yesterday": -2, "the day after tomorrow": 2, "the day before yesterday": -2,
}  # fmt: skip


def parsed(text: str, today: date) -> date:
    """The date that all of the text names; without a year, that of this year.

    Raises:
        NotComputable: it names none.
        Refused: it names a day that no calendar has.
    """
    text = text.strip(" ,.?").removeprefix("on ").removeprefix("the date ")
    if text in _RELATIVE:
        return today + timedelta(days=_RELATIVE[text])
    name, _, year = text.rpartition(" ")
    if text in _FIXED:
        return date(today.year, *_FIXED[text])
    if name in _FIXED and re.fullmatch(r"\d{4}", year) and int(year):
        return date(int(year), *_FIXED[name])
    for form in _FORMS:
        if found := form.fullmatch(text):
            parts = found.groupdict()
            month = MONTHS.get(parts["month"].rstrip(".")) or int(parts["month"])
            return _date(int(parts.get("year") or today.year), month, int(re.sub(r"\D", "", parts["day"])))
    raise NotComputable


def _date(year: int, month: int, day: int) -> date:
    try:
        return date(year, month, day)
    except ValueError:
        raise Refused("That date does not exist.") from None


def shown(day: date, asked: str, directives: Directives) -> str:
    """The date in the form the question used: ISO, `3 March 2024` or `March 3, 2024`."""
    month = calendar.month_name[day.month]
    if directives.iso_dates or re.search(r"\b\d{4}-\d{1,2}-\d{1,2}\b", asked):
        return day.isoformat()
    if re.search(rf"\b{_DAY}(?: of)? {MONTH}", asked):
        return f"{day.day} {month} {day.year}"
    return f"{month} {day.day}, {day.year}"


def moved(start: date, amount: int, unit: str) -> date:
    """Calendar arithmetic; a day the target month does not have becomes its last.

    Raises:
        Refused: outside the years 1 to 9999.
    """
    try:
        if unit in ("day", "week", "fortnight"):
            return start + timedelta(days=amount * {"day": 1, "week": 7, "fortnight": 14}[unit])
        n_months = start.year * 12 + start.month - 1 + amount * {"month": 1, "year": 12, "decade": 120}[unit]
        year, month = n_months // 12, n_months % 12 + 1
        return date(year, month, min(start.day, calendar.monthrange(year, month)[1]))
    except (OverflowError, ValueError, calendar.IllegalMonthError):
        raise Refused("That date is outside the years 1 to 9999.") from None


def weekday(day: date) -> str:
    """Such as `Friday`."""
    return calendar.day_name[day.weekday()]
