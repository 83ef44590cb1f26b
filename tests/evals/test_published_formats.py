import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evals.datasets import detect, read_outcomes, source_splits
from routers import DataError

HEAD = (
    "sample_id,prompt,eval_name,small,big/one,small|model_response,big/one|model_response,"
    "small|total_cost,big/one|total_cost,oracle_model_to_route_to"
)
BENCH = f"""{HEAD}
made-up.1,"['Count to two.', 'And to three.']",counting,0.0,1.0,['1'],"['1 2', '1 2 3']",0.001,0.01,big/one
made-up.2,Name a colour.,colours,1.0,0.25,['red'],['blue'],0.002,0.02,small
"""


WITH_ANSWERS = "prompt,weak,strong,weak_response,strong_response\n"


def test_routerbench_as_csv_reads_turns_scores_costs_and_answers(tmp_path: Path) -> None:
    path = tmp_path / "bench.csv"
    path.write_text(BENCH)
    assert detect(path) == "routerbench"
    table = read_outcomes(path)
    assert table.texts == ("Count to two.\nAnd to three.", "Name a colour.")
    np.testing.assert_array_equal(table.score, [[1, 0], [0.25, 1]])
    np.testing.assert_array_equal(table.cost_usd, [[0.01, 0.001], [0.02, 0.002]])
    assert table.answers is not None
    assert table.answers[0] == ("1 2\n1 2 3", "1")
    assert "measured" in table.provenance.cost_basis


def test_a_file_without_costs_is_no_routerbench(tmp_path: Path) -> None:
    path = tmp_path / "bench.csv"
    path.write_text("prompt,a\np,1\n")
    with pytest.raises(DataError, match=r"no column MODEL\|total_cost"):
        read_outcomes(path, "routerbench")


def test_routellm_folders_take_tasks_from_names_and_leave_contaminated_prompts_out(tmp_path: Path) -> None:
    responses = tmp_path / "mmlu" / "responses"
    responses.mkdir(parents=True)
    (responses / "mmlu_knots.csv").write_text("prompt,weak,strong\nTie it?,True,True\nUntie it?,False,True\n")
    (responses / "sums_responses.csv").write_text(
        "prompt,weak,strong,weak_response,strong_response\n1+1,False,True,3,2\n"
    )
    (tmp_path / "mmlu" / "contaminated_prompts.jsonl").write_text('{"eval_prompt": "Tie it?"}\n')
    assert detect(tmp_path / "mmlu") == "routellm"
    table = read_outcomes(tmp_path / "mmlu")
    assert table.texts == ("Untie it?", "1+1")
    assert table.tasks == ("mmlu_knots", "sums")
    assert table.experts == ("strong", "weak")
    np.testing.assert_array_equal(table.score, [[1, 0], [1, 0]])
    assert table.answers is not None
    assert table.answers[1] == ("2", "3")
    assert "1 contaminated" in table.provenance.notes


def test_one_routellm_file_is_read_alone(tmp_path: Path) -> None:
    path = tmp_path / "gsm8k_responses.csv"
    path.write_text(
        "prompt,weak,strong,weak_response,strong_response\n1+1,False,True,3,2\n1+1,True,True,2,2\n"
    )
    table = read_outcomes(path)
    assert (len(table), set(table.tasks)) == (2, {"gsm8k"})


def result(root: Path, model: str, records: list[dict[str, Any]], stamp: str, **more: Any) -> None:
    folder = root / "knots" / "test" / model
    folder.mkdir(parents=True, exist_ok=True)
    printed = {"dataset_name": "knots", "split": "test", "model_name": model, "records": records, **more}
    (folder / f"knots-test-{model}-{stamp}.json").write_text(json.dumps(printed))


def one(index: int, score: float | None, prompt: str = "Tie it. Think.", cost: float = 0.5) -> dict[str, Any]:
    return {
        "index": index,
        "origin_query": f"Tie it {index}",
        "prompt": f"{prompt} {index}",
        "prompt_tokens": 10,
        "completion_tokens": 3,
        "cost": cost,
        "score": score,
        "raw_output": ["so"],
    }


