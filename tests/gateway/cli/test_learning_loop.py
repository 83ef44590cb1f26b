"""Measure, fit, measure more, fit again: nothing is lost, and doctor's advice, followed, ends well."""

import json
import os
import re
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner, Result

from evals.commands import fit as fit_command
from evals.probes import files
from gateway.cli import main
from gateway.requests.query import parse_chat_query
from gateway.testing import FakeUpstream
from routers import Artifact, OutcomeTable, previous_path

PRICED = "input_cost_per_token: 1.0e-6, output_cost_per_token: 2.0e-6"
QUICK = ("--encoder", "none", "--predictor", "knn")
FIX = re.compile(r"^ +fix: (?P<command>(?:thalamus|mv) .*)$", re.MULTILINE)


@pytest.fixture
def upstream() -> Iterator[FakeUpstream]:
    with FakeUpstream().in_thread() as upstream:
        yield upstream


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, and forty of the bundled probes: a fit on all of them takes half a minute."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("THALAMUS_CONFIG", raising=False)
    few = files.BUNDLED.read_text(encoding="utf-8").splitlines()[::30]
    (tmp_path / "few.jsonl").write_text("\n".join(few), encoding="utf-8")
    monkeypatch.setattr(files, "BUNDLED", tmp_path / "few.jsonl")
    return tmp_path


def run(*args: str, answer: str = "y\n") -> Result:
    return CliRunner().invoke(main, args, input=answer)


def good(*args: str) -> str:
    result = run(*args)
    assert result.exit_code == 0, result.output
    return result.output


def configure(upstream: FakeUpstream, name: str = "thalamus.yaml", more: str = "", **models: str) -> None:
    lines = [
        f"  - {{name: {expert}, model: openai/{model}, api_base: {upstream.base_url}, api_key: k, {PRICED}}}"
        for expert, model in models.items()
    ]
    text = "experts:\n" + "\n".join(lines) + "\nserver: {port: 0}\njournal: {enabled: false}\n" + more
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text)


def write_probes(*probes: tuple[str, str], key: str = "") -> None:
    """Own probes: questions with the word that a right answer holds."""
    lines = [
        {"id": key or question, "kind": "own", "family": question, "prompt": question}
        | {"grader": "text", "expected": {"accept": [answer]}}
        for question, answer in probes
    ]
    Path("own.jsonl").write_text("\n".join(map(json.dumps, lines)))


def table() -> OutcomeTable:
    return OutcomeTable.load("outcomes.jsonl.gz")


def load_known(path: str = ".thalamus/artifact") -> dict[str, tuple[str, int]]:
    return {expert.name: (expert.model, expert.n) for expert in Artifact.load(path).experts}


def test_measuring_one_expert_keeps_the_others_and_their_rows(upstream: FakeUpstream) -> None:
    configure(upstream, a="says-4", b="says-yes")
    good("profile")
    before = table()
    configure(upstream, a="says-4", b="says-yes", c="says-Paris")
    good("profile", "--experts", "c", "--limit", "5")
    after = table()
    assert after.experts == ("a", "b", "c")
    assert after.only(("a", "b")).fingerprint == before.fingerprint
    assert (~np.isnan(after.score[:, 2])).sum() == 5
    assert upstream.n_calls("says-4") == len(before)


def test_other_probes_are_added_to_those_before(upstream: FakeUpstream) -> None:
    configure(upstream, a="says-4")
    good("profile", "--limit", "6")
    write_probes(("What is 2+2?", "4"))
    good("profile", "--probes", "own.jsonl")
    assert len(table()) == 7
    assert table().score[6, 0] == 1.0


def test_a_table_alone_spares_the_calls_it_holds(upstream: FakeUpstream) -> None:
    configure(upstream, a="says-4")
    good("profile", "--limit", "6")
    Path("outcomes.jsonl.gz.answers").unlink()
    good("profile", "--limit", "6")
    assert upstream.n_calls("says-4") == 6


def test_a_corrected_expectation_grades_again_without_a_call(upstream: FakeUpstream) -> None:
    configure(upstream, a="says-4")
    write_probes(("What is 2+2?", "5"))
    good("profile", "--probes", "own.jsonl")
    assert table().score.tolist() == [[0.0]]
    write_probes(("What is 2+2?", "4"))
    good("profile", "--probes", "own.jsonl")
    assert table().score.tolist() == [[1.0]]
    assert upstream.n_calls("says-4") == 1


