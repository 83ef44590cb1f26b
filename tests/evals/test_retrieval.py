"""Retrieval sets, nDCG@10 by hand, and embedding experts compared."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import scipy.sparse
from click.testing import CliRunner

import evals.embedder_eval
from evals.commands.embedders import command
from evals.datasets.parquet import RetrievalSet, join_sets, read_retrieval
from evals.embedder_eval import RetrievalScores, measure, use_held_out_scores
from evals.measures.bootstrap import mean_over_sets
from evals.measures.formulas import ndcg
from routers import DataError, EmbeddingSelection, Floats32, OnnxEmbedder
from studies.retrieval import (
    build,
    compare,
    main,
    render,
    share_by_classifiers,
    share_by_head,
    share_by_nearest_set,
    summarize,
)
from tests.fakes.embedders import expert_folder

CORPUS = {"doc_id": ["a", "b", "c"], "title": ["A", None, ""], "text": ["one", "two", None]}
QUERIES = {"query_id": ["1", "2", "3"], "text": ["q1", "q2", "q3"], "split": ["all", "all", "all"]}
QRELS = {"query_id": ["1", "2", "3", "9"], "doc_id": ["a", "b", "c", "a"], "relevance": [2, 1, 0, 1]}


def folder(path: Path, **changed: Mapping[str, Sequence[object]]) -> Path:
    path.mkdir()
    for name, columns in {"corpus": CORPUS, "queries": QUERIES, "qrels": QRELS, **changed}.items():
        pyarrow.parquet.write_table(pyarrow.table(columns), path / f"{name}.parquet")
    return path


def test_queries_nothing_is_relevant_to_are_left_out_and_even_ones_are_trained_on(tmp_path: Path) -> None:
    found = read_retrieval(folder(tmp_path / "s"))
    assert found.documents == ("A. one", "two", "")
    assert found.queries == ("q1", "q2")
    assert found.training.tolist() == [False, True]
    np.testing.assert_array_equal(found.relevance.toarray(), [[2, 0, 0], [0, 1, 0]])
    assert found.part(found.training).queries == ("q2",)


def test_a_set_that_tells_its_split_is_split_so(tmp_path: Path) -> None:
    found = read_retrieval(folder(tmp_path / "s", queries={**QUERIES, "split": ["train", "test", "test"]}))
    assert found.training.tolist() == [True, False]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"qrels": {**QRELS, "relevance": [0, 0, 0, 0]}}, "no query has a relevant document"),
        ({"corpus": {"text": ["one"]}}, "no column 'doc_id'"),
        ({"queries": {**QUERIES, "query_id": ["x", "y", "z"]}}, None),
    ],
)
def test_a_set_that_cannot_be_used_says_why(
    tmp_path: Path, changed: dict[str, dict[str, list[object]]], message: str | None
) -> None:
    with pytest.raises(DataError, match=message):
        read_retrieval(folder(tmp_path / "s", **changed))


def test_joined_sets_keep_their_own_documents(tmp_path: Path) -> None:
    found = read_retrieval(folder(tmp_path / "s"))
    texts, documents, relevance = join_sets([(found, np.zeros((3, 4), np.float32))] * 2)
    assert (len(texts), documents.shape) == (4, (6, 4))
    np.testing.assert_array_equal(relevance.toarray()[2:], [[0, 0, 0, 2, 0, 0], [0, 0, 0, 0, 1, 0]])


def test_ndcg_is_the_discounted_gain_over_that_of_the_best_order() -> None:
    documents = np.eye(3, dtype=np.float32)
    queries = np.array([[0.9, 0.4, 0.1], [0.1, 0.4, 0.9], [0.0, 0.0, 0.0]], np.float32)
    relevance = scipy.sparse.csr_array(np.array([[3.0, 0, 1], [3, 0, 1], [0, 0, 0]]))
    best = 3 + 1 / np.log2(3)
    np.testing.assert_allclose(
        ndcg(queries, documents, relevance), [(3 + 1 / 2) / best, (1 + 3 / 2) / best, 0.0]
    )


def test_nothing_below_the_tenth_counts() -> None:
    documents = np.column_stack((np.linspace(1, 0, 12), np.zeros(12))).astype(np.float32)
    relevance = scipy.sparse.csr_array(np.eye(12)[[9, 10]])
    found = ndcg(np.array([[1, 0], [1, 0]], np.float32), documents, relevance)
    np.testing.assert_allclose(found, [1 / np.log2(11), 0.0])


class Marked:
    """A reader that finds the first document of texts beginning with its mark, else the last."""

    dim = 2

    def __init__(self, mark: str) -> None:
        self.mark = mark
        self.fingerprint = f"marked-{mark}"

    def embed(self, texts: Sequence[str]) -> Floats32:
        if self.mark == "minilm":  # the base: where a text lies tells its set, nothing is found
            return np.array([[1, 0.01] if text[0] == "x" else [-1, 0.01] for text in texts], np.float32)
        return np.array([[0, 1] if text[0] == self.mark else [0, -1] for text in texts], np.float32)


def test_pilots_lead_each_set_to_the_expert_that_reads_it_best(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(evals.embedder_eval, "load_embedder", Marked)
    documents = np.array([[0, 1], [0, -1]] + [[1, 0], [-1, 0]] * 10, np.float32)
    gains = np.zeros((4, 22))
    gains[:, 0] = 1.0
    pool = {"base": "minilm", "ex": "x", "why": "y"}
    training, test = {}, {}
    for mark in "xy":
        data = RetrievalSet(
            mark,
            ("",) * 22,
            tuple(f"{mark}{n}" for n in range(4)),
            scipy.sparse.csr_array(gains),
            np.ones(4, bool),
        )
        training[mark] = measure(data, documents, pool, lambda *_: None)
        test[mark] = measure(data, documents, {**pool, "multi-task": "x"}, lambda *_: None)
    np.testing.assert_allclose(
        use_held_out_scores("x", training["x"], pool).performance, training["x"].performance
    )
    readers = dict.fromkeys((*pool, "multi-task"), "")
    paper = build("f", pool, training, "paper")
    scores = compare(readers, test, paper, build("f", pool, training), training)
    figures = summarize(scores)
    assert figures["routed, improved"].mean.value == figures["routed, paper"].mean.value == 1.0
    assert figures["dataset oracle"].mean.value == figures["instance oracle"].mean.value == 1.0
    for name in ("dataset router", "classification head", "expert classifiers"):
        assert figures[name].mean.value == 1.0, name
    assert figures["ex"].sets == (1.0, 0.0)
    assert figures["multi-task"].routed_over.low > 0
    assert render(list(test), figures).count("\n") == 12


def test_routers_without_pilots_differ_where_a_set_has_queries_for_two_experts() -> None:
    # Set `s` lies at [1, 0] and [0, 1]: its first expert is best in the mean, its second at [0, 1].
    vectors = np.array([[1, 0]] * 6 + [[0, 1]] * 4, np.float32)
    performance = np.array([[1.0, 0.0]] * 6 + [[0.0, 1.0]] * 4)
    other = RetrievalScores(np.array([[-1, 0]] * 4, np.float32), np.array([[0.0, 1.0]] * 4))
    training = {"s": RetrievalScores(vectors, performance), "t": other}
    queries = np.array([[1, 0], [0, 1], [-1, 0]], np.float32)
    np.testing.assert_array_equal(share_by_nearest_set(training, queries), [[1, 0], [1, 0], [0, 1]])
    for share in (share_by_head, share_by_classifiers):
        np.testing.assert_array_equal(share(training, queries), [[1, 0], [0, 1], [0, 1]])


def test_experts_that_tie_share_queries_of_every_router_without_pilots() -> None:
    training = {"s": RetrievalScores(np.eye(2, dtype=np.float32), np.ones((2, 2)))}
    for share in (share_by_nearest_set, share_by_head, share_by_classifiers):
        np.testing.assert_allclose(share(training, np.eye(2, dtype=np.float32)), np.full((2, 2), 0.5))


def test_an_expert_is_told_on_its_own_queries_by_what_it_reached_held_out(tmp_path: Path) -> None:
    (tmp_path / "fit.json").write_text('{"held_out": {"s": [0.25, 0.5]}}')
    measured = RetrievalScores(np.zeros((2, 2), np.float32), np.ones((2, 2)))
    pool = {"base": "minilm", "own": str(tmp_path)}
    np.testing.assert_array_equal(use_held_out_scores("s", measured, pool).performance, [[1, 0.25], [1, 0.5]])
    np.testing.assert_array_equal(use_held_out_scores("other", measured, pool).performance, np.ones((2, 2)))


def test_every_set_weighs_alike_in_the_mean() -> None:
    found = mean_over_sets([np.ones(3), np.zeros(300)])
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("printed", ["x", "base=.", "minilm=.", "law=nowhere"])
def test_an_expert_that_is_not_there_is_refused_in_one_line(printed: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, [str(tmp_path), "--expert", printed])
    assert result.exit_code == 1
    assert result.output.startswith(f"Error: {printed}: ")


def test_fit_does_not_write_over_what_it_did_not_make(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    result = CliRunner().invoke(command, ["fit", str(tmp_path), str(tmp_path / "mine")])
    assert result.exit_code == 1
    assert "is no embedding expert" in result.output


def test_fit_without_torch_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    result = CliRunner().invoke(command, ["fit", str(tmp_path), str(tmp_path / "out")])
    assert result.exit_code == 1
    assert "thalamus-gateway[train]" in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.train
@pytest.mark.filterwarnings("default")  # libraries' own deprecations
def test_what_fit_writes_is_compared_and_kept_as_a_selection(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers", reason="needs the extra `train`")
    numbers = [str(n) for n in range(8)]
    data = folder(
        tmp_path / "s",
        corpus={"doc_id": numbers, "text": [f"the number {n}" for n in numbers]},
        queries={"query_id": numbers, "text": [f"what of {n}?" for n in numbers], "split": ["all"] * 8},
        qrels={"query_id": numbers, "doc_id": numbers, "relevance": [1] * 8},
    )
    expert = tmp_path / "expert"
    vectors = ["--vectors", str(tmp_path / "v.npz")]
    fitted = CliRunner().invoke(command, ["fit", str(data), str(expert), "--epochs", "1", *vectors])
    assert fitted.exit_code == 0, fitted.output
    assert "nDCG@10 held out, s: " in fitted.output
    out = ["--out", str(tmp_path / "selection")]
    result = CliRunner().invoke(main, [str(data), "--expert", f"own={expert}", *vectors, *out])
    assert result.exit_code == 0, result.output
    assert "| routed, improved | " in result.output
    assert EmbeddingSelection.load(tmp_path / "selection").sources == {"base": "minilm", "own": str(expert)}


def write_numbered(path: Path, word: str) -> Path:
    numbers = [str(n) for n in range(8)]
    return folder(
        path,
        corpus={"doc_id": numbers, "text": [f"the {word} {n}" for n in numbers]},
        queries={
            "query_id": numbers,
            "text": [f"what of {word} {n}?" for n in numbers],
            "split": ["all"] * 8,
        },
        qrels={"query_id": numbers, "doc_id": numbers, "relevance": [1] * 8},
    )


def run(*words: str | Path) -> str:
    result = CliRunner().invoke(command, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.output


def test_experts_come_into_a_selection_and_go_without_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THALAMUS_CACHE", str(tmp_path / "cache"))
    law, food = expert_folder(tmp_path / "law", 1), expert_folder(tmp_path / "food", 2)
    one, two = write_numbered(tmp_path / "one", "court"), write_numbered(tmp_path / "two", "bread")
    kept = tmp_path / "selection"
    assert "base embedder: onnx-" in run("add", kept, f"law={law}", one)
    before = EmbeddingSelection.load(kept)
    assert dict(before.sources) == {"base": "minilm", "law": law}
    assert (before.library.datasets, before.library.counts.tolist()) == (("one",), [4.0])
    run("add", kept, f"food={food}", one, two)
    more = EmbeddingSelection.load(kept)
    assert (more.experts, more.library.datasets) == (("base", "law", "food"), ("one", "two"))
    np.testing.assert_array_equal(more.library.sums[:1, :2], before.library.sums)
    printed = json.loads(run("list", kept, "--json"))
    assert printed["queries"] == {"one": 4, "two": 4}
    assert sum(row["won of two"] for row in printed["experts"].values()) == pytest.approx(4, abs=0.2)
    run("remove", kept, "food")
    after = EmbeddingSelection.load(kept)
    assert after.experts == ("base", "law")
    np.testing.assert_array_equal(after.library.sums[:1], before.library.sums)


def test_the_study_prints_routers_without_pilots_beside_the_others(tmp_path: Path) -> None:
    one, two = write_numbered(tmp_path / "one", "court"), write_numbered(tmp_path / "two", "bread")
    law = expert_folder(tmp_path / "law", 1)
    result = CliRunner().invoke(main, [str(one), str(two), "--expert", f"law={law}", "--json"])
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)
    for name in ("dataset router", "classification head", "expert classifiers"):
        assert 0 < figures[name]["mean"]["value"] <= figures["instance oracle"]["mean"]["value"], name


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("add", "{s}", "law=nowhere", "."), "no folder nowhere"),
        (("add", "{s}", "minilm=.", "."), "with another name than"),
        (("add", "{s}", "law={s}", "."), "'law' is in it already"),
        (("remove", "{s}", "food"), "no expert 'food'; there are base, law"),
        (("list", "nowhere"), "no embedding selection"),
    ],
)
def test_what_cannot_be_done_to_a_selection_is_one_line(
    tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    sources = {"base": "minilm", "law": "/law"}
    EmbeddingSelection.empty(OnnxEmbedder().fingerprint, sources, 384).save(tmp_path / "s")
    result = CliRunner().invoke(command, [word.format(s=tmp_path / "s") for word in words])
    assert result.exit_code == 1
    assert said in result.output
    assert result.output.count("\n") == 1
