"""The words, numbers and texts of errors, and whose fault each tells of."""

import re
from http import HTTPStatus
from typing import Literal

from ..errors import FailureKind

Fault = Literal[
    "request", "too_long", "unsupported", "key", "quota", "model", "rate", "overload", "timeout", "server"
]
"""Whose fault it is: the first three the request's (of which two move on), the others the expert's."""

FAULT_STATUS: dict[Fault, int] = {
    "request": 400,
    "too_long": 400,
    "unsupported": 400,
    "key": 401,
    "quota": 429,
    "model": 404,
    "rate": 429,
    "overload": 503,
    "timeout": 504,
    "server": 500,
}
STATUS_FAULT: dict[int, Fault] = {
    **dict.fromkeys((401, 403, 407), "key"),
    402: "quota",
    410: "model",
    **dict.fromkeys((404, 405, 409, 424, 451), "unsupported"),
    **dict.fromkeys((408, 504, 522, 524), "timeout"),
    429: "rate",
    # 498 is Groq's "no capacity", 529 Anthropic's "overloaded".
    **dict.fromkeys((498, 503, 529), "overload"),
}
KIND: dict[Fault, FailureKind] = {"request": "refused", "unsupported": "unsupported", "quota": "quota"}
WAITS: frozenset[Fault] = frozenset({"rate", "overload", "quota", "timeout", "server"})
GENERIC: frozenset[Fault] = frozenset({"request", "server"})
OF_REQUEST: frozenset[Fault] = frozenset({"request", "too_long", "unsupported", "model"})
"""Whose status is any 4xx that was named; the model's name counts too, as it is said with 404 or 400."""
REFINES: dict[int, frozenset[Fault]] = {
    400: frozenset({"too_long", "unsupported", "key", "quota", "model", "rate", "overload"}),
    403: frozenset({"request", "quota"}),
    404: frozenset({"model"}),
    413: frozenset({"too_long", "rate"}),
    422: frozenset({"too_long", "unsupported", "model"}),
    429: frozenset({"quota"}),
    500: frozenset({"request", "too_long", "unsupported", "model", "rate", "overload"}),
}
"""By HTTP status, the faults that an error's own code may tell more exactly: Bedrock throttles with 400."""


def _spellings(fault: Fault, words: str) -> dict[str, Fault]:
    return dict.fromkeys(words.split(), fault)


WORD_FAULT: dict[str, Fault] = {
    **_spellings(
        "request",
        "invalidrequest badrequest invalidargument failedprecondition outofrange validation requestvalidation"
        " unprocessableentity invalidparameter invalidvalue invalidtype missingrequiredparameter value"
        " contentfilter contentpolicyviolation contentmoderation moderation invalidprompt invalidimage"
        " datainspectionfailed responsibleaipolicyviolation unsupportedmediatype invalidjson jsoninvalid",
    ),
    **_spellings(
        "too_long",
        "contextlengthexceeded contextwindowexceeded exceedcontextsize stringabovemaxlength contextoverflow"
        " requesttoolarge payloadtoolarge prompttoolong maxtokensexceeded",
    ),
    **_spellings(
        "unsupported",
        "unsupportedparameter unsupportedvalue unsupportedparams unknownparameter toolusefailed"
        " jsonvalidatefailed",
    ),
    **_spellings(
        "key",
        "authentication invalidapikey apikeyinvalid invalidauthentication unauthenticated unauthorized"
        " incorrectapikey missingapikey expiredapikey permission permissiondenied forbidden accessdenied"
        " unrecognizedclient expiredtoken",
    ),
    **_spellings(
        "quota",
        "insufficientquota billing billinghardlimitreached billingnotactive insufficientbalance arrearage"
        " insufficientcredits paymentrequired creditbalancetoolow quotaexceeded exceededcurrentquota",
    ),
    **_spellings(
        "model", "notfound modelnotfound deploymentnotfound invalidmodel modelnotavailable unknownmodel"
    ),
    **_spellings(
        "rate",
        "ratelimit ratelimitexceeded ratelimited ratelimitreached toomanyrequests resourceexhausted"
        " throttling throttled requests tokens limitrequests limitburstrate requestlimitexceeded"
        " servicequotaexceeded",
    ),
    **_spellings(
        "overload",
        "overloaded serveroverloaded engineoverloaded modeloverloaded serviceunavailable unavailable"
        " servernotready modelnotready modelloading capacityexceeded servererroroverloaded slowdown",
    ),
    **_spellings("timeout", "timeout requesttimeout apitimeout deadlineexceeded gatewaytimeout modeltimeout"),
    **_spellings(
        "server", "api server internal internalserver internalfailure upstream badgateway provider unknown"
    ),
}
"""Codes and types of errors, in lower case without punctuation and the endings `error` and `exception`."""