def test_a_reworded_prompt_keeps_the_outcomes_of_the_former_wording(upstream: FakeUpstream) -> None:
    configure(upstream, a="says-4")
    for question in ("What is 2+2?", "Two plus two?", "What is 2+2?"):
        write_probes((question, "4"), key="sum")
        good("profile", "--probes", "own.jsonl")
    assert set(table().texts) == {"What is 2+2?", "Two plus two?"}
    assert dict(zip(table().ids, table().texts, strict=True))["sum"] == "What is 2+2?"
    assert upstream.n_calls("says-4") == 2


def test_a_former_model_keeps_its_outcomes_and_comes_back_with_them(upstream: FakeUpstream) -> None:
    for model in ("says-4", "says-yes"):
        configure(upstream, a=model)
        good("profile", "--limit", "8")
    assert dict(zip(table().experts, table().models, strict=True)) == {
        "a": "openai/says-yes",
        "a@openai/says-4": "openai/says-4",
    }
    good("fit", *QUICK)
    assert load_known() == {"a": ("openai/says-yes", 8)}
    configure(upstream, a="says-4")
    good("profile", "--limit", "8")
    assert dict(zip(table().experts, table().models, strict=True)) == {
        "a": "openai/says-4",
        "a@openai/says-yes": "openai/says-yes",
    }
    assert upstream.n_calls("says-4") == 8


def test_a_conversation_is_asked_whole_and_learned_under_what_the_router_will_read(
    upstream: FakeUpstream,
) -> None:
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is 2+1?"},
        {"role": "assistant", "content": "3"},
        {"role": "user", "content": "And one more?"},
    ]
    Path("own.json").write_text(json.dumps([{"messages": turns, "answer": 4}]))
    configure(upstream, a="says-4")
    good("profile", "--probes", "own.json")
    assert upstream.calls[0]["messages"] == turns
    assert table().score.tolist() == [[1.0]]
    body = {"messages": msgspec.Raw(json.dumps(turns).encode())}
    assert table().texts == (parse_chat_query(body).query.text,)


def test_probes_that_no_code_can_grade_are_refused_before_a_call(upstream: FakeUpstream) -> None:
    Path("own.csv").write_text("question,answer\nWrite a poem.,\n2+2?,4\n")
    configure(upstream, a="says-4")
    result = run("profile", "--probes", "own.csv")
    assert result.exit_code == 1
    assert "1 of 2 probes have no answer that code can compare ('Write a poem.' ...)" in result.output
    assert upstream.calls == []


def test_a_former_model_is_no_rival_in_the_report(upstream: FakeUpstream) -> None:
    for model in ("says-4", "says-yes"):
        configure(upstream, a=model, b="says-no")
        good("profile")
    routers = ("--routers", "constant", "--encoder", "none", "--out", "report")
    output = good("eval", "outcomes.jsonl.gz", *routers)
    assert "single:a: " in output
    assert "@" not in output


def test_an_interrupted_profile_goes_on_where_it_stopped(upstream: FakeUpstream) -> None:
    configure(upstream, a="slow-100")
    # Shells start background jobs with SIGINT ignored, and Python then leaves it so.
    former = signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupt() -> None:
        while upstream.completed["slow-100"] < 3:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        result = run("profile")
        thread.join()
    finally:
        signal.signal(signal.SIGINT, former)
    assert result.exit_code == 1
    assert "outcomes.jsonl.gz.answers keeps what was answered; the same command goes on" in result.output
    n_answered = upstream.completed["slow-100"]
    assert 0 < n_answered < 40
    # What the upstream had answered when the signal came, but was not yet read, is asked again.
    n_kept = len(Path("outcomes.jsonl.gz.answers").read_text().splitlines())
    assert n_answered - 8 <= n_kept <= n_answered
    good("profile")
    assert (len(table()), upstream.completed["slow-100"]) == (40, 40 + n_answered - n_kept)


