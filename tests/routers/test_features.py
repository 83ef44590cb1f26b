"""Form, words, language, and the extractor that puts them beside the vectors."""

import re
from math import log1p
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routers import (
    FORM_NAMES,
    EmbedderError,
    FeatureExtractor,
    Features,
    Floats32,
    HashingEmbedder,
    Query,
    StaticEmbedder,
    describe_query,
    estimate_tokens,
    load_embedder,
    query_of,
)
from routers.features import MAX_CHARS, N_SLOTS, code_share, form_features, guess_language, lexical_slots

TEXTS = [
    "What is 17 * 23?",
    "",
    "Sort the list.\n\n```python\nprint([3, 1])\n```",
    "今天的天气怎么样？",
    "ok",
]


def form_of(text: str) -> dict[str, float]:
    return dict(zip(FORM_NAMES, form_features([text])[0].tolist(), strict=True))


@pytest.fixture
def extractor() -> FeatureExtractor:
    return FeatureExtractor(HashingEmbedder(32), HashingEmbedder(48))


@settings(deadline=None, max_examples=200)
@given(st.lists(st.text(st.characters(), max_size=80), max_size=4))
def test_form_is_bounded_and_finite_whatever_the_text(texts: list[str]) -> None:
    form = form_features(texts)
    assert form.shape == (len(texts), len(FORM_NAMES))
    assert np.isfinite(form).all()
    assert (form >= 0).all()
    assert (form <= 1).all()


@pytest.mark.parametrize("repeated", ["9", "A", "(", "$", "\n", "? ", '"', "A. x\n", "- x\n", "5 km ", "é"])
def test_form_stays_bounded_for_texts_of_one_thing(repeated: Any) -> None:
    form = form_features([repeated * 20_000])
    assert 0.99 < form.max() <= 1.0


@pytest.mark.parametrize(
    ("name", "has", "has_not"),
    [
        ("length", "a long text indeed", "short"),
        ("digits", "12 and 34", "twelve"),
        ("capitals", "WHY", "why"),
        ("code_signs", "f(x) = {y};", "f of x"),
        ("formula_signs", r"$\frac{1}{2}$", "one half"),
        ("operators", "3 + 4", "three and four"),
        ("non_ascii", "naïve", "naive"),
        ("lines", "a\nb", "a b"),
        ("questions", "Why?", "Because."),
        ("quotes", 'He said "no".', "He said no."),
        ("numbers", "3 apples and 14 pears", "apples and pears"),
        ("options", "Which?\nA. one\nB. two", "Which? A one, or B two"),
        ("options", "(A) one\n(B) two", "(Anna) one"),
        ("bullets", "- one\n- two", "one - two"),
        ("units", "It weighs 5 kg.", "It weighs 5 kgs-ish."),
        ("arithmetic", "17 * 23", "17 and 23"),
        ("fence", "```x```", "`x`"),
        ("blank", "The cat ___ away.", "The cat ran away."),
        ("ends_asking", "Who? ", "Who? Me."),
        ("ends_open", "Answer:", "Answer: yes"),
        ("yes_no", "Answer Yes or No.", "Answer."),
        ("brief", "In one word: why?", "In words: why?"),
        ("stepwise", "Think step by step.", "Think."),
    ],
)
def test_form_tells(name: str, has: Any, has_not: Any) -> None:
    assert form_of(has)[name] > form_of(has_not)[name]


_PIECES = [
    *"aZ9.,;:?!-*/=+({[ \n\t%°•×é今٣\u3000\u00a0’²？：",
    *("5 km ", "1.5,7", "A. ", "(B) ", "\n- ", "```", "__", "?" + 8 * " ", ":" + 9 * " "),
]


