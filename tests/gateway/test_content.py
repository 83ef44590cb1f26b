"""Prompts and answers are kept only where the configuration says so."""

from pathlib import Path

import pytest

from gateway.testing import WORDS, FakeUpstream
from tests.fakes.serving import gateway


def read_all(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kept", [False, True])
async def test_content_is_kept_only_where_it_is_asked_for(tmp_path: Path, kept: bool, stream: bool) -> None:
    async with FakeUpstream() as upstream:
        config = {
            "experts": [{"name": "good", "model": "openai/good", "api_base": upstream.base_url}],
            "journal": {"content": kept},
        }
        async with gateway(config, str(tmp_path / "j.sqlite3"), "good") as live:
            answer = await live.chat("good", stream=stream)
            record = await live.read_record(answer)
        assert record["answer"] == ("".join(WORDS) if kept else None)
        assert (record["prompt"] == '[{"role":"user","content":"Hi"}]') == kept
        on_disk = read_all(tmp_path)
        assert ("Thalamus 🧠".encode() in on_disk) == kept
