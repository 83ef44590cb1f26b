"""The catalogue of skills, embedded once; texts and keywords are tagged against it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..features import query_of
from ..protocols import Embedder, Extractor
from ..types import Floats, Floats32
from .keywords import SUBJECTS, idf_of, keywords, subjects

FLOOR = 0.45
N_NEAR = 3

HashedSkill = tuple[str, list[list[int]]]
"""A skill's name and its phrases as hashed n-grams: what the predictor `skills` takes as its catalogue."""


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Skills by name, each with the phrases that mention it; its own name where there are no others."""

    skills: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, texts: Sequence[str], n_skills: int = 512, min_texts: int = 3) -> "Catalogue":
        """The lexicon's subjects and the keywords of the texts that at least `min_texts` of them bear.

        Of the keywords those borne by most texts are taken; of equals by name.
        """
        idf = idf_of(texts)
        bearers = Counter(word for text in texts for word in set(keywords(text, idf)))
        from_keywords = Counter(skill for text in texts for skill in subjects(text))
        met = [skill for skill in SUBJECTS if from_keywords[skill] >= min_texts]
        often = sorted(
            (word for word, n in bearers.items() if n >= min_texts and word not in SUBJECTS),
            key=lambda word: (-bearers[word], word),
        )
        names = [*met, *often][:n_skills]
        return cls({name: SUBJECTS.get(name, (name,)) for name in names})

    @classmethod
    def from_keywords(cls, keywords_by_query: Sequence[Sequence[str]]) -> "Catalogue":
        """Every keyword that a language model gave to some query (see `consistent_keywords`), in order."""
        return cls({word: (word,) for words in keywords_by_query for word in words})

    def hash_phrases(self, extractor: Extractor) -> list[HashedSkill]:
        """Each phrase as the hashed n-grams that a query which mentions it has too."""
        phrases = [(name, phrase) for name, all_ in self.skills.items() for phrase in all_]
        slots = extractor.extract([query_of(phrase) for _, phrase in phrases], "static").lexical
        skills: dict[str, list[list[int]]] = {name: [] for name in self.skills}
        for (name, _), row in zip(phrases, slots, strict=True):
            skills[name].append([slot for slot in row.tolist() if slot >= 0])
        return list(skills.items())


class Tagger:
    """Tags queries with the catalogue's skills; these are embedded when the tagger is made, never again."""

    def __init__(self, catalogue: Catalogue, embedder: Embedder) -> None:
        self.names = tuple(catalogue.skills)
        self._column = {name: n for n, name in enumerate(self.names)}
        self._vectors = embedder.embed(self.names)
        self._embedder = embedder

    def tag(
        self, keywords_by_query: Sequence[Sequence[str]], floor: float = FLOOR, n_near: int = N_NEAR
    ) -> Floats:
        """(n_queries, n_skills) in [0, 1]: 1 for keywords of the catalogue, the cosine for those near others.

        Of the skills near a keyword at most `n_near` count, and none below the floor.
        """
        tags = np.zeros((len(keywords_by_query), len(self.names)))
        others = dict.fromkeys(w for words in keywords_by_query for w in words if w not in self._column)
        near = dict(zip(others, soft(self._cosines(list(others)), floor, n_near), strict=True))
        for row, words in enumerate(keywords_by_query):
            for word in words:
                if word in near:
                    np.maximum(tags[row], near[word], out=tags[row])
                else:
                    tags[row, self._column[word]] = 1.0
        return tags

    def tag_nearest(self, keywords_by_query: Sequence[Sequence[str]]) -> Floats:
        """(n_queries, n_skills) how many of the query's keywords have the skill for their nearest.

        Reference: Symbolic-MoE (arXiv 2503.05641), section 3.2: nearest by cosine, without a floor.
        """
        words = dict.fromkeys(w for words in keywords_by_query for w in words)
        nearest = dict(zip(words, self._cosines(list(words)).argmax(axis=1).tolist(), strict=True))
        tags = np.zeros((len(keywords_by_query), len(self.names)))
        for row, mine in enumerate(keywords_by_query):
            for word in mine:
                tags[row, nearest[word]] += 1.0
        return tags

    def _cosines(self, words: list[str]) -> Floats32:
        """(n_words, n_skills): one product for any number of queries."""
        cosines: Floats32 = self._embedder.embed(words) @ self._vectors.T
        return cosines


def soft(cosines: Floats32, floor: float, n_near: int) -> Floats:
    """(n_words, n_skills) the cosine of the `n_near` nearest skills that reach the floor, 0 elsewhere."""
    near = cosines.astype(np.float64)
    if near.shape[1] > n_near:
        edge = -np.partition(-near, n_near - 1, axis=1)[:, n_near - 1 : n_near]
        near[near < edge] = 0.0
    near[near < floor] = 0.0
    return near
