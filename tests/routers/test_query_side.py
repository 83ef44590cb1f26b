"""Query-side experts: the documents stay, the queries move; what is saved runs without torch."""

import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse

from routers import DataError, EmbedderError, QuerySide, QuerySideSettings, load_embedder

TOPICS = ("wing flutter", "heat transfer", "blood pressure", "gene expression")
TEXTS = [f"case {n}: what is known of number {n}" for n in range(8)]
RELEVANCE = scipy.sparse.csr_array(np.eye(4)[np.arange(8) % 4])


def test_without_torch_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(EmbedderError, match=r"thalamus-gateway\[train\]"):
        QuerySide()


@pytest.mark.train
@pytest.mark.filterwarnings("default")  # libraries' own deprecations
def test_queries_move_towards_what_is_relevant_and_what_is_saved_runs_without_torch(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers", reason="needs the extra `train`")
    base = load_embedder("minilm:fp32")
    documents = base.embed(TOPICS)
    side, steps = QuerySide(), []
    np.testing.assert_allclose(side.embed(TEXTS), base.embed(TEXTS), atol=1e-4)
    settings = QuerySideSettings(n_epochs=12, rate=3e-4, batch=4)
    side.fit(TEXTS, documents, RELEVANCE, settings, lambda *step: steps.append(step))
    assert steps[-1] == (12, 12)
    moved = side.embed(TEXTS)
    assert nearness(moved, documents) > nearness(base.embed(TEXTS), documents) + 0.1
    served = load_embedder(str(side.save(tmp_path / "expert"))).embed(TEXTS)
    assert (served * moved).sum(axis=1).min() > 0.98


@pytest.mark.train
@pytest.mark.filterwarnings("default")
def test_what_cannot_be_learned_from_is_refused() -> None:
    pytest.importorskip("sentence_transformers", reason="needs the extra `train`")
    documents = np.eye(4, 384, dtype=np.float32)
    with pytest.raises(DataError, match="relevance of shape"):
        QuerySide().fit(TEXTS[:3], documents, RELEVANCE)
    with pytest.raises(DataError, match="query 1 has no relevant document"):
        QuerySide().fit(TEXTS[:2], documents, scipy.sparse.csr_array(np.eye(4)[[0]] * [[1.0], [0.0]]))


def nearness(queries: np.ndarray, documents: np.ndarray) -> float:
    """The mean cosine of queries with what is relevant to them."""
    return float((queries * documents[np.arange(8) % 4]).sum(axis=1).mean())
