"""The tutorial's commands are run in their order, on simulators of OpenAI, Anthropic and Ollama."""

import json
import os
import re
import shlex
import subprocess
import sys
import time
import urllib.request
import warnings
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from gateway.cli import main
from gateway.config import discovery
from gateway.experts.litellm import load_litellm
from gateway.testing import FakeUpstream, write_response
from routers import Artifact, OutcomeTable

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.source

TUTORIAL = ROOT / "docs" / "tutorial.md"
# The tests of the wheel collect this file where there is no documentation.
PAGE = TUTORIAL.read_text(encoding="utf-8") if TUTORIAL.exists() else ""
COMMANDS = [
    line.removeprefix("$ ").partition("  #")[0].strip()
    for block in re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("$ ")
]
ANSWERS = {"days": "30", "total": "41.5", "angry": "No.", "Peru": "Lima", "Vienna": "Danube", "Graz": "Graz"}
STRONG = ("gpt-5", "claude-sonnet-5")

pytestmark = pytest.mark.source


class ProviderUpstream(FakeUpstream):
    """OpenAI's and Anthropic's form of an answer; the large models know more than the small ones."""

    async def _answer(self, path: str, body: dict[str, Any], writer: Any) -> bool:
        text = self._text(body)
        if path.endswith("/messages"):
            answer = {
                "id": "msg_1", "type": "message", "role": "assistant", "model": body["model"],
                "content": [{"type": "text", "text": text}], "stop_reason": "end_turn", "stop_sequence": None,
                "usage": {"input_tokens": 20, "output_tokens": 9},
            }  # fmt: skip
            write_response(writer, 200, json.dumps(answer).encode())
            return True
        return await super()._answer(path, {**body, "model": f"says-{text.replace(' ', '_')}"}, writer)

    def _text(self, body: dict[str, Any]) -> str:
        content = body["messages"][-1]["content"]
        prompt = content if isinstance(content, str) else content[0]["text"]
        if "--- Verdict ---" in prompt:
            return "A" if "dear" in prompt.partition("--- Answer B ---")[0] else "T"
        known = ANSWERS if body["model"] in STRONG else {"Peru": "Lima"}
        return next((answer for word, answer in known.items() if word in prompt), f"My dear {body['model']}")


@pytest.fixture(scope="module")
def upstream() -> Iterator[FakeUpstream]:
    with ProviderUpstream().in_thread() as upstream:
        yield upstream


def redirect(upstream: FakeUpstream) -> None:
    """Give the providers' experts the simulators' addresses; leave the local engine to its own tests."""
    config = Path("thalamus.yaml")
    hosted, _, rest = config.read_text().partition("  # A small local model")
    base = upstream.base_url
    hosted = re.sub(r"(model: openai/gpt-5.*\n)", rf"\1    api_base: {base}\n", hosted)
    hosted = re.sub(r"(model: anthropic/.*\n)", rf"\1    api_base: {base.removesuffix('/v1')}\n", hosted)
    policies = "policies:" + rest.partition("policies:")[2] if "policies:" in rest else ""
    policies = re.sub(r"default: \S+", "default: gpt-5-mini", policies)
    config.write_text(hosted + policies + "\njournal: {content: true}\n")


def post(url: str, body: dict[str, Any]) -> tuple[dict[str, Any], Message]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response), response.headers


def run_served(command: list[str], upstream: FakeUpstream) -> dict[str, Any]:
    """The answer to a chat with `auto` while the command serves; feedback says that it was good."""
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway.cli", *command, "--port", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    try:
        assert process.stdout
        deadline, url = time.monotonic() + 60, None
        while url is None and time.monotonic() < deadline:
            found = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
            url = found and found[0]
        body = {"model": "auto", "messages": [{"role": "user", "content": "What is the capital of Peru?"}]}
        answer, headers = post(f"{url}/v1/chat/completions", body)
        rated = {"decision_id": headers["x-thalamus-decision-id"], "thumbs": "up"}
        post(f"{url}/v1/feedback", rated)
        return {**answer, "reason": headers["x-thalamus-reason"]}
    finally:
        process.terminate()
        process.communicate(timeout=30)


