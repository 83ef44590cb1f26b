"""From traffic to an artifact: chats, feedback, `thalamus import journal`, `thalamus fit`."""

# ruff: noqa: ASYNC240  nothing else runs while a test reads and writes its files

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from gateway import AsyncClient, Chat
from gateway.cli import main
from gateway.cli.journal import read_pool
from gateway.testing import FakeUpstream
from routers import OutcomeTable
from routers.artifacts import read_evidence
from tests.fakes.serving import gateway

ROW = {"model": "old", "score": 1}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*args: str) -> Result:
    return CliRunner().invoke(main, list(args))


def serve(upstream: FakeUpstream, content: bool = True) -> Any:
    """A gateway of two experts and a thalamus.yaml that says the same; `auto` asks says-a."""
    experts = [
        {"name": name, "model": f"openai/{name}", "api_base": upstream.base_url, "api_key": "sk-upstream-key"}
        for name in ("says-a", "says-b")
    ]
    journal = {"path": "j.sqlite3", "content": content}
    Path("thalamus.yaml").write_text(json.dumps({"experts": experts, "journal": journal}))
    return gateway({"experts": experts, "journal": journal}, "j.sqlite3", "says-a")


async def converse(n: int, content: bool = True) -> list[Chat]:
    """Chats about n prompts with each expert, each answer rated: a is right on even ones, b on odd ones."""
    async with FakeUpstream() as upstream, serve(upstream, content) as live, AsyncClient(live.base) as client:
        chats = []
        for i in range(n):
            for model in ("auto", "says-b"):
                chat = await client.chat(f"question {i}", model)
                await client.feedback(chat, float((i % 2 == 0) == (chat.expert == "says-a")))
                chats.append(chat)
        await client.chat("never rated")
        return chats


async def test_rated_chats_become_outcomes_that_fit_reads_and_adds_to(here: Path) -> None:
    await converse(12)
    imported = run("import", "journal")
    assert imported.exit_code == 0, imported.output
    table = OutcomeTable.load("outcomes.jsonl.gz")
    assert (table.experts, table.models) == (("says-a", "says-b"), ("openai/says-a", "openai/says-b"))
    assert table.texts == tuple(f"question {i}" for i in range(12))
    np.testing.assert_array_equal(table.score, [[1, 0], [0, 1]] * 6)
    np.testing.assert_array_equal(table.propensity, np.ones((12, 2)))
    assert table.answers is not None
    assert set(table.answers) == {("a", "b")}
    assert (table.output_tokens > 0).all()
    fitted = run("fit", "--encoder", "none")
    assert fitted.exit_code == 0, fitted.output
    assert {(one.name, one.n) for one in read_evidence(".thalamus/artifact")} == {
        ("says-a", 12),
        ("says-b", 12),
    }


async def test_a_second_import_adds_and_changes_nothing_else(here: Path) -> None:
    lines = [json.dumps({"id": f"o{i}", "prompt": f"old {i}", **ROW}) for i in range(12)]
    Path("old.jsonl").write_text("\n".join(lines))
    assert run("import", "old.jsonl", "outcomes.jsonl.gz").exit_code == 0
    await converse(3)
    for n_new in (3, 0):
        said = run("import", "journal")
        assert said.exit_code == 0
        counts = f"outcomes {n_new}, already_there {3 - n_new}"
        assert f"added:\n  says-a: {counts}\n  says-b: {counts}\n" in said.output
    first = OutcomeTable.load("outcomes.jsonl.gz")
    assert (len(first), first.experts) == (15, ("old", "says-a", "says-b"))
    assert np.nansum(first.score[:, 0]) == 12
    await converse(5)
    said = run("import", "journal", "outcomes.jsonl.gz", "--json")
    added = {"outcomes": 2, "already_there": 3}
    assert json.loads(said.output)["added"] == {"says-a": added, "says-b": added}
    second = OutcomeTable.load("outcomes.jsonl.gz")
    assert set(first.texts) < set(second.texts)
    assert len(second) == 17
    assert run("fit", "--encoder", "none").exit_code == 0
    assert {one.name for one in read_evidence(".thalamus/artifact")} == {"old", "says-a", "says-b"}


async def test_several_ratings_of_one_prompt_count_with_their_mean(here: Path) -> None:
    async with FakeUpstream() as upstream, serve(upstream) as live, AsyncClient(live.base) as client:
        for score in (1.0, 0.5, 0.0, 0.5):
            await client.feedback(await client.chat("same", "says-a"), score)
        twice = await client.chat("two users", "says-a")
        await client.feedback(twice, 1.0, user="u1")
        await client.feedback(twice, 0.0, user="u2")
    assert run("import", "journal", "o.jsonl").exit_code == 0
    np.testing.assert_array_equal(OutcomeTable.load("o.jsonl").score, [[0.5], [0.5]])


