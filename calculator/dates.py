"""Questions about the calendar. `today` is an argument: nothing here reads a clock."""

import calendar
import re
from datetime import date, timedelta

from .numbers import parse_number_words
from .types import Directives, NotComputable, Refused


def answer_date(core: str, directives: Directives, today: date) -> str:
    """The answer in words or digits.

    Raises:
        NotComputable: not wholly a question about the calendar.
        Refused: about a day that no calendar has.
    """
    core = core.removeprefix("the ")
    for form in (
        _answer_weekday_name,
        _answer_leap_year,
        _answer_length,
        _answer_today,
        _answer_span,
        _answer_shift,
        _answer_day_of_week,
    ):
        answer = form(core, directives, today)
        if answer is not None:
            return answer
    raise NotComputable


def _parse_count(text: str) -> int | None:
    if text in ("a", "an"):
        return 1
    if text.isdigit():
        return int(text)
    words = re.split(r"[- ]", text)
    spelled = parse_number_words(words)
    return spelled[0] if spelled and spelled[1] == len(words) else None


def _answer_weekday_name(core: str, directives: Directives, today: date) -> str | None:
    for pattern in (WEEKDAY_MOVED, WEEKDAY_AFTER):
        found = pattern.fullmatch(core)
        if found and (n := _parse_count(found["n"])) is not None:
            back = (found["way"] or "").strip() in BACK_WORDS
            days = n * (7 if found["unit"] == "week" else 1) * (-1 if back else 1)
            return calendar.day_name[(WEEKDAYS[found["start"]] + days) % 7]
    if found := NEXT_WEEKDAY.fullmatch(core):
        step = 1 if found["way"] in ("after", "follows", "following") else -1
        return calendar.day_name[(WEEKDAYS[found["start"]] + step) % 7]
    if found := RELATIVE_WEEKDAY.fullmatch(core) or RELATIVE_WEEKDAY_FIRST.fullmatch(core):
        days = (parse_date(found["asked"], today) - parse_date(found["known"], today)).days
        return calendar.day_name[(WEEKDAYS[found["start"]] + days) % 7]
    return None


def _answer_leap_year(core: str, directives: Directives, today: date) -> str | None:
    found = LEAP.fullmatch(core)
    if found is None:
        return None
    return "Yes" if calendar.isleap(int(found["year"])) else "No"


def _answer_length(core: str, directives: Directives, today: date) -> str | None:
    if found := HAS_DAYS.fullmatch(core):
        core = f"how many days are in {found['subject']}"
    if found := YEAR_DAYS.fullmatch(core):
        year = found["year"]
        n_days = 365 + (calendar.isleap(int(year)) if year.isdigit() else year == "leap year")
        return _append_unit(n_days, "day", directives)
    found = MONTH_DAYS.fullmatch(core)
    if found is None:
        return None
    month = MONTHS[found["month"].rstrip(".")]
    # February has two lengths, so a question without a year has no one answer.
    if month == 2 and not (found["year"] or found["leap"]):
        raise NotComputable
    leap = found["leap"]
    # Any leap year and any common year would do: only the length of the month is read.
    year = int(found["year"] or (2024 if leap and leap.endswith(" a leap year") else 2023))
    return _append_unit(calendar.monthrange(max(1, year), month)[1], "day", directives)


def _answer_today(core: str, directives: Directives, today: date) -> str | None:
    if found := TODAY_DAY.fullmatch(core):
        day = today + timedelta(days={"tomorrow": 1, "yesterday": -1}.get(found["when"], 0))
        what = found["what"]
        if what == "date":
            return format_date(day, core, directives)
        return (
            str(day.year)
            if what == "year"
            else calendar.month_name[day.month]
            if what == "month"
            else name_weekday(day)
        )
    found = TODAY.fullmatch(core)
    if found is None or not (found["date"] and re.search(r"today|current|is it", core)):
        return None
    return format_date(today, core, directives)