@settings(deadline=None, max_examples=200)
@given(st.lists(st.sampled_from(_PIECES), max_size=40).map("".join))
def test_form_counts_what_plain_patterns_count(text: str) -> None:
    """The quick ways (bytes, ASCII patterns, lines by their feeds) against plainly written patterns."""
    form, n_bytes = form_of(text), len(text.encode()) or 1
    shares = {"digits": ("0123456789", 5), "operators": ("+-*/=%<>", 10), "punctuation": (".,:;!?'-", 5)}
    for name, (signs, scale) in shares.items():
        assert form[name] == min(sum(map(text.count, signs)) * scale / n_bytes, 1.0)
    counts = {
        "numbers": (r"\d+(?:[.,]\d+)*", 50),
        "options": (r"(?m)^[ \t]{0,8}\(?[A-Ja-j1-9][.):](?=\s)", 8),
        "bullets": (r"(?m)^[ \t]{0,8}[-*•](?=\s)", 20),
        "units": (r"\d\s?(?:km|m|%)(?!\w)", 8),
        "lines": ("\n", 200),
    }
    for name, (pattern, most) in counts.items():
        assert form[name] == min(log1p(len(re.findall(pattern, text))) / log1p(most), 1.0), name
    flags = {
        "arithmetic": r"\d\s{0,3}[-+*/×÷^=]\s{0,3}\d",
        "fence": "```",
        "blank": "__",
        "ends_asking": r"[?？]\s{0,8}\Z",
        "ends_open": r"[:：]\s{0,8}\Z",
    }
    for name, pattern in flags.items():
        assert form[name] == (re.search(pattern, text) is not None), name


@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.sampled_from([*"x;{}=. \t\n@$", "def f(", "return x", "\n>>> ", "é"]), max_size=30).map(
        "".join
    )
)
def test_the_code_lines_are_those_whose_start_or_end_says_so(text: str) -> None:
    lines = [line for line in text.split("\n") if line.strip(" \t")]
    ended = [line for line in lines if line[-1] in ";{}"]
    n_chars = code_share(text) * len(text)
    assert sum(map(len, ended)) - 1e-9 <= n_chars <= sum(map(len, lines)) + 1e-9


@pytest.mark.parametrize("sign", ["’", "—", "…", "×", "•"])
def test_a_sign_beyond_ascii_separates_words_as_any_other(sign: str) -> None:
    words = "der Hund und die Katze"
    assert guess_language(words.replace(" ", sign)) == guess_language(words) == "de"


def test_a_batch_of_forms_equals_its_singles() -> None:
    assert np.array_equal(form_features(TEXTS), np.concatenate([form_features([text]) for text in TEXTS]))


def test_a_slot_is_a_token_or_a_pair_of_neighbours() -> None:
    ab, ba, a = lexical_slots([[5, 6], [6, 5], [5]], ["", "", ""])
    assert (ab >= 0).sum() == 3
    assert set(a[a >= 0]) < set(ab)
    assert len(set(ab) & set(ba)) == 2


def test_slots_are_distinct_ascending_and_padded_with_minus_one() -> None:
    slots = lexical_slots([[7, 7, 7], [], [1, 2, 3, 4]], ["", "", ""])
    assert slots.dtype == np.int64
    assert slots.shape == (3, 7)
    assert (slots[1] == -1).all()
    for row in slots:
        found = row[row >= 0]
        assert (np.diff(found) > 0).all()
        assert (found < N_SLOTS).all()
        assert (row[len(found) :] == -1).all()


def test_no_text_gives_no_slots() -> None:
    assert lexical_slots([], []).shape == (0, 0)


def test_characters_unknown_to_the_vocabulary_still_tell_texts_apart() -> None:
    static = StaticEmbedder()
    texts = ["龘靐齉", "麤龖龗"]
    ids = [static.ids(text) for text in texts]
    assert np.array_equal(ids[0], ids[1])
    one, other = (set(row[row >= 0]) for row in lexical_slots(ids, texts))
    assert len(one - other) >= 3


def test_accents_and_typographic_quotes_add_no_characters() -> None:
    assert np.array_equal(lexical_slots([[1]], ["“café” – 5 €"]), lexical_slots([[1]], ["cafe"]))


def test_features_have_a_row_per_query_and_unit_vectors(extractor: FeatureExtractor) -> None:
    queries = [query_of(text) for text in TEXTS]
    features = extractor.extract(queries, "static")
    assert features.tier == "static"
    assert len(features) == len(features.lexical) == len(features.form) == 5
    assert features.dense.shape == (5, 32)
    assert np.linalg.norm(features.dense, axis=1) == pytest.approx(1.0, abs=1e-5)


