"""The quick tokenizer against the real one."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Slow

from routers import EmbedderError
from routers.embedders import tokens
from routers.embedders.model_files import find_source
from routers.embedders.tokens import Tokenizer
from routers.features import head_and_tail

QUICK = Tokenizer(find_source("minilm").tokenizer)
SLOW = Slow.from_file(str(find_source("minilm").tokenizer))
SLOW.no_padding()
SLOW.no_truncation()
SLOW.encode_special_tokens = True


def real_ids(text: str) -> list[int]:
    return SLOW.encode(text, add_special_tokens=False).ids


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_ids_equal_the_real_tokenizers_for_any_text(text: str) -> None:
    assert QUICK.ids(text, 10_000).tolist() == real_ids(text)


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("aB9.'-_ \n‐–—‘’“”•…‧、。〈「】！（），．：；？一今鿿é"), max_size=40))
def test_ids_equal_the_real_tokenizers_for_signs_and_han(text: str) -> None:
    assert QUICK.ids(text, 10_000).tolist() == real_ids(text)


def test_every_sign_treated_as_a_separator_is_one() -> None:
    codes = [*range(0x2010, 0x2028), *map(ord, "、。"), *range(0x3008, 0x3012), *map(ord, "！（），．：；？")]
    for code in codes:
        assert QUICK.ids(f"ab{chr(code)}cd 今{chr(code)}天", 100).tolist() == real_ids(
            f"ab{chr(code)}cd 今{chr(code)}天"
        )


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(max_codepoint=255), max_size=60))
def test_ids_equal_the_real_tokenizers_for_latin_text(text: str) -> None:
    assert QUICK.ids(text, 10_000).tolist() == real_ids(text)


@pytest.mark.parametrize(
    "text",
    [
        "Don't stop-gap 3.14!",
        "naïve CAFÉ déjà-vu",
        "今天 weather is 好",
        "a\tb\r\nc\u00a0d",
        "[SEP] [MASK]",
        "x" * 300,
    ],
)
def test_ids_equal_the_real_tokenizers(text: str) -> None:
    assert QUICK.ids(text, 10_000).tolist() == real_ids(text)


def test_the_budget_goes_three_quarters_to_the_head() -> None:
    words = [f"{n}" for n in range(100, 200)]
    ids = QUICK.ids(" ".join(words), 40).tolist()
    assert ids == real_ids(" ".join(words[:30] + words[-10:]))


def test_half_a_character_counts_as_unknown() -> None:
    assert QUICK.ids("\ud800", 10).tolist() == real_ids("?")


def test_the_memory_of_words_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "MAX_WORDS", 10)
    small = Tokenizer(find_source("minilm").tokenizer)
    text = " ".join(f"word{n}" for n in range(100))
    assert small.ids(text, 10_000).tolist() == real_ids(text)
    assert len(small._known) <= 10


def test_a_missing_token_is_an_error() -> None:
    with pytest.raises(EmbedderError, match="no-such-token"):
        QUICK.id_of("no-such-token")


@given(st.text(max_size=50), st.integers(1, 60))
def test_head_and_tail_never_exceed_the_budget_by_more_than_the_space_between(
    text: str, n_chars: int
) -> None:
    cut = head_and_tail(text, n_chars)
    assert len(cut) <= n_chars + 1
    assert text.startswith(cut[: n_chars - n_chars // 4])
    assert cut == text or text.endswith(cut[n_chars - n_chars // 4 + 1 :])