def _answer_span(core: str, directives: Directives, today: date) -> str | None:
    first: date | None
    for pattern in BETWEEN:
        if found := pattern.fullmatch(core):
            groups = found.groupdict()
            unit = groups.get("unit") or groups.get("unit2") or "day"
            if unit == "year" and (years := _parse_bare_years(found["first"], found["second"])):
                return _append_unit(abs(years[1] - years[0]), unit, directives)
            try:
                first, second = _parse_pair(found["first"], found["second"], today)
            except NotComputable:
                continue
            return _format_span(first, second, unit, directives)
    for pattern, since in ((UNTIL, False), (SINCE, True)):
        if found := pattern.fullmatch(core):
            day = parse_date(found["first" if since else "second"], today)
            # `Until Christmas`, asked on 27 December, means the next one.
            if not since and day < today and not re.search(r"\d{4}", core):
                day = shift_date(day, 1, "year")
            return _format_span(today, day, found["unit"], directives)
    return None


def _parse_bare_years(first: str, second: str) -> tuple[int, int] | None:
    pattern = r"(?:the year )?(\d{3,4})"
    one, two = re.fullmatch(pattern, first), re.fullmatch(pattern, second)
    return (int(one[1]), int(two[1])) if one and two else None


def _parse_pair(first: str, second: str, today: date) -> tuple[date, date]:
    """Both dates; a year given only once holds for both, as in `March 3 and April 5, 2024`."""
    years = [re.search(r"\b\d{4}\b", text) for text in (first, second)]
    if years[1] and not years[0] and re.search(MONTH, first):
        day = parse_date(f"{first} {years[1].group()}", today)
        later = parse_date(second, today)
        return (shift_date(day, -1, "year") if day > later else day), later
    if years[0] and not years[1] and re.search(MONTH, second):
        day = parse_date(f"{second} {years[0].group()}", today)
        earlier = parse_date(first, today)
        return earlier, (shift_date(day, 1, "year") if day < earlier else day)
    return parse_date(first, today), parse_date(second, today)


