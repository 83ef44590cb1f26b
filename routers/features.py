"""What routing reads of a text: language, code, length; dense vectors, hashed words, and form in [0, 1]."""

import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from math import log1p
from types import ModuleType
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from .errors import EmbedderError
from .types import Bools, Floats, Floats32, Ints, Query, Tier

compiled: ModuleType | None
"""`routers/_compiled.c`; None where no compiler was at hand: NumPy computes the same, in more time."""
try:
    compiled = import_module("routers._compiled")
except ImportError:
    compiled = None

MAX_CACHED_QUERIES = 1024
"""Of more queries nothing derived is kept: there memory counts for more than microseconds."""

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

_MARKS = dict(zip(_COMMON, "abcdefghijklmnop", strict=False))
"""A letter for each language: the hits of a text are one string, which `str.count` counts in C."""

_MARKS_OF: dict[str, str] = {}
for _code, _words in _COMMON.items():
    for _word in _words.split():
        _MARKS_OF[_word] = _MARKS_OF.get(_word, "") + _MARKS[_code]

_WORD = re.compile(r"[^\W\d_]+")
_ASCII_LETTERS = "".join(chr(code).lower() if chr(code).isalpha() else " " for code in range(128))
"""By code: what `_WORD` finds in ASCII is what stands between blanks once all else is blank."""
_LATIN_LETTERS = bytes([*range(65, 91), *range(97, 123)])
_ASCII, _NOT_ASCII = bytes(range(128)), bytes(range(128, 256))
_WIDE_WORD = re.compile(r"[\w\s]")


def _beyond_ascii(text: str) -> str:
    """The characters of a text that are not ASCII."""
    return text.encode("utf-8", "surrogatepass").translate(None, _ASCII).decode("utf-8", "surrogatepass")


def guess_language(text: str) -> str:
    """ISO 639-1 code, or "und" where the text does not tell; looks at the first 600 characters."""
    sample = text[:LANGUAGE_SAMPLE_CHARS]
    if not sample.isascii():
        by_script = _by_script(sample)
        if by_script:
            return by_script
        if not _WIDE_WORD.search(_beyond_ascii(sample)):
            sample = sample.encode("ascii", "replace").decode()  # signs separate words, whichever they are
    is_plain = sample.isascii()
    words = sample.translate(_ASCII_LETTERS).split() if is_plain else _WORD.findall(sample.lower())
    marks = "".join([_MARKS_OF[word] for word in words if word in _MARKS_OF])
    hits = [marks.count(mark) for mark in _MARKS.values()]  # in the order of _COMMON, which breaks ties
    most = max(hits)
    return [*_MARKS][hits.index(most)] if most >= _MIN_HITS else "und"


def _by_script(sample: str) -> str | None:
    """The script that at least a third of the letters are written in."""
    # Typographic quotes and a few accents are no script: most texts with them end here.
    data = sample.encode("utf-8", "surrogatepass")
    if 3 * len(_beyond_ascii(sample)) < len(data) - len(data.translate(None, _LATIN_LETTERS)):
        return None
    n_letters = sum(map(str.isalpha, sample))
    for code, letters in _SCRIPTS:
        n_own = len(letters.findall(sample))
        if n_own and code in ("ja", "uk", "fa"):
            n_own = _count_script_letters(code, sample)
        if n_own * 3 >= n_letters > 0:  # names and code are often Latin in any script
            return code
    return None


def _count_script_letters(code: str, sample: str) -> int:
    """Letters of the whole script of a language that is told from its kin by a few letters of its own."""
    shared = {"ja": "[\u3040-\u30ff\u4e00-\u9fff]", "uk": "[\u0400-\u04ff]", "fa": "[\u0600-\u06ff]"}
    return len(re.findall(shared[code], sample))


SAMPLE_CHARS = 8000
"""How much of a long text is looked at for code."""

