"""Codex itself against the real gateway, in front of a scripted expert that speaks OpenAI's protocol.

Skipped where it is not installed: `npm i -g @openai/codex`.
"""

import asyncio
import json
import os
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.serving import KEY, gateway
from tests.fakes.strict_chat import ChatTurn, StrictChat

CODEX = shutil.which("codex")
MAX_S = 120.0
PATCH = """*** Begin Patch
*** Update File: add.py
@@
 def add(a, b):
-    return a - b
+    return a + b
*** End Patch"""

pytestmark = pytest.mark.skipif(CODEX is None, reason="Codex is not installed")


class ScriptedPatcher:
    """A model that reads a file, edits it, runs a test, and says so."""

    def __init__(self, thinking: str) -> None:
        self._thinking = thinking

    def __call__(self, body: dict[str, Any]) -> ChatTurn:
        names = {tool["function"]["name"] for tool in body["tools"]}
        if "functions__exec" in names:  # code that calls the tools
            calls = [
                ("functions__exec", {"input": code})
                for code in (
                    'text((await tools.exec_command({cmd: "cat add.py"})).output)',
                    f"text(await tools.apply_patch({json.dumps(PATCH)}))",
                    'text((await tools.exec_command({cmd: "python3 test_add.py"})).output)',
                )
            ]
        else:
            edit = ("exec_command", {"cmd": f"apply_patch <<'EOF'\n{PATCH}\nEOF"})
            if "apply_patch" in names:
                edit = ("apply_patch", {"input": PATCH})
            run = ("exec_command", {"cmd": "python3 test_add.py"})
            calls = [("exec_command", {"cmd": "cat add.py"}), edit, run]
        turns = [ChatTurn("I read the file.", calls[:1], self._thinking)]
        turns += [ChatTurn("", [call]) for call in calls[1:]]
        results = [message["content"] for message in body["messages"] if message["role"] == "tool"]
        if len(results) < len(turns):
            return turns[len(results)]
        return ChatTurn(f"The test says {'fine' if 'fine' in results[-1] else results[-1]}.")


CONFIG = """
model = "coder"
model_provider = "thalamus"
[model_providers.thalamus]
name = "Thalamus"
base_url = "{base_url}"
wire_api = "responses"
env_key = "THALAMUS_KEY"
request_max_retries = 0
stream_max_retries = 0
"""


async def run_codex(folder: Path, base_url: str, *options: str) -> list[dict[str, Any]]:
    """A session without a terminal: its events, in order."""
    assert CODEX is not None
    home = folder / "home"
    home.mkdir()
    (home / "config.toml").write_text(CONFIG.format(base_url=base_url))
    process = await asyncio.create_subprocess_exec(
        *(CODEX, "exec", "--json", "--skip-git-repo-check", "--sandbox", "danger-full-access", *options),
        "Mend add.py so that test_add.py passes.",
        cwd=folder / "work",
        env={"PATH": os.environ["PATH"], "HOME": str(home), "CODEX_HOME": str(home), "THALAMUS_KEY": KEY},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        said, complaint = await asyncio.wait_for(process.communicate(), MAX_S)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, (said + complaint).decode()
    return [json.loads(line) for line in said.splitlines()]


# Codex edits by a shell command; by a tool of free text, with models that it knows (gpt-5.5); or in code that
# calls its tools, which it adds in the conversation (gpt-6.2-sol).
TOOLS = {
    "coder": "exec_command",
    "auto": "exec_command",
    "gpt-5.5": "apply_patch",
    "gpt-6.2-sol": "functions__exec",
}


@pytest.mark.parametrize("model", TOOLS)
async def test_a_session_reads_edits_tests_and_ends(tmp_path: Path, model: str) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (work / "add.py").write_text("def add(a, b):\n    return a - b\n")
    (work / "test_add.py").write_text("from add import add\nassert add(2, 3) == 5\nprint('fine')\n")
    thinking = "First I read it."
    async with StrictChat(ScriptedPatcher(thinking)) as upstream:
        config: dict[str, Any] = {
            "experts": [{"name": "coder", "model": "openai/coder", "api_base": upstream.base_url}],
            "aliases": {"gpt-5.5": "coder", "gpt-6.2-sol": "coder"},
            "server": {"master_key": KEY},
        }
        async with gateway(config, str(tmp_path / "j.sqlite3"), "coder") as live:
            events = await run_codex(tmp_path, live.base, "--model", model)
    assert (work / "add.py").read_text() == "def add(a, b):\n    return a + b\n"
    # As OpenAI's own models it does not take back what experts thought.
    assert [one.rpartition(".")[2] for one in upstream.refused] == ["reasoning_content'"]
    assert len(upstream.calls) == 4
    names = {tool["function"]["name"] for tool in upstream.calls[0]["tools"]}
    assert TOOLS[model] in names
    kinds = [event["type"] for event in events]
    assert kinds[-1] == "turn.completed"
    assert not {"error", "turn.failed"} & set(kinds)
    items = [event["item"] for event in events if event["type"] == "item.completed"]
    assert [item["text"] for item in items if item["type"] == "agent_message"] == [
        "I read the file.",
        "The test says fine.",
    ]
    # Codex shows what an expert thought where it has asked for a summary.
    shown = [thinking] if model in ("coder", "auto") else []
    assert [item["text"] for item in items if item["type"] == "reasoning"] == shown
    # The gateway knows its session, and so keeps it on one expert.
    with sqlite3.connect(tmp_path / "j.sqlite3") as database:
        sessions = database.execute("SELECT DISTINCT session_id FROM decisions").fetchall()
    database.close()
    assert sessions == [(events[0]["thread_id"],)]
    # It asks for nothing to be kept.
    with sqlite3.connect(tmp_path / "responses.sqlite3") as database:
        assert database.execute("SELECT count(*) FROM responses").fetchone() == (0,)
    database.close()