def _format_span(first: date, second: date, unit: str, directives: Directives) -> str:
    low, high = sorted((first, second))
    n_days = (high - low).days
    if unit in ("day", "week", "fortnight"):
        size = {"day": 1, "week": 7, "fortnight": 14}[unit]
        return _append_unit(n_days // size, unit, directives)  # full weeks
    n_months = (high.year - low.year) * 12 + high.month - low.month
    # Full months only: from 31 January 2024, 28 February is none and 29 February is one, because the day that
    # February does not have becomes its last.
    n_months -= shift_date(low, n_months, "month") > high
    return _append_unit(n_months // {"month": 1, "year": 12, "decade": 120}[unit], unit, directives)


def _answer_shift(core: str, directives: Directives, today: date) -> str | None:
    for pattern in MOVED:
        found = pattern.fullmatch(core)
        if found is None:
            continue
        groups: dict[str, str | None] = found.groupdict()
        n = _parse_count(found["n"])
        if n is None:
            continue
        try:
            start = parse_date(groups.get("start") or "today", today)
        except NotComputable:
            continue
        sign = -1 if groups.get("way") in BACK_WORDS else 1
        day = shift_date(start, sign * n, found["unit"])
        what = groups.get("what") or groups.get("what2") or "date"
        return name_weekday(day) if "week" in what else format_date(day, core, directives)
    return None


def _answer_day_of_week(core: str, directives: Directives, today: date) -> str | None:
    for pattern in WEEKDAY:
        if found := pattern.fullmatch(core):
            try:
                return name_weekday(parse_date(found["day"], today))
            except NotComputable:
                continue
    return None


def _append_unit(n: int, unit: str, directives: Directives) -> str:
    return str(n) if directives.number_only else f"{n} {unit}{'' if n == 1 else 's'}"


MONTHS = {name.lower(): n for n, name in enumerate(calendar.month_name) if name}
MONTHS |= {name.lower(): n for n, name in enumerate(calendar.month_abbr) if name} | {"sept": 9}
WEEKDAYS = {name.lower(): n for n, name in enumerate(calendar.day_name)}
# Longest first: an alternation takes the first branch that fits, and `mar` begins `march`.
MONTH = "(?:" + "|".join(sorted(MONTHS, key=len, reverse=True)) + r")\.?"

_DAY_NAME = "(?:(?:" + "|".join(WEEKDAYS) + "),? )?"
_DAY = r"\d{1,2}(?:st|nd|rd|th)?"
# Digits alone only with the year first (ISO 8601): 3/4/2024 is in March for some and in April for others.
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
# Only holidays with the same day every year: Easter follows the moon.
_FIXED = {
    "christmas": (12, 25), "christmas day": (12, 25), "christmas eve": (12, 24), "new year's day": (1, 1),
    "new year's eve": (12, 31), "new year": (1, 1), "new year's": (1, 1), "halloween": (10, 31),
    "valentine's day": (2, 14),
}  # fmt: skip
_RELATIVE = {
    "today": 0, "today's date": 0, "now": 0, "tomorrow": 1, "yesterday": -1, "day after tomorrow": 2,
    "day before yesterday": -2, "the day after tomorrow": 2, "the day before yesterday": -2,
}  # fmt: skip


def parse_date(text: str, today: date) -> date:
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
            return _build_date(
                int(parts.get("year") or today.year), month, int(re.sub(r"\D", "", parts["day"]))
            )
    raise NotComputable


def _build_date(year: int, month: int, day: int) -> date:
    try:
        return date(year, month, day)
    except ValueError:
        raise Refused("That date does not exist.") from None


def format_date(day: date, asked: str, directives: Directives) -> str:
    """The date in the form the question used: ISO, `3 March 2024` or `March 3, 2024`."""
    month = calendar.month_name[day.month]
    if directives.iso_dates or re.search(r"\b\d{4}-\d{1,2}-\d{1,2}\b", asked):
        return day.isoformat()
    if re.search(rf"\b{_DAY}(?: of)? {MONTH}", asked):
        return f"{day.day} {month} {day.year}"
    return f"{month} {day.day}, {day.year}"


def shift_date(start: date, amount: int, unit: str) -> date:
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


def name_weekday(day: date) -> str:
    """Such as `Friday`."""
    return calendar.day_name[day.weekday()]


_N = r"(?P<n>\d{1,7}|an?|one|[a-z]+(?:[- ][a-z]+){0,3}?)"
_UNIT = r"(?P<unit>day|week|fortnight|month|year|decade)s?"
_ASK = (
    r"(?:(?:so|ok|okay|hey|can you|could you|would you|tell me|do you know|i need to know|i want to know"
    r"|calculate"
    r"|compute|work out|find|find out|determine|figure out|give me|give|name|state)[ ,:]+)*"
)
_BE = r"(?:is|was|will be|would be|falls?|did|does|will|would|are|were|be)"
_NUMBER_OF = (
    rf"{_ASK}(?:how (?:many|much) (?:calendar |full |whole |total )?"
    r"|(?:what is |what's )?(?:the )?(?:total )?number of )"
)
BETWEEN = (
    re.compile(
        _NUMBER_OF + _UNIT + r"(?: of time)?(?: are| were| is| will be| did| have| lie| there)*(?: there)?"
        r"(?: elapsed| passed| pass| elapse| fall| gone by| go by)?"
        r"(?: in the period| in total)? (?:between|from|in between|separate) (?P<first>.+?) (?:and|to|until"
        r"|till|up to|through to) (?P<second>.+)"
    ),
    re.compile(
        rf"{_ASK}(?:what is|what's) (?:the )?(?:difference|time|distance|interval) (?:in {_UNIT} )?between "
        rf"(?P<first>.+?) and (?P<second>.+?)(?: in (?P<unit2>day|week)s)?"
    ),
    re.compile(_NUMBER_OF + _UNIT + r" (?:after|later than) (?P<first>.+?) is (?P<second>.+)"),
    re.compile(_NUMBER_OF + _UNIT + r" before (?P<second>.+?) is (?P<first>.+)"),
    re.compile(r"(?P<first>.+?) (?:to|until) (?P<second>.+?) in (?P<unit>day|week)s"),
)
UNTIL = re.compile(
    _NUMBER_OF
    + _UNIT
    + r"(?: are| is| there| remain| left)*(?: there| left)? (?:until|till|to|before) (?P<second>.+)"
)
SINCE = re.compile(
    _NUMBER_OF
    + _UNIT
    + r"(?: have| has| are| is| there)*(?: passed| elapsed| gone by| it been| been)? since (?P<first>.+)"
)
WEEKDAY = (
    re.compile(
        rf"{_ASK}(?:on )?(?:what|which) (?:day of (?:the )?week|weekday|day)(?: name)? {_BE}(?: it| the"
        rf" date| that)?(?: fall| falls| be)?(?: on)? (?P<day>.+?)"
        r"(?: fall| falls| fell| land| lands| be| occur| was| is)?(?: on)?"
    ),
    re.compile(
        rf"{_ASK}(?:what is |what's |what was )?(?:the )?(?:day of (?:the )?week|weekday)(?: name)? (?:of"
        rf"|for|on|is|was) (?P<day>.+)"
    ),
    re.compile(
        r"(?P<day>.+?) (?:is|was|falls on|fell on|will be|will fall on|lands on) (?:what|which|a what) "
        r"(?:day of (?:the )?week|weekday|day)"
    ),
)
_DIRECTION = (
    r"(?P<way>after|before|from|since|following|prior to|later than|earlier than|past|preceding|ahead of)"
)
MOVED = (
    re.compile(
        rf"{_ASK}(?:(?P<wants>what|which|on what|on which) (?P<what>day of (?:the )?week|weekday|date|day"
        rf"|calendar date) {_BE}(?: it)?(?: the date)?(?: exactly)?"
        rf"|(?:what is |what's |what will be |what was )?the (?P<what2>date|day|weekday|day of the week)(?:"
        rf" that is| which is| exactly| of)?|what(?: is|'s| comes| falls| was| will be)?|when (?:is"
        rf"|was))? ?"
        rf"(?:exactly |the )*{_N} {_UNIT} {_DIRECTION} (?P<start>.+?)(?: fall on| be| fall)?"
    ),
    re.compile(
        rf"{_ASK}(?:what|which) (?:date|day) (?:comes|falls|is|lies|lands|occurs|was|will it be) (?:exactly"
        rf" )?{_N} {_UNIT} {_DIRECTION} (?P<start>.+)"
    ),
    re.compile(rf"{_ASK}add {_N} {_UNIT} to (?P<start>.+)"),
    re.compile(rf"{_ASK}(?P<way>subtract|take) {_N} {_UNIT} from (?P<start>.+)"),
    re.compile(rf"{_ASK}(?:what is |what's )?(?P<start>.+?) (?P<way>plus|minus|\+|-) {_N} {_UNIT}"),
    re.compile(
        rf"{_ASK}(?:if )?(?:today is|it is|it's|the date is|starting (?:from|on|at)|given the date) "
        rf"(?P<start>.+?)(?: today)?,? (?:what|which) (?P<what>date|day|weekday|day of the week) (?:is it"
        rf"|will it be|was it|is|was|will be) (?:in )?{_N} {_UNIT}(?: from now| later| after| (?P<way>ago"
        rf"|earlier|before))?"
    ),
    re.compile(
        rf"{_ASK}(?:what|which) (?P<what>date|day|weekday|day of the week) (?:is it|will it be|was it|is"
        rf"|was|will be) (?:in )?{_N} {_UNIT}(?: from now| from today|(?: (?P<way>ago|before today)))?"
    ),
    re.compile(
        rf"{_ASK}(?:what is|what's|what was|what will be) (?:the )?(?P<what>date|day|weekday|day of the week)"
        rf" (?:in )?{_N} {_UNIT}(?: from now| from today|(?: (?P<way>ago|before today)))?"
    ),
)
BACK_WORDS = frozenset(
    {
        "before",
        "prior to",
        "earlier than",
        "preceding",
        "ahead of",
        "subtract",
        "take",
        "minus",
        "-",
        "ago",
        "earlier",
        "before today",
    }
)
LEAP = re.compile(
    r"(?:is|was|will|were)(?: the year)? (?P<year>\d{1,4})(?: be)? (?:a )?leap year(?: or not)?"
)
HAS_DAYS = re.compile(
    rf"(?P<subject>(?:(?:the )?month of )?{MONTH}(?: \d{{4}})?|(?:the year )?\d{{4}}|an? (?:leap |common"
    rf" )?year)"
    r" (?:has|have|contains?) how many (?P<unit>days)"
)
MONTH_DAYS = re.compile(
    _NUMBER_OF
    + (
        rf"days(?: are| were| is| does| did| will| there)*(?: there)?(?: in)?(?: the)?(?: month of)? "
        rf"(?P<month>{MONTH})(?: of| in|,)?(?: the year)? ?(?P<year>\d{{4}})?(?: have| has| contain)?"
        rf"(?P<leap> (?:in|of|during) a (?:non-)?leap year| in a common year)?"
    )
)
YEAR_DAYS = re.compile(
    _NUMBER_OF
    + (
        r"days(?: are| were| is| does| did| will| there)*(?: there)?(?: in)?(?: the year| a| an| one)? ?"
        r"(?P<year>\d{4}|leap year|non-leap year|common year|regular year|normal year|year)(?: have| has|"
        r" contain)?"
    )
)
TODAY = re.compile(
    rf"{_ASK}(?:what is |what's )?(?:(?:the )?(?P<date>date|today's date|current date|date today|date of"
    rf" today|current day)|day(?: of the week)?)(?: (?:is it|is|today|tomorrow|it is|be))*"
)
TODAY_DAY = re.compile(
    r"(?:what|which) (?P<what>day of the week|weekday|day|date|year|month) (?:is|was|will) (?:it )?(?:be"
    r" )?(?P<when>today|tomorrow|yesterday|it|now)(?: today| now)?"
)
WEEKDAY_MOVED = re.compile(
    rf"(?:if )?(?:today is|it is|it's|today's) (?P<start>{'|'.join(WEEKDAYS)})(?: today)?,? (?:what|which) "
    rf"(?:day(?: of the week)?|weekday) (?:is it|will it be|was it|is|was|will be) (?:in )?{_N} "
    rf"(?P<unit>day|week)s?(?: from now| later| from today| after(?: today)?|(?P<way> ago| before|"
    rf" earlier))?"
)
WEEKDAY_AFTER = re.compile(
    rf"(?:what|which) (?:day(?: of the week)?|weekday) (?:is|comes|falls|will be) {_N} (?P<unit>day|week)s?"
    rf" (?P<way>after|before|from) (?P<start>{'|'.join(WEEKDAYS)})"
)
_RELATIVE_DAY = "today|tomorrow|yesterday|the day after tomorrow|the day before yesterday"
RELATIVE_WEEKDAY = re.compile(
    rf"(?:if |suppose |given that )?(?P<known>{_RELATIVE_DAY}) (?:is|was|were|will be) (?:an? )?"
    rf"(?P<start>{'|'.join(WEEKDAYS)}),? (?:then )?(?:what|which) (?:day(?: of the week)?|weekday)"
    rf" (?:is|was|will be|will it be|is it|was it) (?P<asked>{_RELATIVE_DAY})"
)
RELATIVE_WEEKDAY_FIRST = re.compile(
    rf"(?:what|which) (?:day(?: of the week)?|weekday) (?:is|was|will be|is it|was it) "
    rf"(?P<asked>{_RELATIVE_DAY}),? (?:if|when) (?P<known>{_RELATIVE_DAY}) (?:is|was|were|will be) (?:an? )?"
    rf"(?P<start>{'|'.join(WEEKDAYS)})"
)
NEXT_WEEKDAY = re.compile(
    r"(?:what|which) (?:day(?: of the week)?|weekday) (?:is |comes |falls |was |will be )?(?:the day )?"
    r"(?:right |directly |immediately |just )?(?P<way>after|before|follows|precedes|following|preceding)"
    rf" (?P<start>{'|'.join(WEEKDAYS)})"
)