@pytest.fixture(scope="module")
def journey(
    upstream: FakeUpstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, dict[str, str]]]:
    """A folder in which every command of the page was run, and what each printed."""
    folder = tmp_path_factory.mktemp("tutorial")
    port = int(upstream.base_url.split(":")[2].split("/")[0])
    printed: dict[str, str] = {}
    load_litellm()
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        # LiteLLM warns of much. Its import, in a thread, may have put back filters of an earlier test.
        warnings.simplefilter("ignore")
        patch.chdir(folder)
        for name in [name for name in os.environ if name.endswith("_API_KEY")]:
            patch.delenv(name)
        patch.delenv("THALAMUS_CONFIG", raising=False)
        patch.setattr(discovery, "PORTS", {port: "Ollama"})
        for command in COMMANDS:
            program, *words = shlex.split(command)
            if program == "export":
                for name, value in (word.split("=", 1) for word in words):
                    patch.setenv(name, f"test-{value}")
                continue
            assert program == "thalamus", command
            if words[0] == "serve":
                printed[command] = json.dumps(run_served(words, upstream))
                continue
            result = CliRunner().invoke(main, words, input="y\n")
            assert result.exit_code == 0, f"{command}\n{result.output}"
            printed[command] = result.output
            if words[0] == "init":
                redirect(upstream)
        yield folder, printed


def find(printed: dict[str, str], start: str) -> str:
    (output,) = (output for command, output in printed.items() if command.startswith(f"thalamus {start}"))
    return output


def test_each_step_is_one_command() -> None:
    steps = [command.split()[1] for command in COMMANDS if command.startswith("thalamus")]
    assert [s for s in steps if s in ("init", "profile", "fit", "eval", "serve")] == [
        "init", "profile", "fit", "eval", "serve",
    ]  # fmt: skip


def test_the_prompts_on_the_page_pass_their_check(tmp_path: Path) -> None:
    (block,) = re.findall(r"```json title=\"mine.jsonl\"\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "mine.jsonl").write_text(block, encoding="utf-8")
    result = CliRunner().invoke(main, ["probes", "check", str(tmp_path / "mine.jsonl")])
    assert result.exit_code == 0, result.output
    assert "4 probes can be used" in result.output


def test_keys_and_servers_become_experts(journey: tuple[Path, dict[str, str]]) -> None:
    output = find(journey[1], "init")
    assert "OpenAI: OPENAI_API_KEY is set" in output
    assert "Anthropic: ANTHROPIC_API_KEY is set" in output
    assert "Ollama on" in output


def test_every_expert_is_measured_and_the_judge_is_counted(journey: tuple[Path, dict[str, str]]) -> None:
    folder, printed = journey
    table = OutcomeTable.load(folder / "outcomes.jsonl.gz")
    assert {"gpt-5-mini", "gpt-5", "claude-haiku-4-5", "claude-sonnet-5", "good"} <= set(table.experts)
    means = dict(zip(table.experts, table.means()["score"].tolist(), strict=True))
    assert means["gpt-5"] > means["gpt-5-mini"]
    assert means["claude-sonnet-5"] > means["claude-haiku-4-5"]
    assert "agreement with the code graders" in find(printed, "profile")


def test_what_was_measured_is_fitted_reported_and_served(journey: tuple[Path, dict[str, str]]) -> None:
    folder, printed = journey
    table = OutcomeTable.load(folder / "outcomes.jsonl.gz")
    artifact = Artifact.load(folder / ".thalamus" / "artifact")
    assert {expert.name for expert in artifact.experts} == set(table.experts)
    assert (folder / "report" / "report.html").is_file()
    answer = json.loads(find(printed, "serve"))
    assert answer["choices"][0]["message"]["content"] == "Lima"
    assert "no evidence" not in answer["reason"]
    assert "quality" in find(printed, "route")


def test_what_users_say_is_added_and_a_second_fit_loses_nothing(
    journey: tuple[Path, dict[str, str]], upstream: FakeUpstream
) -> None:
    folder, _ = journey
    table = OutcomeTable.load(folder / "outcomes.jsonl.gz")
    artifact = Artifact.load(folder / ".thalamus" / "artifact")
    for words in (["import", "journal"], ["fit"]):
        result = CliRunner().invoke(main, words)
        assert result.exit_code == 0, result.output
    after = OutcomeTable.load(folder / "outcomes.jsonl.gz")
    assert len(after) == len(table) + 1  # the chat's wording is that of a probe, under an id of its own
    assert set(after.experts) == set(table.experts)
    rows = [after.ids.index(key) for key in table.ids]
    same = after.only(table.experts).take(np.array(rows))
    assert same.fingerprint == table.fingerprint
    again = {expert.name: expert.n for expert in Artifact.load(folder / ".thalamus" / "artifact").experts}
    assert again.keys() == {expert.name for expert in artifact.experts}
    assert sum(again.values()) == sum(expert.n for expert in artifact.experts) + 1
