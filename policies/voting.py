"""Votes over the answers of several experts: the short form of each answer, and the majority.

Two answers agree when they say the same in the form the question asks for: the same number, the same option,
the same yes or no, or the same few words.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import log
from typing import Literal

Form = Literal["number", "choice", "yes_no", "text"]

MAX_TEXT_CHARS = 60
"""Longer answers are prose: no two are alike, and there is nothing to count."""

N_ALTERNATIVES: Mapping[Form, int] = {"yes_no": 2, "choice": 4, "number": 10, "text": 10}
"""The number of possible answers: the more there are, the less often wrong ones agree."""

_OPTIONS = re.compile(r"^\s{0,8}\(?([A-Ja-j])[.):]\s", re.MULTILINE)
_ASKS_YES_NO = re.compile(r"\b(?:yes or no|yes/no|true or false|true/false)\b", re.IGNORECASE)
_ASKS_NUMBER = re.compile(
    r"\b(?:how (?:many|much|old|far|long|tall)|calculate|compute|evaluate|what is the (?:sum|product|"
    r"difference|quotient|remainder|value|total|average|mean|area|perimeter|probability))\b"
    r"|\d\s{0,3}[-+*/×÷^]\s{0,3}\(?-?\d",
    re.IGNORECASE,
)
_CLAIM = re.compile(
    r"(?:\\boxed\s{0,3}\{|####|\banswer\s{0,3}(?:is|=|:)\s{0,3}:?|\banswer\*\*\s{0,3}:)\s{0,3}([^\n}]{1,200})",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"[-−]?\d+(?:,\d{3})*(?:\.\d+)?(?:\s?/\s?0*[1-9]\d*)?")
_LETTER = re.compile(r"\(?\b([A-J])\b(?![\'’])\)?")
_LONE_LETTER = re.compile(r"\W{0,4}([A-Ja-j])(?:\W|$)")
_YES_NO = re.compile(r"\b(yes|no|true|false)\b", re.IGNORECASE)
_ARTICLE = re.compile(r"^(?:the|an?)\s+")
_EDGES = " \t\r\n*_`'\"“”‘’.,:;!?()[]{}$"


def detect_form(question: str) -> Form | None:
    """The form of answer that a question asks for; None where it does not say."""
    if len(set(_OPTIONS.findall(question))) > 1:
        return "choice"
    if _ASKS_YES_NO.search(question):
        return "yes_no"
    return "number" if _ASKS_NUMBER.search(question) else None


def extract_answer(answer: str, form: Form | None = None) -> str | None:
    """The short form of an answer, so that equal means agreed; None where it has none.

    With a form that is known, the last of its kind counts in a long answer; else only an explicit claim
    ("the answer is …") or an answer that is short as a whole.
    """
    claims = _CLAIM.findall(answer)
    claim = (claims[-1] if claims else answer).strip(_EDGES)
    if form is None or form == "text":
        return _short(claim)
    read = _READERS[form]
    found = read(claim, bool(claims))
    return found if found is not None or not claims else read(answer, False)


def _short(claim: str) -> str | None:
    if not claim or len(claim) > MAX_TEXT_CHARS or "\n" in claim:
        return None
    if (whole := _NUMBER.fullmatch(claim)) is not None:
        return _value(whole.group())
    return _ARTICLE.sub("", " ".join(claim.casefold().split())) or None


def _number(text: str, claimed: bool) -> str | None:
    """The first number of a claim, which may go on; the last of an argument."""
    found = _NUMBER.findall(text)
    return _value(found[0 if claimed else -1]) if found else None


def _choice(text: str, claimed: bool) -> str | None:
    """A letter that stands first, or the last that stands alone in capitals."""
    if (first := _LONE_LETTER.match(text)) and (claimed or not text[1:2].isspace()):
        return first.group(1).upper()
    found = _LETTER.findall(text)
    return found[0 if claimed else -1] if found else None


def _yes_no(text: str, claimed: bool) -> str | None:
    """The first word that decides: what follows explains it."""
    found = _YES_NO.search(text)
    return None if found is None else "yes" if found.group().lower() in ("yes", "true") else "no"


_READERS = {"number": _number, "choice": _choice, "yes_no": _yes_no}


def _value(digits: str) -> str:
    above, _, below = digits.replace("−", "-").replace(",", "").replace(" ", "").partition("/")
    value = Fraction(above)
    return str(value / int(below) if below else value)


@dataclass(frozen=True, slots=True)
class Vote:
    """The winning answer and the experts that gave it, the best first.

    share: of the weight of all experts that answered, also of those whose answer cannot be read
    """

    answer: str
    voters: tuple[str, ...]
    share: float


def vote(
    answers: Mapping[str, str],
    quality: Mapping[str, float],
    form: Form | None = None,
    times: Mapping[str, int] | None = None,
) -> Vote | None:
    """The answer with most weight behind it; None where no answer can be read.

    answers: by expert, best first: of equal weights the answer of the better expert wins
    quality: expected share of right answers, by expert
    times: how often an expert's vote counts, where that is not once

    A vote weighs log(q / (1 − q)) + log(n − 1), what it is worth as evidence among n alternatives when
    experts err independently; never nothing.
    """
    ballots = {expert: extract_answer(text, form) for expert, text in answers.items()}
    n = times or {}
    weights = {expert: n.get(expert, 1) * weight(quality[expert], form) for expert in ballots}
    # Evidence for an answer among n alternatives, errors independent and even: log(q / ((1 − q) / (n − 1))).
    # Two experts of quality 0.6 outvote one of 0.8 on a number (n = 10), and not on yes or no (n = 2).
    totals: dict[str, float] = {}
    for expert, answer in ballots.items():
        if answer is not None:
            totals[answer] = totals.get(answer, 0.0) + weights[expert]
    if not totals:
        return None
    # Rounded, so that the order of addition cannot break a tie.
    winner = max(totals, key=lambda answer: round(totals[answer], 9))  # the first of equals
    voters = [expert for expert, answer in ballots.items() if answer == winner]
    voters.sort(key=lambda expert: -quality[expert])
    return Vote(winner, tuple(voters), totals[winner] / sum(weights.values()))


def weight(quality: float, form: Form | None) -> float:
    """What the vote of an expert of this quality weighs; at least 0.05."""
    # Clipped: a predicted 0 or 1 is an estimate and must not decide alone.
    q = min(max(quality, 0.01), 0.99)
    return max(log(q / (1 - q)) + log(N_ALTERNATIVES[form or "text"] - 1), 0.05)