_FENCED = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)  # a fence left open runs to the end
# `*+` never gives back what it took (Python 3.11): no backtracking through lines of blanks. A line starts
# with the feed before it, a literal that C searches for; `^` would be tried at every character.
_CODE_LINE = re.compile(
    r"""\n[ \t]*+(?:
        (?:def|class|async[ ]def|func|fn|interface|struct|enum)[ ]\w.*[:{(]
      | (?:import|package|using|\#include|\#define)[ ]\S+;?$
      | from[ ]\S+[ ]import[ ]
      | (?:for|if|elif|while|with|except|try|else)\b.*:$
      | (?:return|raise|print|echo|assert)\b.*[)\]};\w]$
      | (?:public|private|protected|static|const|let|var|function|void|int|double|float)\b.*[;{(=]
      | (?:SELECT|INSERT|UPDATE|DELETE|CREATE|FROM|WHERE|JOIN|GROUP[ ]BY|ORDER[ ]BY)\b
      | [\w.\[\]]+[ ]?[-+*/]?=[ ]?\S
      | @\w+ | >>>[ ] | \$[ ]\w | </?\w+[ >/]
      | .*+(?<=[;{}])
    ).*$""",
    re.MULTILINE | re.VERBOSE,
)


def head_and_tail(text: str, n_chars: int) -> str:
    """`text` itself if short enough, else its first three quarters of `n_chars` and its last quarter."""
    if len(text) <= n_chars:
        return text
    n_tail = n_chars // 4
    return f"{text[: n_chars - n_tail]} {text[len(text) - n_tail :]}"


MAX_TEXT_CHARS = 100_000
"""What routing keeps of a text: more than any feature reads of its head and tail."""


def query_of(text: str) -> Query:
    """The query that consists of this text alone; of a very long one its head and tail."""
    n_input_tokens = estimate_tokens(text)
    if len(text) > MAX_TEXT_CHARS:
        text = head_and_tail(text, MAX_TEXT_CHARS)
    return Query(text, n_input_tokens)


def describe_query(query: Query) -> dict[str, Any]:
    """A query for people: its fields, what language it seems to be in, and how much of it looks like code."""
    shown = {name: getattr(query, name) for name in Query.__struct_fields__ if name != "declined"}
    return {**shown, "language": guess_language(query.text), "code_share": code_share(query.text)}