def test_llmrouterbench_takes_the_latest_run_of_each_model(tmp_path: Path) -> None:
    result(tmp_path, "a", [one(0, 0.0)], "20250101_000000")
    result(tmp_path, "a", [one(0, 1.0), one(1, None)], "20250601_000000")
    result(tmp_path, "a", [one(0, 0.5)], "20260101_000000", demo=True)
    result(tmp_path, "b", [one(0, 0.25, cost=0.0), one(1, 1.0, "Do tie it.", cost=0.0)], "20250101_000000")
    (tmp_path / "index.json").write_text('{"other": 1}')
    assert detect(tmp_path) == "llmrouterbench"
    table = read_outcomes(tmp_path)
    assert table.ids == ("knots/test/0", "knots/test/1")
    np.testing.assert_array_equal(table.score, [[1, 0.25], [np.nan, 1]])
    np.testing.assert_array_equal(table.cost_usd, [[0.5, np.nan], [0.5, np.nan]])
    assert table.texts == ("Tie it. Think. 0", "Tie it 1"), "prompts that differ fall back to the question"
    assert table.output_tokens[0, 0] == 3


def test_llmrouterbench_without_a_result_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(DataError, match=r"x.json: not JSON"):
        read_outcomes(tmp_path, "llmrouterbench")
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(DataError, match="no result file with dataset_name"):
        read_outcomes(tmp_path, "llmrouterbench")


def lines(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_litellm_logs_give_cost_tokens_and_latency_and_average_repeats(tmp_path: Path) -> None:
    said = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello?"}]
    log = {
        "model": "provider/a",
        "messages": said,
        "response": {"choices": [{"message": {"content": "Hi."}}]},
        "response_cost": 0.25,
        "prompt_tokens": 9,
        "completion_tokens": 2,
        "startTime": 100.0,
        "endTime": 101.5,
    }
    path = lines(
        tmp_path / "l.jsonl",
        {**log, "score": 1},
        {**log, "metadata": {"score": 0}, "response_cost": 0.75},
        {**log, "model": "b", "metadata": {"requester_metadata": {"score": 0.5}}},
        log,
    )
    assert detect(path) == "logs"
    table = read_outcomes(path)
    assert (table.texts, table.experts) == (("Hello?",), ("b", "provider/a"))
    np.testing.assert_array_equal(table.score, [[0.5, 0.5]])
    np.testing.assert_array_equal(table.cost_usd, [[0.25, 0.5]])
    np.testing.assert_array_equal(table.latency_s, [[1.5, 1.5]])
    np.testing.assert_array_equal(table.input_tokens, [[9, 9]])
    assert table.answers == (("Hi.", "Hi."),)


def test_openai_requests_beside_responses_are_read_with_parts_and_usage(tmp_path: Path) -> None:
    body = {
        "model": "gpt",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Look:"}, {"type": "image_url"}]}],
    }
    response = {
        "body": {
            "choices": [{"message": {"content": "Nice."}}],
            "usage": {"prompt_tokens": 5, "completion_tokens": 1},
        }
    }
    path = lines(
        tmp_path / "l.jsonl", {"request": {"body": body}, "response": response, "score": 1, "task": "art"}
    )
    table = read_outcomes(path)
    assert (table.texts, table.experts, table.tasks) == (("Look:",), ("gpt",), ("art",))
    assert table.output_tokens[0, 0] == 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"model": "a", "messages": [], "score": 1}, "line 1: messages: no text of a user"),
        ({"model": "a", "messages": "redacted-by-litellm", "score": 1}, "line 1: messages: redacted"),
        ({"messages": "p", "score": 1}, "line 1: model: a text is needed"),
        ({"model": "a", "messages": "p"}, "no line has a score"),
        (
            {"model": "a", "messages": "p", "score": 7},
            r"score of a: 7 is not in \[0, 1\]; if scores are percentages, divide them",
        ),
    ],
)
def test_a_log_that_says_too_little_is_refused(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_outcomes(lines(tmp_path / "l.jsonl", row), "logs")


def test_only_folders_tell_their_own_train_and_test_parts(tmp_path: Path) -> None:
    path = tmp_path / "bench.csv"
    path.write_text(BENCH)
    with pytest.raises(DataError, match=r"only a folder with prompts.parquet"):
        source_splits(path, read_outcomes(path))