def test_a_fresh_profile_keeps_a_backup(upstream: FakeUpstream, here: Path) -> None:
    configure(upstream, a="says-4", b="says-yes")
    good("profile", "--limit", "4")
    before = table().fingerprint
    output = good("profile", "--limit", "3", "--experts", "a", "--fresh")
    assert (table().experts, len(table())) == (("a",), 3)
    backups = sorted(here.glob("outcomes.jsonl.gz*.bak"))
    assert len(backups) == 2
    assert all(path.name in output for path in backups)
    backup = next(path for path in backups if ".answers" not in path.name).rename(here / "old.jsonl.gz")
    assert OutcomeTable.load(backup).fingerprint == before


def test_a_damaged_table_is_refused_before_anything_is_asked(upstream: FakeUpstream) -> None:
    configure(upstream, a="says-4")
    Path("outcomes.jsonl.gz").write_bytes(b"not a table")
    result = run("profile")
    assert result.exit_code == 1
    assert "outcomes.jsonl.gz" in result.output
    assert upstream.n_calls("says-4") == 0


@pytest.mark.parametrize(
    ("model", "said", "fix"),
    [
        ("status-401", "a: 40 of 40 probes without an answer: it answered 401", "check the api_key of a"),
        ("status-404", "it answered 404", "check model and api_base of a"),
        ("garbage", "not json!", "run the command again"),
    ],
)
def test_no_answer_at_all_fails_and_says_who_why_and_what_to_do(
    upstream: FakeUpstream, model: str, said: str, fix: str
) -> None:
    configure(upstream, a=model)
    result = run("profile")
    assert result.exit_code == 1
    assert said in result.output
    assert f"fix: {fix}" in result.output
    assert "no expert gave an answer" in result.output
    assert not Path("outcomes.jsonl.gz").exists()
    assert upstream.n_calls(model) < 10


def test_a_dead_port_is_named(upstream: FakeUpstream) -> None:
    configure(upstream, a="says-4")
    text = Path("thalamus.yaml").read_text().replace(upstream.base_url, "http://127.0.0.1:9/v1")
    Path("thalamus.yaml").write_text(text)
    result = run("profile")
    assert result.exit_code == 1
    assert "fix: check that a runs at its api_base" in result.output


def test_an_expert_that_fails_does_not_cost_the_answers_of_the_others(upstream: FakeUpstream) -> None:
    configure(upstream, a="says-4", b="status-401")
    output = good("profile", "--limit", "4")
    assert "b: 4 of 4 probes without an answer" in output
    assert table().experts == ("a",)
    good("fit", *QUICK)
    assert list(load_known()) == ["a"]


def test_a_rate_limit_is_waited_for(upstream: FakeUpstream) -> None:
    configure(upstream, a="rated-0.01")
    assert run("profile", "--limit", "1").exit_code == 1
    assert upstream.n_calls("rated-0.01") > 1


def test_fitting_keeps_experts_that_the_table_does_not_mention(upstream: FakeUpstream) -> None:
    configure(upstream, a="says-4", b="says-yes")
    good("profile")
    good("fit", *QUICK)
    before = Artifact.load(".thalamus/artifact")
    table().only(("b",)).take(np.arange(12)).save("other.jsonl.gz")
    configure(upstream, c="says-Paris")
    good("profile", "--out", "third.jsonl.gz", "--limit", "12")
    for name, known in (("other", ["b", "a"]), ("third", ["c", "b", "a"]), ("other", ["b", "c", "a"])):
        output = good("fit", f"{name}.jsonl.gz", *QUICK)
        assert "kept from the artifact before" in output
        assert list(load_known()) == known
    kept = next(e for e in Artifact.load(".thalamus/artifact").experts if e.name == "a")
    assert kept == before.experts[0]
    configure(upstream, a="says-4", b="says-yes", c="says-Paris")
    decision = json.loads(good("route", "What is 2+2?", "--json"))
    assert {candidate["expert"] for candidate in decision["candidates"]} == {"a", "b", "c"}
    assert "no evidence" not in json.dumps(decision)