def estimate_tokens(text: str) -> int:
    """About how many tokens a language model reads: four ASCII bytes, or three others, each."""
    if text.isascii():
        return -(-len(text) // 4)
    data = text.encode("utf-8", "surrogatepass")
    n_ascii = len(data.translate(None, _NOT_ASCII))
    return -(-n_ascii // 4) + -(-(len(data) - n_ascii) // 3)


def code_share(text: str) -> float:
    """Share of the characters that stand in fenced blocks or in lines that look like code."""
    sample = head_and_tail(text, SAMPLE_CHARS)
    if not sample:
        return 0.0
    rest = _FENCED.sub("", sample) if "```" in sample else sample
    lines = _CODE_LINE.findall(f"\n{rest}")
    n_code = len(sample) - len(rest) + sum(map(len, lines)) - len(lines)  # without the feeds before them
    return n_code / len(sample)


FORM_VERSION = 1
"""Part of fingerprints: raise it whenever a value changes."""

FORM_SAMPLE_CHARS = 8192
"""Longer texts are counted in head and tail; only `length` sees all of it."""

_SHARES = {
    "digits": (b"0123456789", 5.0),
    "capitals": (bytes(range(65, 91)), 5.0),
    "punctuation": (b".,:;!?'-", 5.0),
    "code_signs": (b"{}()[]<>=_;#&|", 5.0),
    "formula_signs": (b"\\$^", 20.0),
    "operators": (b"+-*/=%<>", 10.0),
    "non_ascii": (_NOT_ASCII, 1.0),
}
"""Share of the bytes that are among these, times a scale, at most 1."""

_COUNTS = {
    "lines": (b"\n", log1p(200)),
    "words": (b" \n\t", log1p(5000)),
    "questions": (b"?", log1p(10)),
    "quotes": (b'"`', log1p(40)),
}
"""log(1 + count) over the value that scores 1."""

_COUNTED = np.zeros((256, len(_SHARES) + len(_COUNTS)))
"""(256, n_sums) 1 where a byte is counted: from one tally of the bytes of a text come all sums."""
for _column, (_codes, _) in enumerate((*_SHARES.values(), *_COUNTS.values())):
    _COUNTED[list(_codes), _column] = 1.0

# A line begins with the feed before it: C searches for a literal, `^` would be tried at every character.
_PATTERNS = {
    "numbers": (r"\d+(?:[.,]\d+)*+", log1p(50)),
    "options": (r"\n[ \t]{0,8}\(?[A-Ja-j1-9][.):](?=\s)", log1p(8)),
    "bullets": (r"\n[ \t]{0,8}[-*•](?=\s)", log1p(20)),
    "units": (
        r"\d\s?(?:[kcm]?m|km/h|mph|[km]?g|lbs?|oz|[km]?l|miles?|feet|foot|inch(?:es)?|yards?|met(?:er|re)s?"
        r"|lit(?:er|re)s?|pounds?|ounces?|gallons?|grams?|°\s?[CF]|hours?|minutes?|seconds?|days?|weeks?"
        r"|months?|years?|dollars?|cents?|percent|%)(?!\w)",
        log1p(8),
    ),
}
"""log(1 + matches) over the value that scores 1."""

_FLAGS = ("arithmetic", "fence", "blank", "ends_asking", "ends_open")
_ARITHMETIC = r"\d\s{0,3}[-+*/×÷^=]\s{0,3}\d"
_MOST_BLANKS = 8
"""With more of them behind it a sign does not end the text."""

_PHRASES = {
    "yes_no": ("yes or no", "true or false", "yes/no", "true/false"),
    "brief": ("one word", "one sentence", "briefly", "only the", "just the", "single word"),
    "stepwise": ("step by step", "show your work", "explain why", "in detail", "reason"),
}
"""1 where one of the phrases is found, in any case."""

_DIGIT_RUNS = bytes(
    48 if chr(code).isdecimal() else 46 if chr(code) in ".," else 32 for code in range(128)
).ljust(256)
"""By byte: a digit is 0, a point or a comma a point, and all else blank."""


class _Scans:
    """The patterns of one sample, with the digits and blanks of ASCII or of Unicode."""

    def __init__(self, flags: int) -> None:
        self.numbers, self.options, self.bullets, self.units = [
            re.compile(pattern, flags).findall for pattern, _ in _PATTERNS.values()
        ]
        self.arithmetic = re.compile(_ARITHMETIC, flags).search
        self.is_plain = flags == re.ASCII

    def count(self, sample: str, data: bytes, n_digits: float) -> tuple[int, ...]:
        """How often each pattern is found in a sample, and 1 for each flag; `data` is the sample as UTF-8."""
        lined = f"\n{sample}"
        n_numbers = n_units = has_arithmetic = 0
        if n_digits or not self.is_plain:
            n_units, has_arithmetic = len(self.units(sample)), self.arithmetic(sample) is not None
            if self.is_plain:
                # A third of the time of the pattern: one point or comma joins digits, several part them.
                runs = data.translate(_DIGIT_RUNS).replace(b"..", b" ").split()
                n_numbers = len(runs) - runs.count(b".")
            else:
                n_numbers = len(self.numbers(sample))
        bare = sample.rstrip()
        end = bare[-1:] if len(sample) - len(bare) <= _MOST_BLANKS else ""
        return (
            n_numbers,
            len(self.options(lined)),
            len(self.bullets(lined)),
            n_units,
            has_arithmetic,
            "```" in sample,
            "__" in sample,
            end in ("?", "？"),
            end in (":", "："),
        )


# Digits and blanks of Unicode are slower, and needed only for letters, digits or blanks beyond ASCII.
_ASCII_SCANS, _UNICODE_SCANS = _Scans(re.ASCII), _Scans(0)

_LONGEST_CHARS = 100_000

FORM_NAMES: tuple[str, ...] = ("length", *_SHARES, *_COUNTS, *_PATTERNS, *_FLAGS, *_PHRASES)

_SCALES: Floats = np.array([scale for _, scale in _SHARES.values()])
_FULL: Floats = np.array([full for _, full in (*_COUNTS.values(), *_PATTERNS.values())])
_LOGS: Floats = np.array([log1p(n) for n in range(FORM_SAMPLE_CHARS + 2)])
"""log(1 + n), for all that may be counted in a sample."""


def form_features(texts: Sequence[str]) -> Floats:
    """(n_texts, n_form) in [0, 1], columns as in FORM_NAMES."""
    if not compiled:
        return read_form(texts)
    rows = np.empty((len(texts), len(FORM_NAMES)))
    # What digits and blanks are beyond ASCII is for Python's patterns to tell.
    if others := compiled.form([*texts], rows):
        rows[others] = read_form([texts[n] for n in others])
    return rows


def read_form(texts: Sequence[str]) -> Floats:
    """What `form_features` gives, by patterns alone."""
    if not texts:
        return np.empty((0, len(FORM_NAMES)))
    # One thing of all texts after the other: its code stays in the processor's caches.
    samples = [
        text if len(text) <= FORM_SAMPLE_CHARS else head_and_tail(text, FORM_SAMPLE_CHARS) for text in texts
    ]
    encoded = [sample.encode("utf-8", "surrogatepass") for sample in samples]
    tally = [np.bincount(np.frombuffer(data, np.uint8), minlength=256) for data in encoded]
    sums = np.array(tally).dot(_COUNTED)  # (n_texts, n_sums)
    scans = [
        _ASCII_SCANS
        if len(data) == len(sample) or not _WIDE_WORD.search(_beyond_ascii(sample))
        else _UNICODE_SCANS
        for sample, data in zip(samples, encoded, strict=True)
    ]
    read = zip(scans, samples, encoded, sums[:, 0].tolist(), strict=True)
    found = np.array([scan.count(sample, data, n_digits) for scan, sample, data, n_digits in read])
    n_shares, n_patterns = len(_SHARES), len(_PATTERNS)
    counts = np.concatenate((sums[:, n_shares:], found[:, :n_patterns]), axis=1)  # (n_texts, n_counts)
    parts = (
        [[log1p(len(text)) / log1p(_LONGEST_CHARS)] for text in texts],
        sums[:, :n_shares] * _SCALES / [[len(data) or 1] for data in encoded],
        _LOGS[counts.astype(np.int64)] / _FULL,
        found[:, n_patterns:],
        [
            [any(map(lower.__contains__, phrases)) for phrases in _PHRASES.values()]
            for lower in map(str.lower, samples)
        ],
    )
    return np.minimum(np.concatenate(parts, axis=1), 1.0)


N_SLOTS = 1 << 15

LEXICAL_VERSION = 1
"""Part of fingerprints: raise it whenever slots change."""

MAX_CHARS = 2048
"""Characters beyond Latin that are read per text."""

_BITS = 15
_SHIFT = np.uint32(32 - _BITS)
_SALTS = np.array([0x9E3779B1, 0x85EBCA6B, 0xC2B2AE35, 0x27D4EB2F], np.uint32)
"""Odd multipliers: token, token pair, character, character pair."""

_FIRST_BEYOND_LATIN = 0x370
_SPACES_AND_SIGNS = (0x2000, 0x2BFF)


def lexical_slots(ids: Sequence[Sequence[int] | NDArray[np.uint32]], texts: Sequence[str]) -> Ints:
    """(n_texts, n_slots) int64 in [0, N_SLOTS): slots of each text, ascending, then -1 to the widest.

    Slots are hashed tokens and pairs of neighbours. Characters beyond Latin, many of which a WordPiece
    vocabulary knows only as unknown, count too, alone and in pairs.
    """
    if not compiled:
        return hash_words(ids, texts)
    data, width = compiled.slots([np.ascontiguousarray(tokens, np.uint32) for tokens in ids], [*texts])
    return np.frombuffer(data, np.int64).reshape(len(texts), width)


def hash_words(ids: Sequence[Sequence[int] | NDArray[np.uint32]], texts: Sequence[str]) -> Ints:
    """What `lexical_slots` gives, by NumPy alone."""
    rows = []
    for tokens, text in zip(ids, texts, strict=True):
        hashed = _ngrams(np.asarray(tokens, np.uint32), _SALTS[0], _SALTS[1])
        if not text.isascii():
            letters = _beyond_latin(text[:MAX_CHARS])
            hashed = np.concatenate([hashed, _ngrams(letters, _SALTS[2], _SALTS[3])])
        hashed.sort()
        # np.unique does the same, but its checks take longer than a short row's sort.
        first = np.empty(len(hashed), bool)
        first[:1] = True
        np.not_equal(hashed[1:], hashed[:-1], out=first[1:])
        rows.append(hashed[first])
    if len(rows) == 1:
        return rows[0][None].astype(np.int64)
    slots = np.full((len(rows), max(map(len, rows), default=0)), -1, np.int64)  # (n_texts, n_slots)
    for row, found in enumerate(rows):
        slots[row, : len(found)] = found
    return slots


def _ngrams(codes: NDArray[np.uint32], alone: np.uint32, paired: np.uint32) -> NDArray[np.uint32]:
    """Slots of each code and of each pair of neighbours; unsigned products wrap, which is the hash."""
    n = len(codes)
    slots = np.empty(max(2 * n - 1, 0), np.uint32)
    if not n:
        return slots
    np.multiply(codes, alone, out=slots[:n])
    pairs = np.bitwise_xor(slots[: n - 1], codes[1:], out=slots[n:])  # order counts: (a, b) is not (b, a)
    pairs *= paired
    slots >>= _SHIFT  # the upper bits are mixed best
    return slots


def _beyond_latin(text: str) -> NDArray[np.uint32]:
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    low, high = _SPACES_AND_SIGNS
    return codes[(codes >= _FIRST_BEYOND_LATIN) & ((codes < low) | (codes > high))]


@dataclass(frozen=True, slots=True)
class Features:
    """What predictors read of a batch of queries, from one embedder tier.

    dense:   (n_queries, dim) float32, rows of unit length
    lexical: (n_queries, n_slots) int64, ids of hashed token n-grams, padded with -1
    form:    (n_queries, n_form) float64 format features, see `routers.features.FORM_NAMES`
    """

    tier: Tier
    dense: Floats32
    lexical: Ints
    form: Floats
    _derived: dict[Hashable, Floats32] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.dense)

    def take(self, rows: Ints | Bools | slice) -> "Features":
        """The same features for a subset of the queries."""
        return Features(self.tier, self.dense[rows], self.lexical[rows], self.form[rows])

    def join(self, other: "Features") -> "Features":
        """The features of both batches, these first; they are of one tier."""
        width = max(self.lexical.shape[1], other.lexical.shape[1])
        lexical = [
            np.pad(part, ((0, 0), (0, width - part.shape[1])), constant_values=-1)
            for part in (self.lexical, other.lexical)
        ]
        return Features(
            self.tier,
            np.concatenate((self.dense, other.dense)),
            np.concatenate(lexical),
            np.concatenate((self.form, other.form)),
        )

    def once(self, what: Hashable, derive: Callable[["Features"], Floats32]) -> Floats32:
        """The result of `derive`, computed once and shared by all callers: do not change it."""
        found = self._derived.get(what)
        if found is None:
            found = derive(self)
            if len(found) <= MAX_CACHED_QUERIES:
                self._derived[what] = found
        return found


@runtime_checkable
class Embedder(Protocol):
    """Text to unit vectors. Blocking: to be called in a worker thread unless it takes microseconds."""

    @property
    def fingerprint(self) -> str:
        """Names weights, quantisation, pooling and limits: equal fingerprints give equal vectors."""

    @property
    def dim(self) -> int: ...

    def embed(self, texts: Sequence[str]) -> Floats32:
        """(n_texts, dim) float32, rows of unit length; (0, dim) for no text. Order is kept."""


class TokenEmbedder(Embedder, Protocol):
    """An embedder whose tokens can be had first: words and vector share one tokenisation."""

    def ids(self, text: str) -> Any:
        """Non-negative ids below 2³², an array or a list of at most as many as the embedder reads."""

    def embed_ids(self, ids: Sequence[Any]) -> Floats32:
        """(n_texts, dim) unit rows; what `embed` gives for the texts the ids are of."""


class FeatureExtractor:
    """Features of either tier; words and form are the same in both, and a text is tokenised once for them.

    `static` is a `StaticEmbedder` (in tests a `HashingEmbedder`). Without an encoder only the static tier can
    be asked for. `extract` may be called from many threads.
    """

    def __init__(self, static: TokenEmbedder, encoder: Embedder | None = None) -> None:
        self._static = static
        self._encoder = encoder

    @property
    def fingerprints(self) -> dict[Tier, str]:
        """Per tier it can extract, what its features depend on: equal fingerprints give equal features."""
        rest = f"lexical-{N_SLOTS}-b{LEXICAL_VERSION}+form-{len(FORM_NAMES)}-b{FORM_VERSION}"
        # Words come from the static embedder's tokenizer, whichever tier the vector is from.
        of_static = f"{self._static.fingerprint}+{rest}"
        if self._encoder is None:
            return {"static": of_static}
        return {"static": of_static, "encoder": f"{self._encoder.fingerprint}+{of_static}"}

    def extract(self, queries: Sequence[Query], tier: Tier, reuse: Features | None = None) -> Features:
        """Features of the queries, in order; `reuse` gives the words and form already extracted for them.

        Raises:
            EmbedderError: there is no encoder, or a tier without features (`prior`) is asked for.
            ValueError: `reuse` is of another number of queries.
        """
        # Not by `fingerprints`, whose text this path would put together for every request.
        if tier != "static" and (tier != "encoder" or self._encoder is None):
            raise EmbedderError(
                f"no features for the tier {tier!r}: it is one of {', '.join(self.fingerprints)}"
            )
        if reuse is not None and len(reuse) != len(queries):
            raise ValueError(f"reuse has {len(reuse)} queries, not {len(queries)}")
        texts = [query.text for query in queries]
        encoder = self._encoder if tier == "encoder" else None
        ids = [self._static.ids(text) for text in texts] if reuse is None or encoder is None else []
        lexical = lexical_slots(ids, texts) if reuse is None else reuse.lexical
        form = form_features(texts) if reuse is None else reuse.form
        dense = self._static.embed_ids(ids) if encoder is None else encoder.embed(texts)
        return Features(tier, dense, lexical, form)


_CLIP = 3.0


@dataclass(frozen=True, slots=True)
class FormScale:
    """Training mean and reciprocal spread of the form features, (n_form,) each.

    key: the same for equal scales, by which what was read of a query is shared by all who read it so
    """

    mean: Floats32
    gain: Floats32
    key: bytes = field(init=False, repr=False, compare=False)
    _limit: np.float32 = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", self.mean.tobytes() + self.gain.tobytes())
        # Three spreads: `gain` divides by √n_form, so one spread is 1 / √n_form here.
        object.__setattr__(self, "_limit", np.float32(_CLIP / np.sqrt(max(len(self.mean), 1))))

    @classmethod
    def of(cls, features: Features) -> "FormScale":
        """The gain makes a typical row one of unit length; a feature that never varied gets none."""
        form = features.form
        if not len(form):
            return cls(np.zeros(form.shape[1], np.float32), np.zeros(form.shape[1], np.float32))
        std = form.std(axis=0)
        varies = std > 1e-6  # the division below would blow up noise
        gain = np.divide(1.0, std * np.sqrt(form.shape[1]), out=np.zeros_like(std), where=varies)
        return cls(form.mean(axis=0).astype(np.float32), gain.astype(np.float32))

    def standardise(self, features: Features) -> Floats32:
        """(n_queries, n_form) standardised, clipped at 3 spreads."""
        z = features.form.astype(np.float32)
        z -= self.mean
        z *= self.gain
        clipped: Floats32 = np.minimum(np.maximum(z, -self._limit, out=z), self._limit, out=z)
        return clipped

    def beside(self, features: Features) -> Floats32:
        """(n_queries, dim + n_form) [dense | form]"""
        return features.once(self.key, self._beside)

    def _beside(self, features: Features) -> Floats32:
        return np.concatenate((features.dense, self.standardise(features)), axis=1)
