"""What is compiled against its twins: form and words to the bit, vectors and blends to the order of sums."""

import importlib.util
import pickle
import subprocess
import sys
import threading
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routers import Features, Floats32, features, make_predictor
from routers.features import form_features, hash_words, lexical_slots, read_form
from routers.predictors import blend as blends
from routers.predictors.blend import Blend
from routers.predictors.compiled import CompiledBlend

ROOT = Path(__file__).parents[2]
needs_compiled = pytest.mark.skipif(features.compiled is None, reason="nothing was compiled at installation")

PIECES = [
    *"0123456789abJKm%?:.,-*()=+/^_`'\" \n\t\r\x00\x1f\\${}#",
    "12.5 km", "3 miles", "7%", "10 percent", "5 kgs", "1,000.", "1..2", "...", "\n(A) ", "\n  b) ", "\n- ",
    "\n\t* ", "\n         1. ", "2 + 2", "3 \n ^4", "```", "``", "__", "yes or NO", "Step by step", "REASON",
    "briefly", "one wor", " in detail", "hours", "2hours", "4 hours_", "9 l", "é", "你好", "’",
    "٣ km", "\ud800",
]  # fmt: skip
texts = st.lists(st.sampled_from(PIECES), max_size=60).map("".join) | st.text(max_size=80)


@needs_compiled
@given(st.lists(texts, max_size=4))
@settings(max_examples=400, deadline=None)
def test_form_has_the_bits_of_its_patterns(batch: list[str]) -> None:
    np.testing.assert_array_equal(form_features(batch), read_form(batch))


@needs_compiled
@pytest.mark.parametrize("n", [8191, 8192, 8193, 30_000])
def test_form_of_a_long_text_is_that_of_head_and_tail(n: int) -> None:
    text = ("One mile is 1.6 km.\n(a) yes\n" * 2000)[:n] + "?"
    np.testing.assert_array_equal(form_features([text, text + "é"]), read_form([text, text + "é"]))


@needs_compiled
@given(st.lists(st.tuples(st.lists(st.integers(0, 2**32 - 1), max_size=40), texts), max_size=4))
@settings(max_examples=200, deadline=None)
def test_words_have_the_slots_of_their_twin(batch: list[tuple[list[int], str]]) -> None:
    ids, said = [np.array(one, np.uint32) for one, _ in batch], [text for _, text in batch]
    np.testing.assert_array_equal(lexical_slots(ids, said), hash_words(ids, said))


@needs_compiled
def test_a_text_of_thousands_of_characters_beyond_latin_has_the_slots_of_its_twin() -> None:
    said = ["你好世界再见" * 1000, "a" * 3000 + "界"]
    ids = [np.arange(512, dtype=np.uint32)] * 2
    np.testing.assert_array_equal(lexical_slots(ids, said), hash_words(ids, said))


def make_features(n: int, seed: int) -> Features:
    rng = np.random.default_rng(seed)
    topics = np.random.default_rng(99).normal(size=(20, 24))
    dense: Floats32 = (topics[rng.integers(20, size=n)] + rng.normal(size=(n, 24)) / 2).astype(np.float32)
    dense /= np.linalg.norm(dense, axis=1, keepdims=True)
    lexical = np.sort(rng.integers(-1, 400, (n, 12)), axis=1)
    return Features("static", dense, lexical, rng.random((n, 5)))


def make_targets(n: int, seed: int, share_missing: float = 0.0) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(seed)
    targets = (make_features(n, 0).dense[:, :3] + rng.normal(size=(n, 3)) / 4 > 0).astype(float)
    targets[rng.random((n, 3)) < share_missing] = np.nan
    return targets


@lru_cache(maxsize=1)
def fit_default() -> Blend:
    return fit()


def fit(n: int = 850, share_missing: float = 0.0, **chosen: Any) -> Blend:
    fitted = make_predictor("blend", chosen).fit(make_features(n, 0), make_targets(n, 1, share_missing))
    assert isinstance(fitted, Blend)
    return fitted


def assert_as_twin(fitted: Blend, asked: Features) -> None:
    assert isinstance(fitted.compiled_, CompiledBlend)
    compiled, twin = fitted.predict(asked), fitted.read(asked)
    np.testing.assert_allclose(compiled.mean, twin.mean, atol=2e-5)
    np.testing.assert_allclose(compiled.std, twin.std, atol=2e-5)
    assert (compiled.novelty is None) == (twin.novelty is None) == (fitted.novelty_ is None)
    if compiled.novelty is not None and twin.novelty is not None:
        np.testing.assert_allclose(compiled.novelty, twin.novelty, atol=2e-5)
    assert (compiled.mean.argmax(axis=1) == twin.mean.argmax(axis=1)).all()


MEMBERS: dict[str, Sequence[tuple[str, dict[str, Any]]]] = {
    "one": [("clusters", {})],
    "fewer directions": [("knn", {"n_dims": 8}), ("clusters", {})],
    "two of a kind": [
        ("knn", {"k": 20}),
        ("linear", {"dense": 1.0, "form": 1.0, "lexical": 0.0}),
        ("knn", {"k": 5}),
    ],
}


