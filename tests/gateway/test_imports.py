"""Every module of the request path can be imported first: nobody depends on who came before."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("module", ["openai.events", "openai.upstream", "experts.types"])
def test_a_module_can_be_imported_alone(module: str) -> None:
    code = f"import gateway.{module}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
