"""Claude Code itself against the real gateway, in front of a scripted expert that speaks OpenAI's protocol.

Skipped where it is not installed: `npm i -g @anthropic-ai/claude-code`.
"""

import asyncio
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.serving import KEY, gateway
from tests.fakes.strict_chat import ChatTurn, StrictChat

CLAUDE = shutil.which("claude")
MAX_S = 120.0

pytestmark = pytest.mark.skipif(CLAUDE is None, reason="Claude Code is not installed")


class ScriptedCoder:
    """A model that reads a file, edits it, runs a test, and says so."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, body: dict[str, Any]) -> ChatTurn:
        tools = {tool["function"]["name"] for tool in body.get("tools", [])}
        if not {"Read", "Edit", "Bash"} <= tools:
            return ChatTurn("Mend a sum")  # the title of the session
        path = str(self._folder / "add.py")
        edit = {"file_path": path, "old_string": "a - b", "new_string": "a + b"}
        turns = [
            ChatTurn("I read the file.", [("Read", {"file_path": path})], thinking="First I read it."),
            ChatTurn("", [("Edit", edit)]),
            ChatTurn("", [("Bash", {"command": "python3 test_add.py", "description": "Run the test"})]),
        ]
        results = [message["content"] for message in body["messages"] if message["role"] == "tool"]
        return turns[len(results)] if len(results) < len(turns) else ChatTurn(f"The test says {results[-1]}.")


async def run_claude(folder: Path, base_url: str, prompt: str) -> list[dict[str, Any]]:
    """A session without a terminal: its messages, in order."""
    assert CLAUDE is not None
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder / "home"),
        "ANTHROPIC_BASE_URL": base_url,
        "ANTHROPIC_AUTH_TOKEN": KEY,
        "ANTHROPIC_MODEL": "coder",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    }
    (folder / "home").mkdir()
    process = await asyncio.create_subprocess_exec(
        *(CLAUDE, "-p", prompt, "--allowedTools", "Read,Edit,Bash"),
        *("--output-format", "stream-json", "--verbose"),
        cwd=folder,
        env=environment,
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
    assert process.returncode == 0, complaint.decode()
    return [json.loads(line) for line in said.splitlines()]


async def test_a_session_reads_edits_tests_and_ends(tmp_path: Path) -> None:
    (tmp_path / "add.py").write_text("def add(a, b):\n    return a - b\n")
    (tmp_path / "test_add.py").write_text("from add import add\nassert add(2, 3) == 5\nprint('fine')\n")
    async with StrictChat(ScriptedCoder(tmp_path)) as upstream:
        config: dict[str, Any] = {
            "experts": [{"name": "coder", "model": "openai/coder", "api_base": upstream.base_url}],
            "aliases": {"claude-haiku-4-5-20251001": "coder"},
            "server": {"master_key": KEY},
        }
        async with gateway(config, str(tmp_path / "j.sqlite3"), "coder") as live:
            base_url = live.base.removesuffix("/v1")
            messages = await run_claude(tmp_path, base_url, "Mend add.py so that test_add.py passes.")
    assert (tmp_path / "add.py").read_text() == "def add(a, b):\n    return a + b\n"
    result = messages[-1]
    assert (result["type"], result["is_error"], result["result"]) == ("result", False, "The test says fine.")
    assert result["num_turns"] == 4
    assert not upstream.refused
    thoughts = [block["thinking"] for block in list_blocks(messages) if block["type"] == "thinking"]
    assert thoughts == ["First I read it."]


def list_blocks(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        block
        for message in messages
        if message["type"] == "assistant"
        for block in message["message"]["content"]
    ]
