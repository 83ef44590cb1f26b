"""Every file in examples/ runs: against a gateway around fake experts, or as a command."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from gateway.app import create_app
from gateway.config import load_config
from gateway.experts import load_tool
from gateway.testing import FakeUpstream
from tests.fakes.serving import live

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"

pytestmark = pytest.mark.source


async def run(command: list[str], folder: Path, **variables: str) -> str:
    """What a command prints; it must end well."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OPENAI_API_KEY": "unused", **variables}
    done = await asyncio.to_thread(
        subprocess.run, command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def commands(tmp_path: Path) -> Path:
    """A folder for PATH in which `thalamus` is this checkout's."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "thalamus"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m gateway.cli "$@"\n')
    script.chmod(0o755)
    return folder


@pytest.mark.parametrize(
    ("example", "served", "words"),
    [
        ("openai_client.py", "panel.yaml", "first answered: Grüße aus dem Thalamus"),
        ("sdk.py", "panel.yaml", "first answered: Grüße aus dem Thalamus"),
        ("panel.py", "panel.yaml", "panel by first : Grüße aus dem Thalamus"),
        (
            "private.py",
            "private.yaml",
            "answered on this machine by house : Grüße aus dem Thalamus",
        ),
    ],
)
async def test_a_client_gets_an_answer(example: str, served: str, words: str, tmp_path: Path) -> None:
    async with FakeUpstream() as upstream:
        config = yaml.safe_load((EXAMPLES / served).read_text())
        for expert in config["experts"]:
            expert.pop("api_key", None)
            expert["api_base"] = upstream.base_url
        config["journal"] = {"path": str(tmp_path / "journal.sqlite3")}
        (tmp_path / "panel.yaml").write_text(yaml.safe_dump(config))
        async with live(create_app(load_config(tmp_path / "panel.yaml"))) as address:
            printed = await run([sys.executable, str(EXAMPLES / example)], tmp_path, THALAMUS_URL=address)
    assert words in printed


async def test_a_batch_is_answered_line_by_line(commands: Path, tmp_path: Path) -> None:
    path = f"{commands}:{os.environ['PATH']}"
    await run([str(EXAMPLES / "batch.sh")], tmp_path, PATH=path)
    lines = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    answers = {
        line["custom_id"]: line["response"]["body"]["choices"][0]["message"]["content"] for line in lines
    }
    assert answers == {"product": "391", "length": "3000 metres"}


async def test_a_csv_file_of_scores_becomes_an_artifact(commands: Path, tmp_path: Path) -> None:
    printed = await run([str(EXAMPLES / "fit_csv.sh")], tmp_path, PATH=f"{commands}:{os.environ['PATH']}")
    assert "n_queries: 40" in printed
    assert (tmp_path / "artifact").is_dir()


def test_the_own_tool_is_found_by_its_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(EXAMPLES / "own_tool" / "coin_tool.py", tmp_path)
    metadata = tmp_path / "coin_tool-0.1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: coin-tool\nVersion: 0.1.0\n")
    project = tomllib.loads((EXAMPLES / "own_tool" / "pyproject.toml").read_text())["project"]
    entry = project["entry-points"]["thalamus.tools"]["coins"]
    (metadata / "entry_points.txt").write_text(f"[thalamus.tools]\ncoins = {entry}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    tool = load_tool("coins")
    assert tool("What is a dime worth?") == "10 cents"
    assert tool("Is a dime worth more than a nickel?") is None


def test_every_yaml_example_is_a_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-unused-3f9c2b7a")
    for path in EXAMPLES.glob("*.yaml"):
        assert load_config(path).experts
