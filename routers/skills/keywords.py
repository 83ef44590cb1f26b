"""What a text is about in a few words, without a language model: subjects, and phrases between stop words."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from math import log

from .asking import MAX_KEYWORD_CHARS
from .lexicon import SUBJECTS

MAX_WORDS = 3
MAX_CHARS = 8000

_STOP = """
a about above after again all also am an and any are as at be because been before being below between both
but by can could did do does doing down during each either else few first for from further get give given go
had has have having he her here hers him his how i if in into is it its itself just let like made make many
may me might more most much must my no nor not now of off on once one only or other our out over own per
please same say see shall she should since so some such take than that the their theirs them then there these
they this those three through thus to too two under until up upon us use used using very was we well were
what when where whether which while who whom whose why will with within without would yes yet you your
answer choice choices correct explain false find following know option options question tell true write"""
STOP_WORDS = frozenset(_STOP.split())

_WORD = re.compile(r"[^\W\d_](?:[\w'+#-]*[\w+#])?", re.UNICODE)
_BREAK = re.compile(r"[^\w\s'+#-]+|\n|\b\d+\b")


def keywords(text: str, idf: Mapping[str, float] | None = None, n: int = 5) -> list[str]:
    """At most `n` keywords of at most 20 characters: subjects of the lexicon, then phrases of the text.

    A phrase scores as RAKE has it, the sum over its words of how many words they stand beside over how often
    they occur, here weighed by how rare the words are (`idf`, see `idf_of`; without it all alike). Of equals
    the earlier comes first.

    Reference: Rose et al., Automatic Keyword Extraction from Individual Documents, 2010.
    Differs: phrases of more than three words are cut; words are weighed by rarity.
    """
    found = subjects(text)
    phrases = _phrases(text)
    score = _word_scores(phrases)
    rarity = idf or {}
    rare = max(rarity.values(), default=1.0)
    worth = {
        " ".join(words): sum(score[w] * rarity.get(w, rare) for w in words) / len(words) for words in phrases
    }
    ranked = sorted(worth, key=lambda phrase: -worth[phrase])
    short = (phrase for phrase in ranked if len(phrase) <= MAX_KEYWORD_CHARS)
    return list(dict.fromkeys([*found, *short]))[:n]


def subjects(text: str) -> list[str]:
    """The lexicon's skills whose phrases stand in the text, most of them first; of equals in its order."""
    found = {phrase.lower() for phrase in _lexicon_pattern().findall(text[:MAX_CHARS])}
    n = Counter(skill for phrase in found for skill in _skills_of()[phrase])
    return sorted(n, key=lambda skill: (-n[skill], _rank()[skill]))


def idf_of(texts: Iterable[str]) -> dict[str, float]:
    """Inverse document frequency of every word of the texts, log((1 + n) / (1 + n_with)) + 1."""
    n_with: Counter[str] = Counter()
    n = 0
    for text in texts:
        n += 1
        n_with.update({word for words in _phrases(text) for word in words})
    return {word: log((1 + n) / (1 + count)) + 1 for word, count in n_with.items()}


def _phrases(text: str) -> list[tuple[str, ...]]:
    """Runs of words between stop words and signs, at most three words long, in order, repeats kept."""
    found: list[tuple[str, ...]] = []
    for part in _BREAK.split(text[:MAX_CHARS].lower()):
        run: list[str] = []
        for word in [*_WORD.findall(part), ""]:
            if word and word not in STOP_WORDS and len(word) > 1:
                run.append(word)
                continue
            found += [tuple(run[start : start + MAX_WORDS]) for start in range(0, len(run), MAX_WORDS)]
            run = []
    return found


def _word_scores(phrases: Sequence[tuple[str, ...]]) -> dict[str, float]:
    n: Counter[str] = Counter(word for words in phrases for word in words)
    beside: Counter[str] = Counter()
    for words in phrases:
        for word in words:
            beside[word] += len(words)
    return {word: beside[word] / count for word, count in n.items()}


@lru_cache(maxsize=1)
def _skills_of() -> dict[str, list[str]]:
    """Phrase → the skills it gives away."""
    skills: dict[str, list[str]] = {}
    for skill, phrases in SUBJECTS.items():
        for phrase in phrases:
            skills.setdefault(phrase, []).append(skill)
    return skills


@lru_cache(maxsize=1)
def _rank() -> dict[str, int]:
    return {skill: n for n, skill in enumerate(SUBJECTS)}


@lru_cache(maxsize=1)
def _lexicon_pattern() -> re.Pattern[str]:
    longest_first = sorted(_skills_of(), key=len, reverse=True)
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)", re.IGNORECASE)
