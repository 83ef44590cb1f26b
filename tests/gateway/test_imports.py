"""Every module of the request path can be imported first: no module depends on import order."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "module",
    ["openai.events", "errors", "experts.types", "requests.parsing", "execution.executor", "storage.journal"],
)
def test_a_module_can_be_imported_alone(module: str) -> None:
    code = f"import gateway.{module}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