def test_words_and_form_are_the_same_in_both_tiers(extractor: FeatureExtractor) -> None:
    queries = [query_of(text) for text in TEXTS]
    static, encoder = extractor.extract(queries, "static"), extractor.extract(queries, "encoder")
    assert encoder.tier == "encoder"
    assert encoder.dense.shape == (5, 48)
    assert np.array_equal(static.lexical, encoder.lexical)
    assert np.array_equal(static.form, encoder.form)


@pytest.mark.parametrize("tier", ["static", "encoder"])
def test_reused_words_and_form_are_not_extracted_again(extractor: FeatureExtractor, tier: Any) -> None:
    queries = [query_of(text) for text in TEXTS]
    first = extractor.extract(queries, "static")
    again = extractor.extract(queries, tier, reuse=first)
    assert again.lexical is first.lexical
    assert again.form is first.form
    assert np.array_equal(again.dense, extractor.extract(queries, tier).dense)


def test_features_of_other_queries_cannot_be_reused(extractor: FeatureExtractor) -> None:
    first = extractor.extract([query_of("a")], "static")
    with pytest.raises(ValueError, match="1 queries, not 2"):
        extractor.extract([query_of("a"), query_of("b")], "encoder", reuse=first)


@pytest.mark.parametrize("tier", ["static", "encoder"])
def test_an_empty_batch_gives_empty_features(extractor: FeatureExtractor, tier: Any) -> None:
    features = extractor.extract([], tier)
    assert len(features) == 0
    assert features.form.shape == (0, len(FORM_NAMES))
    assert extractor.extract([], tier, reuse=features).lexical is features.lexical


@pytest.mark.parametrize("tier", ["prior", "encoder"])
def test_a_tier_that_cannot_be_extracted_is_an_error(tier: Any) -> None:
    with pytest.raises(EmbedderError, match=tier):
        FeatureExtractor(HashingEmbedder(8)).extract([query_of("a")], tier)


def test_fingerprints_follow_the_embedders_and_tell_the_tiers_apart(extractor: FeatureExtractor) -> None:
    names = extractor.fingerprints
    assert set(names) == {"static", "encoder"}
    assert names["static"] != names["encoder"]
    other = FeatureExtractor(HashingEmbedder(32), HashingEmbedder(64)).fingerprints
    assert other["static"] == names["static"]
    assert other["encoder"] != names["encoder"]
    assert set(FeatureExtractor(HashingEmbedder(8)).fingerprints) == {"static"}


def test_a_batch_of_features_equals_its_singles_with_the_real_embedders() -> None:
    extractor = FeatureExtractor(StaticEmbedder(), load_embedder("minilm"))
    queries = [query_of(text) for text in TEXTS]
    for tier in ("static", "encoder"):
        batch = extractor.extract(queries, tier)
        for row, query in enumerate(queries):
            single = extractor.extract([query], tier)
            assert np.array_equal(single.dense[0], batch.dense[row])
            assert np.array_equal(single.form[0], batch.form[row])
            assert set(single.lexical[0]) - {-1} == set(batch.lexical[row]) - {-1}


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("What is the capital of France?", "en"),
        ("who sings this song", "en"),
        ("Was ist die Hauptstadt von Frankreich?", "de"),
        ("Quelle est la capitale de la France ?", "fr"),
        ("¿Cuál es la capital de Francia?", "es"),
        ("Qual è la capitale della Francia?", "it"),
        ("Qual é a capital da França?", "pt"),
        ("Wat is de hoofdstad van Frankrijk?", "nl"),
        ("Jaka jest stolica Francji i co to za miasto?", "pl"),
        ("法国的首都是哪里？", "zh"),
        ("フランスの首都はどこですか", "ja"),
        ("프랑스의 수도는 어디입니까?", "ko"),
        ("Какой город является столицей Франции?", "ru"),
        ("Яке місто є столицею Франції?", "uk"),
        ("ما هي عاصمة فرنسا؟", "ar"),
        ("Ποια είναι η πρωτεύουσα της Γαλλίας;", "el"),
        ("What does the word 天气 mean in this sentence?", "en"),
        ("17 * 23", "und"),
        ("", "und"),
        ("\ud800", "und"),
    ],
)
def test_languages(text: str, language: str) -> None:
    assert guess_language(text) == language


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("What is the capital of France?", 0, 0),
        ("", 0, 0),
        ("```\nx\n```", 1, 1),
        ("def add(a, b):\n    return a + b\n", 0.9, 1),
        ("SELECT name\nFROM boats\nWHERE length > 3;", 0.9, 1),
        ("Please explain what this function does, and when one would want it:\n\nint f() {\n}", 0.1, 0.4),
        ("Once upon a time:\n- a dog\n- a cat", 0, 0),
    ],
)
def test_code_share(text: str, low: float, high: float) -> None:
    assert low <= code_share(text) <= high


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("", 0, 0),
        ("a", 1, 1),
        ("the quick brown fox jumps over the lazy dog", 8, 13),
        ("今天的天气怎么样", 6, 10),
    ],
)
def test_token_estimates(text: str, low: float, high: float) -> None:
    assert low <= estimate_tokens(text) <= high


