"""What language a text is in, guessed from its script and its commonest words."""

import re

from .embedders.tokens import head_and_tail
from .types import Query

LANGUAGE_SAMPLE_CHARS = 600

_MIN_HITS = 2

_SCRIPTS = tuple(
    (code, re.compile(letters))
    for code, letters in (
        ("ja", "[\u3040-\u30ff]"),
        ("ko", "[\uac00-\ud7a3\u1100-\u11ff]"),
        ("zh", "[\u4e00-\u9fff\u3400-\u4dbf]"),
        ("uk", "[іїєґІЇЄҐ]"),
        ("ru", "[\u0400-\u04ff]"),
        ("fa", "[پچژگ]"),
        ("ar", "[\u0600-\u06ff]"),
        ("he", "[\u0590-\u05ff]"),
        ("hi", "[\u0900-\u097f]"),
        ("th", "[\u0e00-\u0e7f]"),
        ("el", "[\u0370-\u03ff]"),
    )
)
"""Distinguishing letters first: kana before Han, letters that only Ukrainian has before Cyrillic."""

_COMMON = {
    "de": "der die das und ist nicht ein eine wie zu mit den von auf für wird bitte ich sich dem im wer wann",
    "fr": "le la les des est et un une que qui dans pour pas sur avec du au vous je quel quelle ce",
    "es": "el la los las de que y es en un una por con para del se cómo qué cuál su al quién cuándo",
    "it": "il lo la gli di che è una per con del della non sono come qual cosa nel si le chi quando",
    "pt": "os de que é em um uma para com da não se qual dos das na por são quem quando você",
    "nl": "de het een en van dat ik zijn met voor wat hoe aan er ook naar wie wanneer niet",
    "sv": "och att det är som en ett på för inte med hur vad den jag av har vem när",
    "pl": "w nie na się jest że z jak co czy dla są po tego ile jaki która kto kiedy",
    "tr": "bir ve bu için ne ile mı mi da nasıl çok olarak kaç nedir gibi olan daha kim",
    "vi": "là và của có một không cho được các trong người với như thế nào gì này những",
    "id": "yang dan di untuk dengan adalah ini itu dari apa tidak pada ke bagaimana dalam saya berapa",
    "en": "the of and to is in a an i what who when where why which how with that this for you are it was "
    "have does do did my please if on by at be as or no not can one find write",
}
"""English last: at a tie the other one wins, for `to`, `i` and `in` are words elsewhere too."""

_LANGUAGES_OF: dict[str, list[str]] = {}
for _code, _words in _COMMON.items():
    for _word in _words.split():
        _LANGUAGES_OF.setdefault(_word, []).append(_code)

_WORD = re.compile(r"[^\W\d_]+")


def guess_language(text: str) -> str:
    """ISO 639-1 code, or "und" where the text does not tell; looks at the first 600 characters."""
    sample = text[:LANGUAGE_SAMPLE_CHARS]
    if not sample.isascii():
        by_script = _by_script(sample)
        if by_script:
            return by_script
    return _by_words(sample)


def _by_script(sample: str) -> str | None:
    """The script that at least a third of the letters are written in."""
    n_letters = sum(map(str.isalpha, sample))
    for code, letters in _SCRIPTS:
        n_own = len(letters.findall(sample))
        if n_own and code in ("ja", "uk", "fa"):
            n_own = _count_script_letters(code, sample)
        if n_own * 3 >= n_letters > 0:
            return code
    return None


def _count_script_letters(code: str, sample: str) -> int:
    """Letters of the whole script of a language that is told from its kin by a few letters of its own."""
    shared = {"ja": "[\u3040-\u30ff\u4e00-\u9fff]", "uk": "[\u0400-\u04ff]", "fa": "[\u0600-\u06ff]"}
    return len(re.findall(shared[code], sample))


def _by_words(sample: str) -> str:
    hits = dict.fromkeys(_COMMON, 0)
    for word in _WORD.findall(sample.lower()):
        for code in _LANGUAGES_OF.get(word, ()):
            hits[code] += 1
    best = max(hits, key=hits.__getitem__)
    return best if hits[best] >= _MIN_HITS else "und"


SAMPLE_CHARS = 8000
"""How much of a long text is looked at for code."""

_FENCED = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
_CODE_LINE = re.compile(
    r"""^[ \t]*+(?:
        (?:def|class|async[ ]def|func|fn|interface|struct|enum)[ ]\w.*[:{(]
      | (?:import|package|using|\#include|\#define)[ ]\S+;?$
      | from[ ]\S+[ ]import[ ]
      | (?:for|if|elif|while|with|except|try|else)\b.*:$
      | (?:return|raise|print|echo|assert)\b.*[)\]};\w]$
      | (?:public|private|protected|static|const|let|var|function|void|int|double|float)\b.*[;{(=]
      | (?:SELECT|INSERT|UPDATE|DELETE|CREATE|FROM|WHERE|JOIN|GROUP[ ]BY|ORDER[ ]BY)\b
      | [\w.\[\]]+[ ]?[-+*/]?=[ ]?\S
      | @\w+ | >>>[ ] | \$[ ]\w | </?\w+[ >/]
      | .*[;{}]$
    ).*$""",
    re.MULTILINE | re.VERBOSE,
)


def query_of(text: str) -> Query:
    """The query that consists of this text alone."""
    return Query(
        text=text,
        n_input_tokens=estimate_tokens(text),
        language=guess_language(text),
        code_share=code_share(text),
    )


def estimate_tokens(text: str) -> int:
    """About how many tokens a language model reads: four ASCII bytes, or three others, each."""
    if text.isascii():
        return -(-len(text) // 4)
    n_bytes = len(text.encode("utf-8", "surrogatepass"))
    n_ascii = len(text.encode("ascii", "ignore"))
    return -(-n_ascii // 4) + -(-(n_bytes - n_ascii) // 3)


def code_share(text: str) -> float:
    """Share of the characters that stand in fenced blocks or in lines that look like code."""
    sample = head_and_tail(text, SAMPLE_CHARS)
    if not sample:
        return 0.0
    rest = _FENCED.sub("", sample) if "```" in sample else sample
    n_code = len(sample) - len(rest) + sum(len(line) for line in _CODE_LINE.findall(rest))
    return n_code / len(sample)
