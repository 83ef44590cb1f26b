"""SECURITY.md promises nothing that no test shows."""

import re
from pathlib import Path

import pytest

from gateway.config.reference import list_keys

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "SECURITY.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if line.startswith("| ")
][1:]
"""Of the threat model: from, what holds, setting, shown by."""

pytestmark = pytest.mark.source


def test_every_test_that_the_page_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    defined = {
        name
        for file in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"def (test_\w+)", file.read_text())
    }
    assert len(named) > 30
    assert named - defined == set()


def test_every_row_of_the_threat_model_names_a_test() -> None:
    assert len(ROWS) > 10
    assert [row[0] for row in ROWS if "`test_" not in row[3]] == []


def test_every_setting_of_the_threat_model_is_one() -> None:
    named = {name for row in ROWS for name in re.findall(r"`([a-z_.]+)`", row[2])}
    keys = {key.path for key in list_keys()}
    assert len(named) > 5
    assert [
        name for name in named if not any(path == name or path.startswith(f"{name}.") for path in keys)
    ] == []
