"""A taxonomy in a file and prompts without a grade: read, refused, and learned from by `thalamus fit`."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from evals.commands.fit import command as fit
from evals.commands.plan import command as plan
from evals.datasets import category_texts
from evals.datasets.category_texts import join_texts, read_pool, read_taxonomy, thin_pool
from routers import Artifact, CategoryTexts, DataError, OutcomeTable

KINDS = """
categories:
  - {name: sums, description: adding and multiplying numbers, examples: [what is 12 plus 30 and 7]}
  - name: poems
    examples: [write a poem about the sea at night]
  - {name: general, examples: [hello there]}
"""
ROWS = [(kind, n) for n in range(150) for kind in ("what is plus and times", "write a poem about the sea")]


def test_a_taxonomy_is_taught_by_its_descriptions_and_examples(tmp_path: Path) -> None:
    (tmp_path / "kinds.yaml").write_text(KINDS)
    found = read_taxonomy(tmp_path / "kinds.yaml")
    assert found.names == ("sums", "poems")
    assert dict(zip(found.texts, found.tags, strict=True)) == {
        "adding and multiplying numbers": "sums",
        "what is 12 plus 30 and 7": "sums",
        "write a poem about the sea at night": "poems",
        "hello there": "general",
    }
    (tmp_path / "kinds.json").write_text(json.dumps({"categories": [{"name": "a", "description": "b"}]}))
    assert read_taxonomy(tmp_path / "kinds.json") == CategoryTexts(("a",), ("b",), ("a",))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[", "not YAML"),
        ("a: 1", "categories: a list of"),
        ("categories: []", "categories: a list of"),
        ("categories: [x]", "categories[0]: {name, description, examples} is needed"),
        ("categories: [{description: x}]", "categories[0].name: a text is needed"),
        ("categories: [{name: 3, description: x}]", "categories[0].name: a text is needed, not 3"),
        ("categories: [{name: a, example: [x]}]", "categories[0]: there is no field 'example'"),
        ("categories: [{name: a, examples: x}]", "categories[0].examples: a list of texts"),
        ("categories: [{name: a, examples: [1]}]", "categories[0].examples[0]: a text is needed, not 1"),
        ("categories: [{name: a}]", "neither a description nor an example"),
        ("categories: [{name: a, examples: [x]}, {name: a, examples: [y]}]", "categories[1].name"),
    ],
)
def test_a_wrong_taxonomy_is_refused_with_the_field(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "kinds.yaml"
    path.write_text(text)
    with pytest.raises(DataError) as refused:
        read_taxonomy(path)
    assert problem in str(refused.value)
    assert str(path) in str(refused.value)


def test_a_pool_is_read_from_text_and_from_json_lines(tmp_path: Path) -> None:
    (tmp_path / "logs.txt").write_text("one\n\n two \none\n")
    assert read_pool(tmp_path / "logs.txt") == ["one", "two"]
    lines = [
        {"prompt": "one"},
        {"text": "two"},
        {"messages": [{"role": "system", "content": "x"}, {"role": "user", "content": "three"}]},
        {"request": {"body": {"messages": [{"role": "user", "content": "four"}]}}},
    ]
    with gzip.open(tmp_path / "logs.jsonl.gz", "wt") as file:
        file.write("\n".join(map(json.dumps, lines)))
    assert read_pool(tmp_path / "logs.jsonl.gz") == ["one", "two", "three", "four"]


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("none.txt", None, "no such file"),
        ("empty.txt", "\n\n", "no prompt in it"),
        ("odd.jsonl", '{"score": 1}\n', "line 1: messages"),
        ("bad.jsonl", "x\n", "line 1: not JSON"),
    ],
)
def test_a_wrong_pool_is_refused_with_the_line(
    tmp_path: Path, name: str, text: str | None, problem: str
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=problem):
        read_pool(tmp_path / name)


def test_a_large_pool_is_thinned_alike_in_every_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(category_texts, "MAX_POOL", 10)
    prompts = [f"prompt {n}" for n in range(50)]
    assert thin_pool(prompts[:10]) == prompts[:10]
    assert len(thin_pool(prompts)) == 10
    assert thin_pool(prompts) == thin_pool(prompts[::-1])


def test_a_pool_stands_behind_the_examples_and_without_them() -> None:
    taxonomy = CategoryTexts(("a",), ("x",), ("a",))
    assert join_texts(taxonomy, ["x", "y"]) == CategoryTexts(("a",), ("x", "y"), ("a", ""))
    assert join_texts(None, ["y"]) == CategoryTexts((), ("y",), ("",))
    assert join_texts(None, []) is None


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a taxonomy, a pool and a table whose queries bear no tags."""
    monkeypatch.chdir(tmp_path)
    score = np.array([[float("plus" in kind), float("poem" in kind)] for kind, _ in ROWS])
    texts = [f"{kind} {n}" for kind, n in ROWS]
    bucket = np.arange(len(ROWS)) % 97  # else each kind is one bucket of near-twins, and never in two folds
    OutcomeTable.build(texts, ["calc", "bard"], {"score": score}, bucket=bucket).save(tmp_path / "o.jsonl")
    (tmp_path / "kinds.yaml").write_text(KINDS)
    (tmp_path / "logs.txt").write_text("\n".join(f"{kind} {n} please" for kind, n in ROWS))
    return tmp_path


def run(*args: object) -> Result:
    return CliRunner().invoke(fit, ["o.jsonl", "a", "--encoder", "none", *map(str, args)])


def test_fit_teaches_categories_of_a_file_to_a_table_without_tags(here: Path) -> None:
    result = run("--head", "coe", "--taxonomy", "kinds.yaml", "--pool", "logs.txt", "--json")
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)["heads"]["coe"]["static"]
    assert figures["alpha"] == 0.1
    assert 0 <= figures["to_general"] <= 0.25
    assert figures["accuracy"] > 0.9
    kept = Artifact.load(here / "a").provenance["options"]
    assert kept[-4:] == ["--taxonomy", "kinds.yaml", "--pool", "logs.txt"]
    found = CliRunner().invoke(
        plan, ["mapping", "o.jsonl", "--artifact", "a", "--along", "experts", "--budget", "2", "--json"]
    )
    assert found.exit_code == 0, found.output
    mapped = json.loads(found.stdout)["points"][0]["mapping"]
    assert (mapped["sums"], mapped["poems"]) == (["calc"], ["bard"])


def test_fit_refuses_a_taxonomy_that_no_head_learns(here: Path) -> None:
    result = run("--predictor", "knn", "--taxonomy", "kinds.yaml")
    assert result.exit_code == 2
    assert "add --head coe" in result.output
