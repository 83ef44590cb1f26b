import subprocess
import sys

import pytest

HEAVY = "torch onnxruntime sklearn scipy sentence_transformers tokenizers"


@pytest.mark.parametrize(
    "statement",
    [
        "import routers",
        "from routers import OutcomeTable, merge_outcomes",
        "from routers import Artifact, Forecaster; Forecaster([], None)",
        "from routers import make_predictor; make_predictor('blend')._make_unfitted()",
    ],
)
def test_nothing_heavy_is_loaded_before_it_is_needed(statement: str) -> None:
    check = f"{statement}; import sys; print([m for m in {HEAVY.split()!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_there() -> None:
    import routers

    for name in routers.__all__:
        assert getattr(routers, name) is not None
    assert sorted(routers.__all__) == sorted(set(routers.__all__))
    with pytest.raises(AttributeError, match="no attribute 'nosuch'"):
        getattr(routers, "nosuch")  # noqa: B009
