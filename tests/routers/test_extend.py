"""Experts come and go: what is predicted of the others stays what it was, to the bit."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from routers import (
    Artifact,
    ArtifactError,
    DataError,
    ExpertProfile,
    Features,
    FitSettings,
    Forecaster,
    OutcomeTable,
    Prediction,
    Tier,
    add_experts,
    fit_artifact,
    keep_experts,
    query_of,
)

KINDS = ("sum", "verse", "code", "fact")
NAMES = ("ada", "bob", "cyd")
QUICK = FitSettings("knn", n_folds=2)
FEW = settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def _read_words(query: Any) -> tuple[int, int]:
    """The kind of a query and its number; of a text from elsewhere its length stands for both."""
    kind, _, number = query.text.partition(" ")
    return (KINDS.index(kind), int(number)) if kind in KINDS else (len(query.text) % 2, len(query.text))


class KindExtractor:
    """Features of texts such as "verse 17": the kind tells everything, the number is noise."""

    def __init__(self, *tiers: Tier, mark: str = "") -> None:
        self.fingerprints: dict[Tier, str] = {tier: f"{tier}{mark}" for tier in tiers or ("static",)}

    def extract(self, queries: Any, tier: Tier, reuse: Features | None = None) -> Features:
        kinds = np.array([_read_words(query)[0] for query in queries], np.int64)
        noise = np.array([[_read_words(query)[1] % 7, 3] for query in queries], np.float32).reshape(-1, 2)
        dense = np.concatenate((np.eye(4, dtype=np.float32)[kinds] * 9, noise), axis=1)
        dense /= np.linalg.norm(dense, axis=1, keepdims=True)
        return Features(tier, dense, kinds[:, None], noise.astype(np.float64) / 7)


def table(experts: tuple[str, ...], rows: Any = range(160), **changes: Any) -> OutcomeTable:
    """Expert n is right on kind n, and now and then elsewhere."""
    texts = [f"{KINDS[i % 4]} {i}" for i in rows]
    kinds = np.array([i % 4 for i in rows])
    lucky = np.random.default_rng(0).random((1000, len(NAMES) + 1))[list(rows)] < 0.2
    numbers = [NAMES.index(name) for name in experts]
    score = np.stack([(kinds == n) | lucky[:, n] for n in numbers], axis=1).astype(float)
    tokens = np.stack([10.0 * (n + 1) + kinds for n in numbers], axis=1)
    bucket = np.array([7 * i % 97 for i in rows])
    measures = {"score": score, "output_tokens": tokens} | changes
    return OutcomeTable.build(texts, list(experts), measures, bucket=bucket)


def pool(*names: str) -> list[ExpertProfile]:
    return [ExpertProfile(name, name, 1e-6, 2e-6) for name in names]


def predict(artifact: Artifact, *names: str, tier: Tier = "static") -> Prediction:
    queries = [query_of(f"{kind} {n}") for kind in KINDS for n in (500, 501)]
    return Forecaster(pool(*names), artifact).predict(queries, KindExtractor().extract(queries, tier))


@pytest.fixture(scope="module")
def two() -> Artifact:
    return fit_artifact(table(("ada", "bob")), KindExtractor())


def test_an_added_expert_is_known_by_outcomes_on_a_subset_of_the_queries(two: Artifact) -> None:
    three = add_experts(two, table(("cyd",), range(0, 160, 3)), KindExtractor(), created="today")
    prediction = predict(three, *NAMES)
    assert prediction.evidence.all()
    assert prediction.quality.argmax(axis=1)[:6].tolist() == [0, 0, 1, 1, 2, 2]
    assert prediction.output_tokens[4, 2] == pytest.approx(32, abs=3)
    assert three.provenance["added"][0]["experts"] == ["cyd"]


@FEW
@given(
    seed=st.integers(0, 999), n=st.integers(2, 160), predictor=st.sampled_from(["blend", "knn", "constant"])
)
def test_adding_an_expert_leaves_what_is_said_of_the_others_to_the_bit(
    two: Artifact, seed: int, n: int, predictor: str
) -> None:
    rows = np.random.default_rng(seed).permutation(300)[:n]
    three = add_experts(
        two, table(("cyd",), rows.tolist()), KindExtractor(), FitSettings(predictor, n_folds=2)
    )
    before, after = predict(two, "ada", "bob"), predict(three, *NAMES)
    for name in ("quality", "quality_std", "output_tokens", "cost_usd"):
        assert getattr(after, name)[:, :2].tobytes() == getattr(before, name).tobytes()


@FEW
@given(names=st.permutations(NAMES), n=st.integers(1, 3))
def test_removing_an_expert_needs_nothing_and_leaves_the_others_to_the_bit(
    two: Artifact, names: list[str], n: int
) -> None:
    three = add_experts(two, table(("cyd",)), KindExtractor(), QUICK)
    whole, part = predict(three, *NAMES), predict(three, *names[:n])
    columns = [NAMES.index(name) for name in names[:n]]
    assert part.quality.tobytes() == np.ascontiguousarray(whole.quality[:, columns]).tobytes()
    assert part.output_tokens.tobytes() == np.ascontiguousarray(whole.output_tokens[:, columns]).tobytes()


def test_what_was_added_is_saved_and_loaded(two: Artifact, tmp_path: Path) -> None:
    blank = table(("cyd",), output_tokens=np.full((160, 1), np.nan))
    three = add_experts(two, blank, KindExtractor(), QUICK)
    three.save(tmp_path / "artifact")
    loaded = Artifact.load(tmp_path / "artifact", KindExtractor().fingerprints)
    before, after = predict(three, *NAMES), predict(loaded, *NAMES)
    assert after.quality.tobytes() == before.quality.tobytes()
    assert after.output_tokens.tobytes() == before.output_tokens.tobytes()


def test_experts_may_be_added_one_after_the_other() -> None:
    one = fit_artifact(table(("ada",)), KindExtractor(), QUICK)
    grown = add_experts(
        add_experts(one, table(("bob",)), KindExtractor(), QUICK), table(NAMES), KindExtractor(), QUICK
    )
    assert [expert.name for expert in grown.experts] == list(NAMES)
    assert [added["experts"] for added in grown.provenance["added"]] == [["bob"], ["cyd"]]
    assert predict(grown, *NAMES).quality.argmax(axis=1)[:6].tolist() == [0, 0, 1, 1, 2, 2]


def test_a_table_without_a_new_expert_is_refused(two: Artifact) -> None:
    with pytest.raises(DataError, match="knows ada, bob already"):
        add_experts(two, table(("ada", "bob")), KindExtractor())


def test_another_embedder_is_refused(two: Artifact) -> None:
    with pytest.raises(ArtifactError, match="static tier was fitted on another embedder"):
        add_experts(two, table(("cyd",)), KindExtractor(mark="!"))


def test_kept_experts_stay_as_they_were_and_repeated_fits_do_not_pile_up(tmp_path: Path) -> None:
    first = fit_artifact(table(("ada", "bob")), KindExtractor(), QUICK)
    second = fit_artifact(table(("bob", "cyd")), KindExtractor(), QUICK)
    joined = keep_experts(second, first, KindExtractor())
    assert [expert.name for expert in joined.experts] == ["bob", "cyd", "ada"]
    assert joined.experts[2] == first.experts[0]
    for name, whole in (("ada", first), ("bob", second), ("cyd", second)):
        alone, before = predict(joined, name), predict(whole, name)
        assert np.array_equal(alone.output_tokens, before.output_tokens)
        # The differences between experts are shrunk among those that were fitted together.
        assert np.abs(alone.quality - before.quality).max() < 0.2
    for _ in range(3):
        joined = keep_experts(second, joined, KindExtractor())
    joined.save(tmp_path / "a")
    loaded = Artifact.load(tmp_path / "a")
    assert np.array_equal(predict(loaded, *NAMES).quality, predict(joined, *NAMES).quality)
    assert json.dumps(loaded.manifest()).count('"knn"') < 12


def test_the_trade_off_of_the_fresh_experts_outlives_that_others_are_kept() -> None:
    costs = {"cost_usd": np.tile([1e-3, 2e-3], (160, 1))}
    first = fit_artifact(table(("ada", "bob"), **costs), KindExtractor(), QUICK)
    second = fit_artifact(table(("bob", "cyd"), **costs), KindExtractor(), QUICK)
    joined = keep_experts(second, first, KindExtractor())
    there, before = (Forecaster(pool("bob", "cyd"), a).sweep("static") for a in (joined, second))
    assert there is not None
    assert before is not None
    assert np.array_equal(there.quality, before.quality)
    assert Forecaster(pool(*NAMES), joined).sweep("static") is None
