import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evals.datasets import detect, read_outcomes
from routers import DataError, OutcomeTable

LONG = """prompt,model,score,cost_usd,task,group
"Add, please: 1+1",small,1,0.001,maths,f1
"Add, please: 1+1",big,1,0.01,maths,f1
Write a poem,small,0.25,,poetry,f2
"""


def write_file(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_a_long_csv_becomes_a_table_with_gaps(tmp_path: Path) -> None:
    table = read_outcomes(write_file(tmp_path / "t.csv", LONG))
    assert table.experts == ("big", "small")
    assert table.texts == ("Add, please: 1+1", "Write a poem")
    np.testing.assert_array_equal(table.score, [[1, 1], [np.nan, 0.25]])
    np.testing.assert_array_equal(table.cost_usd, [[0.01, 0.001], [np.nan, np.nan]])
    assert (table.tasks, table.families) == (("maths", "poetry"), ("f1", "f2"))


def test_a_wide_csv_takes_a_column_per_model_and_measures_by_name(tmp_path: Path) -> None:
    text = "sample_id,prompt,eval_name,a,b,a|total_cost\n1,p,t,0.5,1,0.1\n2,q,t,,true,0.2\n"
    table = read_outcomes(write_file(tmp_path / "t.csv", text))
    assert (table.ids, table.experts, table.tasks) == (("1", "2"), ("a", "b"), ("t", "t"))
    np.testing.assert_array_equal(table.score, [[0.5, 1], [np.nan, 1]])
    np.testing.assert_array_equal(table.cost_usd, [[0.1, np.nan], [0.2, np.nan]])


@pytest.mark.parametrize("gzipped", [False, True])
def test_json_lines_may_be_long_wide_or_nested(tmp_path: Path, gzipped: bool) -> None:
    rows: list[dict[str, Any]] = [
        {"query": "p", "expert": "a", "score": 1, "latency": 2.5},
        {"text": "q", "a": 0.5, "b": 0},
        {"prompt": "r", "score": {"a": 0.25, "b": None}, "answer": {"a": "yes"}, "bucket": 7},
    ]
    data = "\n".join(json.dumps(row) for row in rows).encode()
    path = tmp_path / ("t.jsonl.gz" if gzipped else "t.jsonl")
    path.write_bytes(gzip.compress(data) if gzipped else data)
    table = read_outcomes(path)
    np.testing.assert_array_equal(table.score, [[1, np.nan], [0.5, 0], [0.25, np.nan]])
    assert table.latency_s[0, 0] == 2.5
    assert table.answers is not None
    assert table.answers[2] == ("yes", None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prompt,model,score\np,a,1.5\n", r"t.csv, line 2: score: 1.5 is not in \[0, 1\]"),
        ("prompt,model,score\np,a,good\n", "line 2: score: a number is needed, not 'good'"),
        ("prompt,model,score\np,a,1\np,a,0\n", "line 3: a second outcome of a on the same prompt"),
        ("prompt,model,score\n,a,1\n", "line 2: prompt: a text is needed"),
        ("prompt,model,score,cost\np,a,1,-2\n", "line 2: cost_usd: -2 is negative"),
        ("prompt,model,score\np,a\n", "line 2: 3 columns are needed"),
        ("prompt,model,score\n", "no outcome in it"),
        ("", "no outcome in it"),
        ("model,score\na,1\n", "line 2: no prompt; it has model, score"),
        ("id,prompt\n1,p\n", "neither a model column nor a column of scores"),
        ("prompt,answered by\np,alice\n", "answered by: a number is needed"),
        ("id,prompt,model,score\n1,p,a,1\n1,q,b,1\n", "line 3: id '1' has two prompts"),
        ("prompt,model,score,bucket\np,a,1,100\n", "bucket: a whole number from 0 to 99"),
        ('prompt,model,score\n"p,a,1\n', "after line 1: unexpected end"),
    ],
)
def test_a_bad_csv_is_refused_naming_line_and_field(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_outcomes(write_file(tmp_path / "t.csv", text))
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"prompt\xff\xfe,model")
    with pytest.raises(DataError, match="not UTF-8"):
        read_outcomes(tmp_path / "t.csv")


def folder(tmp_path: Path, **outcomes: Any) -> Path:
    prompts = {"prompt_id": ["1", "2"], "prompt": ["p", "q"], "task": ["t", "u"], "bucket": [3, 99]}
    held = {
        "prompt_id": ["1", "2", "1"],
        "model": ["a", "a", "b"],
        "score": pa.array([0.1, 1.0, None], pa.float32()),
        "cost_usd": [0.5, None, 1.0],
    }
    pq.write_table(pa.table(prompts), tmp_path / "prompts.parquet")
    pq.write_table(pa.table(held | outcomes), tmp_path / "outcomes.parquet")
    (tmp_path / "meta.json").write_text(json.dumps({"source": "here", "licence": "CC0", "cost_basis": None}))
    return tmp_path


def test_a_folder_of_parquet_keeps_buckets_and_provenance(tmp_path: Path) -> None:
    table = read_outcomes(folder(tmp_path))
    assert table.bucket.tolist() == [3, 99]
    np.testing.assert_array_equal(table.score, [[0.1, np.nan], [1.0, np.nan]])
    assert (table.provenance.source, table.provenance.licence) == ("here", "CC0")


def test_a_folder_without_a_column_or_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"outcomes.parquet, row 1: prompt_id 'z' is not in prompts"):
        read_outcomes(folder(tmp_path, prompt_id=["z", "2", "1"]))
    (tmp_path / "outcomes.parquet").write_bytes(b"junk")
    with pytest.raises(DataError, match=r"outcomes.parquet: not parquet"):
        read_outcomes(tmp_path)
    (tmp_path / "outcomes.parquet").unlink()
    with pytest.raises(DataError, match=r"outcomes.parquet"):
        read_outcomes(tmp_path)


def test_the_format_is_told_by_name_and_first_line(tmp_path: Path) -> None:
    OutcomeTable.build(["p"], ["a"], {"score": np.ones((1, 1))}).save(tmp_path / "own.jsonl.gz")
    assert detect(tmp_path / "own.jsonl.gz") == "table"
    assert read_outcomes(tmp_path / "own.jsonl.gz").texts == ("p",)
    assert detect(tmp_path) == "folder"
    with pytest.raises(DataError, match="choose one with --format"):
        detect(tmp_path / "x.bin")
    with pytest.raises(DataError, match="no such file"):
        read_outcomes(tmp_path / "absent.csv")
