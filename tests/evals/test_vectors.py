from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from evals.vectors import VectorCache
from routers import DataError, Floats32, HashingEmbedder


class CountingEmbedder(HashingEmbedder):
    n_texts = 0

    def embed(self, texts: Sequence[str]) -> Floats32:
        self.n_texts += len(texts)
        return super().embed(texts)


def test_a_text_is_embedded_once_and_not_again_next_time(tmp_path: Path) -> None:
    first = CountingEmbedder()
    kept = VectorCache(first, tmp_path / "new" / "v.npz")
    vectors = kept.embed(["a", "b", "a"])
    kept.save()
    again = CountingEmbedder()
    np.testing.assert_array_equal(
        VectorCache(again, tmp_path / "new" / "v.npz").embed(["b", "a"]), vectors[[1, 0]]
    )
    assert (first.n_texts, again.n_texts) == (2, 0)
    assert kept.embed([]).shape == (0, first.dim)


def test_vectors_of_another_embedder_are_refused(tmp_path: Path) -> None:
    kept = VectorCache(HashingEmbedder(), tmp_path / "v.npz")
    kept.embed(["a"])
    kept.save()
    named = HashingEmbedder()
    named.fingerprint = "another of the same width"
    for other in (HashingEmbedder(dim=32), named):
        with pytest.raises(DataError, match="of another embedder"):
            VectorCache(other, tmp_path / "v.npz")
    (tmp_path / "v.npz").write_bytes(b"junk")
    with pytest.raises(DataError, match="not a file of vectors"):
        VectorCache(HashingEmbedder(), tmp_path / "v.npz")
