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
    ("scores", "expected", "note"),
    [
        ((1, -1, -0.5, 0.5), (1, 0, 0.25, 0.75), "scores from -1 to 1 are scaled to 0 to 1: (score + 1) ÷ 2"),
        ((85, 40, 100, 0), (0.85, 0.4, 1, 0), "scores from 0 to 100 are scaled"),
        ((85, 40, 60, 5), (0.85, 0.4, 0.6, 0.05), "scores from 0 to 100 are scaled"),
        ((7, 10, 1, 4), (0.7, 1, 0.1, 0.4), "scores from 0 to 10 are scaled"),
        ((0, -3, -3, 1), (0.75, 0, 0, 1), "scores from -3 to 1 are scaled"),
    ],
)
def test_scores_of_another_scale_are_brought_to_ours_and_told(
    tmp_path: Path, scores: tuple[float, ...], expected: tuple[float, ...], note: str
) -> None:
    path = tmp_path / "t.csv"
    path.write_text("prompt,model,score\n" + "".join(f"p{n},a,{score}\n" for n, score in enumerate(scores)))
    table = read_outcomes(path)
    assert table.score[:, 0].tolist() == pytest.approx(expected)
    assert note in table.provenance.notes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prompt,model,score\np,a,1.5\n", r"t.csv, line 2: score of a: 1.5 is not in \[0, 1\]"),
        ("prompt,model,score\np,a,good\n", "line 2: score of a: a number is needed, not 'good'"),
        ("prompt,model,score\np,a,1\np,a,0\n", "line 3: a second outcome of a on the same prompt"),
        ("prompt,model,score\n,a,1\n", "line 2: prompt: a text is needed"),
        ("prompt,model,score,cost\np,a,1,-2\n", "line 2: cost_usd: -2 is negative"),
        ("prompt,model,score\np,a\n", "line 2: 3 columns are needed"),
        ("prompt,model,score\n", "no outcome in it"),
        ("", "no outcome in it"),
        ("model,score\na,1\n", "line 2: no prompt; it has model, score"),
        ("id,prompt\n1,p\n", "neither a model column nor a column of scores"),
        ("prompt,answered by\np,alice\n", "a column of scores; column 'answered by' is passed over: words"),
        ("prompt,a,b\np,85%,1\n", "line 2: a: a number is needed, not '85%'; write 0.85"),
        ("prompt,a,b\np,1,1\nq,n/a,0\n", "line 3: a: a number is needed, not 'n/a'; leave the cell empty"),
        ("prompt,a,b\np,yes,1\nq,no,0\n", "line 2: a: a number is needed, not 'yes'; write 1; if this is no"),
        (
            "prompt,a\np,85\n",
            r"line 2: score of a: 85 is not in \[0, 1\].*divide them by 100 \(85 is 0.85",
        ),
        (
            "prompt,model,score\n" + "".join(f"p{n},a,{2 if n < 2 else 1}\n" for n in range(201)),
            r"line 2: score of a: 2 is not in \[0, 1\]",
        ),
        ("prompt,a,b\np,inf,1\n", r"line 2: score of a: inf is not in \[0, 1\]"),
        ("prompt,a,b\np,0.5,1\nq,1,1\nr,1.5,0\n", r"line 4: score of a: 1.5 is not in \[0, 1\]"),
        ('prompt,model,score,latency\np,a,1,"1,234"\n', "not '1,234'; write 1234 or 1.234"),
        ("prompt,a,b,a\np,1,1,0\n", "line 1: column 'a' occurs twice; rename one of them"),
        ("id,prompt,model,score\n1,p,a,1\n1,q,b,1\n", "line 3: id '1' has two prompts"),
        ("prompt,model,score,bucket\np,a,1,100\n", "bucket: a whole number from 0 to 99"),
        ('prompt,model,score\n"p,a,1\n', "after line 2: unexpected end"),
    ],
)
def test_a_bad_csv_is_refused_naming_line_and_field(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_outcomes(write_file(tmp_path / "t.csv", text))
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("prompt,model,score\nGrüße,a,1\n".encode("cp1252"))
    with pytest.raises(DataError, match=r"t.csv: byte 0xfc in line 2 is not UTF-8; save the file as UTF-8"):
        read_outcomes(tmp_path / "t.csv")


WIDE = "prompt{0}big{0}small\nWas ist 2+2, bitte?{0}0.9{0}0.45\nNenne einen Fluß{0}1{0}0\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
@pytest.mark.parametrize("separator", [";", "\t", "|"])
@pytest.mark.parametrize("above", ["", "sep"])
def test_spreadsheets_of_all_countries_are_read(
    tmp_path: Path, encoding: str, separator: str, above: str
) -> None:
    text = WIDE.format(separator).replace("0.", "0,").replace("\n", "\r\n")
    text = f"sep={separator}\r\n{text}" if above else text
    (tmp_path / "t.csv").write_bytes(text.encode(encoding))
    table = read_outcomes(tmp_path / "t.csv")
    assert table.texts == ("Was ist 2+2, bitte?", "Nenne einen Fluß")
    np.testing.assert_array_equal(table.score, [[0.9, 0.45], [1, 0]])
    assert table.provenance.notes == ""


def test_thousands_and_decimals_are_told_apart_by_the_separator(tmp_path: Path) -> None:
    text = "prompt;model;score;latency\np;a;1;1,234\n\n;;;\n"
    assert read_outcomes(write_file(tmp_path / "t.csv", text)).latency_s[0, 0] == 1.234


@pytest.mark.parametrize(
    ("columns", "cells", "note"),
    [
        ("subject", ["sums", "maps", "sums"], "column 'subject' is passed over: words"),
        ("level", ["1", "5", "3"], r"column 'level' is passed over: numbers outside [0, 1]"),
        ("year", ["2020", "2020", "2021"], r"column 'year' is passed over: numbers outside [0, 1]"),
        ("date", ["2024-05-01", "", "2024-05-02"], "column 'date' is passed over: words"),
        ("vector", ["[0.1, 0.2]", "[1, 0]", "[0, 0]"], "column 'vector' is passed over: words"),
        ("notes", ["1", "two", "three"], "column 'notes' is passed over: words"),
        ("expected", ["1", "0", "1"], "column 'expected' is passed over: no model's name"),
        ("empty", ["", "", ""], "column 'empty' is passed over: nothing"),
        ("Unnamed: 0", ["0", "1", "1"], "column 'Unnamed: 0' is passed over: no model's name"),
    ],
)
@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_a_foreign_column_is_passed_over_and_named(
    tmp_path: Path, columns: str, cells: list[str], note: str, form: str
) -> None:
    rows = [
        {"prompt": f"p{n}", columns: cell, "big": score, "big_response": "7", "small": ""}
        for n, (cell, score) in enumerate(zip(cells, ["1", "0.5", ""], strict=True))
    ]
    if form == "csv":
        lines = [",".join(rows[0]), *(",".join(f'"{cell}"' for cell in row.values()) for row in rows)]
        path = write_file(tmp_path / "t.csv", "\n".join(lines))
    else:
        path = write_file(tmp_path / "t.jsonl", "\n".join(json.dumps(row) for row in rows))
    table = read_outcomes(path)
    assert table.experts == ("big",)
    np.testing.assert_array_equal(table.score, [[1], [0.5], [np.nan]])
    assert note in table.provenance.notes
    assert table.answers == (("7",),) * 3


def test_fields_beside_a_line_per_prompt_and_model_are_named(tmp_path: Path) -> None:
    path = write_file(tmp_path / "t.csv", "prompt,model,score,annotator\np,a,1,kim\n")
    assert read_outcomes(path).provenance.notes == "column 'annotator' is passed over: no field of ours"


def test_a_nested_score_at_fault_names_its_model(tmp_path: Path) -> None:
    path = write_file(tmp_path / "t.jsonl", '{"prompt": "p", "score": {"a": 1, "b": "85%"}}')
    with pytest.raises(DataError, match=r"line 1: score of b: a number is needed, not '85%'; write 0.85"):
        read_outcomes(path)


def test_json_lines_of_joined_files_may_have_marks_inside(tmp_path: Path) -> None:
    line = '\ufeff{"prompt": "%s", "model": "a", "score": 1}\n'
    path = write_file(tmp_path / "t.jsonl", line % "p" + line % "q")
    assert read_outcomes(path).texts == ("p", "q")


def test_a_column_that_may_be_percentages_says_what_to_do(tmp_path: Path) -> None:
    path = write_file(tmp_path / "t.csv", "prompt,big,odd\np,1,85\nq,0,40\n")
    assert read_outcomes(path).provenance.notes.endswith("(divide them by 100 if they are scores)")


def test_only_the_columns_of_the_chosen_experts_are_read(tmp_path: Path) -> None:
    path = write_file(tmp_path / "t.csv", "prompt,big,odd\np,1,85%\n")
    with pytest.raises(DataError, match="name those that are with --experts"):
        read_outcomes(path)
    assert read_outcomes(path, experts=["big"]).experts == ("big",)


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
