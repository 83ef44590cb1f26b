"""Own probes in the forms people write them in; mistakes are named with line, field and fix."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from evals.commands.probes import command
from evals.grading import grade
from evals.probes import Probe, ProbeError, load_probes


def load_text(folder: Path, text: str | bytes, name: str = "own.jsonl") -> list[Probe]:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_probes(path)


def load_one(folder: Path, **fields: Any) -> Probe:
    (probe,) = load_text(folder, json.dumps(fields))
    return probe


@pytest.mark.parametrize(
    ("answer", "grader", "expected", "right", "wrong"),
    [
        ("Lima", "text", {"accept": ["Lima"]}, "It is Lima.", "It is Cusco."),
        ("Danube | Donau", "text", {"accept": ["Danube", "Donau"]}, "The Donau.", "The Rhine."),
        (["NYC", "New York"], "text", {"accept": ["NYC", "New York"]}, "New York", "Boston"),
        (30, "number", {"value": 30}, "within 30 days", "31"),
        ("1,250.5", "number", {"value": 1250.5}, "1250.5", "1250"),
        ("$3", "number", {"value": 3.0}, "It costs $3", "4"),
        (True, "yes_no", {"answer": True}, "Yes, it is.", "No."),
        ("No.", "yes_no", {"answer": False}, "No.", "Yes."),
        ("false", "yes_no", {"answer": False}, "False.", "True."),
        ({"name": "Ada"}, "json", {"value": {"name": "Ada"}}, '{"name": "Ada"}', "Ada"),
        ('{"name": "Ada"}', "json", {"value": {"name": "Ada"}}, '{"name": "Ada"}', "{}"),
        ({"text": ["Peru"], "answer_start": [3]}, "text", {"accept": ["Peru"]}, "Peru", "Chile"),
    ],
)
def test_the_grader_follows_from_the_answer(
    tmp_path: Path, answer: Any, grader: str, expected: Any, right: str, wrong: str
) -> None:
    probe = load_one(tmp_path, question="Well?", answer=answer)
    assert (probe.grader, probe.expected) == (grader, expected)
    assert (grade(right, probe), grade(wrong, probe)) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("grader", "expected", "shaped"),
    [
        ("exact", "Lima", {"accept": ["Lima"]}),
        ("exact_match", ["Lima"], {"accept": ["Lima"]}),
        ("number", "30", {"value": 30.0}),
        ("yes_no", "yes", {"answer": True}),
        ("keywords", ["refund", "30 days"], {"groups": [["refund"], ["30 days"]]}),
        ("keywords", "refund, 30 days", {"groups": [["refund"], ["30 days"]]}),
        ("order", ["a", "b"], {"items": ["a", "b"]}),
        ("regex", r"\d+", {"pattern": r"\d+"}),
        ("literal", "Ab c", {"text": "Ab c"}),
        ("json", {"a": 1}, {"value": {"a": 1}}),
        ("text", {"accept": ["x"], "reject": ["y"]}, {"accept": ["x"], "reject": ["y"]}),
    ],
)
def test_a_named_grader_takes_its_simple_form(
    tmp_path: Path, grader: str, expected: Any, shaped: Any
) -> None:
    assert load_one(tmp_path, prompt="Well?", grader=grader, expected=expected).expected == shaped


@pytest.mark.parametrize("answer", ["B", "blue", 1])
def test_a_multiple_choice_takes_letter_text_or_index_and_shows_its_options(
    tmp_path: Path, answer: Any
) -> None:
    probe = load_one(tmp_path, question="The sky is", choices=["red", "blue"], answer=answer)
    assert probe.expected == {"answer": "B", "options": {"A": "red", "B": "blue"}}
    assert probe.prompt == "The sky is\nA. red\nB. blue"


def test_a_conversation_is_asked_whole_and_its_last_turn_is_the_prompt(tmp_path: Path) -> None:
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "2+2?"},
    ]
    probe = load_one(tmp_path, messages=turns, answer=4)
    assert (probe.prompt, list(probe.messages)) == ("2+2?", turns)
    ideal = load_one(tmp_path, input=turns, ideal="4")
    assert (list(ideal.messages), ideal.grader) == (turns, "number")
    framed = load_one(tmp_path, system="Be brief.", question="2+2?", answer=4)
    assert [turn["role"] for turn in framed.messages] == ["system", "user"]


def test_without_an_answer_or_with_a_long_one_a_model_must_judge(tmp_path: Path) -> None:
    assert load_one(tmp_path, question="Write a poem.").grader == "judge"
    long = " ".join(["word"] * 30)
    probe = load_one(tmp_path, question="Explain.", answer=long)
    assert (probe.grader, probe.reference) == ("judge", long)


def test_ids_are_made_of_the_prompt_and_do_not_depend_on_the_line(tmp_path: Path) -> None:
    first, second = '{"question": "a?", "answer": 1}', '{"question": "b?", "answer": 2}'
    there = {p.prompt: p.id for p in load_text(tmp_path, f"{first}\n{second}")}
    back = {p.prompt: p.id for p in load_text(tmp_path, f"{second}\n\n{first}\n{first}")}
    assert there == back


FIRST = '{"question": "Capital of Peru?", "answer": "Lima"}'
SECOND = '{"q": 0, "query": "How many?", "expected": "1250"}'
ROWS = 'question,answer\nCapital of Peru?,Lima\nHow many?,"1,250"\n'


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("own.csv", ROWS),
        ("own.csv", "\ufeff" + ROWS.replace("\n", "\r\n")),
        ("own.csv", ROWS.replace(",answer", ";answer").replace("?,", "?;").replace('"1,250"', "1250,0")),
        ("own.tsv", ROWS.replace(",answer", "\tanswer").replace("?,", "?\t")),
        ("own.csv", ROWS.encode("utf-16")),
        ("own.txt", ROWS),
        ("own.csv", "Question,Expected Answer\nCapital of Peru?,Lima\nHow many?,1250\n"),
        ("own.json", f"[{FIRST}, {SECOND}]"),
        ("own.json", f'{{"probes": [\n {FIRST},\n {SECOND}\n]}}'),
        ("own.jsonl", f"[{FIRST},\n {SECOND}]"),
        ("own.jsonl", f"{FIRST}\n{SECOND}"),
    ],
)
def test_csv_json_and_json_lines_are_read(tmp_path: Path, name: str, data: str | bytes) -> None:
    probes = load_text(tmp_path, data, name)
    assert [(p.prompt, p.grader) for p in probes] == [("Capital of Peru?", "text"), ("How many?", "number")]
    assert probes[1].expected == {"value": 1250}


def check(path: Path, *options: str) -> Result:
    return CliRunner().invoke(command, ["check", str(path), *options])


@pytest.mark.parametrize(
    ("line", "field", "message", "fix"),
    [
        ('{"qestion": "a?", "answer": 1}', "qestion", "unknown field 'qestion'", "did you mean 'question'?"),
        ('{"question": "a?", "anser": 1}', "anser", "unknown field 'anser'", "did you mean 'answer'?"),
        ('{"answer": 1}', "prompt", "field 'prompt' is missing", "add `question`"),
        ('{"question": "a?", "grader": "numbr", "answer": 1}', "grader", "'numbr' is unk", "mean 'number'?"),
        ('{"question": "a?", "grader": "number", "answer": "few"}', "expected", "expected.value", "30, or"),
        ('{"question": "a?", "grader": "code", "answer": "x"}', "expected", "expected", '"tests"'),
        ('{"question": "a?", "choices": ["x", "y"], "answer": "Z"}', "expected", "'Z' is none", "options"),
        ('{"question": "a?", "grader": "choice", "answer": "A"}', "options", "'options' is missing", ""),
        ('{"messages": "hello", "answer": 1}', "messages", "not JSON", '"role"'),
        ('{"messages": [{"role": "system", "content": "x"}]}', "messages", "no turn of the user", '"role"'),
        ('{"question": "a?", "max_tokens": 0}', "max_tokens", "whole number", ""),
        ('{"question": "good?", "answer": 7}', "prompt", "already that of line 1, with another", "remove"),
        ("{'question': 'a?'}", "", "not JSON", "one object a line"),
        ("7", "", "not a JSON object", "question"),
    ],
)  # fmt: skip
def test_check_names_line_field_and_fix(
    tmp_path: Path, line: str, field: str, message: str, fix: str
) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text('{"question": "good?", "answer": 1}\n\n' + line + "\n")
    result = check(path)
    assert result.exit_code == 1
    assert f"own.jsonl:3:{' ' + field + ':' if field else ''}" in result.output
    assert message in result.output
    assert fix in result.output
    (problem,) = json.loads(check(path, "--json").output)["problems"]
    assert (problem["line"], problem["field"]) == (3, field)
    with pytest.raises(ProbeError, match=r"own\.jsonl:3: "):
        load_probes(path)


def test_check_names_every_fault_at_once_and_counts_what_is_good(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text("question,answer,difficulty\na?,1,hard\n,2,\nb?,c,d,e\n")
    output = check(path).output
    assert "own.csv:3: prompt: field 'prompt' is missing" in output
    assert "own.csv:4: 4 cells for 3 columns" in output
    assert "note    " in output
    assert "field 'difficulty' is not read" in output
    assert "1 probes can be used: 1 number" in output


@pytest.mark.parametrize(
    ("text", "faults", "n_good"),
    [
        ('a?,"1\nb?,2\nc?,3\n', ["2: a quotation mark has no partner, so what follows up to line 4"], 0),
        ('a?,1\n"b? is it"so,2\nc?,3\n', ["3: a quotation mark has no partner\n"], 2),
        ("a?,1\nb?\nc?,3\nd?", ["3: 1 cell for 3 columns: it ends before 'answer'", "5: 1 cell"], 2),
        ('a?,1\n"two\nlines?",1\nb\0?,2\n', ["5: holds a NUL character"], 2),
        ("a?,1\nb?,\nc?,2,number\n", [], 3),
    ],
)
def test_check_refuses_damaged_rows_of_a_table(
    tmp_path: Path, text: str, faults: list[str], n_good: int
) -> None:
    path = tmp_path / "own.csv"
    path.write_text("question,answer,grader\n" + text)
    result = check(path)
    assert result.exit_code == (1 if faults else 0)
    assert result.output.count("FAULT") == len(faults)
    for fault in faults:
        assert f"own.csv:{fault}" in result.output
    assert f"{n_good} probes can be used" in result.output


def test_check_names_a_damaged_head_of_a_table(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text('question,"answer\na?,1\n')
    assert "own.csv:1: a quotation mark has no partner" in check(path).output


def test_check_names_a_table_without_prompts(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text("frage,antwort\na,b\n")
    result = check(path)
    assert result.exit_code == 1
    assert "no column of prompts; the first line has frage, antwort" in result.output


def test_an_answer_that_its_own_grader_refuses_is_noted(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text('{"question": "a?", "answer": "perhaps 3 or 4", "grader": "text"}\n')
    path.write_text('{"question": "Say: hello there", "answer": "Say: hello there", "grader": "text"}\n')
    assert "would not pass the grader" in check(path).output


@pytest.mark.parametrize("name", ["mine.jsonl", "mine.csv"])
def test_the_template_passes_the_check_and_says_what_comes_next(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    written = CliRunner().invoke(command, ["template", str(path)])
    assert (written.exit_code, "next: thalamus probes check" in written.output) == (0, True)
    result = check(path)
    assert result.exit_code == 0, result.output
    assert f"next: thalamus profile --probes {path} --judge EXPERT" in result.output
    graders = {probe.grader for probe in load_probes(path)}
    assert graders == {"number", "yes_no", "text", "keywords", "json", "judge"}
    assert CliRunner().invoke(command, ["template", str(path)]).exit_code == 1
