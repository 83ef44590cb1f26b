"""Prompts and answers are kept only where the configuration says so."""

import pytest

from tests.fakes.serving import gateway
from tests.fakes.upstream import WORDS, running_upstream


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kept", [False, True])
async def test_content_is_kept_only_where_it_is_asked_for(tmp_path, kept: bool, stream: bool) -> None:
    async with running_upstream() as upstream:
        config = {
            "experts": [{"name": "good", "model": "openai/good", "api_base": upstream.base}],
            "journal": {"content": kept},
        }
        async with gateway(config, str(tmp_path / "j.sqlite3"), "good") as served:
            answer = await served.chat("good", stream=stream)
            told = await served.told(answer)
        assert told["answer"] == ("".join(WORDS) if kept else None)
        assert (told["prompt"] == '[{"role":"user","content":"Hi"}]') == kept
        on_disk = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
        assert ("Thalamus 🧠".encode() in on_disk) == kept