def test_what_is_derived_of_features_is_worked_out_once_and_for_each_subset_anew() -> None:
    features = FeatureExtractor(StaticEmbedder()).extract([query_of("one"), query_of("two")], "static")
    worked: list[int] = []

    def double(read: Features) -> Floats32:
        worked.append(len(read))
        return read.dense * 2

    assert features.once("doubled", double) is features.once("doubled", double)
    assert len(features.take(slice(0, 1)).once("doubled", double)) == 1
    assert worked == [2, 1]


def test_what_is_derived_of_very_many_queries_is_not_kept() -> None:
    many = FeatureExtractor(StaticEmbedder()).extract([query_of("one")], "static").take(np.zeros(1025, int))
    few = many.take(slice(0, 1024))
    kept, fresh = ([read.once("doubled", lambda x: x.dense * 2) for _ in range(2)] for read in (few, many))
    assert kept[0] is kept[1]
    assert fresh[0] is not fresh[1]


def test_a_prompt_alone_is_a_query_without_wishes() -> None:
    text = "Was ist das und wie geht es?\n```\nx = 1\n```"
    query = query_of(text)
    assert query == Query(text, estimate_tokens(text))
    shown = describe_query(query)
    assert shown["text"] == text
    assert shown["language"] == "de"
    assert 0.2 < shown["code_share"] < 0.5


@pytest.mark.parametrize(
    "piece", [" ", "\t", "a", "9", "9.", "\n", "`", "```", "(", "x=", "</a", "A.", "é", "今", "_"]
)
def test_long_texts_of_one_thing_get_bounded_features(piece: str) -> None:
    """A pattern that backtracks over the whole of one of these would not come back for minutes."""
    query = query_of(piece * (400_000 // len(piece)))
    assert 0 <= describe_query(query)["code_share"] <= 1
    features = FeatureExtractor(StaticEmbedder()).extract([query], "static")
    assert np.isfinite(features.form).all()
    assert features.lexical.shape[1] <= 2 * 512 + 2 * MAX_CHARS
    assert np.linalg.norm(features.dense) == pytest.approx(1.0, abs=1e-5)


@settings(deadline=None, max_examples=100)
@given(st.text(st.characters(), max_size=200))
def test_a_query_can_be_made_of_any_text(text: str) -> None:
    query = query_of(text)
    shown = describe_query(query)
    assert 0 <= shown["code_share"] <= 1
    assert query.n_input_tokens >= (1 if text else 0)
    assert shown["language"]


def test_joined_features_are_those_of_both_batches() -> None:
    extractor = FeatureExtractor(HashingEmbedder(16))
    queries = [query_of(text) for text in ("one", "a much longer question about the sea", "three")]
    whole = extractor.extract(queries, "static")
    joined = extractor.extract(queries[:1], "static").join(extractor.extract(queries[1:], "static"))
    np.testing.assert_array_equal(joined.dense, whole.dense)
    np.testing.assert_array_equal(joined.form, whole.form)
    np.testing.assert_array_equal(joined.lexical, whole.lexical)