TOO_LONG = re.compile(
    r"context_length_exceeded|exceed_context_size|string_above_max_length|context[ _]length|context window"
    r"|context size|context limit|maximum context|prompt is too long|input is too long|reduce the length"
    r"|too many (?:input )?tokens|input token count|maximum number of tokens|maximum prompt length"
    r"|reduce your message size|request too large for|must have less than \d+ tokens",
    re.IGNORECASE,
)
UNSUPPORTED = re.compile(
    r"unsupported (?:parameter|value)|unrecognized request argument|extra inputs are not permitted"
    r"|extra fields not permitted"
    r"|(?:unexpected|unknown|unrecognized) (?:keyword )?(?:argument|parameter|field)"
    r"|(?:parameter|value|option|argument|tools?|tool use|function calling|streaming|json mode|logprobs"
    r"|response[_ ]format|json_schema|system (?:prompt|message|role)s?|developer instruction)\W+[^.]{0,40}"
    r"(?:not supported|unsupported|not enabled|isn't supported)"
    r"|(?:does not|doesn't|do not) support (?:the )?(?:parameter|tools?\b|tool use|function|streaming|system"
    r"|developer|json|response|structured|logprobs|temperature|top_|n\b|stop)"
    r"|response_format\S*\s*(?:type\W+(?:is unavailable|must be)|type is unavailable|must be)"
    r"|auto\"? tool choice requires|may only be set to|supports at most \d+ completion tokens"
    r"|maximum allowed number of output tokens",
    re.IGNORECASE,
)
NO_MODEL = re.compile(
    r"^model: |\bmodel\b.{0,120}?(?:not found|does(?: not|n't) exist|not available)", re.I | re.S
)
# Anchored: a message may quote the request, and a client must not cool an expert by words of its own.
BAD_KEY = re.compile(r"(?:api key not valid|invalid api key|incorrect api key)", re.IGNORECASE)
NO_CREDIT = re.compile(r"(?:your credit balance is too low|insufficient (?:balance|credits?))", re.IGNORECASE)
TOO_LARGE = re.compile(r"request too large", re.IGNORECASE)
AFFORDABLE = re.compile(r"fewer max_tokens|can only afford", re.IGNORECASE)
FLAGGED = re.compile(r"moderation|flagged|content policy|safety", re.IGNORECASE)

CODED_TEXT = re.compile(
    r"(?:error code|status(?:[ _]code)?|\bhttp(?:/\d(?:\.\d)?)?|^error)\W{0,3}([45]\d\d)\b", re.I
)
LEADING_CODE = re.compile(r"\s*([45]\d\d)\b")
PHRASES = {status.phrase.lower(): status.value for status in HTTPStatus if status >= 400}
MAX_LOOK_CHARS = 8192
TEXT_FAULTS: tuple[tuple[re.Pattern[str], Fault], ...] = (
    (re.compile(r"quota|insufficient (?:balance|credit|funds)|billing", re.I), "quota"),
    (re.compile(r"rate.?limit|too many requests|throttl|\btpm\b|\brpm\b", re.I), "rate"),
    (
        re.compile(r"overloaded|at capacity|no capacity|temporarily unavailable|currently loading", re.I),
        "overload",
    ),
    (re.compile(r"api.?key|unauthori[sz]ed|authentication|permission denied", re.I), "key"),
    (re.compile(r"timed out|time-?out", re.I), "timeout"),
    (re.compile(r"bad request|invalid request|validation error", re.I), "request"),
)
"""What a text without any code tells, the first that matches."""


def read_status_fault(status: int) -> Fault:
    """Whose fault a status of 3xx, 4xx or 5xx tells of."""
    return STATUS_FAULT.get(status, "request" if 400 <= status < 500 else "server")


def read_word_fault(word: str | None) -> Fault | None:
    if not word:
        return None
    # Alibaba's have a second part after a dot (`Throttling.RateQuota`), AWS's one before (`x#Throttling`).
    for part in dict.fromkeys((word, word.partition(".")[0], word.rpartition("#")[2])):
        plain = re.sub(r"[^a-z0-9]", "", part.lower())
        for ending in ("", "error", "exception"):
            if plain.endswith(ending) and (fault := WORD_FAULT.get(plain.removesuffix(ending))):
                return fault
    return None


def read_text_fault(text: str) -> Fault | None:
    text = text[:MAX_LOOK_CHARS]
    if status := PHRASES.get(text.strip(" .!").lower()):
        return read_status_fault(status)
    if match := LEADING_CODE.match(text) or CODED_TEXT.search(text):
        return read_status_fault(int(match[1]))
    return next((fault for pattern, fault in TEXT_FAULTS if pattern.search(text)), None)


def refine_by_text(fault: Fault | None, text: str) -> Fault | None:
    """The fault that a message tells of more exactly than its code."""
    if fault in ("request", "server", "unsupported", None) and TOO_LONG.search(text):
        return "too_long"
    # Groq refuses a prompt larger than its quota of a minute: waiting never helps.
    if fault == "rate" and TOO_LARGE.match(text):
        return "too_long"
    if fault == "quota" and AFFORDABLE.search(text):
        return "unsupported"
    if fault == "key" and FLAGGED.search(text) and not BAD_KEY.match(text):
        return "unsupported"
    if fault == "unsupported" and NO_MODEL.search(text):
        return "model"
    if fault not in ("request", None):
        return fault
    if BAD_KEY.match(text):
        return "key"
    if NO_CREDIT.match(text):
        return "quota"
    return "unsupported" if UNSUPPORTED.search(text) else fault
