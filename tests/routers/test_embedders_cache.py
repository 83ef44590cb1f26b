"""`CachedEmbedder`: what it remembers and forgets, with the same vectors as without it."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from routers import CachedEmbedder, Embedder, EmbedderError, Floats32, HashingEmbedder


class EmbedCounter:
    """A hashing embedder that notes what it was asked."""

    dim = 16
    fingerprint = "counting"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def embed(self, texts: Sequence[str]) -> Floats32:
        self.asked += texts
        return HashingEmbedder(16).embed(texts)


@pytest.fixture
def inner() -> EmbedCounter:
    return EmbedCounter()


def test_a_text_seen_before_is_not_embedded_again(inner: EmbedCounter) -> None:
    cached = CachedEmbedder(inner, 8)
    first = cached.embed(["a b", "c"])
    assert np.array_equal(cached.embed(["c", "a b"]), first[::-1])
    assert inner.asked == ["a b", "c"]


def test_equal_texts_of_a_batch_are_embedded_once_even_without_memory(inner: EmbedCounter) -> None:
    cached = CachedEmbedder(inner, 0)
    found = cached.embed(["x", "y", "x"])
    assert np.array_equal(found, HashingEmbedder(16).embed(["x", "y", "x"]))
    assert inner.asked == ["x", "y"]


def test_size_zero_remembers_nothing(inner: EmbedCounter) -> None:
    cached = CachedEmbedder(inner, 0)
    cached.embed(["x"])
    cached.embed(["x"])
    assert inner.asked == ["x", "x"]


def test_the_text_not_asked_for_longest_is_forgotten_first(inner: EmbedCounter) -> None:
    cached = CachedEmbedder(inner, 2)
    for text in ("a", "b", "a", "c", "a", "b"):
        cached.embed([text])
    assert inner.asked == ["a", "b", "c", "b"]


def test_a_batch_larger_than_the_memory_is_still_right(inner: EmbedCounter) -> None:
    texts = [f"text {n}" for n in range(10)]
    assert np.array_equal(CachedEmbedder(inner, 3).embed(texts), HashingEmbedder(16).embed(texts))


def test_changing_an_answer_does_not_change_the_memory(inner: EmbedCounter) -> None:
    cached = CachedEmbedder(inner, 4)
    cached.embed(["a"])[:] = 7
    cached.embed(["a"])[:] = 7
    assert np.array_equal(cached.embed(["a"]), HashingEmbedder(16).embed(["a"]))


def test_it_is_an_embedder_with_the_inner_ones_name(inner: EmbedCounter) -> None:
    cached = CachedEmbedder(inner, 4)
    assert isinstance(cached, Embedder)
    assert (cached.dim, cached.fingerprint) == (16, "counting")
    assert cached.embed([]).shape == (0, 16)
    assert inner.asked == []


def test_a_negative_size_is_refused(inner: EmbedCounter) -> None:
    with pytest.raises(EmbedderError, match="size"):
        CachedEmbedder(inner, -1)


def test_half_a_character_can_be_remembered(inner: EmbedCounter) -> None:
    cached = CachedEmbedder(inner, 4)
    assert np.array_equal(cached.embed(["\ud800"]), cached.embed(["\ud800"]))


def test_many_threads_get_the_right_vectors(inner: EmbedCounter) -> None:
    cached = CachedEmbedder(inner, 5)
    texts = [f"text {n % 17}" for n in range(600)]
    with ThreadPoolExecutor(8) as pool:
        found = np.concatenate(list(pool.map(lambda text: cached.embed([text]), texts)))
    assert np.array_equal(found, HashingEmbedder(16).embed(texts))
