"""What a right answer is, as people write it, and as the grader that suits it expects it."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from ..grading import GRADERS, ExpectedError, check_expected

JUDGE = "judge"
"""The grader of open-ended prompts: no code, but a model that compares answers (`profile --judge`)."""


SPELLINGS = {
    "exact_match": "exact", "contains": "text", "includes": "text", "string": "text", "match": "text",
    "regex": "pattern", "regexp": "pattern", "multiple_choice": "choice", "mcq": "choice",
    "numeric": "number", "numerical": "number", "math": "number",
    "bool": "yes_no", "boolean": "yes_no", "true_false": "yes_no",
    "llm": JUDGE, "model": JUDGE, "open": JUDGE, "open_ended": JUDGE, "none": JUDGE, "python": "code",
}  # fmt: skip
"""Other names that graders go by."""
SHAPES = {
    "text": '"Paris", or ["Paris", "City of Paris"]',
    "translation": '"casa"',
    "exact": '"Paris"',
    "number": '30, or {"value": 3.14, "tolerance": 0.01}',
    "yes_no": "true, or false",
    "choice": '"B", with a field `options` such as {"A": "red", "B": "blue"}',
    "keywords": '["refund", "30 days"], all of which must be said',
    "members": '{"pool": ["oak", "elm", "ash"], "count": 2}',
    "order": '["first", "second", "third"]',
    "literal": '"exactly these characters"',
    "pattern": '"a regular expression for the whole answer"',
    "bullets": '{"count": 3, "marker": "-"}',
    "json": '{"name": "Ada"}, the object that the answer must equal',
    "code": '{"name": "double", "tests": ["assert double(2) == 4"]}',
}
"""By grader, what its `expected` looks like."""

MAX_TOKENS = {
    "keywords": 256,
    "members": 256,
    "bullets": 256,
    "order": 256,
    "json": 256,
    "code": 512,
    JUDGE: 512,
}
USUAL_MAX_TOKENS = 64
MAX_PHRASE_WORDS = 12
"""A longer answer is a model answer, which no code can compare: it becomes the reference of a judge."""
_NUMBER = re.compile(r"[-+−]?[$€£]?\s?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?\s?[%$€]?")
_DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+")


class FieldError(ValueError):
    """What is wrong with one field, and how it should be written."""

    def __init__(self, name: str, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.field, self.message, self.fix = name, message, fix


@dataclass(frozen=True, slots=True)
class Row:
    """The fields of one probe as they stand in the file; `text_only` where every value is a string (CSV)."""

    line: int
    values: Mapping[str, Any]
    text_only: bool = False
    decimal_comma: bool = False


def plain_name(name: object) -> str:
    """A field or grader as it is looked up: lower case, with underscores."""
    return re.sub(r"[\s-]+", "_", str(name).strip().lower())


def read_options(value: Any) -> dict[str, str]:
    """Letters and texts of a multiple choice; empty where there is none."""
    if value is None:
        return {}
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            value = [part.strip() for part in re.split(r"[|\n]", value) if part.strip()]
    if isinstance(value, list) and 2 <= len(value) <= 8:
        return {chr(ord("A") + n): str(text) for n, text in enumerate(value)}
    if isinstance(value, dict) and value and all(re.fullmatch("[A-H]", str(key).upper()) for key in value):
        return {str(key).upper(): str(text) for key, text in value.items()}
    raise FieldError(
        "options", "field 'options' must be a list of two to eight, or an object", '["red", "blue"]'
    )


def read_grading(values: Mapping[str, Any], options: dict[str, str], row: Row) -> tuple[str, Any, str]:
    """Grader, what it expects, and the reference answer."""
    reference = values.get("reference", "")
    if not isinstance(reference, str):
        raise FieldError("reference", "field 'reference' must be a string")
    value = values.get("expected")
    if isinstance(value, str) and not value.strip():
        value = None
    wanted = values.get("grader")
    if wanted is not None and (not isinstance(wanted, str) or not wanted.strip()):
        raise FieldError("grader", "field 'grader' must be a non-empty string")
    grader = SPELLINGS.get(plain_name(wanted), plain_name(wanted)) if wanted else None
    if grader is None:
        grader, expected = _infer(value, options, row)
    elif grader == JUDGE:
        expected = None
    elif grader not in GRADERS:
        known = ", ".join(sorted([*GRADERS, JUDGE]))
        near = get_close_matches(grader, [*GRADERS, *SPELLINGS], 1)
        fix = f"did you mean {near[0]!r}?" if near else f"there are {known}"
        raise FieldError("grader", f"grader {grader!r} is unknown", fix)
    elif value is None:
        raise FieldError("expected", "field 'expected' is missing", f"such as {SHAPES[grader]}")
    else:
        expected = _shape(grader, value, options, row)
    if grader == JUDGE:
        return grader, None, reference or (value if isinstance(value, str) else "")
    try:
        check_expected(grader, expected)
    except ExpectedError as error:
        raise FieldError("expected", str(error), f"{grader} needs {SHAPES[grader]}") from None
    return grader, expected, reference


def _infer(value: Any, options: dict[str, str], row: Row) -> tuple[str, Any]:
    """The grader that suits an answer, and the answer as this grader takes it."""
    if value is None:
        return JUDGE, None
    if options:
        return "choice", _shape("choice", value, options, row)
    if isinstance(value, bool):
        return "yes_no", {"answer": value}
    if isinstance(value, int | float):
        return "number", {"value": value}
    if isinstance(value, dict):
        # `{"text": [...]}`, as in SQuAD, or what a grader expects, or an object to be answered.
        if isinstance(value.get("text"), list):
            return "text", _shape("text", value["text"], options, row)
        for grader, key in (
            ("text", "accept"),
            ("number", "value"),
            ("keywords", "groups"),
            ("code", "tests"),
        ):
            if key in value:
                return grader, value
        return "json", {"value": value}
    if isinstance(value, list):
        return "text", _shape("text", value, options, row)
    text = str(value).strip()
    if text.rstrip(".!").lower() in ("yes", "no", "true", "false"):
        return "yes_no", _shape("yes_no", text, options, row)
    if _read_number(text, row.decimal_comma) is not None:
        return "number", _shape("number", text, options, row)
    if text[0] in "{[" and isinstance(_json_or_none(text), dict | list):
        return "json", {"value": _json_or_none(text)}
    if len(text.split()) > MAX_PHRASE_WORDS:
        return JUDGE, None
    return "text", _shape("text", text, options, row)


def _shape(grader: str, value: Any, options: dict[str, str], row: Row) -> Any:
    """The simple form of an expectation as the grader takes it; another form stays as it is."""
    if isinstance(value, str) and value.strip()[:1] in ("{", "[") and row.text_only:
        value = _json_or_none(value) or value
    if grader == "json":
        return value if isinstance(value, dict) and value.keys() == {"value"} else {"value": value}
    if isinstance(value, dict):
        return value
    if grader in ("text", "translation", "exact"):
        several = value if isinstance(value, list) else re.split(r"\s*\|\s*", str(value).strip())
        return {"accept": [str(item).strip() for item in several if str(item).strip()]}
    if grader == "number":
        number = value if not isinstance(value, str) else _read_number(value, row.decimal_comma)
        return {"value": value if number is None else number}
    if grader == "yes_no":
        word = str(value).strip().rstrip(".!").lower()
        return {"answer": {"yes": True, "true": True, "no": False, "false": False}.get(word, value)}
    if grader == "choice":
        return {"answer": _letter(value, options), "options": options}
    if grader in ("keywords", "order"):
        items = value if isinstance(value, list) else [part.strip() for part in str(value).split(",")]
        if grader == "order":
            return {"items": items}
        return {"groups": [item if isinstance(item, list) else [str(item)] for item in items]}
    return {{"literal": "text", "pattern": "pattern"}.get(grader, "value"): value}


def _letter(value: Any, options: dict[str, str]) -> Any:
    """The letter of the right option, given as letter, text or number (0 is the first, as in MMLU)."""
    if not options:
        raise FieldError("options", "field 'options' is missing", SHAPES["choice"])
    text = str(value).strip()
    if text.upper() in options:
        return text.upper()
    for letter, option in options.items():
        if option.strip().lower() == text.lower():
            return letter
    letters = list(options)
    if text.isdigit() and int(text) < len(letters):
        return letters[int(text)]
    raise FieldError("expected", f"{text!r} is none of the options {', '.join(letters)}", SHAPES["choice"])


def _read_number(text: str, decimal_comma: bool) -> float | None:
    plain = text.strip().replace("−", "-")
    if decimal_comma and _DECIMAL_COMMA.fullmatch(plain):
        return float(plain.replace(",", "."))
    if not _NUMBER.fullmatch(plain):
        return None
    return float(re.sub(r"[^\d.+-]", "", plain))


def _json_or_none(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
