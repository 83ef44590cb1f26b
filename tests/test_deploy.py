from pathlib import Path

import pytest

from gateway.config import load_config

EXAMPLES = sorted((Path(__file__).parents[1] / "deploy" / "examples").glob("*.yaml"))
pytestmark = pytest.mark.source


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_configuration_is_accepted(path, monkeypatch):
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "THALAMUS_MASTER_KEY"):
        monkeypatch.setenv(name, "sk-example-0f3b6a91c47d2e85")
    assert load_config(path).experts


def test_there_are_examples():
    assert EXAMPLES
