"""The names that users import: sorted, importable, documented; mypy refuses one that is misspelt."""

import importlib
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGES = ("gateway", "gateway.testing", "routers", "policies", "evals")
ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_sorted_importable_and_documented(package: str) -> None:
    module = importlib.import_module(package)
    names = list(getattr(module, "__all__", ()))
    assert len(set(names)) == len(names)
    assert names == sorted(names, key=lambda n: (not n.isupper(), not n[0].isupper(), n))
    for name in names:
        value = getattr(module, name)
        if inspect.isclass(value) and value.__module__.split(".")[0] == package.split(".")[0]:
            assert value.__doc__, name


@pytest.mark.source
def test_mypy_refuses_misspelt_public_names(tmp_path: Path) -> None:
    lines = (
        "from gateway import Clinet",
        "from routers import OutcomeTabel",
        "from policies import Enigne",
        "from gateway.testing import FakeUpstrem",
    )
    (tmp_path / "misspelt.py").write_text("\n".join(lines) + "\n")
    found = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--config-file",
            str(ROOT / "pyproject.toml"),
            "--cache-dir",
            str(ROOT / ".mypy_cache"),
            str(tmp_path / "misspelt.py"),
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(ROOT)},
    )
    for name in ("Clinet", "OutcomeTabel", "Enigne", "FakeUpstrem"):
        assert f'has no attribute "{name}"' in found.stdout