async def test_without_content_it_says_in_one_line_what_is_lacking(here: Path) -> None:
    await converse(2, content=False)
    said = run("import", "journal")
    assert said.exit_code == 1
    assert said.output == (
        "Error: 4 rated decisions have no prompt: with journal: {content: true} later ones will be kept\n"
    )
    assert not Path("outcomes.jsonl.gz").exists()
    await converse(2)
    said = run("import", "journal")
    assert said.exit_code == 0
    assert "note: 4 rated decisions have no prompt" in said.output


def test_a_table_with_rated_chats_can_be_measured_into(here: Path) -> None:
    asyncio.run(converse(3))
    assert run("import", "journal").exit_code == 0
    probe = {"question": "Say a.", "answer": "a", "grader": "text"}
    Path("mine.jsonl").write_text(json.dumps(probe) + "\n")
    with FakeUpstream().in_thread() as upstream:
        serve(upstream)
        words = ["profile", "--probes", "mine.jsonl", "--experts", "says-a"]
        said = CliRunner().invoke(main, words, input="y\n")  # the price is unknown
    assert said.exit_code == 0, said.output
    table = OutcomeTable.load("outcomes.jsonl.gz")
    assert len(table) == 4
    assert np.nansum(table.propensity) == 6  # of the rated chats alone


async def test_scores_of_ones_own_stand_in_place_of_feedback(here: Path) -> None:
    async with FakeUpstream() as upstream, serve(upstream) as live, AsyncClient(live.base) as client:
        first, second = await client.chat("one", "says-a"), await client.chat("two", "says-b")
        await client.feedback(second, 1.0)
    Path("rated.csv").write_text(
        f"decision_id;score\n{first.decision_id};0,25\n{second.decision_id};0,5\ndec_gone;1\n"
    )
    said = run("import", "journal", "o.jsonl", "--scores", "rated.csv")
    assert "note: 1 decisions with scores are not in the journal" in said.output
    table = OutcomeTable.load("o.jsonl")
    np.testing.assert_array_equal(table.score, [[0.25, np.nan], [np.nan, 0.5]])


@pytest.mark.parametrize(
    ("config", "args", "message"),
    [
        ("journal: {enabled: false}", (), "set journal: {enabled: true, content: true}"),
        ("journal: {path: none.sqlite3}", (), "none.sqlite3: there is no journal; it comes with the first"),
        ("journal: {path: j.sqlite3}", ("--scores", "absent.csv"), "absent.csv: No such file"),
        ("journal: {path: j.sqlite3}", ("--scores", "bad.csv"), "bad.csv, line 2: score: a number in [0, 1]"),
        ("journal: {path: j.sqlite3}", (), "no decision has feedback yet: send it with client.feedback"),
    ],
)
def test_what_cannot_be_imported_is_told_in_one_line(
    here: Path, config: str, args: tuple[str, ...], message: str
) -> None:
    async def serve_once() -> None:
        async with FakeUpstream() as upstream, serve(upstream):
            pass

    asyncio.run(serve_once())
    Path("bad.csv").write_text("decision_id,score\ndec_1,7\n")
    Path("thalamus.yaml").write_text(f"experts: [{{name: a, model: openai/a}}]\n{config}\n")
    said = run("import", "journal", "o.jsonl", *args)
    assert said.exit_code == 1
    assert message in said.output
    assert said.output.count("\n") == 1


async def test_a_conversation_is_learned_as_the_router_reads_it(here: Path) -> None:
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Name a river in Peru, please, a long one."},
        {"role": "assistant", "content": "The Ucayali."},
        {"role": "user", "content": "another"},
    ]
    async with FakeUpstream() as upstream, serve(upstream) as live, AsyncClient(live.base) as client:
        await client.feedback(await client.chat(turns, "auto"), 1.0)
        read = live.services.router.asked[0].query.text
    assert run("import", "journal", "o.jsonl").exit_code == 0
    assert OutcomeTable.load("o.jsonl").texts == (read,)
    assert "another" in read
    assert "Peru" in read


async def test_prompts_of_the_journal_teach_categories_without_a_grade(here: Path) -> None:
    await converse(12)
    assert run("import", "journal").exit_code == 0
    kinds = {"name": "asked", "description": "a question with a number", "examples": ["question 3"]}
    Path("kinds.json").write_text(json.dumps({"categories": [kinds]}))
    options = ("--head", "coe", "--encoder", "none", "--taxonomy", "kinds.json")
    fitted = run("fit", *options, "--pool", "journal")
    assert fitted.exit_code == 0, fitted.output
    assert read_pool(Path("thalamus.yaml")) == [*(f"question {i}" for i in range(12)), "never rated"]


async def test_a_journal_without_prompts_is_no_pool(here: Path) -> None:
    await converse(2, content=False)
    Path("o.jsonl").write_text("\n".join(json.dumps({"prompt": f"old {i}", **ROW}) for i in range(12)))
    assert run("import", "o.jsonl", "outcomes.jsonl.gz").exit_code == 0
    said = run("fit", "--head", "coe", "--encoder", "none", "--pool", "journal")
    assert said.exit_code == 1
    assert "journal: {content: true}" in said.output
