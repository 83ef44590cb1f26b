"""Which embedding expert reads a query: the paper's arithmetic, and that experts come and go untrained."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routers import ArtifactError, EmbeddingSelection, dataset_oracle, instance_oracle
from routers.types import Floats, Floats32

# nDCG@10 of MS MARCO, Quora, ArguAna, HotpotQA, NFCorpus, SciFact, FiQA: RouterRetriever's table 1.
MSMARCO = (25.7, 84.1, 37.2, 57.6, 31.7, 67.2, 28.8)
MULTI_TASK = (22.4, 82.0, 36.9, 52.1, 32.9, 69.4, 28.9)
DATASET_ORACLE = (25.7, 84.5, 40.2, 59.9, 34.4, 79.8, 32.2)


def unit(*rows: tuple[float, ...]) -> Floats32:
    x = np.array(rows, np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x


def selection() -> EmbeddingSelection:
    return EmbeddingSelection.empty("f", {"base": "minilm", "law": "/law", "bio": "/bio"}, 2)


def random_dataset(seed: int, n: int = 9, n_experts: int = 3) -> tuple[Floats32, Floats]:
    rng = np.random.default_rng(seed)
    return unit(*rng.normal(size=(n, 2)).tolist()), rng.integers(4, size=(n, n_experts)) / 3


def test_the_paper_asks_the_expert_whose_pilots_are_nearest_in_the_mean() -> None:
    # Contracts: base wins (1, 0), law wins (0, 1). Genes: bio wins (-1, 0), law wins (0, -1).
    found = selection().add_dataset(
        "contracts", unit((1, 0), (0, 1)), np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.1]]), "paper"
    )
    found = found.add_dataset(
        "genes", unit((-1, 0), (0, -1)), np.array([[0.1, 0.2, 0.9], [0.3, 0.4, 0.2]]), "paper"
    )
    # Scores of (0.6, 0.8): base 0.6; law (0.8 - 0.8) / 2 = 0; bio -0.6.
    queries = unit((0.6, 0.8), (-0.6, 0.8), (-0.6, -0.8))
    np.testing.assert_allclose(found.library.scores(queries[:1], "paper"), [[0.6, 0.0, -0.6]], atol=1e-6)
    np.testing.assert_array_equal(found.choose(queries, "paper"), [0, 2, 2])


def test_experts_that_score_alike_share_a_query_and_the_paper_gives_it_to_the_first() -> None:
    alike = np.array([[0.5, 0.5, 0.1]])
    for rule, shares in (("improved", [[0.5, 0.5, 0.0]]), ("paper", [[1.0, 0.0, 0.0]])):
        found = selection().add_dataset("d", unit((1, 0)), alike, rule)  # type: ignore[arg-type]
        np.testing.assert_allclose(found.shares(unit((1, 0.1)), rule), shares)  # type: ignore[arg-type]


def test_a_heavy_group_outweighs_a_light_one_where_the_paper_counts_each_pilot_once() -> None:
    # law wins nine of ten near (1, 0.1), base one near (1, 0); far away bio wins its own.
    embeddings = unit((1, 0), *[(1, 0.1)] * 9)
    scores = np.array([[1.0, 0.0, 0.0], *[[0.0, 1.0, 0.0]] * 9])
    query = unit((1, 0.02))
    for rule, chosen in (("paper", 0), ("improved", 1)):
        found = selection().add_dataset("d", embeddings, scores, rule)  # type: ignore[arg-type]
        found = found.add_dataset("far", unit((-1, 0)), np.array([[0.0, 0.0, 1.0]]), rule)  # type: ignore[arg-type]
        assert found.choose(query, rule).tolist() == [chosen]  # type: ignore[arg-type]


@given(st.integers(0, 200), st.integers(0, 200))
def test_adding_and_removing_a_dataset_leaves_no_trace(first: int, second: int) -> None:
    before = selection().add_dataset("a", *random_dataset(first))
    after = before.add_dataset("b", *random_dataset(second + 1000)).remove_dataset("b")
    for name, value in before.library.arrays().items():
        np.testing.assert_array_equal(after.library.arrays()[name], value)


@given(st.integers(0, 200))
def test_adding_and_removing_an_expert_leaves_no_trace_and_moves_no_other_pilot(seed: int) -> None:
    embeddings, scores = random_dataset(seed)
    before = selection().add_dataset("a", embeddings, scores)
    more = before.add_expert("tax", "/tax", {"a": (embeddings, scores[:, 0], scores)})
    assert more.experts == ("base", "law", "bio", "tax")
    np.testing.assert_array_equal(more.library.sums[:, :3], before.library.sums)
    after = more.remove_expert("tax")
    assert after.sources == before.sources
    for name, value in before.library.arrays().items():
        np.testing.assert_array_equal(after.library.arrays()[name], value)


def test_saved_and_loaded_it_chooses_alike(tmp_path: Path) -> None:
    before = selection().add_dataset("a", *random_dataset(1)).add_dataset("b", *random_dataset(2))
    before.save(tmp_path / "s")
    before.save(tmp_path / "s")
    after = EmbeddingSelection.load(tmp_path / "s", "f")
    queries = random_dataset(3, 50)[0]
    assert after.sources == before.sources
    np.testing.assert_array_equal(after.shares(queries), before.shares(queries))


def test_a_selection_that_does_not_fit_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no embedding selection"):
        EmbeddingSelection.load(tmp_path / "none")
    path = tmp_path / "s"
    selection().save(path)
    with pytest.raises(ArtifactError, match="made for f, the embedder is g"):
        EmbeddingSelection.load(path, "g")
    (path / "manifest.json").write_text(json.dumps({"schema": 9}))
    with pytest.raises(ArtifactError, match="schema 9"):
        EmbeddingSelection.load(path)
    (path / "manifest.json").write_text("{")
    with pytest.raises(ArtifactError, match="damaged"):
        EmbeddingSelection.load(path)
    (tmp_path / "mine").mkdir()
    with pytest.raises(ArtifactError, match="no embedding selection; choose another name"):
        selection().save(tmp_path / "mine")


def test_oracles_are_what_the_papers_table_makes_them() -> None:
    table = np.array([MSMARCO, MULTI_TASK]).T
    reached = [dataset_oracle(row[None])[0] for row in table]
    np.testing.assert_allclose(reached, [25.7, 84.1, 37.2, 57.6, 32.9, 69.4, 28.9])
    assert [round(np.mean(row), 1) for row in (MSMARCO, MULTI_TASK)] == [47.5, 46.4]
    assert np.mean(reached) <= np.mean(DATASET_ORACLE) == pytest.approx(50.957, abs=1e-3)


def test_the_dataset_oracle_asks_one_expert_for_all_and_the_instance_oracle_one_for_each() -> None:
    performance = np.array([[1.0, 0.2], [0.4, 0.6]])
    np.testing.assert_allclose(dataset_oracle(performance), [1.0, 0.4])
    np.testing.assert_allclose(instance_oracle(performance), [1.0, 0.6])
    np.testing.assert_allclose(dataset_oracle(performance[:, ::-1]), [1.0, 0.4])
    np.testing.assert_allclose(dataset_oracle(np.array([[1.0, 0.0], [0.0, 1.0]])), [0.5, 0.5])


def test_nobody_reads_who_is_not_among_those_asked_for() -> None:
    found = selection().add_dataset("d", unit((1, 0), (0, 1), (-1, 0)), np.eye(3))
    queries = unit((1, 0.1), (0.1, 1), (-1, 0.1))
    assert found.choose(queries).tolist() == [0, 1, 2]
    for rule in ("improved", "paper"):
        shares = found.shares(queries, rule, {"law", "bio"})
        np.testing.assert_allclose(shares.sum(axis=1), 1)
        assert shares.argmax(axis=1).tolist()[1:] == [1, 2]
        assert not shares[:, 0].any()
    assert found.choose(queries, among=["bio"]).tolist() == [2, 2, 2]
