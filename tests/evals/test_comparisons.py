"""Comparisons by a judge: read as win rates, or refused with the line."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from evals.commands.import_ import command as import_
from evals.datasets import detect, read_outcomes
from routers import DataError, OutcomeTable

HEAD = "prompt,task,model_a,model_b,winner\n"


def write(folder: Path, text: str, name: str = "verdicts.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_win_rates_count_ties_half_and_know_how_sure_they_are(tmp_path: Path) -> None:
    lines = ["p,math,x,y,a", "p,math,y,x,model_b", "p,math,x,z,tie (bothbad)", "q,,y,z,z"]
    path = write(tmp_path, HEAD + "\n".join(lines) + "\n")
    assert detect(path) == "comparisons"
    table = read_outcomes(path)
    assert (table.experts, table.texts, table.tasks) == (("x", "y", "z"), ("p", "q"), ("math", ""))
    np.testing.assert_allclose(table.score, np.array([[2.5 / 3, 0.0, 0.5], [np.nan, 0.0, 1.0]]))
    sure = table.score_std
    assert sure[0, 1] < sure[1, 1]  # two verdicts against one
    assert np.isnan(sure[1, 0])


def test_json_lines_and_a_column_for_each_verdict(tmp_path: Path) -> None:
    rows = [
        {"id": 7, "prompt": "p", "model_a": "x", "model_b": "y", "winner_model_a": 0, "winner_model_b": 1},
        {"id": 8, "prompt": "p", "model_a": "x", "model_b": "y", "winner_tie": 1},
    ]
    path = write(tmp_path, "\n".join(map(json.dumps, rows)), "verdicts.jsonl")
    np.testing.assert_allclose(read_outcomes(path).score, np.array([[0.0, 1.0], [0.5, 0.5]]))


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("p,,x,,a", "line 2: model_b: the name of a model is needed"),
        ("p,,x,x,a", "line 2: model_b: x is compared with itself"),
        ("p,,x,y,z", "line 2: winner: a, b, tie or one of x and y is needed, not 'z'"),
        ("p,,x,y,", "line 2: winner"),
        (",,x,y,a", "line 2: prompt"),
    ],
)
def test_a_wrong_line_is_refused(tmp_path: Path, line: str, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        read_outcomes(write(tmp_path, HEAD + line + "\n"), "comparisons")


def test_import_writes_them_as_a_table(tmp_path: Path) -> None:
    path = write(tmp_path, HEAD + "p,math,x,y,a\n")
    result = CliRunner().invoke(import_, [str(path), str(tmp_path / "o.jsonl")])
    assert result.exit_code == 0, result.output
    table = OutcomeTable.load(tmp_path / "o.jsonl")
    np.testing.assert_allclose(table.score, [[1, 0]])
    assert not np.isnan(table.score_std).any()