def test_what_cannot_be_kept_is_named_and_nothing_is_written_without_consent(upstream: FakeUpstream) -> None:
    configure(upstream, a="says-4", b="says-yes")
    good("profile", "--limit", "12")
    good("fit", *QUICK)
    manifest = Path(".thalamus/artifact/manifest.json")
    changed = json.loads(manifest.read_text())
    changed["tiers"]["static"]["fingerprint"] = "another"
    manifest.write_text(json.dumps(changed))
    table().only(("b",)).save("other.jsonl.gz")
    result = run("fit", "other.jsonl.gz", *QUICK)
    assert result.exit_code == 1
    assert "drops a (12 outcomes)" in result.output
    assert "--yes" in result.output
    assert json.loads(manifest.read_text()) == changed
    good("fit", "other.jsonl.gz", *QUICK, "--yes")
    assert list(load_known()) == ["b"]


def test_features_of_another_tier_are_named_with_the_options_that_keep_all(upstream: FakeUpstream) -> None:
    configure(upstream, a="says-4", b="says-yes")
    good("profile", "--limit", "12")
    good("fit", *QUICK)
    table().only(("b",)).save("other.jsonl.gz")
    result = run("fit", "other.jsonl.gz", "--predictor", "knn")
    assert result.exit_code == 1
    assert "drops a (12 outcomes) from .thalamus/artifact: it has no encoder tier" in result.output
    assert "--predictor knn --encoder none fits as before and keeps them" in result.output


def test_without_consent_nothing_is_asked_and_the_option_that_starts_it_is_named(
    upstream: FakeUpstream,
) -> None:
    configure(upstream, a="says-4")
    result = run("profile", answer="")
    assert result.exit_code == 1
    assert "nothing was asked; to start without this question: --max-usd 0.01" in result.output
    assert upstream.calls == []


def test_fresh_forgets_and_the_artifact_before_stays_beside_the_new_one(upstream: FakeUpstream) -> None:
    configure(upstream, a="says-4", b="says-yes")
    good("profile", "--limit", "12")
    good("fit", *QUICK)
    table().only(("b",)).save("other.jsonl.gz")
    assert run("fit", "other.jsonl.gz", *QUICK, "--fresh").exit_code == 1
    good("fit", "other.jsonl.gz", *QUICK, "--fresh", "--yes")
    assert list(load_known()) == ["b"]
    assert list(load_known(str(previous_path(Path(".thalamus/artifact"))))) == ["a", "b"]


def test_a_second_table_is_learned_from_too(upstream: FakeUpstream) -> None:
    configure(upstream, a="says-4")
    good("profile", "--limit", "12")
    Path("outcomes.jsonl.gz").rename("first.jsonl.gz")
    Path("outcomes.jsonl.gz.answers").unlink()
    write_probes(*((f"{n}+1?", "4") for n in range(9)))
    good("profile", "--probes", "own.jsonl")
    output = good("fit", *QUICK)
    assert "warning: a has 9 outcomes, fewer than 10" in output
    good("fit", *QUICK, "--with", "first.jsonl.gz")
    assert load_known() == {"a": ("openai/says-4", 21)}


def test_a_few_own_outcomes_do_not_take_the_place_of_the_bundled_ones(upstream: FakeUpstream) -> None:
    bundled, _ = files.load_bundled_outcomes()
    bundled.only(["smollm2", "calculator"]).take(np.arange(0, len(bundled), 20)).save("small.jsonl.gz")
    small = OutcomeTable.load("small.jsonl.gz")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit_command, "load_bundled_outcomes", lambda: (small, small))
        good("fit", "bundled", *QUICK)
        own = OutcomeTable.build(
            [f"own {n}" for n in range(12)],
            ["smollm2", "a"],
            {"score": np.tile([0.0, 1.0], (12, 1))},
            models=["bundled/smollm2-135m", "openai/a"],
        )
        own.save("outcomes.jsonl.gz")
        for _ in range(2):
            output = good("fit", *QUICK)
            assert "the bundled outcomes of smollm2 count on" in output
            known = {name: n for name, (_, n) in load_known().items()}
            assert known == {"smollm2": len(small) + 12, "a": 12, "calculator": known["calculator"]}
        good("fit", *QUICK, "--fresh", "--yes")
        assert {name: n for name, (_, n) in load_known().items()} == {"smollm2": 12, "a": 12}


