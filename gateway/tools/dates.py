"""Questions about the calendar. `today` is an argument: nothing here reads a clock."""

import calendar
import re
from datetime import date, timedelta

from .calendar_words import MONTH, MONTHS, WEEKDAYS, moved, parsed, shown, weekday
from .date_questions import (
    BACK_WORDS,
    BETWEEN,
    HAS_DAYS,
    LEAP,
    MONTH_DAYS,
    MOVED,
    NEXT_WEEKDAY,
    RELATIVE_WEEKDAY,
    SINCE,
    TODAY,
    TODAY_DAY,
    UNTIL,
    WEEKDAY,
    WEEKDAY_AFTER,
    WEEKDAY_MOVED,
    YEAR_DAYS,
)
from .numbers import number_from_words
from .types import Directives, NotComputable


def dates(core: str, directives: Directives, today: date) -> str:
    """The answer in words or digits.

    Raises:
        NotComputable: not wholly a question about the calendar.
        Refused: about a day that no calendar has.
    """
    core = core.removeprefix("the ")
    for form in (_weekday_names, _leap_year, _lengths, _today, _spans, _moves, _days_of_week):
        answer = form(core, directives, today)
        if answer is not None:
            return answer
    raise NotComputable


def _count(text: str) -> int | None:
    if text in ("a", "an"):
        return 1
    if text.isdigit():
        return int(text)
    words = re.split(r"[- ]", text)
    spelled = number_from_words(words)
    return spelled[0] if spelled and spelled[1] == len(words) else None


def _weekday_names(core: str, directives: Directives, today: date) -> str | None:
    for pattern in (WEEKDAY_MOVED, WEEKDAY_AFTER):
        found = pattern.fullmatch(core)
        if found and (n := _count(found["n"])) is not None:
            back = (found["way"] or "").strip() in BACK_WORDS
            days = n * (7 if found["unit"] == "week" else 1) * (-1 if back else 1)
            return calendar.day_name[(WEEKDAYS[found["start"]] + days) % 7]
    if found := NEXT_WEEKDAY.fullmatch(core):
        step = 1 if found["way"] in ("after", "follows", "following") else -1
        return calendar.day_name[(WEEKDAYS[found["start"]] + step) % 7]
    if found := RELATIVE_WEEKDAY.fullmatch(core):
        days = (parsed(found["asked"], today) - parsed(found["known"], today)).days
        return calendar.day_name[(WEEKDAYS[found["start"]] + days) % 7]
    return None


def _leap_year(core: str, directives: Directives, today: date) -> str | None:
    found = LEAP.fullmatch(core)
    if found is None:
        return None
    return "Yes" if calendar.isleap(int(found["year"])) else "No"


def _lengths(core: str, directives: Directives, today: date) -> str | None:
    if found := HAS_DAYS.fullmatch(core):
        core = f"how many days are in {found['subject']}"
    if found := YEAR_DAYS.fullmatch(core):
        year = found["year"]
        n_days = 365 + (calendar.isleap(int(year)) if year.isdigit() else year == "leap year")
        return _with_unit(n_days, "day", directives)
    found = MONTH_DAYS.fullmatch(core)
    if found is None:
        return None
    month = MONTHS[found["month"].rstrip(".")]
    if month == 2 and not (found["year"] or found["leap"]):
        raise NotComputable
    leap = found["leap"]
    year = int(found["year"] or (2024 if leap and leap.endswith(" a leap year") else 2023))
    return _with_unit(calendar.monthrange(max(1, year), month)[1], "day", directives)


def _today(core: str, directives: Directives, today: date) -> str | None:
    if found := TODAY_DAY.fullmatch(core):
        day = today + timedelta(days={"tomorrow": 1, "yesterday": -1}.get(found["when"], 0))
        what = found["what"]
        if what == "date":
            return shown(day, core, directives)
        return (
            str(day.year)
            if what == "year"
            else calendar.month_name[day.month]
            if what == "month"
            else weekday(day)
        )
    found = TODAY.fullmatch(core)
    if found is None or not (found["date"] and re.search(r"today|current|is it", core)):
        return None
    return shown(today, core, directives)


def _spans(core: str, directives: Directives, today: date) -> str | None:
    first: date | None
    for pattern in BETWEEN:
        if found := pattern.fullmatch(core):
            groups = found.groupdict()
            unit = groups.get("unit") or groups.get("unit2") or "day"
            if unit == "year" and (years := _bare_years(found["first"], found["second"])):
                return _with_unit(abs(years[1] - years[0]), unit, directives)
            try:
                first, second = _pair(found["first"], found["second"], today)
            except NotComputable:
                continue
            return _span(first, second, unit, directives)
    for pattern, since in ((UNTIL, False), (SINCE, True)):
        if found := pattern.fullmatch(core):
            day = parsed(found["first" if since else "second"], today)
            if not since and day < today and not re.search(r"\d{4}", core):
                day = moved(day, 1, "year")
            return _span(today, day, found["unit"], directives)
    return None


def _bare_years(first: str, second: str) -> tuple[int, int] | None:
    pattern = r"(?:the year )?(\d{3,4})"
    one, two = re.fullmatch(pattern, first), re.fullmatch(pattern, second)
    return (int(one[1]), int(two[1])) if one and two else None


def _pair(first: str, second: str, today: date) -> tuple[date, date]:
    """Both dates; a year given only once holds for both, as in `March 3 and April 5, 2024`."""
    years = [re.search(r"\b\d{4}\b", text) for text in (first, second)]
    if years[1] and not years[0] and re.search(MONTH, first):
        day = parsed(f"{first} {years[1].group()}", today)
        later = parsed(second, today)
        return (moved(day, -1, "year") if day > later else day), later
    if years[0] and not years[1] and re.search(MONTH, second):
        day = parsed(f"{second} {years[0].group()}", today)
        earlier = parsed(first, today)
        return earlier, (moved(day, 1, "year") if day < earlier else day)
    return parsed(first, today), parsed(second, today)


def _span(first: date, second: date, unit: str, directives: Directives) -> str:
    low, high = sorted((first, second))
    n_days = (high - low).days
    if unit in ("day", "week", "fortnight"):
        size = {"day": 1, "week": 7, "fortnight": 14}[unit]
        return _with_unit(n_days // size, unit, directives)  # full weeks
    n_months = (high.year - low.year) * 12 + high.month - low.month
    n_months -= moved(low, n_months, "month") > high
    return _with_unit(n_months // {"month": 1, "year": 12, "decade": 120}[unit], unit, directives)


def _moves(core: str, directives: Directives, today: date) -> str | None:
    for pattern in MOVED:
        found = pattern.fullmatch(core)
        if found is None:
            continue
        groups: dict[str, str | None] = found.groupdict()
        n = _count(found["n"])
        if n is None:
            continue
        try:
            start = parsed(groups.get("start") or "today", today)
        except NotComputable:
            continue
        sign = -1 if groups.get("way") in BACK_WORDS else 1
        day = moved(start, sign * n, found["unit"])
        what = groups.get("what") or groups.get("what2") or "date"
        return weekday(day) if "week" in what else shown(day, core, directives)
    return None


def _days_of_week(core: str, directives: Directives, today: date) -> str | None:
    for pattern in WEEKDAY:
        if found := pattern.fullmatch(core):
            try:
                return weekday(parsed(found["day"], today))
            except NotComputable:
                continue
    return None


def _with_unit(n: int, unit: str, directives: Directives) -> str:
    return str(n) if directives.number_only else f"{n} {unit}{'' if n == 1 else 's'}"
