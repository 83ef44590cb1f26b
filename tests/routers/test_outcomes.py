import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from routers import DataError, OutcomeTable, Provenance, add_outcomes, merge_outcomes
from routers.outcomes import bucket_of


def table(n: int = 6, experts: tuple[str, ...] = ("a", "b"), seed: int = 0) -> OutcomeTable:
    rng = np.random.default_rng(seed)
    score = rng.random((n, len(experts)))
    score[0, 0] = np.nan
    return OutcomeTable.build(
        [f"text {chr(97 + i)} «é»\nline" for i in range(n)],
        experts,
        {
            "score": score,
            "cost_usd": rng.random((n, len(experts))),
            "confidence": -rng.random((n, len(experts))),
        },
        ids=[f"id{i}" for i in range(n)],
        tasks=["t"] * n,
        families=[f"f{i // 2}" for i in range(n)],
        answers=[["x", None]] * n if len(experts) == 2 else None,
        provenance=Provenance("made up", "CC0", "measured"),
    )


@pytest.mark.parametrize("name", ["t.jsonl", "t.jsonl.gz"])
def test_a_saved_table_reads_back_equal_with_its_gaps_and_answers(tmp_path: Path, name: str) -> None:
    saved = table()
    saved.save(tmp_path / name)
    read = OutcomeTable.load(tmp_path / name)
    assert (read.ids, read.texts, read.families, read.answers) == (
        saved.ids,
        saved.texts,
        saved.families,
        saved.answers,
    )
    for key, values in saved.measures().items():
        np.testing.assert_array_equal(read.measures()[key], values)
    assert read.provenance == saved.provenance
    assert read.fingerprint == saved.fingerprint


def test_equal_tables_give_equal_bytes(tmp_path: Path) -> None:
    table().save(tmp_path / "one.jsonl.gz")
    table().save(tmp_path / "two.jsonl.gz")
    assert (tmp_path / "one.jsonl.gz").read_bytes() == (tmp_path / "two.jsonl.gz").read_bytes()


def test_a_changed_score_changes_the_fingerprint_and_provenance_does_not() -> None:
    assert table(seed=1).fingerprint != table(seed=2).fingerprint
    other = OutcomeTable.build(["q"], ["a"], {"score": np.ones((1, 1))}, provenance=Provenance("elsewhere"))
    assert other.fingerprint == OutcomeTable.build(["q"], ["a"], {"score": np.ones((1, 1))}).fingerprint