def test_a_tool_that_declined_everything_is_left_out_by_itself(upstream: FakeUpstream) -> None:
    configure(upstream, a="says-Paris")
    text = Path("thalamus.yaml").read_text()
    Path("thalamus.yaml").write_text(
        text.replace("experts:\n", "experts:\n  - {name: calculator, tool: calculator}\n")
    )
    write_probes(*((f"Name capital number {n}", "Paris") for n in range(12)))
    good("profile", "--probes", "own.jsonl")
    assert table().experts == ("calculator", "a")
    output = good("fit", *QUICK)
    assert "calculator is left out of this fit: it declined all 12 prompts" in output
    assert list(load_known()) == ["a"]
    advice = good("doctor")
    assert "calculator was left out of the fit: it declined all 12 prompts" in advice
    assert FIX.search(advice) is None


def follow(*options: str) -> list[str]:
    """Run what doctor advises until it advises nothing; the commands that were run."""
    done: list[str] = []
    for _ in range(6):
        advice = [found["command"] for found in FIX.finditer(run("doctor", *options).output)]
        if not advice:
            return done
        for line in dict.fromkeys(advice):
            for command in line.split(" && "):
                program, *arguments = shlex.split(command)
                if program == "mv":
                    subprocess.run([program, *arguments], check=True)
                else:
                    result = run(*arguments, answer="")
                    assert result.exit_code == 0, result.output
            done.append(line)
    raise AssertionError(f"doctor still advises after {done}")


def test_following_doctors_advice_from_nothing_ends_well(upstream: FakeUpstream) -> None:
    configure(upstream, a="says-4", b="says-yes")
    assert follow() == ["thalamus profile --max-usd 0.02 && thalamus fit"]
    assert {name: n for name, (_, n) in load_known().items()} == {"a": 40, "b": 40}


def test_following_doctors_advice_for_a_new_expert_and_a_new_model_loses_nothing(
    upstream: FakeUpstream,
) -> None:
    configure(upstream, a="says-4", b="says-yes")
    good("profile")
    good("fit", *QUICK)
    configure(upstream, a="says-4", b="says-no", new="says-Paris")
    assert follow() == [
        "thalamus profile --experts b,new --max-usd 0.02 && thalamus fit --predictor knn --encoder none"
    ]
    assert load_known() == {
        "a": ("openai/says-4", 40),
        "b": ("openai/says-no", 40),
        "new": ("openai/says-Paris", 40),
    }
    assert "b@openai/says-yes" in table().experts


def test_following_doctors_advice_where_no_table_is_left_keeps_what_the_artifact_knows(
    upstream: FakeUpstream,
) -> None:
    configure(upstream, a="says-4")
    good("profile")
    good("fit", *QUICK)
    Path("outcomes.jsonl.gz").unlink()
    Path("outcomes.jsonl.gz.answers").unlink()
    configure(upstream, a="says-4", b="says-yes")
    follow()
    assert {name: n for name, (_, n) in load_known().items()} == {"a": 40, "b": 40}


@pytest.mark.parametrize("harm", ["damage", "other"])
def test_following_doctors_advice_for_an_artifact_that_cannot_be_read_ends_well(
    upstream: FakeUpstream, harm: str
) -> None:
    configure(upstream, "conf/my gateway.yaml", "routing: {artifact: learned/mine}\n", a="says-4")
    place = Path("learned/mine")
    place.mkdir(parents=True)
    (place / ("manifest.json" if harm == "damage" else "notes.txt")).write_text("{")
    follow("-c", "conf/my gateway.yaml")
    assert load_known("learned/mine") == {"a": ("openai/says-4", 40)}
    kept = previous_path(place) / "manifest.json" if harm == "damage" else Path("learned/mine.bak/notes.txt")
    assert kept.read_text() == "{"


def test_following_doctors_advice_for_a_mapping_ends_well(upstream: FakeUpstream) -> None:
    more = "policies: {coe: {mapping: {facts: [a]}}}\n"
    configure(upstream, a="says-4", b="says-yes")
    good("profile")
    good("fit", *QUICK)
    configure(upstream, more=more, a="says-4", b="says-yes")
    assert follow() == ["thalamus fit --head coe"]
