from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from routers import FeatureExtractor, Floats32, HashingEmbedder, query_of
from routers.skills import (
    Catalogue,
    Tagger,
    consistent_keywords,
    keyword_prompt,
    keywords,
    parse_keywords,
)
from routers.skills.keywords import SUBJECTS, idf_of, subjects


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ("Keywords: Algebra, linear equations, algebra", ["algebra", "linear equations"]),
        ("Sure!\n**Keywords:** `Number Theory`, primes.", ["number theory", "primes"]),
        ("keyword: x\nKeywords: y", ["y"]),
        ("Keywords: a keyword that is far too long, geometry", ["geometry"]),
        ("Keywords: , ,", []),
        ("The answer is 4.", []),
        ("", []),
    ],
)
def test_keywords_are_read_from_the_line_asked_for(reply: str, found: Any) -> None:
    assert parse_keywords(reply) == found


def test_only_keywords_that_several_replies_name_are_kept_most_named_first() -> None:
    replies = [f"Keywords: {words}" for words in ("a, b, b", "b, c", "b, c", "d", "e, e")]
    assert consistent_keywords(replies) == ["b", "c"]


def test_the_prompt_holds_the_question_and_bounds_it() -> None:
    assert keyword_prompt("Why is the sky blue?").endswith("Why is the sky blue?")
    assert len(keyword_prompt("x" * 100_000)) < 10_000


def test_subjects_come_first_then_the_phrases_of_the_text() -> None:
    assert keywords("What is the capital of France?") == ["geography", "capital", "france"]


@pytest.mark.parametrize("text", ["", "the of and", "12 + 7 = ?", "???"])
def test_a_text_about_nothing_has_no_keywords(text: str) -> None:
    assert keywords(text) == []


def test_keywords_are_short_and_few() -> None:
    text = "Photosynthesis of chloroplast-bearing eukaryotes. " * 50 + "Zebra; yak; gnu; emu; ibis; newt."
    assert len(keywords(text)) == 5
    assert all(len(word) <= 20 for word in keywords(text, n=50))


def test_rare_words_come_before_common_ones() -> None:
    idf = idf_of(["zebra stripes", "common words", "common talk", "common sense"])
    assert keywords("common; stripes", idf) == ["stripes", "common"]


def test_the_subject_with_more_of_its_words_comes_first() -> None:
    assert subjects("The court found the defendant liable; the capital of the firm was lost.")[0] == "law"


def test_every_skill_of_the_lexicon_is_short_and_lower_case() -> None:
    assert all(len(name) <= 20 and name == name.lower() and phrases for name, phrases in SUBJECTS.items())
    assert all(phrase == phrase.lower() for phrases in SUBJECTS.values() for phrase in phrases)


def test_a_catalogue_holds_the_subjects_and_keywords_that_several_texts_bear() -> None:
    texts = ["Solve the quadratic equation.", "An equation for zebras", "zebras; equation", "gnus"]
    found = Catalogue.of(texts, min_texts=2)
    assert next(iter(found.skills)) == "algebra"
    assert "zebras" in found.skills
    assert "gnus" not in found.skills
    assert found.skills["algebra"] == SUBJECTS["algebra"]
    assert len(Catalogue.of(texts, n_skills=1, min_texts=1).skills) == 1


def test_a_query_that_mentions_a_phrase_has_all_its_hashed_ngrams() -> None:
    extractor = FeatureExtractor(HashingEmbedder())
    ((name, (phrase,)),) = Catalogue({"law": ("supreme court",)}).hash_phrases(extractor)
    with_it, without = extractor.extract(
        [query_of("Did the Supreme Court rule?"), query_of("A supreme tennis court")], "static"
    ).lexical
    assert name == "law"
    assert set(phrase) <= set(with_it.tolist())
    assert not set(phrase) <= set(without.tolist())


class Plane:
    """Words as directions in a plane, in degrees; counts how many it was asked for."""

    fingerprint, dim = "plane", 2

    def __init__(self, **degrees: float) -> None:
        self.degrees = degrees
        self.n_embedded = 0

    def embed(self, texts: Sequence[str]) -> Floats32:
        self.n_embedded += len(texts)
        angles = np.radians([self.degrees[text] for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


ANGLES = {"algebra": 0.0, "geometry": 30.0, "law": 90.0, "sums": 10.0, "courts": 85.0, "poems": 200.0}
CATALOGUE = Catalogue.from_bearers([["algebra", "geometry"], ["law", "algebra"]], 1, 9)


def test_keywords_of_the_catalogue_are_tagged_as_they_are() -> None:
    tagger = Tagger(CATALOGUE, Plane(**ANGLES))
    assert tagger.names == ("algebra", "geometry", "law")
    assert tagger.tag([["law"], []]).tolist() == [[0, 0, 1], [0, 0, 0]]


def test_others_count_for_the_skills_they_are_near_by_their_cosine() -> None:
    tags = Tagger(CATALOGUE, Plane(**ANGLES)).tag([["sums"], ["courts"]], n_near=2)
    near = np.cos(np.radians([[10, 20], [85, 5]]))
    np.testing.assert_allclose(
        tags, [[near[0, 0], near[0, 1], 0], [0, np.cos(np.radians(55)), near[1, 1]]], 1e-6
    )


def test_a_keyword_near_no_skill_counts_for_none() -> None:
    tagger = Tagger(CATALOGUE, Plane(**ANGLES))
    assert tagger.tag([["poems"]]).tolist() == [[0, 0, 0]]
    assert tagger.tag_nearest([["poems"]]).sum() == 1


def test_the_paper_takes_the_nearest_skill_of_every_keyword() -> None:
    tags = Tagger(CATALOGUE, Plane(**ANGLES)).tag_nearest([["sums", "algebra", "courts"], []])
    assert tags.tolist() == [[2, 0, 1], [0, 0, 0]]


def test_the_catalogue_is_embedded_once_and_each_new_keyword_once() -> None:
    plane = Plane(**ANGLES)
    tagger = Tagger(CATALOGUE, plane)
    assert plane.n_embedded == 3
    tagger.tag([["sums", "law"]] * 50)
    assert plane.n_embedded == 4