def write_table(tmp_path: Path, **changes: object) -> Path:
    row = {"id": "q", "text": "t", "bucket": 3, "score": [0.5, 1.0], **changes}
    header = {"schema": "thalamus.outcomes/1", "experts": [{"name": n, "model": n} for n in "ab"]}
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps(header) + "\n" + json.dumps(row) + "\n")
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"score": [0.5, 1.5]}, r"t.jsonl, line 2: score of b is 1.5, not in \[0, 1\]"),
        ({"cost_usd": [-1, 0]}, "cost_usd of a is -1, not ≥ 0"),
        ({"score": [0.5]}, "score: a list of 2 values"),
        ({"score": ["1", 0]}, "score: numbers or null"),
        ({"score": [True, 0]}, "score: numbers or null"),
        ({"bucket": 100}, "bucket 100 is not in 0–99"),
        ({"bucket": "3"}, "bucket: a whole number"),
        ({"scores": []}, "unknown field 'scores'"),
        ({"text": None}, "text: a string"),
        ({"answers": [1, 2]}, "answers: strings or null"),
    ],
)
def test_a_bad_row_is_refused_naming_line_and_field(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        OutcomeTable.load(write_table(tmp_path, **changes))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an outcome table"),
        (b"a,b\n1,2\n", "line 1: not JSON"),
        (b'{"a": 1}\n', "not an outcome table"),
        (b'{"schema": "thalamus.outcomes/9", "experts": []}\n', "this one reads"),
        (b'{"schema": "thalamus.outcomes/1", "experts": []}\n', "line 1: experts"),
        (b"\xff\xfe\x00", "damaged or not text"),
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "t.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=message):
        OutcomeTable.load(tmp_path / "t.jsonl")


def test_a_cut_gzip_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl.gz").write_bytes(gzip.compress(b"x" * 1000)[:20])
    with pytest.raises(DataError, match="damaged"):
        OutcomeTable.load(tmp_path / "t.jsonl.gz")
    with pytest.raises(DataError, match="No such file"):
        OutcomeTable.load(tmp_path / "absent.jsonl")


def test_an_id_that_occurs_twice_is_refused() -> None:
    with pytest.raises(DataError, match="row 1: id 'x' occurs twice"):
        OutcomeTable.build(["p", "q"], ["a"], {}, ids=["x", "x"])


def test_near_twins_share_a_bucket() -> None:
    assert bucket_of("What is 17 * 23?") == bucket_of("what is 4 * 9 ?")
    assert bucket_of("What is 17 * 23?") != bucket_of("Name the capital of France")


def test_queries_of_a_family_share_a_bucket_whatever_their_text() -> None:
    built = OutcomeTable.build(["one", "two"], ["a"], {}, families=["f", "f"])
    assert built.bucket[0] == built.bucket[1]


def test_folds_are_even_cuts_of_the_buckets() -> None:
    built = OutcomeTable.build([f"{i}" for i in range(100)], ["a"], {}, bucket=np.arange(100))
    np.testing.assert_array_equal(built.folds(5), np.arange(100) // 20)


def test_folds_of_few_families_are_balanced_and_never_split_a_bucket() -> None:
    bucket = np.repeat([1, 2, 3, 50], 10)
    built = OutcomeTable.build([f"{i}" for i in range(40)], ["a"], {}, bucket=bucket)
    folds = built.folds(4)
    assert sorted(np.bincount(folds, minlength=4)) == [10, 10, 10, 10]
    for b in set(bucket):
        assert len(set(folds[bucket == b])) == 1


def test_best_single_oracle_and_means_pass_over_gaps() -> None:
    score = np.array([[np.nan, 0.4], [0.9, 0.2], [np.nan, np.nan]])
    built = OutcomeTable.build(["p", "q", "r"], ["a", "b"], {"score": score})
    assert built.best_single() == 0
    np.testing.assert_array_equal(built.oracle(), [0.4, 0.9, np.nan])
    np.testing.assert_allclose(built.means()["score"], [0.9, 0.3])
    assert np.isnan(built.means()["cost_usd"]).all()


def test_taking_rows_and_experts_keeps_every_array_aligned() -> None:
    whole = table()
    part = whole.take(np.array([4, 2])).only(["b"])
    assert part.ids == ("id4", "id2")
    np.testing.assert_array_equal(part.score[:, 0], whole.score[[4, 2], 1])
    assert part.answers == ((None,), (None,))
    with pytest.raises(DataError, match="no expert 'z'"):
        whole.only(["z"])


def test_merging_adds_queries_and_experts_and_lets_the_newer_measurement_count() -> None:
    first = OutcomeTable.build(["p", "q"], ["a"], {"score": np.array([[0.1], [0.2]])}, ids=["p", "q"])
    second = OutcomeTable.build(
        ["q", "r"], ["b", "a"], {"score": np.array([[0.3, np.nan], [0.4, 0.5]])}, ids=["q", "r"]
    )
    merged = merge_outcomes(first, second)
    assert (merged.ids, merged.experts) == (("p", "q", "r"), ("a", "b"))
    np.testing.assert_array_equal(merged.score, [[0.1, np.nan], [0.2, 0.3], [0.5, 0.4]])


def test_merging_refuses_one_name_for_two_models_and_one_id_for_two_texts() -> None:
    first = OutcomeTable.build(["p"], ["a"], {}, models=["m1"])
    with pytest.raises(DataError, match="'a' is 'm1' in one table and 'm2'"):
        merge_outcomes(first, OutcomeTable.build(["p"], ["a"], {}, models=["m2"]))
    with pytest.raises(DataError, match="two different texts"):
        merge_outcomes(first, OutcomeTable.build(["other"], ["a"], {}, models=["m1"]))


def test_an_answer_after_a_refusal_leaves_no_mark_of_the_refusal() -> None:
    def one(score: float, declined: float, tokens: float) -> OutcomeTable:
        values = {"score": score, "declined": declined, "output_tokens": tokens}
        return OutcomeTable.build(["q"], ["a"], {name: np.array([[v]]) for name, v in values.items()})

    whole = add_outcomes(one(0.0, 1.0, np.nan), one(1.0, np.nan, 7.0))
    assert (whole.score[0, 0], whole.output_tokens[0, 0]) == (1.0, 7.0)
    assert np.isnan(whole.declined[0, 0])
    kept = add_outcomes(whole, one(np.nan, np.nan, np.nan))  # asked again, without an answer
    assert kept.fingerprint == whole.fingerprint


def test_where_outcomes_come_from_is_said_once_each() -> None:
    tables = [
        OutcomeTable.build(["q"], ["a"], {}, provenance=Provenance(source=source))
        for source in ("import", "profile", "profile")
    ]
    assert add_outcomes(add_outcomes(*tables[:2]), tables[2]).provenance.source == "import; profile"
