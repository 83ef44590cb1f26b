"""Tools that an installed package offers in the entry-point group `thalamus.tools`."""

import ast
from pathlib import Path

import pytest

from gateway.config import ConfigError, load_config
from gateway.experts import load_tool

GATEWAY = Path(__file__).parents[2] / "gateway"


@pytest.fixture
def tool_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A distribution on the path that offers the tool `shout`."""
    (tmp_path / "shouting_tool.py").write_text("def shout(text): return text.upper()\n")
    metadata = tmp_path / "shouting_tool-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: shouting-tool\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[thalamus.tools]\nshout = shouting_tool:shout\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return "shout"


def config_naming(tool: str, folder: Path) -> Path:
    path = folder / "thalamus.yaml"
    path.write_text(f"experts:\n  - {{name: a, tool: {tool}}}\n")
    return path


def test_an_installed_tool_is_named_in_the_configuration_and_loaded(tool_name: str, tmp_path: Path) -> None:
    config = load_config(config_naming(tool_name, tmp_path))
    assert config.experts[0].tool == tool_name
    assert load_tool(tool_name)("hello") == "HELLO"


def test_a_tool_that_is_not_installed_is_refused_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'shout' is not an installed tool; installed: calculator"):
        load_config(config_naming("shout", tmp_path))


def test_the_calculator_is_found_by_its_entry_point() -> None:
    assert load_tool("calculator")("What is 6 times 7?") == "42"


@pytest.mark.source
def test_the_gateway_imports_the_calculator_nowhere() -> None:
    for path in GATEWAY.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names.append(node.module or "")
            assert not any(name.split(".")[0] == "calculator" for name in names), path