@needs_compiled
@pytest.mark.parametrize(
    "fitted",
    [
        pytest.param(fit_default, id="the default"),
        pytest.param(lambda: fit(share_missing=0.2), id="outcomes are missing"),
        pytest.param(lambda: fit(60), id="few queries"),
        pytest.param(lambda: fit(40), id="so few that none is strange"),
        pytest.param(lambda: fit(n_trees=0), id="no forest"),
        pytest.param(lambda: fit(weights=[1, 3, 0.5, 1]), id="weights"),
        *[pytest.param(lambda m=m: fit(members=m), id=name) for name, m in MEMBERS.items()],
    ],
)
def test_a_blend_predicts_what_its_twin_does(fitted: Any) -> None:
    assert_as_twin(fitted(), make_features(200, 7))


@needs_compiled
def test_a_restored_blend_predicts_the_same() -> None:
    fitted = fit_default()
    restored = Blend(**fitted.settings()).restore(fitted.arrays())
    asked = make_features(50, 7)
    np.testing.assert_array_equal(restored.predict(asked).mean, fitted.predict(asked).mean)


@needs_compiled
def test_a_blend_from_another_process_predicts_the_same() -> None:
    fitted, asked = fit_default(), make_features(50, 7)
    brought = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(brought.predict(asked).mean, fitted.predict(asked).mean)


@needs_compiled
def test_strange_queries_fade_as_in_the_twin() -> None:
    fitted, asked = fit_default(), make_features(60, 8)
    away = np.random.default_rng(3).normal(size=asked.dense.shape)
    share = np.linspace(0, 1, 60)[:, None]
    mixed = (asked.dense * (1 - share) + away * share / 5).astype(np.float32)
    mixed /= np.linalg.norm(mixed, axis=1, keepdims=True)
    strange = Features("static", mixed, asked.lexical, asked.form)
    assert fitted.novelty_ is not None
    assert fitted.novelty_.novelty(strange).max() > 1.25
    assert_as_twin(fitted, strange)


@needs_compiled
def test_a_query_has_the_very_bits_it_has_alone() -> None:
    fitted, asked = fit_default(), make_features(41, 5)
    alone = [fitted.predict(asked.take(slice(n, n + 1))) for n in range(41)]
    whole = fitted.predict(asked)
    np.testing.assert_array_equal(np.concatenate([one.mean for one in alone]), whole.mean)
    np.testing.assert_array_equal(np.concatenate([one.std for one in alone]), whole.std)


@needs_compiled
def test_no_query_gets_no_prediction() -> None:
    assert fit_default().predict(make_features(0, 1)).mean.shape == (0, 3)


@needs_compiled
@pytest.mark.parametrize("part", ["dense", "form"])
def test_what_is_no_number_stays_none(part: str) -> None:
    asked = make_features(3, 1)
    getattr(asked, part)[1] = np.nan
    mean = fit_default().predict(asked).mean
    assert np.isnan(mean[1]).all()
    assert np.isfinite(mean[[0, 2]]).all()


@needs_compiled
def test_threads_share_a_blend() -> None:
    fitted, asked = fit_default(), make_features(300, 5)
    expected = fitted.predict(asked).mean
    found: list[np.ndarray[Any, Any]] = []

    def ask() -> None:
        found.extend(fitted.predict(asked).mean for _ in range(20))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 80
    assert all(np.array_equal(each, expected) for each in found)


@pytest.mark.parametrize(
    "members",
    [
        pytest.param([("knn", {"exact": 100})], id="cells"),
        pytest.param([("clusters", {"form": 0.5})], id="another space"),
        pytest.param([("constant", {}), ("clusters", {})], id="another kind"),
    ],
)
def test_members_that_are_not_compiled_predict_in_numpy(members: Any) -> None:
    fitted, asked = fit(members=members), make_features(20, 4)
    assert fitted.compiled_ is None
    np.testing.assert_array_equal(fitted.predict(asked).mean, fitted.read(asked).mean)


@needs_compiled
def test_a_damaged_forest_reads_no_foreign_memory() -> None:
    fitted = fit_default()
    arrays = fitted.arrays()
    arrays["stack.column"] = arrays["stack.column"] + 10_000
    damaged = Blend(**fitted.settings()).restore(arrays)
    assert damaged.compiled_ is None
    with pytest.raises(IndexError):
        damaged.predict(make_features(2, 3))


@needs_compiled
def test_features_of_another_width_are_refused() -> None:
    asked = make_features(8, 3)
    with pytest.raises(ValueError, match="do not fit"):
        fit_default().predict(Features("static", asked.dense[:, :12], asked.lexical, asked.form))


def test_without_the_compiled_part_all_is_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = make_features(20, 4)
    monkeypatch.setattr(features, "compiled", None)
    monkeypatch.setattr(blends, "compiled", None)
    fitted = fit()
    assert fitted.compiled_ is None
    np.testing.assert_array_equal(fitted.predict(asked).mean, fitted.read(asked).mean)
    np.testing.assert_array_equal(form_features(["2 km?"]), read_form(["2 km?"]))


@pytest.mark.source
def test_where_no_compiler_works_the_build_says_so_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    monkeypatch.setenv("CC", str(tmp_path / "no-compiler"))
    assert build.compile_module(ROOT) is None
    assert "without its compiled part" in capfd.readouterr().err


@pytest.mark.source
def test_the_build_compiles_a_module_that_python_loads(tmp_path: Path) -> None:
    script = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from hatch_build import compile_module
import pathlib, importlib.util
found = compile_module(pathlib.Path({str(ROOT)!r}))
spec = importlib.util.spec_from_file_location("_compiled", found)
module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module)
print(module.slots([b""], ["a"])[1])
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.strip().endswith("0")
