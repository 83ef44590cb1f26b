"""How people ask about the calendar, as patterns over the whole question."""

import re

from .calendar_words import MONTH, WEEKDAYS

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
NEXT_WEEKDAY = re.compile(
    r"(?:what|which) (?:day(?: of the week)?|weekday) (?:is |comes |falls |was |will be )?(?:the day )?"
    r"(?:right |directly |immediately |just )?(?P<way>after|before|follows|precedes|following|preceding)"
    rf" (?P<start>{'|'.join(WEEKDAYS)})"
)
